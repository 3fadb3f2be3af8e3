"""Left and right swapped in labels are found in a data set as a whole, and named for each person where joints contradict."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.folders import DataFolder
from pipelines.preprocessing.left_right import contradictions, swapped
from pipelines.preprocessing.preprocess import PreprocessSummary, preprocess
from pipelines.readers import DATASETS
from pipelines.readers.base import ReaderOptions
from spin.joints import COCO_NAMES, JOINTS
from store.annotations.table import Annotations


def read(world: Path, tmp_path: Path, parts: tuple[str, ...], joints: str | None = None) -> PreprocessSummary:
    """Preprocess the world's people with left and right of these parts swapped in the file's names."""
    content = json.loads((world / "annotations" / "person_keypoints_train2014.json").read_text())
    other = {"left": "right", "right": "left"}

    def called(name: str) -> str:
        words = name.split(" ")
        return " ".join(other.get(word, word) for word in words) if words[-1] in parts else name

    names = [called(name) for name in COCO_NAMES]
    content["categories"][0]["keypoints"] = [name.replace(" ", "_") for name in names]
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(content))
    extra = {"annotations": file, "joints": joints}
    options = ReaderOptions("all", 6, extra=extra)
    return preprocess(DataFolder(tmp_path / "data"), DATASETS["custom"], world / "train2014", "mine", options)


LEGS, ARMS = ("hip", "knee", "ankle"), ("shoulder", "elbow", "wrist")


def test_right_labels_give_no_warning(world: Path, tmp_path: Path) -> None:
    done = read(world, tmp_path, ())
    assert done.warning == ""
    assert done.doubtful <= 0.1 * done.people


def test_all_labels_swapped_are_found_by_the_faces_that_are_seen() -> None:
    """Nothing contradicts: but ten people who show their face can't all have their left on the image's left."""
    people = people_facing(10)
    assert swapped(people) == ""
    mirrored = replace(people, keypoints_px=people.keypoints_px[:, list(JOINTS.mirror)])
    assert "most people who show their face" in swapped(mirrored)
    assert not contradictions(mirrored).any()


def people_facing(count: int) -> Annotations:
    keypoints = np.zeros((count, 49, 3), np.float32)
    places = {"shoulder": (30, 60), "hip": (20, 140), "eye": (5, 10), "ear": (10, 12), "knee": (20, 220), "ankle": (20, 300)}
    for name, (across, down) in places.items():
        for side, sign in (("left", 1), ("right", -1)):
            keypoints[:, JOINTS.index[f"{side} {name}"]] = [100 + sign * across, down, 1]
    keypoints[:, JOINTS.index["nose"]] = [100, 14, 1]
    return Annotations(
        name="facing", image_root="", image=[f"{i}.jpg" for i in range(count)], center_px=np.full((count, 2), 150, np.float32),
        scale=np.full(count, 1.8, np.float32), keypoints_px=keypoints, source=[f"{i}" for i in range(count)],
        openpose_match=[""] * count,
    )  # fmt: skip


@pytest.mark.parametrize("parts", [LEGS, ARMS, (*LEGS, *ARMS), ("hip",)])
def test_swapped_labels_are_named_and_the_swap_repairs_them(world: Path, tmp_path: Path, parts: tuple[str, ...]) -> None:
    right = Annotations.read(read(world, tmp_path, ()).path)
    done = read(world, tmp_path, parts)
    assert done.warning.startswith("left and right look swapped: ")
    joints = done.warning.split("--joints ")[1].strip('"')
    for part in set(parts) & {"hip", "shoulder"}:
        assert f"left {part}=right {part}" in joints
    if ("hip" in parts) != ("shoulder" in parts):
        assert done.doubtful > 0.3 * done.people
        listed = json.loads(done.doubtful_list.read_text())
        assert len(listed) == done.doubtful
    swap = ",".join(f"left {p}=right {p},right {p}=left {p}" for p in parts)
    again = read(world, tmp_path, parts, swap)
    assert again.warning == ""
    assert np.array_equal(Annotations.read(again.path).keypoints_px, right.keypoints_px)
