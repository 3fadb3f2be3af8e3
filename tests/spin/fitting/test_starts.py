"""Where fits begin: the camera that puts a body on its keypoints, bodies of all kinds, and which of them is taken."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from spin.fitting.fitter import BatchFitter, FitConfig
from spin.fitting.objective import OBJECTIVES, Anchor, noise_px, pose_prior_weight, total_cost
from spin.fitting.observations import Observations, Views
from spin.fitting.starts import (
    GIVEN_BETAS_SIGMA,
    GIVEN_POSE_SIGMA_RAD,
    START_KINDS,
    YAWS_DEG,
    Start,
    best_of,
    camera_start,
    component_starts,
    given_start,
    lifter_start,
    mean_pose_starts,
)
from spin.joints import JOINTS
from spin.rotations import axis_angle_to_matrix, upright
from tests.spin.fit_cases import anchored, doubled, same_bits, surround
from tests.spin.fit_problems import PUBLISHED


def one_view(count: int, turn: tuple[float, float, float], focal_px: float, principal_px: float) -> Views:
    rotation = axis_angle_to_matrix(torch.tensor(turn, dtype=torch.float64)).expand(count, 1, 3, 3)
    like = torch.ones(count, 1, dtype=torch.float64)
    ahead = torch.tensor([[[0.3, -0.2, 4.0]]], dtype=torch.float64).expand(count, 1, 3)
    return Views(rotation, ahead, focal_px * like, principal_px * like[..., None].expand(count, 1, 2))


# ---- the camera ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", [(0.0, 0.0, 0.0), (0.4, -1.2, 0.3)])
@pytest.mark.parametrize("focal_px", [800.0, 5000.0])
def test_one_view_finds_a_flat_body_exactly(turn, focal_px: float) -> None:
    """Points of one depth have no perspective: spread and centre give the camera to the last digit."""
    generator = torch.Generator().manual_seed(0)
    views = one_view(3, turn, focal_px, 90.0)
    flat = torch.randn(3, 49, 3, generator=generator, dtype=torch.float64)
    flat[..., 2] = 0
    points = flat @ views.rotation[:, 0]
    camera = torch.tensor([[0.5, -0.3, 8.0], [2.0, 1.0, 20.0], [0.0, 0.0, 12.0]], dtype=torch.float64)
    camera = (camera[:, None] @ views.rotation[:, 0])[:, 0]
    confidence = torch.rand(3, 1, 49, 1, generator=generator, dtype=torch.float64)
    observations = Observations(torch.cat([views.project(points + camera[:, None]), confidence], -1), views)
    assert torch.allclose(camera_start(points, observations), camera, atol=1e-9)
    # What has no confidence says nothing.
    observations.keypoints_px[:, :, 7:20, 2] = 0
    observations.keypoints_px[:, :, 7:20, :2] = 1e6
    assert torch.allclose(camera_start(points, observations), camera, atol=1e-9)


def test_joints_in_one_place_are_taken_for_a_person_as_large_as_the_crop(problem) -> None:
    keypoints = problem.keypoints.clone()
    keypoints[..., :2] = 112.0
    found = camera_start(problem.points_m, Observations.of(keypoints))
    assert torch.allclose(found[:, 2], torch.tensor(5000 / 112))
    assert torch.allclose(found[:, :2], -problem.points_m.mean(1)[:, :2], atol=1e-5)


def test_several_views_meet_in_the_true_camera(problem) -> None:
    observations = doubled(surround(problem, 3, JOINTS.coco))
    points, camera = problem.points_m.double(), problem.camera.double()
    observations.keypoints_px[..., :2] = torch.where(
        observations.keypoints_px[..., 2:] > 0, observations.views.project(points + camera[:, None]), 0.0
    )
    assert (camera_start(points, observations) - camera).abs().max() < 1e-4  # metres; a ridge keeps it solvable
    two = observations.take(torch.arange(24))
    two.keypoints_px[:, 2] = 0  # a view that sees nothing
    assert (camera_start(points, two) - camera).abs().max() < 1e-4


# ---- bodies -------------------------------------------------------------------------------------------------------------


def test_upright_starts_are_upright_in_the_first_view(compact, prior, problem) -> None:
    observations = surround(problem, 2)
    rotation = observations.views.rotation[:, 0]
    starts = component_starts(compact, prior, observations)
    assert len(starts) == len(YAWS_DEG) * len(prior.means_np)
    poses = torch.tensor(prior.means_np, dtype=torch.float32)
    for i, start in enumerate(starts):
        yaw, component = YAWS_DEG[i // len(poses)], i % len(poses)
        seen = rotation @ axis_angle_to_matrix(start.pose_aa[:, :3])
        wanted = axis_angle_to_matrix(torch.tensor(upright(yaw), dtype=torch.float32))
        assert torch.allclose(seen, wanted.expand_as(seen), atol=1e-5)
        assert torch.allclose(start.pose_aa[:, 3:], poses[component].expand(24, 69))
        assert (start.betas == 0).all() and start.kind == "multistart" and start.anchor is None
        points = compact.keypoints(compact(start.pose_aa, start.betas))
        assert torch.allclose(start.camera_m, camera_start(points, observations), atol=1e-4)
    (mean,) = mean_pose_starts(compact, prior, observations, (90.0,))
    assert np.allclose(mean.pose_aa[5, 3:].numpy(), prior.mean_pose())


def test_a_given_body_is_held_to_as_far_as_it_is_trusted(compact, problem) -> None:
    observations = Observations.of(problem.noisy(JOINTS.coco, 4.0))
    start = given_start(compact, problem.pose, problem.betas, observations, kind="store")
    assert torch.equal(start.camera_m, camera_start(problem.points_m, observations))
    assert (start.kind, start.pose_aa is problem.pose) == ("store", True)
    assert start.anchor is not None
    assert (start.anchor.pose_sigma_rad == GIVEN_POSE_SIGMA_RAD).all()
    assert (start.anchor.betas_sigma == GIVEN_BETAS_SIGMA).all()
    assert torch.equal(start.anchor.noise_px, noise_px(problem.points_m, start.camera_m, observations))
    given = given_start(compact, problem.pose, problem.betas, observations, kind="file", camera_m=problem.camera)
    assert torch.equal(given.camera_m, problem.camera)


def test_a_lifted_body_is_the_anchor_too(compact, lifter, problem) -> None:
    observations = Observations.of(problem.noisy(JOINTS.coco, 2.0))
    start, lift = (
        lifter_start(compact, lifter, observations),
        lifter.lift(compact, observations.keypoints_px[:, 0]),
    )
    assert start.anchor is not None
    turned, wanted = (axis_angle_to_matrix(p.reshape(-1, 24, 3)) for p in (start.pose_aa, lift.pose_aa))
    assert torch.allclose(turned, wanted, atol=1e-5)
    assert torch.equal(start.anchor.pose_aa, start.pose_aa)
    assert torch.allclose(start.anchor.pose_sigma_rad, lift.pose_sigma_rad)
    assert torch.allclose(start.anchor.betas_sigma, lift.betas_sigma)
    points = compact.keypoints(compact(start.pose_aa, start.betas))
    assert torch.allclose(start.anchor.noise_px, noise_px(points, start.camera_m, observations), rtol=1e-3)


def test_a_body_in_a_views_frame_goes_there_and_back(compact, prior, problem) -> None:
    observations = surround(problem, 3)
    fitter = BatchFitter(compact, prior, FitConfig("lm", 0, PUBLISHED, ()))
    view = torch.arange(24) % 3
    truth = Start(problem.pose, problem.betas, problem.camera)  # stands in for a FitResult
    here = [fitter.seen_from(truth, observations, v) for v in range(3)]  # type: ignore[arg-type]
    pose = torch.stack([p.pose_aa for p in here])[view, torch.arange(24)]
    known = torch.arange(24) < 20
    pose[~known] = torch.nan  # what is not known must not matter
    other = replace(problem.near_truth(), kind="lifter")
    start = fitter.given_in_view(pose, problem.betas, observations, view, known, kind="file", fallback=[other])
    turned, true = (axis_angle_to_matrix(p.reshape(-1, 24, 3))[known] for p in (start.pose_aa, problem.pose))
    assert torch.allclose(turned, true, atol=1e-4)
    assert (start.camera_m - problem.camera)[known].abs().max() < 0.02
    assert torch.equal(start.pose_aa[~known], other.pose_aa[~known])
    assert torch.equal(start.camera_m[~known], other.camera_m[~known])
    assert start.kind == "file" and start.anchor is not None
    assert (start.anchor.precision(PUBLISHED)[~known] == 0).all()  # held to by nothing
    weight = pose_prior_weight(OBJECTIVES["anchored"], start.anchor, problem.betas[:, 0])
    assert torch.allclose(weight[~known], torch.tensor(OBJECTIVES["published"].pose_prior ** 2))
    assert (weight[known] < weight[~known][0]).all()
    assert [START_KINDS[k] for k in start.kinds[18:22]] == ["file", "file", other.kind, other.kind]
    unseen = fitter.given_in_view(pose, problem.betas, observations, view, known, kind="file", fallback=[])
    assert [START_KINDS[k] for k in unseen.kinds[18:22]] == ["file", "file", "multistart", "multistart"]
    (mean,) = mean_pose_starts(compact, prior, observations, (0.0,))
    assert torch.allclose(unseen.pose_aa[~known], mean.pose_aa[~known])


# ---- choosing -----------------------------------------------------------------------------------------------------------


def test_where_mixes_starts_sample_by_sample(problem) -> None:
    one, other = anchored(problem.near_truth(1)), anchored(problem.near_truth(2), seed=9)
    mask = torch.arange(24) % 2 == 0
    mixed = one.where(mask, other)
    for name in ("pose_aa", "betas", "camera_m"):
        assert torch.equal(getattr(mixed, name)[mask], getattr(one, name)[mask])
        assert torch.equal(getattr(mixed, name)[~mask], getattr(other, name)[~mask])
    assert mixed.anchor is not None and one.anchor is not None and other.anchor is not None
    for field in fields(Anchor):
        mine, theirs, got = (getattr(a, field.name) for a in (one.anchor, other.anchor, mixed.anchor))
        assert torch.equal(got[mask], mine[mask]) and torch.equal(got[~mask], theirs[~mask])
    free = Start(other.pose_aa, other.betas, other.camera_m)
    loose = one.where(mask, free).anchor
    assert loose is not None
    assert (loose.precision(PUBLISHED)[~mask] == 0).all()
    assert torch.isfinite(loose.precision(PUBLISHED)).all()


def test_taking_samples_takes_all_of_a_start(problem) -> None:
    start, rows = anchored(problem.near_truth()), torch.tensor([5, 0])
    taken = start.take(rows)
    assert same_bits(taken, start, rows)
    assert taken.kind == start.kind


def test_best_of_keeps_each_samples_own_anchor(problem) -> None:
    starts = [anchored(problem.near_truth(seed), seed) for seed in range(3)]
    costs = torch.rand(3, 24, generator=torch.Generator().manual_seed(0))
    costs[0, 3] = torch.nan  # never the best
    first, second, third = best_of(starts, costs, 5)
    order = torch.nan_to_num(costs, nan=9.0).argsort(0)
    for place, found in enumerate((first, second, third)):
        for sample in range(24):
            rows = torch.tensor([sample])
            assert same_bits(found.take(rows), starts[int(order[place, sample])].take(rows))
    assert order[2, 3] == 0


def test_a_multistart_is_chosen_by_what_it_costs_as_it_is(compact, prior, problem) -> None:
    keypoints = Observations.of(problem.noisy(JOINTS.coco, 2.0))
    fitter = BatchFitter(compact, prior, FitConfig("lm", 5, PUBLISHED, ("multistart",)))
    kept = fitter.starts(keypoints)

    def cost(start: Start) -> torch.Tensor:
        body = (start.pose_aa, start.betas, start.camera_m)
        return total_cost(compact, prior, PUBLISHED, *body, keypoints)

    every = torch.stack([cost(s) for s in component_starts(compact, prior, keypoints)])
    lowest = every.sort(0).values
    for place, start in enumerate(kept):
        assert torch.allclose(cost(start), lowest[place], rtol=1e-3)
    assert len(every.argmin(0).unique()) > 3
    together = fitter.fit(keypoints)
    alone = torch.stack([fitter.fit(keypoints, [s]).cost for s in kept])
    assert torch.equal(together.cost, alone.min(0).values)


def test_starts_of_several_kinds_stand_one_after_another(compact, prior, lifter, problem) -> None:
    config = FitConfig(init=("multistart", "lifter", "store", "file", "network"))
    starts = BatchFitter(compact, prior, config, lifter).starts(problem.keypoints)
    assert [s.kind for s in starts] == ["multistart", "multistart", "lifter"]  # the others come from outside
