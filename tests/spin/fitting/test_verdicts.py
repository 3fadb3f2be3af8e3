"""Why a fit is not valid: every verdict by hand, and which of several reasons is given."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from spin.fitting.fitter import BatchFitter, FitConfig, FitResult
from spin.fitting.levenberg_marquardt import Solution
from spin.fitting.objective import BETA_LIMIT
from spin.fitting.observations import Observations, Views
from spin.fitting.starts import Start
from spin.fitting.verdicts import (
    ACCEPT_LOSS,
    BEHIND_CAMERA,
    CONFIDENCE_OUT_OF_RANGE,
    DOUBTFUL_MM,
    JOINTS_COINCIDE,
    LOSS_TOO_HIGH,
    NOT_CONVERGED,
    NOT_FINITE,
    OUTSIDE_CROP,
    SHAPE_OUT_OF_RANGE,
    TOO_FEW_JOINTS,
    VALID,
    VERDICTS,
    is_doubtful,
    verdict_of_fit,
    verdict_of_observations,
)
from spin.joints import JOINTS
from tests.spin.fit_cases import joints3d, surround
from tests.spin.fit_problems import PUBLISHED, Problem

CODES = {
    VALID: "valid",
    TOO_FEW_JOINTS: "fewer than 4 confident joints",
    NOT_FINITE: "not a number, or beyond all bounds",
    CONFIDENCE_OUT_OF_RANGE: "a confidence outside 0 to 1",
    JOINTS_COINCIDE: "all joints in one place",
    OUTSIDE_CROP: "most joints far outside the crop",
    BEHIND_CAMERA: "behind the camera",
    SHAPE_OUT_OF_RANGE: "a beta beyond ±3",
    LOSS_TOO_HIGH: "loss of 100 px² or more",
    NOT_CONVERGED: "not converged",
}


def test_every_verdict_has_its_number_and_text() -> None:
    """Stores hold the numbers: they are never given anew."""
    assert list(CODES) == list(range(10))
    assert tuple(CODES.values()) == VERDICTS


# ---- the observations -------------------------------------------------------------------------------------------------------


def verdicts_of(keypoints: torch.Tensor, **more) -> list[int]:
    return verdict_of_observations(Observations.of(keypoints, **more)).tolist()


def test_four_confident_joints_are_enough(problem) -> None:
    few = torch.zeros(4, 49, 3)
    names = ("nose", "left knee", "right wrist", "left shoulder")
    for sample, count in enumerate((0, 3, 4)):
        chosen = [JOINTS.index[n] for n in names[:count]]
        few[sample, chosen] = problem.keypoints[sample, chosen]
    few[3] = problem.keypoints[3] * torch.tensor([1, 1, 0.05])  # a confidence of 0.05 is none
    assert verdicts_of(few) == [TOO_FEW_JOINTS, TOO_FEW_JOINTS, VALID, TOO_FEW_JOINTS]
    few[3, :, 2] = 0.06
    assert verdicts_of(few)[3] == VALID
    known = torch.zeros(4, 24, 4)
    known[0] = joints3d(problem)[0]
    known[1, :3] = joints3d(problem)[1, :3]
    assert verdicts_of(few, joints3d_m=known)[:2] == [VALID, TOO_FEW_JOINTS]  # 3D joints make up for keypoints


def test_joints_of_several_views_do_not_add_up(problem) -> None:
    observations = surround(problem, 3)
    keypoints = observations.keypoints_px.clone()
    keypoints[0, :, list(JOINTS.coco)[4:], 2] = 0  # four of the face in each view, which is just enough
    assert verdict_of_observations(Observations(keypoints, observations.views)).tolist() == [VALID] * 24
    keypoints[0, :, JOINTS.index["nose"], 2] = 0
    assert verdict_of_observations(Observations(keypoints, observations.views))[0] == TOO_FEW_JOINTS


@pytest.mark.parametrize(("px", "counts"), [(-223.9, True), (-224.1, False), (447.9, True), (448.1, False)])
def test_keypoints_a_crop_away_have_no_weight(problem, px: float, counts: bool) -> None:
    keypoints = problem.keypoints[:3].clone()
    keypoints[1, JOINTS.index["left wrist"], :2] = torch.tensor([px, 100.0])
    observations = Observations.of(keypoints)
    assert verdicts_of(keypoints) == [VALID] * 3
    assert observations.beyond_reach().sum() == int(not counts)
    reached = observations.within_reach().keypoints_px[:, 0]
    assert (reached[..., 2] > 0).sum() == (keypoints[..., 2] > 0).sum() - int(not counts)
    few = torch.zeros(1, 49, 3)
    names = [JOINTS.index[n] for n in ("nose", "left knee", "right wrist", "left shoulder")]
    few[0, names] = problem.keypoints[0, names]
    few[0, names[0], 0] = px  # of four joints that are enough
    assert verdicts_of(few) == [VALID if counts else TOO_FEW_JOINTS]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("column", [0, 1, 2])
def test_what_is_seen_must_be_a_number(problem, value: float, column: int) -> None:
    keypoints = problem.keypoints[:3].clone()
    keypoints[0, 30, column] = value
    keypoints[1, 30, 2] = 0
    keypoints[1, 30, :2] = value  # not seen
    assert verdicts_of(keypoints) == [NOT_FINITE, VALID, VALID]


@pytest.mark.parametrize("name", [f.name for f in fields(Views)])
def test_cameras_must_be_numbers(problem, name: str) -> None:
    observations = surround(problem, 2)
    array = getattr(observations.views, name).clone()
    array[5, 1] = torch.nan
    verdict = verdict_of_observations(replace(observations, views=replace(observations.views, **{name: array})))
    assert verdict[5] == NOT_FINITE
    assert (verdict != VALID).sum() == 1


def test_3d_joints_must_be_numbers_where_they_are_known(problem) -> None:
    joints = joints3d(problem)[:4]
    joints[0, 3, 1] = torch.nan
    joints[1, 3, 1:] = torch.tensor([torch.nan, 0.0, 0.0])
    joints[2, 3, 3] = torch.nan
    joints[3, 3, 3] = -0.5
    verdicts = verdicts_of(problem.keypoints[:4], joints3d_m=joints)
    assert verdicts == [NOT_FINITE, VALID, NOT_FINITE, CONFIDENCE_OUT_OF_RANGE]


@pytest.mark.parametrize("confidence", [-1.0, -1e-6, 1.001, 2.0, 1e30])
def test_confidences_are_shares(problem, confidence: float) -> None:
    keypoints = problem.keypoints[:2].clone()
    keypoints[0, 30, 2] = confidence
    assert verdicts_of(keypoints) == [CONFIDENCE_OUT_OF_RANGE, VALID]


def test_joints_in_one_place_say_nothing(problem) -> None:
    keypoints = problem.keypoints[:3].clone()
    keypoints[:2, :, :2] = torch.tensor([100.0, 80.0])
    keypoints[1, 30, 0] += 2.0
    assert verdicts_of(keypoints) == [JOINTS_COINCIDE, VALID, VALID]
    observations = surround(problem, 2)
    several = observations.keypoints_px.clone()
    several[0, 0, :, :2] = 100.0  # one of two views is spoiled: the other says enough
    several[1, :, :, :2] = 100.0
    verdict = verdict_of_observations(Observations(several, observations.views))
    assert verdict[:3].tolist() == [VALID, JOINTS_COINCIDE, VALID]


def test_most_of_a_body_may_not_be_a_crop_away(problem) -> None:
    keypoints = torch.zeros(6, 49, 3)
    chosen = [JOINTS.index[n] for n in ("nose", "left knee", "right knee", "left wrist", "right wrist")]
    keypoints[:, chosen] = problem.keypoints[:6, chosen]
    keypoints[0, chosen[:3], 0] += 600.0
    keypoints[1, chosen[:1], 0] += 600.0  # less than half, and four remain
    keypoints[2, chosen[:3], 1] -= 600.0
    keypoints[3, chosen, 0] = torch.tensor([230.0, 300, 350, 400, 447])  # half a body may be out of the picture
    keypoints[4, chosen, 0] = torch.tensor([230.0, 300, 449, 500, 600])
    keypoints[5, chosen[:2], 0] += 600.0  # less than half, but three remain
    assert verdicts_of(keypoints) == [OUTSIDE_CROP, VALID, OUTSIDE_CROP, VALID, OUTSIDE_CROP, TOO_FEW_JOINTS]


def test_of_several_reasons_the_gravest_is_verdicts_of(problem) -> None:
    keypoints = torch.full((1, 49, 3), 1e4)
    keypoints[..., 2] = 1
    keypoints[0, 30:, :2] += 50
    reasons = [verdicts_of(keypoints)[0]]
    keypoints[..., :2] = 1e4
    reasons += verdicts_of(keypoints)
    keypoints[0, 3:, 2] = 0
    reasons += verdicts_of(keypoints)
    keypoints[0, 0, 2] = 7
    reasons += verdicts_of(keypoints)
    keypoints[0, 2, 0] = torch.nan
    reasons += verdicts_of(keypoints)
    assert reasons == [
        OUTSIDE_CROP, JOINTS_COINCIDE, TOO_FEW_JOINTS, CONFIDENCE_OUT_OF_RANGE, NOT_FINITE
    ]  # fmt: skip


# ---- the fit ------------------------------------------------------------------------------------------------------------


def test_a_fits_reasons_by_hand() -> None:
    count = 9
    pose, betas, camera = torch.zeros(count, 72), torch.zeros(count, 10), torch.ones(count, 3)
    converged = torch.ones(count, dtype=torch.bool)
    loss, depth = torch.full((count,), 99.9), torch.ones(count)
    observations = torch.zeros(count, dtype=torch.long)
    reasons = [
        VALID,
        NOT_CONVERGED,
        LOSS_TOO_HIGH,
        SHAPE_OUT_OF_RANGE,
        BEHIND_CAMERA,
        NOT_FINITE,
        OUTSIDE_CROP,
    ]
    # Each has the faults of all before it, too: the gravest is given.
    converged[1:] = False
    loss[2:] = ACCEPT_LOSS
    betas[3:, 4] = -BETA_LIMIT - 0.01
    depth[4:] = 0.0
    pose[5:, 7] = torch.nan
    observations[6] = OUTSIDE_CROP
    betas[7:], pose[7:], depth[7:], converged[7:], loss[7:] = 0, 0, 1, True, 1
    loss[7], depth[8] = torch.nan, torch.nan
    solution = Solution(pose, betas, camera, torch.zeros(count), torch.zeros(count, dtype=torch.long), converged)
    found = verdict_of_fit(observations, solution, loss, loss, depth)
    assert found.tolist() == [*reasons, NOT_FINITE, BEHIND_CAMERA]


def test_a_beta_of_just_the_limit_is_believed() -> None:
    one = torch.ones(1)
    solution = Solution(torch.zeros(1, 72), torch.full((1, 10), BETA_LIMIT), torch.ones(1, 3), one, one, one > 0)
    assert verdict_of_fit(torch.zeros(1, dtype=torch.long), solution, one, one, one).tolist() == [VALID]


def test_a_fit_that_would_have_gone_on_is_not_converged(compact, prior, problem) -> None:
    far = Start(problem.pose.roll(1, 0), problem.betas, problem.camera)  # everybody in another's pose
    config = FitConfig("lm", 1, replace(PUBLISHED, sigma_px=10.0), ())
    result = BatchFitter(compact, prior, config).fit(problem.keypoints, [far])
    assert (result.verdict == NOT_CONVERGED).any()
    assert (result.iterations == 1).all()
    more = BatchFitter(compact, prior, replace(config, iterations=60)).fit(problem.keypoints, [far])
    assert (more.verdict == NOT_CONVERGED).sum() < (result.verdict == NOT_CONVERGED).sum()


def test_doubtful_is_a_valid_fit_of_a_high_expected_error() -> None:
    verdict = torch.tensor([VALID, VALID, VALID, LOSS_TOO_HIGH, NOT_CONVERGED])
    score = torch.tensor([50.0, DOUBTFUL_MM, DOUBTFUL_MM + 0.1, 300.0, 300.0])
    assert is_doubtful(verdict, score).tolist() == [False, False, True, False, False]
    assert is_doubtful(verdict.numpy(), score.numpy()).tolist() == [False, False, True, False, False]


def test_poor_fits_are_kept_and_wrong_ones_are_not() -> None:
    ten = torch.arange(10)
    one = torch.zeros(10)
    result = FitResult(*[one] * 10, verdict=ten)
    assert result.storable.nonzero()[:, 0].tolist() == [VALID, LOSS_TOO_HIGH, NOT_CONVERGED]
    assert result.valid.nonzero()[:, 0].tolist() == [VALID]


def test_what_is_seen_covers_a_share_of_the_places(compact, prior, problem: Problem) -> None:
    fitter = BatchFitter(compact, prior, FitConfig("lm", 0, PUBLISHED, ()))
    start = problem.near_truth()
    assert torch.allclose(fitter.fit(problem.keypoints, [start]).coverage, torch.tensor(1.0))
    coco = fitter.fit(problem.noisy(JOINTS.coco, 0.0), [start]).coverage
    assert torch.allclose(coco, torch.tensor(15 / 29))
