"""How each benchmark compares joints, so that a number can be reproduced. docs/protocols.md has the sources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spin.errors import KeypointError
from spin.evaluation.metrics import joint_errors_mm, procrustes_align
from spin.joints import H36M_NAMES, H36M_TO_J14

if TYPE_CHECKING:
    from jaxtyping import Float

# LSP's 14 joints, then the others of Human3.6M's 17: pelvis, spine, jaw (SPIN's H36M_TO_J17).
H36M_TO_J17 = (*H36M_TO_J14, 0, 7, 9)


@dataclass(frozen=True)
class Protocol:
    """Which of Human3.6M's 17 joints are compared, and how poses are aligned first.

    MPJPE: both poses are moved so that joint `pelvis` of the 17 is at the origin. This happens before the
    joints are selected, so the pelvis need not be one of them. PA-MPJPE: a similarity aligns the selected joints.
    `pck`: PCK and AUC are measured too.
    """

    name: str
    joints: tuple[int, ...]
    pelvis: int = 0
    pck: bool = False

    def __post_init__(self) -> None:
        wrong = [i for i in (*self.joints, self.pelvis) if not 0 <= i < len(H36M_NAMES)]
        if wrong or not self.joints:
            raise KeypointError(f"protocol {self.name}: joints {wrong} are not among Human3.6M's 17 (0 to 16)")

    @property
    def joint_names(self) -> tuple[str, ...]:
        return tuple(H36M_NAMES[i] for i in self.joints)

    def card(self) -> dict[str, object]:
        """Return what must be equal for two numbers to be comparable, as JSON values that people can read."""
        return {
            "name": self.name,
            "joints": list(self.joint_names),
            "pelvis": f"{H36M_NAMES[self.pelvis]} (joint {self.pelvis} of Human3.6M's 17), at the origin",
            "alignment": "a similarity per sample (rotation, scale, translation; no reflection), on these joints",
            "mean": "over joints, then over samples",
        }


# SPIN's evaluation of Human3.6M and 3DPW: the 14 joints of LSP.
H36M_J14 = Protocol(name="h36m-j14", joints=H36M_TO_J14)
PROTOCOLS = {
    p.name: p
    for p in (
        Protocol("h36m-p1", H36M_TO_J14),
        Protocol("h36m-p2", H36M_TO_J14),
        Protocol("3dpw", H36M_TO_J14),
        Protocol("mpi-inf-3dhp-valid", H36M_TO_J17, pck=True),
        Protocol("lsp", H36M_TO_J14),
        H36M_J14,
    )
}
"""By the name of the data set. All others are measured by `H36M_J14`, unless another protocol is chosen."""
ALIASES = {"mpi-inf-3dhp": "mpi-inf-3dhp-valid"}
"""Published names of evaluation sets that have another name in `preprocess`."""


def protocol_of(dataset: str) -> Protocol:
    return PROTOCOLS.get(dataset, H36M_J14)


@dataclass(frozen=True)
class PoseErrors:
    """Errors of each joint of each sample (mm) by a protocol, before and after alignment."""

    joint_mm: Float[np.ndarray, "N J"]
    pa_joint_mm: Float[np.ndarray, "N J"]

    @property
    def mpjpe_mm(self) -> Float[np.ndarray, " N"]:
        return self.joint_mm.mean(1)

    @property
    def pa_mpjpe_mm(self) -> Float[np.ndarray, " N"]:
        return self.pa_joint_mm.mean(1)


def pose_errors(
    pred17_m: Float[np.ndarray, "N 17 3"],
    true17_m: Float[np.ndarray, "N 17 3"],
    protocol: Protocol = H36M_J14,
) -> PoseErrors:
    """Return errors of predicted joints by a protocol. KeypointError if an array is not (N, 17, 3) or has a NaN."""
    predicted, true = (_centred(array, protocol) for array in (pred17_m, true17_m))
    aligned = procrustes_align(predicted, true)
    return PoseErrors(joint_errors_mm(predicted, true), joint_errors_mm(aligned, true))


def _centred(joints17_m: object, protocol: Protocol) -> Float[np.ndarray, "N J 3"]:
    joints = np.asarray(joints17_m, np.float64)
    if joints.ndim != 3 or joints.shape[1:] != (len(H36M_NAMES), 3):
        raise KeypointError(f"protocol {protocol.name}: joints have shape {joints.shape}, expected (N, 17, 3)")
    return joints[:, protocol.joints] - joints[:, protocol.pelvis, None]
