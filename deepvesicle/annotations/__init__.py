"""Manual segmentations, in every form in which people draw them, understood as spheres."""

from deepvesicle.annotations.annotation import Annotation, merged
from deepvesicle.annotations.labels import annotation_of_labels
from deepvesicle.annotations.models import annotation_of_model
from deepvesicle.annotations.reading import read_annotation
from deepvesicle.annotations.shapes import Limits

__all__ = [
    "Annotation",
    "Limits",
    "annotation_of_labels",
    "annotation_of_model",
    "merged",
    "read_annotation",
]
