"""Errors of the science room: each is a domain error and the built-in that fits, so callers may catch either."""

from __future__ import annotations


class SpinError(Exception):
    """Any error this library raises on purpose. Its text is one line: what, where, expected, found, remedy."""


class BodyFileError(SpinError, ValueError):
    """A body-model file is missing, unreadable, of another format, or asks for code to be run."""


class ModelFileError(SpinError, ValueError):
    """A checkpoint, prior or other asset is not what it should be."""


class ImageError(SpinError, OSError):
    """An image can't be read, or isn't one."""


class KeypointError(SpinError, ValueError):
    """Keypoints are not of the expected shape, or not numbers."""


class TrainingError(SpinError, RuntimeError):
    """Training can't go on: a loss that is not a number, a batch of nothing."""
