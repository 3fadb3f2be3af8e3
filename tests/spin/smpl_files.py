"""Files of SMPL's format and names, made of the open body: nothing in them is SMPL's."""

from __future__ import annotations

import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from spin.body.model_file import BodyData
from spin.joints import FACE_AND_FEET


def write_smpl(path: Path, body: BodyData, *, shapes: int = 10) -> Path:
    """A file as SMPL's are: protocol 2, arrays wrapped by chumpy, the regressor by scipy. Those of 1.1.0 have 300 shapes."""

    class Ch:
        def __init__(self, x: np.ndarray) -> None:
            self.x = x

    Ch.__module__, Ch.__qualname__ = "chumpy.ch", "Ch"
    more = np.full((len(body.v_template), 3, shapes - 10), 0.5)
    content = {
        "v_template": body.v_template,
        "shapedirs": Ch(np.concatenate([body.shapedirs, more], 2)),
        "posedirs": np.zeros((len(body.v_template), 3, 207)),
        "J_regressor": scipy.sparse.csc_matrix(body.joint_regressor),
        "weights": Ch(body.skin_weights),
        "kintree_table": np.array([[2**32 - 1, *body.parents[1:]], range(24)], np.uint32),
        "f": body.faces.astype(np.uint32),
        "vertex_id_names": np.array(FACE_AND_FEET),
        "vertex_ids": body.keypoint_vertices,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("chumpy", "chumpy.ch"):
            patch.setitem(sys.modules, name, types.ModuleType(name))
        sys.modules["chumpy.ch"].Ch = Ch  # type: ignore[attr-defined]
        path.write_bytes(pickle.dumps(content, protocol=2))
    return path


def write_regressors(folder: Path, body: BodyData) -> None:
    """The two regressors of SPIN's data archive."""
    np.save(folder / "J_regressor_extra.npy", body.extra_regressor)
    np.save(folder / "J_regressor_h36m.npy", body.h36m_regressor)
