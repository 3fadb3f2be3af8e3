"""The protocol card holds every input of the number: results that differ in one are not compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pipelines.errors import StageError
from pipelines.evaluation.compare import compare_results
from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.protocol_card import differing
from pipelines.evaluation.result import read_result
from pipelines.evaluation.subjects import Subject, checkpoint_subject, fits_subject, result_subject
from pipelines.folders import DataFolder
from spin.evaluation.body_parts import TexturedParts
from spin.network.inference import exact_float32, precision_of
from store.annotations.table import Annotations
from tests.pipelines.evaluation.measured import (
    CONFIG,
    fit_store,
    published_checkpoint,
    read,
    save_result,
    tiny_network,
    true_fits,
    with_joints,
)


def card_of(data: DataFolder, name: str, subject: Subject, tmp_path: Path) -> dict:
    return evaluate(data, name, subject, tmp_path / "card.json", config=CONFIG).result.card


def moved(a: Annotations) -> Annotations:
    joints = a.joints17_m.copy()
    joints[2, 5, 1] += 0.001
    return replace(a, joints17_m=joints)


def other_betas(a: Annotations) -> Annotations:
    betas = a.betas.copy()
    betas[1, 0] += 0.01
    return replace(a, betas=betas)


def other_pose(a: Annotations) -> Annotations:
    pose = a.pose.copy()
    pose[0, 70] += 0.001
    return replace(a, pose=pose)


def other_gender(a: Annotations) -> Annotations:
    swapped = {"female": "male", "male": "female"}
    return replace(a, gender=[swapped[g] if row == 1 else g for row, g in enumerate(a.gender)])


def wider_box(a: Annotations) -> Annotations:
    return replace(a, scale=a.scale * np.float32(1.01))


def same(a: Annotations) -> Annotations:
    """What does not count: keypoints, and where images are kept."""
    return replace(a, keypoints_px=a.keypoints_px * np.float32(0.5))


@pytest.mark.parametrize(
    ("name", "change", "field"),
    [
        ("known-joints", moved, "truth"),
        ("3dpw", other_betas, "truth"),
        ("3dpw", other_pose, "truth"),
        ("3dpw", other_gender, "truth"),
        ("known-joints", wider_box, "boxes"),
        ("3dpw", same, None),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_another_truth_of_the_same_frames_is_not_compared(
    name: str, change: Callable[[Annotations], Annotations], field: str | None, data: DataFolder, mesh, tmp_path: Path
) -> None:
    with_joints(data, mesh, "known-joints")
    people = read(data, name)
    subject = result_subject(save_result(tmp_path / "theirs.npz", people), people)
    evaluate(data, name, subject, tmp_path / "a.json", config=CONFIG)
    change(people).write(data.annotations(name))
    evaluate(data, name, subject, tmp_path / "b.json", config=CONFIG)
    first, second = (read_result(tmp_path / f"{which}.json").card for which in "ab")
    assert first["frames"] == second["frames"]
    if field is None:
        assert first == second
        return
    assert set(differing(first, second)) == {field}
    with pytest.raises(StageError, match=rf"not comparable\. {field}: .* against .*--anyway"):
        compare_results(tmp_path / "a.json", tmp_path / "b.json")
    anyway = compare_results(tmp_path / "a.json", tmp_path / "b.json", anyway=True, draws=50)
    assert set(anyway.differing) == {field}


@pytest.mark.parametrize("column", ["mask", "part"])
def test_one_pixel_of_a_true_picture_is_another_truth(column: str, data: DataFolder, tmp_path: Path, folder: Path) -> None:
    people = read(data, "lsp")
    subject = checkpoint_subject(folder / "net0.pt")
    before = card_of(data, "lsp", subject, tmp_path)
    assert {"masks", "parts"} <= set(before["truth"])
    row = next(row for row, name in enumerate(people.mask) if name)
    name = getattr(people, column)[row]
    picture = cv2.imread(str(Path(people.image_root) / name), cv2.IMREAD_GRAYSCALE)
    copied = tmp_path / "pictures" / name
    for image in {*people.image, *people.mask, *people.part} - {""}:
        target = tmp_path / "pictures" / image
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((Path(people.image_root) / image).read_bytes())
    replace(people, image_root=str(tmp_path / "pictures")).write(data.annotations("lsp"))
    assert card_of(data, "lsp", subject, tmp_path) == before
    picture[0, 0] = 1 if picture[0, 0] == 0 else 0
    cv2.imwrite(str(copied), picture)
    after = card_of(data, "lsp", subject, tmp_path)
    assert set(differing(before, after)) == {"truth"}
    kind = f"{column}s"
    assert before["truth"][kind] != after["truth"][kind]
    assert {k: v for k, v in before["truth"].items() if k != kind} == {k: v for k, v in after["truth"].items() if k != kind}


def test_spins_checkpoints_are_measured_on_the_published_crop(data: DataFolder, folder: Path, tmp_path: Path) -> None:
    published = published_checkpoint(tmp_path / "model_checkpoint.pt")
    cards = {
        "theirs": card_of(data, "3dpw", checkpoint_subject(published), tmp_path),
        "theirs, plain": card_of(data, "3dpw", checkpoint_subject(published, "plain"), tmp_path),
        "ours": card_of(data, "3dpw", checkpoint_subject(folder / "net0.pt"), tmp_path),
        "ours, published": card_of(data, "3dpw", checkpoint_subject(folder / "net0.pt", "published"), tmp_path),
    }
    assert {name: card["crop"] for name, card in cards.items()} == {
        "theirs": "published",
        "theirs, plain": "plain",
        "ours": "plain",
        "ours, published": "published",
    }
    assert {card["precision"] for card in cards.values()} == {"float32"}
    assert differing(cards["theirs"], cards["ours"]) == {"crop": ("published", "plain")}
    assert differing(cards["theirs"], cards["ours, published"]) == {}


def test_the_command_says_which_crop_and_why(run, data: DataFolder, folder: Path, tmp_path: Path) -> None:
    published = published_checkpoint(tmp_path / "model_checkpoint.pt")
    common = ("eval", "3dpw", "--data", str(data.root), "--workers", "1", "--limit", "2")
    done = run(*common, "--checkpoint", str(published), "--out", "a.json")
    assert done.code == 0, done.err
    assert "crop: published, as the training of SPIN's checkpoint; it predicts SMPL's shapes" in done.err
    done = run(*common, "--checkpoint", str(folder / "net0.pt"), "--crop", "published", "--out", "b.json")
    assert "crop: published, but the training of a checkpoint of this project was given the plain one\n" in done.err
    assert json.loads(Path("a.json").read_text())["card"] == json.loads(Path("b.json").read_text())["card"]


def test_bodies_that_saw_no_crop_are_compared_with_a_network(data: DataFolder, folder: Path, body, tmp_path: Path) -> None:
    people = read(data, "3dpw")
    rows = np.arange(len(people))
    store = fit_store(data, people, body.fingerprint)
    store.merge(rows, true_fits(people, rows))
    store.tag("all")
    fits = card_of(data, "3dpw", fits_subject(data, people, None), tmp_path)
    network = card_of(data, "3dpw", checkpoint_subject(folder / "net0.pt"), tmp_path)
    assert "crop" not in fits and "precision" not in fits
    assert differing(fits, network) == {}


def test_a_result_of_an_earlier_version_opens_and_is_not_compared_with_a_new_one(results: list[Path]) -> None:
    content = json.loads(results[0].read_text())
    for name in ("truth", "boxes", "crop", "precision"):
        del content["card"][name]
    results[0].write_text(json.dumps(content))
    assert read_result(results[0]).scores.count > 0
    assert compare_results(results[0], results[0], draws=50).differing == {}
    with pytest.raises(StageError, match=r"truth: nothing against .*r0\.json is of an earlier version.*measure it again"):
        compare_results(*results)
    assert compare_results(*results, anyway=True, draws=50).paired


def test_the_precision_is_the_networks() -> None:
    network = tiny_network(0)
    assert precision_of(network) == "float32"
    network.features_dtype = torch.bfloat16
    assert precision_of(network) == "bfloat16 in convolutions"
    before = torch.backends.cudnn.allow_tf32
    with exact_float32():
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before


def test_the_files_of_spins_parts_are_named_by_content() -> None:
    texture, cube = np.zeros((4, 2, 2, 2, 3), np.float32), np.zeros((101, 101, 101), np.uint8)
    first = TexturedParts(texture, cube).source
    assert first == TexturedParts(texture.copy(), cube).source
    cube[3, 4, 5] = 1
    assert first != TexturedParts(texture, cube).source
