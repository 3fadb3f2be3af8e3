"""The science of spin-pipe: bodies, fitting, the network, training, evaluation, rendering.

`__all__` is the public interface. Nothing here knows of Ray, Zarr, Parquet or the command line.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spin.body import BodyData, load_body
    from spin.errors import BodyFileError, ImageError, KeypointError, ModelFileError, SpinError
    from spin.joints import COCO_NAMES, OPENPOSE_NAMES
    from spin.keypoint_fitter import BodyFits, Fitter

# Imported when they are used, so that `import spin` costs nothing.
_WHERE = {
    "BodyData": "spin.body",
    "BodyFileError": "spin.errors",
    "BodyFits": "spin.keypoint_fitter",
    "COCO_NAMES": "spin.joints",
    "Fitter": "spin.keypoint_fitter",
    "ImageError": "spin.errors",
    "KeypointError": "spin.errors",
    "ModelFileError": "spin.errors",
    "OPENPOSE_NAMES": "spin.joints",
    "SpinError": "spin.errors",
    "load_body": "spin.body",
}

__all__ = [
    "COCO_NAMES",
    "OPENPOSE_NAMES",
    "BodyData",
    "BodyFileError",
    "BodyFits",
    "Fitter",
    "ImageError",
    "KeypointError",
    "ModelFileError",
    "SpinError",
    "load_body",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'spin' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
