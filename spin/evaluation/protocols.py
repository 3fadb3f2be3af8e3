"""How a 3D joint error is measured, stated so that a number can be reproduced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spin.errors import KeypointError
from spin.evaluation.metrics import mpjpe_mm, pa_mpjpe_mm
from spin.joints import H36M_NAMES, H36M_TO_J14

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class Protocol:
    """Which of Human3.6M's 17 joints are compared, and what is aligned before.

    MPJPE: both poses are moved so that joint `pelvis` of the 17 lies at the origin; it is taken before the
    joints are selected, so it need not be among them. PA-MPJPE: a similarity aligns the selected joints.
    """

    name: str
    joints: tuple[int, ...]
    pelvis: int = 0

    def __post_init__(self) -> None:
        wrong = [i for i in (*self.joints, self.pelvis) if not 0 <= i < len(H36M_NAMES)]
        if wrong or not self.joints:
            raise KeypointError(
                f"protocol {self.name}: joints {wrong} are not among Human3.6M's 17 (0 to 16)"
            )

    def card(self) -> dict[str, object]:
        """What has to be known to compare a number with another, for people and for JSON."""
        return {
            "protocol": self.name,
            "joints": [H36M_NAMES[i] for i in self.joints],
            "joint regressor": "Human3.6M's 17 joints, regressed from the mesh",
            "mpjpe": f"translation: {H36M_NAMES[self.pelvis]} (joint {self.pelvis} of the 17) to the origin",
            "pa_mpjpe": "similarity per sample (rotation, scale, translation; no reflection) on these joints",
            "units": "mm",
            "mean": "over joints, then over samples",
        }


# SPIN's evaluation of Human3.6M and 3DPW: the 14 joints of LSP.
H36M_J14 = Protocol(name="h36m-j14", joints=H36M_TO_J14)


@dataclass(frozen=True)
class Scores:
    """Errors of every sample, in the order they came, and their means (NaN if there are no samples)."""

    protocol: Protocol
    mpjpe_mm: Float[np.ndarray, " N"]
    pa_mpjpe_mm: Float[np.ndarray, " N"]

    @property
    def mean_mpjpe_mm(self) -> float:
        return _mean(self.mpjpe_mm)

    @property
    def mean_pa_mpjpe_mm(self) -> float:
        return _mean(self.pa_mpjpe_mm)

    def card(self) -> dict[str, object]:
        """The protocol's card with the number of samples and both means."""
        return self.protocol.card() | {
            "samples": len(self.mpjpe_mm),
            "mean_mpjpe_mm": self.mean_mpjpe_mm,
            "mean_pa_mpjpe_mm": self.mean_pa_mpjpe_mm,
        }


def evaluate_joints(
    pred17_m: Float[np.ndarray, "N 17 3"],
    true17_m: Float[np.ndarray, "N 17 3"],
    protocol: Protocol = H36M_J14,
) -> Scores:
    """Errors of predicted joints by a protocol. KeypointError if one is not (N, 17, 3) or holds a NaN."""
    predicted, true = (_centred(array, protocol) for array in (pred17_m, true17_m))
    return Scores(protocol, mpjpe_mm(predicted, true), pa_mpjpe_mm(predicted, true))


def _centred(joints17_m: object, protocol: Protocol) -> Float[np.ndarray, "N J 3"]:
    joints = np.asarray(joints17_m, np.float64)
    if joints.ndim != 3 or joints.shape[1:] != (len(H36M_NAMES), 3):
        raise KeypointError(
            f"protocol {protocol.name}: joints have shape {joints.shape}, expected (N, 17, 3)"
        )
    return joints[:, protocol.joints] - joints[:, protocol.pelvis, None]


def _mean(errors: np.ndarray) -> float:
    return float(errors.mean()) if len(errors) else float("nan")
