"""What is known of IMOD: its model files, its coordinates, its programs, a running 3dmod. Usable alone.

Model files: `read_model`, `write_model` and `replace_objects`; where their points lie in an image: `frame_of`.
"""

from imod_bridge.coordinates import ModelFrame, frame_of
from imod_bridge.errors import BridgeError, ModelFormatError
from imod_bridge.model import Contour, Model, Object, decode_model, encode_model, read_model, write_model
from imod_bridge.update import replace_objects

__all__ = [
    "BridgeError",
    "Contour",
    "Model",
    "ModelFormatError",
    "ModelFrame",
    "Object",
    "decode_model",
    "encode_model",
    "frame_of",
    "read_model",
    "replace_objects",
    "write_model",
]
