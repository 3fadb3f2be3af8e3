"""Several views and 3D joints: what they add, where they leave fits alone, and the frames that results are in."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from spin.errors import KeypointError
from spin.fitting.fitter import BatchFitter, FitConfig
from spin.fitting.observations import Observations, Views
from spin.fitting.verdicts import JOINTS_COINCIDE, TOO_FEW_JOINTS, verdict_of_observations
from spin.joints import JOINTS
from tests.spin.fit_cases import distance_mm, joints3d, same_bits, surround, tensors_of
from tests.spin.fit_problems import EVERY_JOINT, PUBLISHED, Problem

BODY = ("pose_aa", "betas", "camera_m")


@pytest.fixture(scope="module")
def people(compact, prior) -> Problem:
    return Problem(compact, prior, 12, seed=7)


@pytest.fixture(scope="module")
def fitter(compact, prior, lifter) -> BatchFitter:
    return BatchFitter(compact, prior, FitConfig(), lifter)


def with_an_empty_view(observations: Observations, at: int) -> Observations:
    """Another camera of the first one's numbers, put in at an index, which sees no person."""

    def put_in(array: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        return torch.cat([array[:, :at], new, array[:, at:]], 1)

    keypoints = put_in(observations.keypoints_px, torch.zeros_like(observations.keypoints_px[:, :1]))
    arrays = (getattr(observations.views, f.name) for f in fields(Views))
    return Observations(keypoints, Views(*(put_in(a, a[:, :1]) for a in arrays)), observations.joints3d_m)


def centred_mm(compact, fit, people: Problem) -> torch.Tensor:
    """Mean distance about the centres: 3D joints say which way a body faces, not where it is."""
    found, true = compact.keypoints(compact(fit.pose_aa, fit.betas)), people.points_m
    away = found - found.mean(1, keepdim=True) - true + true.mean(1, keepdim=True)
    return 1000 * away.norm(dim=-1).mean(1)


@pytest.mark.parametrize(("joints", "mean_mm"), [(EVERY_JOINT, 10.0), (JOINTS.coco, 22.0)])
def test_exact_keypoints_in_four_views_put_the_body_in_its_place(compact, fitter, people, joints, mean_mm) -> None:
    """In the world's frame, nothing aligned. What remains is the priors' doing."""
    fit = fitter.fit(surround(people, 4, joints))
    assert fit.valid.all()
    away = distance_mm(compact, fit, people)
    assert away.mean() < mean_mm
    assert away.max() < 2 * mean_mm


def test_more_views_are_better(compact, fitter, people) -> None:
    one, two, four = (distance_mm(compact, fitter.fit(surround(people, n, noise_px=2.0)), people).mean() for n in (1, 2, 4))
    assert four < two < one


@pytest.mark.parametrize("count", [1, 4])
def test_a_fit_seen_from_a_view_projects_to_the_same_pixels(compact, fitter, people, count: int) -> None:
    observations = surround(people, count, noise_px=2.0)
    fit = fitter.fit(observations)
    points = compact.keypoints(compact(fit.pose_aa, fit.betas)).double()
    views = Views(*(getattr(observations.views, f.name).double() for f in fields(Views)))
    everywhere = views.project(points + fit.camera_m[:, None].double())
    for view in range(count):
        seen = fitter.seen_from(fit, observations, view)
        here = compact.keypoints(compact(seen.pose_aa, seen.betas)).double() + seen.camera_m[:, None].double()
        pixels = views.focal_px[:, view, None, None] * here[..., :2] / here[..., 2:]
        away = pixels + views.principal_px[:, view, None] - everywhere[:, view]
        assert away.abs().max() < 1e-3
        assert torch.equal(seen.pose_aa[:, 3:], fit.pose_aa[:, 3:])


@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_view_that_sees_nobody_changes_nothing(compact, prior, people, at: int) -> None:
    """From the same start, bit for bit; only the loss is a mean over one more view."""
    fitter = BatchFitter(compact, prior, FitConfig(objective=PUBLISHED, init=("multistart",)))
    observations, start = surround(people, 3, noise_px=2.0), people.near_truth()
    one, other = (fitter.fit(e, [start]) for e in (observations, with_an_empty_view(observations, at)))
    for name in (*BODY, "cost", "iterations", "verdict", "coverage"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert torch.allclose(other.loss, one.loss * 3 / 4, rtol=1e-5)


def test_the_default_fit_hardly_minds_a_view_that_sees_nobody(compact, fitter, people) -> None:
    observations = surround(people, 3, noise_px=2.0)
    one, other = (fitter.fit(e) for e in (observations, with_an_empty_view(observations, 1)))
    errors = [distance_mm(compact, fit, people).mean().item() for fit in (one, other)]
    assert errors[1] < errors[0] + 3


def test_a_view_that_sees_nobody_does_not_improve_the_score(fitter, people) -> None:
    observations = Observations.of(people.noisy(JOINTS.coco, 2.0))
    one, other = (fitter.fit(e) for e in (observations, with_an_empty_view(observations, 1)))
    assert (other.score > 0.8 * one.score).all()


def test_a_person_that_no_view_sees_is_too_few_joints(people) -> None:
    observations = surround(people, 3)
    observations.keypoints_px[4] = 0
    verdict = verdict_of_observations(observations)
    assert verdict[4] == TOO_FEW_JOINTS
    assert (verdict == 0).sum() == len(verdict) - 1


# ---- 3D joints ----------------------------------------------------------------------------------------------------------


def test_3d_joints_give_the_body(compact, fitter, people) -> None:
    plain = Observations.of(people.noisy(JOINTS.coco, 2.0))
    known = replace(plain, joints3d_m=joints3d(people))
    errors = centred_mm(compact, fitter.fit(known), people)
    assert errors.mean() < 16
    assert errors.max() < 35
    assert errors.mean() < 0.4 * centred_mm(compact, fitter.fit(plain), people).mean()


def test_without_3d_joints_a_sample_is_fitted_as_if_nobody_had_any(fitter, people) -> None:
    """Bit for bit: the body, and all that does not come from the scorer."""
    plain = Observations.of(people.noisy(JOINTS.coco, 2.0))
    joints = joints3d(people)
    joints[::2] = 0
    one, other = fitter.fit(plain), fitter.fit(replace(plain, joints3d_m=joints))
    for name in (*BODY, "cost", "loss", "iterations", "verdict", "start"):
        assert torch.equal(getattr(one, name)[::2], getattr(other, name)[::2]), name
    assert not torch.equal(one.pose_aa[1::2], other.pose_aa[1::2])


def test_without_3d_joints_a_sample_is_scored_as_if_nobody_had_any(fitter, people) -> None:
    plain = Observations.of(people.noisy(JOINTS.coco, 2.0))
    joints = joints3d(people)
    joints[::2] = 0
    one, other = fitter.fit(plain), fitter.fit(replace(plain, joints3d_m=joints))
    assert torch.allclose(one.score[::2], other.score[::2], rtol=1e-4)


@pytest.mark.parametrize("metres", [1.0, 5.0])
def test_3d_joints_may_be_about_any_origin(fitter, people, metres: float) -> None:
    plain = Observations.of(people.noisy(JOINTS.coco, 2.0))
    joints = joints3d(people)
    moved = joints.clone()
    moved[..., :3] += metres * torch.tensor([1.0, 0.5, 1.0])
    one, other = (fitter.fit(replace(plain, joints3d_m=j)) for j in (joints, moved))
    assert torch.allclose(one.cost, other.cost, rtol=5e-3)


def test_a_few_3d_joints_are_not_the_body(fitter, people) -> None:
    """A few joints can always be met, which says nothing of the rest: their score is that of the keypoints."""
    plain = Observations.of(people.noisy(JOINTS.coco, 2.0))
    joints = joints3d(people)
    joints[:, 3:] = 0
    one, other = fitter.fit(plain), fitter.fit(replace(plain, joints3d_m=joints))
    assert (other.score > 0.8 * one.score).all()


@pytest.mark.parametrize("keypoints", [0, 1])
def test_3d_joints_make_up_for_keypoints(compact, fitter, people, keypoints: int) -> None:
    seen = people.keypoints.clone()
    seen[:, keypoints:, 2] = 0
    result = fitter.fit(replace(Observations.of(seen), joints3d_m=joints3d(people)))
    # All are fitted, if not all well: without keypoints a fit starts far from a person who lies down.
    assert not set(result.verdict.tolist()) & {TOO_FEW_JOINTS, JOINTS_COINCIDE}
    assert result.valid.float().mean() >= 0.5
    assert centred_mm(compact, result, people)[result.valid].median() < 20
    if not keypoints:  # nothing says where: the middle of the picture is as good a guess as any
        body = compact.keypoints(compact(result.pose_aa, result.betas)) + result.camera_m[:, None]
        pixels = Observations.of(seen).views.project(body)[:, 0]
        assert (pixels.mean(1) - 112).abs().max() < 20


def test_views_of_other_people_are_refused(people) -> None:
    with pytest.raises(KeypointError, match="samples and views"):
        Observations(people.keypoints[:, None], Views.crops(people.keypoints[:1]))


def test_observations_are_copied_whole(people) -> None:
    observations = replace(surround(people, 3), joints3d_m=joints3d(people))
    rows = torch.tensor([3, 1])
    assert same_bits(observations.take(rows), observations, rows)
    assert len(observations.take(rows)) == 2
    second = observations.view(1)
    assert torch.equal(second.keypoints_px[:, 0], observations.keypoints_px[:, 1])
    assert torch.equal(second.views.focal_px[:, 0], observations.views.focal_px[:, 1])
    assert second.joints3d_m is None
    double = observations.to(torch.device("cpu"), torch.float64)
    assert all(t.dtype == torch.float64 for t in tensors_of(double))


def test_observations_of_other_shapes_are_rejected(people) -> None:
    views = Views.crops(people.keypoints)
    for bad, expected in (
        (people.keypoints, r"\(B, views, 49, 3\)"),
        (people.keypoints[:, None, :24], r"\(B, views, 49, 3\)"),
        (people.keypoints[:, None][:, :0], r"\(B, views, 49, 3\)"),
    ):
        with pytest.raises(KeypointError, match=expected):
            Observations(bad, views)
    with pytest.raises(KeypointError, match=r"3D joints .*expected \(12, 24, 4\)"):
        Observations.of(people.keypoints, torch.zeros(12, 24, 3))
