"""deepvesicle: vesicles in cryo-electron tomograms as exact spheres."""

__version__ = "0.1.0"
