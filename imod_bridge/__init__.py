"""What is known of IMOD: its model files and its coordinates. Usable alone; knows nothing of `deepvesicle`."""

from imod_bridge.errors import ModelFormatError

__all__ = ["ModelFormatError"]
