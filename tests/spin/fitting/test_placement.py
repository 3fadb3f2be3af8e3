"""The translation of a body whose pose and shape are settled."""

from __future__ import annotations

import pytest
import torch

from spin.body import CompactBody
from spin.fitting.fitter import BatchFitter, FitConfig
from spin.fitting.objective import OBJECTIVES
from spin.fitting.observations import Observations
from spin.fitting.placement import place_body
from spin.fitting.starts import camera_start
from spin.fitting.verdicts import TOO_FEW_JOINTS, VALID
from spin.joints import JOINTS
from tests.spin.fit_cases import surround
from tests.spin.fit_problems import Problem

PUBLISHED = OBJECTIVES["published"]


@pytest.fixture(scope="module")
def people(compact, prior) -> Problem:
    return Problem(compact, prior, 8, seed=3)


def points(compact: CompactBody, people: Problem) -> torch.Tensor:
    return compact.keypoints(compact(people.pose, people.betas))


def seen(people: Problem, joints: tuple[int, ...] = JOINTS.coco, noise_px: float = 0.0) -> Observations:
    return Observations.of(people.noisy(joints, noise_px))


def test_exact_keypoints_say_exactly_where_the_body_is(compact, people) -> None:
    """Depth too: 1 in 10,000 of it, which is what the keypoints' float32 pixels leave."""
    observations, body = seen(people), points(compact, people)
    found = place_body(body, camera_start(body, observations), observations, PUBLISHED)
    away = (found - people.camera).abs()
    assert away[:, :2].max() < 1e-3
    assert (away[:, 2] / people.camera[:, 2]).max() < 1e-3


def test_it_is_found_from_several_views_as_well(compact, people) -> None:
    observations, body = surround(people, 3), points(compact, people)
    found = place_body(body, people.camera + 0.2, observations, PUBLISHED)
    assert (found - people.camera).norm(dim=-1).max() < 0.01


def test_no_start_is_made_worse_and_no_other_place_nearby_is_better(compact, people) -> None:
    observations, body = seen(people, noise_px=4.0), points(compact, people)

    def loss(camera: torch.Tensor) -> torch.Tensor:
        from spin.fitting.objective import reprojection_loss

        return reprojection_loss(PUBLISHED, body, camera, observations)

    start = camera_start(body, observations)
    found = place_body(body, start, observations, PUBLISHED)
    assert (loss(found) <= loss(start)).all()
    for axis, step in ((0, 0.01), (1, 0.01), (2, 0.5)):
        for sign in (-1, 1):
            moved = found.clone()
            moved[:, axis] += sign * step
            assert (loss(found) <= loss(moved)).all()


def test_a_body_that_is_given_its_place_keeps_it_to_the_bit(compact, prior, people) -> None:
    fitter = BatchFitter(compact, prior, FitConfig("adam", 0, PUBLISHED, ()))
    observations = seen(people)
    start = fitter.given(people.pose, people.betas, observations, kind="file").at(people.camera)
    everyone = torch.ones(len(people.pose), dtype=torch.bool)
    kept = fitter.as_given(start, observations, everyone)
    assert torch.equal(kept.camera_m, people.camera)
    assert torch.equal(kept.pose_aa, people.pose)
    assert torch.equal(kept.betas, people.betas)
    assert (kept.verdict == VALID).all()
    assert kept.loss.max() < 1e-3
    placed = fitter.as_given(start.at(people.camera * 1.2), observations, ~everyone)
    assert placed.loss.max() < 0.01


def test_who_is_not_seen_gets_no_fit_and_spoils_no_neighbour(compact, prior, people) -> None:
    fitter = BatchFitter(compact, prior, FitConfig("adam", 0, PUBLISHED, ()))
    keypoints = people.noisy(JOINTS.coco, 0.0)
    hidden = keypoints.clone()
    hidden[2, :, 2] = 0
    none = torch.zeros(len(keypoints), dtype=torch.bool)
    results = []
    for observations in (Observations.of(keypoints), Observations.of(hidden)):
        start = fitter.given(people.pose, people.betas, observations, kind="file")
        results.append(fitter.as_given(start, observations, none))
    others = torch.arange(len(keypoints)) != 2
    assert results[1].verdict[2] == TOO_FEW_JOINTS
    assert torch.equal(results[0].camera_m[others], results[1].camera_m[others])
