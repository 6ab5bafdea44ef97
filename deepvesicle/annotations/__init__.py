"""Manual segmentations, in every form in which people draw them, understood as spheres."""

from deepvesicle.annotations.annotation import Annotation, Region, merged

__all__ = ["Annotation", "Region", "merged"]
