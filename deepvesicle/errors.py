"""The errors that reach a user: one line that says what, expected, got and remedy.

Every error that a user can cause derives from `DeepVesicleError` and carries the exit code the commands end with.
Anything else that is raised is a defect of the program.
"""

from __future__ import annotations


class DeepVesicleError(Exception):
    """Base of all errors with a message for the user.

    Parameters
    ----------
    what : str
        What is wrong, naming the file or option.
    expected : str, optional
        What would have been right.
    got : str, optional
        What was found instead.
    remedy : str, optional
        What the user can do about it.
    """

    exit_code = 1

    def __init__(self, what: str, *, expected: str = "", got: str = "", remedy: str = "") -> None:
        self.what, self.expected, self.got, self.remedy = what, expected, got, remedy
        parts = [what.rstrip(".")]
        if expected:
            parts.append(f"expected {expected}")
        if got:
            parts.append(f"got {got}")
        message = "; ".join(parts) + "."
        if remedy:
            message += " " + remedy.rstrip(".") + "."
        super().__init__(" ".join(message.split()))


class UsageError(DeepVesicleError):
    """Options that contradict one another or have impossible values."""

    exit_code = 2


class BadInputError(DeepVesicleError):
    """A file that cannot be used: missing, damaged, of the wrong kind or with absurd content."""

    exit_code = 3


class TomogramError(BadInputError):
    """A tomogram or label volume that cannot be used."""


class VoxelSizeError(TomogramError):
    """A voxel size that is missing, zero, anisotropic or absurd."""


class VoxelSizeOptionError(UsageError, VoxelSizeError):
    """A voxel size given by the user that cannot be right."""


class ModelFileError(BadInputError):
    """An IMOD model that cannot be used."""


class NetworkError(BadInputError):
    """A network folder (models/...) that cannot be used."""


class DatasetError(BadInputError):
    """A dataset for training that cannot be used."""


class TableError(BadInputError):
    """A table (CSV) that cannot be used."""


class OutputExistsError(UsageError):
    """An output file exists and --overwrite was not given."""


class NoSpaceError(DeepVesicleError):
    """The disk is full, or will be."""

    exit_code = 3

    @classmethod
    def of(cls, path: object) -> NoSpaceError:
        """A file that could not be written to its end."""
        return cls(f"cannot write {path}: the disk is full", remedy="Make room, or choose another place with -o")


class PartialFailure(DeepVesicleError):
    """Some of several tomograms failed; the others are done."""

    exit_code = 4
