"""The experiment on the paper's claim, at toy size: every arm runs, and what it reports is what it did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.claims import run as bench
from experiments.claims.people import EMBEDDING, SIZES, People, SmallHMR, new_network, warm_start
from spin.joints import JOINTS
from spin.training.augment import Augmentations, augment_keypoints

TOY = SIZES["toy"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("claims")


@pytest.fixture(scope="module")
def people(cache: Path) -> People:
    return People.of(TOY, cache)


def test_every_arm_runs_and_reports(people: People, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = bench.claims("toy", cache)
    for setting in bench.SETTINGS:
        arms = result[setting]
        assert set(arms) == set("abcdef")
        for name, figures in arms.items():
            assert all(len(figures[figure]) == TOY.seeds for figure in bench.FIGURES)
            assert all(20 < v < 400 for v in figures["network_pa_mpjpe_mm"])
            fits = figures["fits_start_pa_mpjpe_mm"] + figures["fits_end_pa_mpjpe_mm"]
            assert (fits == [None, None]) == (name == "a")
        for fixed in "be":
            assert arms[fixed]["fits_start_pa_mpjpe_mm"] == arms[fixed]["fits_end_pa_mpjpe_mm"]
        assert arms["b"]["fits_start_pa_mpjpe_mm"] == arms["c"]["fits_start_pa_mpjpe_mm"]
        # From fits of mean poses, this project's loop comes to the lifter's at once.
        assert arms["d"]["fits_end_pa_mpjpe_mm"][0] < arms["d"]["fits_start_pa_mpjpe_mm"][0] - 8
        bad = result["bad_network"][setting]
        assert bad["fits_end_pa_mpjpe_mm"][0] < bad["fits_start_pa_mpjpe_mm"][0] + 1
        assert [len(result["calibration"][setting][arm]) for arm in "ef"] == [10, 10]
    assert 20 < result["ceiling"]["network_pa_mpjpe_mm"][0] < 400
    # Nothing measures the network where there is no truth: it isn't believed, and fits stay as they are.
    only = result["only2d"]
    assert only["f"]["fits_end_pa_mpjpe_mm"] == pytest.approx(only["e"]["fits_end_pa_mpjpe_mm"], abs=0.3)
    assert bench.markdown(result).count("\n| only2d") == 7

    def never(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(bench, "Experiment", never)
    assert bench.claims("toy", cache) == result


def test_pictures_are_augmented_as_keypoints_are(people: People) -> None:
    """The brightest spot of a picture that is painted at a keypoint moves as the keypoint does."""
    row, side = np.array([0]), TOY.side_px
    spot = people.keypoints_px[:1].clone()
    spot[..., :2] = torch.tensor([140.0, 90.0])
    painted = People(
        np.zeros((1, side, side, 3), np.uint8), people.pose_aa, people.betas, spot, people.joints14_m, people.joints_m
    )  # fmt: skip
    x, y = (spot[0, 0, :2] * side / 224).int().tolist()
    painted.images[0, y - 1 : y + 2, x - 1 : x + 2] = 255
    change = Augmentations(torch.tensor([True]), torch.tensor([30.0]), torch.tensor([1.2]), torch.ones(1, 3))
    image = painted.augmented(row, change)[0].mean(0)
    found = np.array(np.unravel_index(int(image.argmax()), image.shape))[::-1] * 224 / side
    expected = augment_keypoints(spot, change)[0, JOINTS.superset.start, :2].numpy()
    assert np.abs(found - expected).max() < 2.5 * 224 / side


def test_the_small_network_takes_pictures_or_their_looks(people: People) -> None:
    network = new_network(TOY, 0).eval()
    assert isinstance(network, SmallHMR)
    pictures = people.plain(np.arange(4))
    with torch.no_grad():
        looks = network.looks(pictures)
        assert looks.shape == (4, EMBEDDING)
        assert network.features(looks).shape == (4, network.feature_count)
        assert torch.equal(network(pictures).rotations, network(looks).rotations)


def test_others_are_other_people(people: People, cache: Path) -> None:
    others = People.others(TOY, cache)
    assert len(others.images) == TOY.others
    together = torch.cat([people.pose_aa, others.pose_aa])
    assert len(torch.unique(together, dim=0)) == len(together)
    assert all(size.train + size.test <= 12_500 and size.train <= size.others for size in SIZES.values())


def test_all_arms_of_a_seed_begin_with_the_same_trained_network(people: People, cache: Path) -> None:
    """Trained on the others: not the warm start any more, but still on its convolutions."""
    first = bench.beginning("toy", 0, cache).state_dict()
    for kept in cache.glob("begin-*"):
        kept.unlink()
    again = bench.beginning("toy", 0, cache).state_dict()
    fresh = warm_start(TOY, 0, cache, torch.device("cpu")).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert torch.equal(first["conv1.weight"], fresh["conv1.weight"])
    assert not torch.equal(first["fc1.weight"], fresh["fc1.weight"])
