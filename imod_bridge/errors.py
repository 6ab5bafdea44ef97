"""The errors of the bridge."""

from __future__ import annotations


class ModelFormatError(ValueError):
    """A file that is not a whole, consistent binary IMOD model. The message is one line and names no file."""
