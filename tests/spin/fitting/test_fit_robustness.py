"""With any numbers in one sample: it gets a verdict, nothing is raised or warned, and its neighbours keep every bit."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spin.crop import keypoints_to_crop
from spin.fitting.fitter import BatchFitter, FitConfig, FitResult
from spin.fitting.levenberg_marquardt import solve_batched
from spin.fitting.observations import Observations
from spin.fitting.starts import START_KINDS
from spin.fitting.verdicts import (
    CONFIDENCE_OUT_OF_RANGE,
    JOINTS_COINCIDE,
    NOT_FINITE,
    OUTSIDE_CROP,
    TOO_FEW_JOINTS,
    VALID,
    VERDICTS,
)
from spin.joints import JOINTS
from tests.spin.fit_cases import joints3d, same_bits, surround, tensors_of
from tests.spin.fit_problems import PUBLISHED, Problem

GOOD = 4
Spoil = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Bench:
    """A fitter, a few good samples, and the fits of these."""

    fitter: BatchFitter
    observations: Observations
    clean: FitResult

    @classmethod
    def of(cls, fitter: BatchFitter, observations: Observations) -> Bench:
        clean = fitter.fit(observations)
        assert clean.storable.all()
        return cls(fitter, observations, clean)

    def fit_with(self, row: int, keypoints: torch.Tensor, joints: torch.Tensor | None = None) -> FitResult:
        """The fits with one sample spoiled; the others are as they were."""
        every = self.observations.keypoints_px.clone()
        every[row] = keypoints
        known = self.observations.joints3d_m
        if known is not None and joints is not None:
            known = known.clone()
            known[row] = joints
        observations = Observations(every, self.observations.views, known)
        before = [t.clone() for t in tensors_of(observations)]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = self.fitter.fit(observations)
        others = torch.tensor([i for i in range(GOOD) if i != row])
        assert same_bits(FitResult(*(t[others] for t in tensors_of(self.clean))), result, others), "a neighbour changed"
        assert all(a.numpy().tobytes() == b.numpy().tobytes() for a, b in zip(before, tensors_of(observations)))
        self.check(result, row)
        return result

    @staticmethod
    def check(result: FitResult, row: int) -> None:
        """A fit that is called valid has only numbers, and every fit one of the verdicts and kinds there are."""
        if result.valid[row]:
            assert all(torch.isfinite(t[row]).all() for t in tensors_of(result))
        assert 0 <= result.verdict[row] < len(VERDICTS)
        assert 0 <= result.start[row] < len(START_KINDS)


@pytest.fixture(scope="module", params=["anchored", "published"])
def single(request, compact, prior, lifter) -> Bench:
    people = Problem(compact, prior, GOOD, seed=11)
    config = FitConfig(iterations=4)
    if request.param == "published":
        config = FitConfig(iterations=3, objective=PUBLISHED, init=("multistart",))
    return Bench.of(BatchFitter(compact, prior, config, lifter), Observations.of(people.noisy(JOINTS.coco, 2.0)))


@pytest.fixture(scope="module")
def several(compact, prior, lifter) -> Bench:
    """Three views and 3D joints."""
    people = Problem(compact, prior, GOOD, seed=11)
    observations = replace(surround(people, 3, noise_px=2.0), joints3d_m=joints3d(people))
    return Bench.of(BatchFitter(compact, prior, FitConfig(iterations=4), lifter), observations)


def at(column: int, value: float, *joints: int) -> Spoil:
    """Sets one of x, y, confidence of the visible joints, or of some of them."""

    def spoil(keypoints: torch.Tensor) -> torch.Tensor:
        out = keypoints.clone()
        out[..., list(joints or JOINTS.coco), column] = value
        return out

    return spoil


def three_joints(keypoints: torch.Tensor) -> torch.Tensor:
    out = keypoints.clone()
    out[..., list(JOINTS.coco)[3:], 2] = 0
    return out


def times(x: float, y: float, confidence: float) -> Spoil:
    return lambda keypoints: keypoints * torch.tensor([x, y, confidence])


DEFINITELY: dict[str, tuple[Spoil, int]] = {
    "no visible joint": (times(1, 1, 0), TOO_FEW_JOINTS),
    "three joints": (three_joints, TOO_FEW_JOINTS),
    "all joints in one place": (lambda k: at(1, 90.0)(at(0, 70.0)(k)), JOINTS_COINCIDE),
    "nothing but NaN": (lambda k: torch.full_like(k, torch.nan), NOT_FINITE),
    **{
        f"{value} in {['x', 'y', 'confidence'][column]}": (at(column, value, JOINTS.coco[0]), NOT_FINITE)
        for value in (float("nan"), float("inf"), float("-inf"))
        for column in range(3)
    },
    "far outside": (times(100, 100, 1), OUTSIDE_CROP),
    "coordinates of 1e30": (times(1e28, -1e28, 1), OUTSIDE_CROP),
    "confidence -1": (at(2, -1.0), CONFIDENCE_OUT_OF_RANGE),
    "one confidence of -1": (at(2, -1.0, JOINTS.coco[3]), CONFIDENCE_OUT_OF_RANGE),
    "confidence 2": (at(2, 2.0), CONFIDENCE_OUT_OF_RANGE),
    "confidence 1e30": (at(2, 1e30), CONFIDENCE_OUT_OF_RANGE),
}


@pytest.mark.parametrize("kind", DEFINITELY)
def test_a_spoiled_sample_says_why_and_disturbs_nobody(single: Bench, kind: str) -> None:
    spoil, verdict = DEFINITELY[kind]
    result = single.fit_with(2, spoil(single.observations.keypoints_px[2]))
    assert VERDICTS[int(result.verdict[2])] == VERDICTS[verdict]
    assert not result.storable[2]
    # What it holds instead of a fit is numbers all the same: nothing of the observations got through.
    assert all(torch.isfinite(t[2]).all() for t in (result.pose_aa, result.betas, result.camera_m))


@pytest.mark.parametrize("kind", [k for k in DEFINITELY if "joint" not in k])
def test_a_spoiled_view_spoils_its_sample_only(several: Bench, kind: str) -> None:
    spoil, verdict = DEFINITELY[kind]
    keypoints = spoil(several.observations.keypoints_px[1])
    if verdict != OUTSIDE_CROP:  # of which most must be outside, in all views together
        keypoints[[0, 2]] = several.observations.keypoints_px[1, [0, 2]]
    result = several.fit_with(1, keypoints)
    assert VERDICTS[int(result.verdict[1])] == VERDICTS[verdict]


NUMBERS = st.sampled_from(
    [0.0, 1.0, -1.0, 0.5, 112.0, 300.0, -400.0, 1e4, -1e4, 1e-30, 1e5, float("nan"), float("inf"), float("-inf")]
)  # fmt: skip
HUGE = st.sampled_from([1e10, -1e10, 1e20, 1e30, -1e30])
CONFIDENCES = st.sampled_from([0.0, 1.0, 0.3, 0.06, 1e-6, 1e-30, -1.0, 2.0, 1e30, float("nan"), float("inf")])


@st.composite
def spoiled(draw: st.DrawFn, keypoints: torch.Tensor, numbers: st.SearchStrategy[float]) -> torch.Tensor:
    """Some joints of some views get some of a few numbers."""
    out = keypoints.clone()
    for _ in range(draw(st.integers(1, 4))):
        view = draw(st.integers(0, len(out) - 1))
        joints = draw(
            st.one_of(
                st.lists(st.sampled_from(JOINTS.coco), min_size=1, max_size=6),
                st.lists(st.integers(0, 48), min_size=1, max_size=6),
                st.just(list(range(49))),
            )
        )
        column = draw(st.integers(0, 2))
        out[view, joints, column] = draw(CONFIDENCES if column == 2 else numbers)
    return out


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_no_mixture_in_one_view_disturbs_anybody(single: Bench, data) -> None:
    row = data.draw(st.integers(0, GOOD - 1))
    keypoints = data.draw(spoiled(single.observations.keypoints_px[row], st.one_of(NUMBERS, HUGE)))
    result = single.fit_with(row, keypoints)
    confidence = keypoints[..., 2]
    if not (torch.isfinite(confidence).all() and (confidence >= 0).all() and (confidence <= 1).all()):
        assert result.verdict[row] in (NOT_FINITE, CONFIDENCE_OUT_OF_RANGE)
    seen = keypoints[confidence > 0][:, :2]
    if not torch.isfinite(seen).all():
        assert result.verdict[row] == NOT_FINITE


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_no_mixture_in_several_views_disturbs_anybody(several: Bench, data) -> None:
    row = data.draw(st.integers(0, GOOD - 1))
    assert several.observations.joints3d_m is not None
    keypoints = data.draw(spoiled(several.observations.keypoints_px[row], NUMBERS))
    joints = several.observations.joints3d_m[row].clone()
    chosen = data.draw(st.lists(st.integers(0, 23), max_size=3))
    joints[chosen, data.draw(st.integers(0, 2))] = data.draw(NUMBERS)
    joints[chosen, 3] = data.draw(CONFIDENCES)
    several.fit_with(row, keypoints, joints)


def test_a_box_without_area_is_not_a_number(single: Bench) -> None:
    with np.errstate(all="ignore"):
        crop = keypoints_to_crop(np.ones((1, 49, 3), np.float32), np.zeros((1, 2)), np.zeros(1))
    result = single.fit_with(0, torch.from_numpy(crop))
    assert result.verdict[0] == NOT_FINITE


def test_a_batch_of_nobody_is_fitted(compact, prior, lifter) -> None:
    for config in (
        FitConfig(), FitConfig("adam", 1), FitConfig(objective=PUBLISHED, init=("multistart",)),
    ):  # fmt: skip
        assert len(BatchFitter(compact, prior, config, lifter).fit(torch.zeros(0, 49, 3))) == 0


def test_a_batch_of_which_nobody_can_be_fitted(compact, prior, lifter) -> None:
    result = BatchFitter(compact, prior, FitConfig(), lifter).fit(torch.zeros(3, 49, 3))
    assert result.verdict.tolist() == [TOO_FEW_JOINTS] * 3
    assert torch.isfinite(result.pose_aa).all()


# ---- the far end of what numbers can be ----------------------------------------------------------------------------------


def test_a_box_without_area_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        crop = keypoints_to_crop(np.ones((1, 49, 3), np.float32), np.zeros((1, 2)), np.zeros(1))
    assert not np.isfinite(crop[..., :2]).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_coordinates_near_the_largest_number(compact, prior, lifter, problem, dtype: torch.dtype) -> None:
    """In float64 they may be finite, and no longer so in the fitter's float32."""
    keypoints = problem.noisy(JOINTS.coco, 2.0)[:GOOD].to(dtype)
    keypoints[1, list(JOINTS.coco)[:2], 0] = 3e38 if dtype == torch.float32 else 1e39
    result = BatchFitter(compact, prior, FitConfig(iterations=4), lifter).fit(keypoints)
    assert result.verdict[1] != VALID


def test_huge_coordinates_in_one_of_several_views(several: Bench) -> None:
    for joint in JOINTS.coco[::2]:
        for column in (0, 1):
            keypoints = several.observations.keypoints_px[0].clone()
            keypoints[1, joint, column] = 1e9
            several.fit_with(0, keypoints)


def test_a_start_with_a_joint_in_the_cameras_own_plane(compact, prior, problem) -> None:
    """The pelvis of the mean shape at a depth of exactly zero: behind the camera, as any depth below it is."""
    fitter = BatchFitter(compact, prior, FitConfig("lm", 3, replace(PUBLISHED, hips=1.0), ()))
    pose, betas = problem.pose[:2], torch.zeros(2, 10)
    camera = torch.tensor([0.0, 0.0, -compact.rest_joints[0, 2].item()]).expand(2, 3)
    result = fitter.refine(pose, betas, problem.keypoints[:2], camera)
    assert (result.verdict != VALID).all()


@pytest.mark.parametrize("where", ["a keypoint", "a 3D joint"])
def test_a_fit_that_is_kept_has_a_cost_and_a_score(compact, prior, lifter, problem, where: str) -> None:
    keypoints, joints = problem.noisy(JOINTS.coco, 2.0), joints3d(problem)
    if where == "a keypoint":
        keypoints[:, JOINTS.coco[6], 0] = 1e6
    else:
        joints[:, 3, 0] = 1e20
    result = BatchFitter(compact, prior, FitConfig(), lifter).fit(Observations.of(keypoints, joints))
    kept = result.storable
    assert torch.isfinite(result.cost[kept]).all() and torch.isfinite(result.score[kept]).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_a_given_body_that_is_none_disturbs_nobody(compact, prior, lifter, problem, value: float) -> None:
    fitter = BatchFitter(compact, prior, FitConfig(iterations=4), lifter)
    keypoints, pose = problem.noisy(JOINTS.coco, 2.0)[:GOOD], problem.pose[:GOOD].clone()
    clean = fitter.refine(pose, problem.betas[:GOOD], keypoints)
    pose[1] = value
    mixed = fitter.refine(pose, problem.betas[:GOOD], keypoints)
    others = torch.tensor([0, 2, 3])
    assert not mixed.storable[1]
    assert torch.equal(clean.pose_aa[others], mixed.pose_aa[others])
    assert torch.allclose(clean.score[others], mixed.score[others], rtol=1e-4)


def test_a_start_from_nowhere_is_not_converged_in_either_solver(compact, prior, problem) -> None:
    start = problem.near_truth()
    away = replace(start, camera_m=-start.camera_m)
    fitter = BatchFitter(compact, prior, FitConfig("lm", 5, PUBLISHED, ()))
    observations = Observations.of(problem.keypoints)
    compiled = fitter._solve(away, observations, 5)
    batched = solve_batched(compact, prior, PUBLISHED, away, observations, iterations=5, tolerance=1e-3)
    for solution in (compiled, batched):
        assert not solution.converged.any() and (solution.iterations == 0).all()


def test_numbers_of_any_precision_are_taken(compact, prior, lifter, problem) -> None:
    fitter = BatchFitter(compact, prior, FitConfig(iterations=3), lifter)
    keypoints = problem.noisy(JOINTS.coco, 2.0)
    numbers = (problem.pose, problem.betas, keypoints, problem.camera)
    expected = fitter.refine(*numbers)
    assert same_bits(fitter.refine(*(n.double() for n in numbers)), expected)
    given = fitter.given(problem.pose, problem.betas, keypoints, kind="file", camera_m=problem.camera)
    doubled_start = given.to(torch.device("cpu"), torch.float64)
    assert torch.equal(fitter.fit(keypoints, [doubled_start]).pose_aa, expected.pose_aa)
    whole = keypoints.round()
    assert same_bits(fitter.fit(whole.long()), fitter.fit(whole))
    with pytest.raises(ValueError, match="a start of 4 bodies for 24 samples"):
        fitter.fit(keypoints, [given.take(torch.arange(4))])


def test_adam_takes_keypoints_that_want_gradients(compact, prior, problem) -> None:
    fitter = BatchFitter(compact, prior, FitConfig("adam", 2, PUBLISHED, ()))
    keypoints = problem.keypoints[:2].clone().requires_grad_()
    result = fitter.refine(problem.pose[:2], problem.betas[:2], keypoints)
    assert torch.isfinite(result.cost).all() and not result.pose_aa.requires_grad
