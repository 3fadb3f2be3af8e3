"""Evaluation end to end on made-up data of the published formats: networks, fits, result files, cards; and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import pipelines.evaluation.compare
from pipelines.errors import StageError
from pipelines.evaluation.compare import as_json, compare_results
from pipelines.evaluation.evaluate import EvaluationConfig, evaluate, measure_network
from pipelines.evaluation.protocol_card import differing
from pipelines.evaluation.result import Result, per_sequence, read_result
from pipelines.evaluation.subjects import checkpoint_subject, fits_subject, result_subject
from pipelines.folders import DataFolder
from pipelines.preprocessing.preprocess import preprocess
from pipelines.readers import DATASETS
from pipelines.readers.base import ReaderOptions
from pipelines.readers.formats.image_names import sequence_of
from spin.body.model_file import OPEN_BODY
from spin.crop import crop_encoded, normalise
from spin.errors import ModelFileError
from spin.evaluation.protocols import PROTOCOLS
from spin.images import read_encoded
from spin.joints import H36M_TO_J14, JOINTS
from spin.network.checkpoints import Checkpoint, save_checkpoint
from spin.network.hmr import HMR, MeanParameters
from store.annotations.table import Annotations
from store.errors import ExchangeError, FitStoreNotFoundError
from store.fits.fingerprint import Fingerprint
from store.fits.records import Fits, Source
from store.fits.store import FitStore
from tests.pipelines.raw_trees import made, truth_of

CONFIG = EvaluationConfig(workers=1, batch=4)
IMG_RES = 32


def tiny_network(seed: int) -> HMR:
    torch.manual_seed(seed)
    return HMR("resnet18", mean=MeanParameters.from_body_pose(torch.zeros(69)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3DPW and LSP of the embedded world as annotations, and two checkpoints of untrained networks. Not to be changed."""
    root = tmp_path_factory.mktemp("measured")
    data = DataFolder(root / "data")
    for name, people in (("3dpw", 6), ("lsp", 3)):
        preprocess(data, DATASETS[name], made(root, name, people), name, ReaderOptions("test"))
    for seed in (0, 1):
        checkpoint = Checkpoint(model=tiny_network(seed).state_dict(), config={"img_res": IMG_RES}, step=7)
        save_checkpoint(root / f"net{seed}.pt", checkpoint)
    return root


@pytest.fixture
def data(folder: Path, tmp_path: Path) -> DataFolder:
    return DataFolder(shutil.copytree(folder / "data", tmp_path / "data"))


def save_result(path: Path, annotations: Annotations, **changes: np.ndarray) -> Path:
    """A result file of the published format: the truth, unless changed."""
    count = len(annotations)
    arrays = {
        "pred_joints": np.zeros((count, 17, 3)),
        "pose": annotations.pose,
        "betas": annotations.betas,
        "camera": np.tile([0.9, 0.0, 0.0], (count, 1)),
    }
    np.savez(path, **(arrays | changes))
    return path


def read(data: DataFolder, name: str) -> Annotations:
    return Annotations.read(data.annotations(name))


def with_joints(data: DataFolder, mesh, name: str) -> Annotations:
    """3DPW's people under another name, with joints that the data set itself knows: the true ones, a little off."""
    people = read(data, "3dpw")
    with torch.no_grad():
        joints = mesh(torch.from_numpy(people.pose), torch.from_numpy(people.betas)).joints17_m.numpy()
    joints = joints - joints[:, :1] + np.float32(0.01) * np.arange(17, dtype=np.float32)[:, None]
    known = np.ones(len(people), bool)
    renamed = replace(people, name=name, has_joints17=known, joints17_m=joints.astype(np.float32))
    renamed.write(data.annotations(name))
    return renamed


# ---- numbers ------------------------------------------------------------------------------------------------------------


def test_a_perfect_result_is_without_error(data: DataFolder, tmp_path: Path) -> None:
    people = read(data, "3dpw")
    subject = result_subject(save_result(tmp_path / "theirs.npz", people), people)
    done = evaluate(data, "3dpw", subject, tmp_path / "out.json", config=CONFIG)
    assert done.metrics == pytest.approx(
        {"mpjpe_mm": 0, "pa_mpjpe_mm": 0, "per_vertex_error_mm": 0}, abs=1e-3
    )
    assert subject.about["joints"] == "regressed from pose and betas"
    card = done.result.card
    assert card["true joints"] == {"of the data set": 0, "regressed from the true body": len(people)}
    assert card["frames"]["count"] == len(people)
    assert set(card["true bodies"]) == {"female", "male"}
    assert len(card["joints"]) == 14


def test_joints_of_a_result_file_are_used_as_they_are(data: DataFolder, mesh, tmp_path: Path) -> None:
    people = with_joints(data, mesh, "mpi-inf-3dhp-valid")
    moved = people.joints17_m.copy()
    moved[:, 4] += [0.0, 0.2, 0.0]  # one of seventeen joints is 200 mm off
    subject = result_subject(save_result(tmp_path / "theirs.npz", people, pred_joints=moved + 3.0), people)
    metrics = evaluate(data, people.name, subject, tmp_path / "out.json", config=CONFIG).metrics
    assert metrics["mpjpe_mm"] == pytest.approx(200 / 17, abs=1e-3)
    assert metrics["pck_percent"] == pytest.approx(100 * 16 / 17)
    assert metrics["pck_14_percent"] == pytest.approx(100 * 13 / 14)
    assert metrics["auc_percent"] == pytest.approx(100 * 16 / 17 * 30 / 31)
    larger = save_result(tmp_path / "larger.npz", people, pred_joints=2 * people.joints17_m)
    metrics = evaluate(
        data, people.name, result_subject(larger, people), tmp_path / "larger.json", config=CONFIG
    ).metrics
    assert metrics["pck_percent"] < 40
    assert metrics["pa_pck_percent"] == 100
    assert metrics["pa_auc_percent"] == pytest.approx(100 * 30 / 31)


def test_a_network_is_measured_as_a_loop_over_samples_would(
    data: DataFolder, folder: Path, mesh, tmp_path: Path
) -> None:
    """The published evaluation, written out for one sample at a time."""
    done = evaluate(
        data, "3dpw", checkpoint_subject(folder / "net0.pt"), tmp_path / "out.json", config=CONFIG
    )
    people, network = read(data, "3dpw"), tiny_network(0).eval()
    with np.load(done.npz_path) as npz:
        predicted = {name: npz[name] for name in ("pred_joints", "pose", "betas", "camera")}
    for row in range(len(people)):
        crop = crop_encoded(
            read_encoded(people.image_path(row)),
            people.center_px[row],
            float(people.scale[row]),
            crop_px=IMG_RES,
        )
        with torch.no_grad():
            body = network(torch.from_numpy(normalise(crop))[None])
            mine = mesh.forward_rotations(body.rotations, body.betas)
            true = mesh(torch.from_numpy(people.pose[[row]]), torch.from_numpy(people.betas[[row]]))
        j, t = (x.joints17_m[0].double().numpy() for x in (mine, true))
        assert np.allclose(predicted["pred_joints"][row], j, atol=1e-5)
        assert np.allclose(predicted["camera"][row], body.weak_camera[0], atol=1e-5)
        j, t = (x[list(H36M_TO_J14)] - x[0] for x in (j, t))
        assert done.result.scores.pose is not None
        assert done.result.scores.pose.mpjpe_mm[row] == pytest.approx(
            1000 * np.linalg.norm(j - t, axis=1).mean(), abs=1e-2
        )
        u, s, vt = np.linalg.svd((j - j.mean(0)).T @ (t - t.mean(0)))
        flip = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
        aligned = (j - j.mean(0)) @ u @ flip @ vt * np.trace(flip @ np.diag(s)) / (
            (j - j.mean(0)) ** 2
        ).sum() + t.mean(0)
        expected = 1000 * np.linalg.norm(aligned - t, axis=1).mean()
        assert done.result.scores.pose.pa_mpjpe_mm[row] == pytest.approx(expected, abs=1e-2)
    again = result_subject(done.npz_path, people)
    same = evaluate(data, "3dpw", again, tmp_path / "again.json", config=CONFIG)
    assert same.metrics == pytest.approx(done.metrics, abs=1e-2)
    assert not differing(same.result.card, done.result.card)


def test_two_workers_find_what_one_does_and_so_does_a_network_in_memory(
    ray_running: None, folder: Path, tmp_path: Path
) -> None:
    data, subject = DataFolder(folder / "data"), checkpoint_subject(folder / "net0.pt")
    config = EvaluationConfig(workers=2, batch=3, log_every=1)
    done = evaluate(data, "3dpw", subject, tmp_path / "two.json", config=config)
    alone = measure_network(data, "3dpw", tiny_network(0), IMG_RES, config=replace(config, batch=4))
    assert alone.scores.metrics() == pytest.approx(done.metrics, abs=1e-2)
    assert np.array_equal(alone.rows, done.result.rows)
    assert not differing(alone.card, done.result.card)


def test_masks_and_parts_of_the_true_body_are_nearly_right(
    data: DataFolder, folder: Path, mesh, tmp_path: Path
) -> None:
    people, truth = read(data, "lsp"), truth_of(folder / "lsp")
    rows = [truth[image, 0] for image in people.image]
    pose, betas = (np.stack([row[key] for row in rows]) for key in ("pose", "betas"))
    with torch.no_grad():
        points = mesh(torch.from_numpy(pose), torch.from_numpy(betas)).keypoints_m[:, :, :2].numpy()
    cameras = []
    for row, xy in enumerate(points):  # the weak camera that puts the body's keypoints where they are
        seen = (rows[row]["keypoints_px"] - people.center_px[row]) / (100 * people.scale[row])
        x, y = xy - xy.mean(0), seen - seen.mean(0)
        s = (x * y).sum() / (x * x).sum()
        cameras.append([s, *(seen.mean(0) / s - xy.mean(0))])
    changes = {"pose": pose, "betas": betas, "camera": np.array(cameras)}
    count = len(people)
    blank = replace(
        people, has_smpl=np.ones(count, bool), pose=pose.astype(np.float32), betas=betas.astype(np.float32)
    )
    subject = result_subject(save_result(tmp_path / "theirs.npz", blank, **changes), people)
    done = evaluate(data, "lsp", subject, tmp_path / "out.json", config=CONFIG)
    assert set(done.metrics) == {"mask_accuracy", "mask_f1", "part_accuracy", "part_f1"}
    assert done.metrics["mask_f1"] > 0.93  # a perspective picture against a weak camera
    assert done.metrics["part_f1"] > 0.75
    changes["camera"] = changes["camera"] + [0, 5.0, 0]
    away = result_subject(save_result(tmp_path / "away.npz", blank, **changes), people)
    metrics = evaluate(data, "lsp", away, tmp_path / "away.json", config=CONFIG).metrics
    assert metrics["mask_f1"] < 0.5
    assert metrics["part_f1"] < 0.2
    changes["camera"][0] = np.nan
    nowhere = result_subject(save_result(tmp_path / "nowhere.npz", blank, **changes), people)
    listed = evaluate(data, "lsp", nowhere, tmp_path / "nowhere.json", config=CONFIG).result.left_out
    assert [entry["row"] for entry in listed] == [0]
    assert "not finite numbers" in listed[0]["reason"]
    assert "raster" in done.result.card
    assert "joints" not in done.result.card


def test_fits_are_measured_where_there_are_some(data: DataFolder, body, tmp_path: Path) -> None:
    people = read(data, "3dpw")
    with pytest.raises(FitStoreNotFoundError):
        fits_subject(data, people, None)
    parts = (body.fingerprint, "o", "s", f"3dpw:{people.content_hash[:12]}")
    store = FitStore.create(data.fits("3dpw"), samples=len(people), fingerprint=Fingerprint(*parts))
    with pytest.raises(StageError, match="has no fit yet"):
        fits_subject(data, people, None)
    rows = np.arange(0, len(people), 2)
    store.merge(rows, true_fits(people, rows))
    store.tag("half")
    subject = fits_subject(data, people, "half")
    done = evaluate(data, "3dpw", subject, tmp_path / "out.json", config=CONFIG)
    assert done.metrics == pytest.approx(
        {"mpjpe_mm": 0, "pa_mpjpe_mm": 0, "per_vertex_error_mm": 0}, abs=1e-3
    )
    assert done.result.rows.tolist() == rows.tolist()
    assert done.result.subject["tag"] == "half"


def true_fits(people: Annotations, rows: np.ndarray) -> Fits:
    fits = Fits.empty(len(rows))
    camera = np.tile(np.float32([0, 0, 40]), (len(rows), 1))
    ones, source = np.ones(len(rows), np.float32), np.full(len(rows), Source.STATIC, np.uint8)
    return replace(
        fits,
        pose=people.pose[rows],
        betas=people.betas[rows],
        camera=camera,
        loss=ones,
        score=ones,
        source=source,
    )


def test_joints_of_an_imported_file_are_those_of_spins_superset(
    data: DataFolder, mesh, tmp_path: Path
) -> None:
    """SPIN's data set files have S alone: 24 joints with confidences."""
    people = with_joints(data, mesh, "mine")
    joints3d = np.zeros((len(people), 24, 4), np.float32)
    place = np.array(JOINTS.h36m) - JOINTS.superset.start
    joints3d[:, place, :3], joints3d[:, place, 3] = people.joints17_m, 1
    joints3d[1, place[3], 3] = 0  # without this joint the row's truth is its body
    known = np.ones(len(people), bool)
    imported = replace(
        people, has_joints17=~known, joints17_m=people.joints17_m * 0, has_joints3d=known, joints3d_m=joints3d
    )
    imported.write(data.annotations("mine"))
    subject = result_subject(save_result(tmp_path / "x.npz", people, pred_joints=people.joints17_m), people)
    done = evaluate(data, "mine", subject, tmp_path / "out.json", config=CONFIG)
    assert done.result.card["true joints"] == {
        "of the data set": len(people) - 1, "regressed from the true body": 1
    }  # fmt: skip
    assert done.result.scores.pose is not None
    errors = done.result.scores.pose.mpjpe_mm
    assert errors[1] > 5
    assert np.delete(errors, 1) == pytest.approx(0, abs=1e-3)


# ---- whose body is true -------------------------------------------------------------------------------------------------


def as_smpl(data: DataFolder, name: str, stretch: float) -> None:
    """The open body under a name of SMPL's, larger by a factor."""
    with np.load(OPEN_BODY) as file:
        arrays = {key: file[key] for key in file.files}
    arrays |= {"name": np.array(name), "v_template": arrays["v_template"] * stretch}
    np.savez(data.root / f"{name}.npz", **arrays)


def test_truth_is_put_on_the_body_of_its_gender(data: DataFolder, tmp_path: Path) -> None:
    people = read(data, "3dpw")
    assert set(people.gender) == {"female", "male"}
    as_smpl(data, "SMPL_NEUTRAL", 1.0)
    subject = result_subject(save_result(tmp_path / "theirs.npz", people), people)
    with pytest.raises(
        StageError, match=r"true bodies are .*put SMPL_(FE)?MALE\.pkl into .*--truth-gender neutral"
    ):
        evaluate(data, "3dpw", subject, tmp_path / "out.json", config=CONFIG)
    neutral = evaluate(data, "3dpw", subject, tmp_path / "n.json", config=replace(CONFIG, neutral_truth=True))
    assert neutral.metrics["mpjpe_mm"] == pytest.approx(0, abs=1e-3)
    as_smpl(data, "SMPL_FEMALE", 1.0)
    as_smpl(data, "SMPL_MALE", 1.1)
    done = evaluate(data, "3dpw", subject, tmp_path / "own.json", config=CONFIG)
    assert done.result.scores.pose is not None
    assert done.result.scores.vertex_mm is not None
    men = np.array([gender == "male" for gender in people.gender])
    for errors in (done.result.scores.pose.mpjpe_mm, done.result.scores.vertex_mm):
        assert errors[~men] == pytest.approx(0, abs=1e-3)
        assert (errors[men] > 20).all()
    assert done.result.scores.pose.pa_mpjpe_mm[men].max() < 10
    assert set(differing(done.result.card, neutral.result.card)) == {"true bodies"}


# ---- what is left out, and what is refused ------------------------------------------------------------------------------


def test_what_cannot_be_measured_is_listed(data: DataFolder, folder: Path, tmp_path: Path) -> None:
    root = shutil.copytree(folder / "lsp", tmp_path / "lsp")
    people = replace(read(data, "lsp"), image_root=str(root))
    people.write(data.annotations("lsp"))
    (root / people.image[0]).unlink()
    (root / people.part[1]).write_bytes(b"no picture")
    done = evaluate(data, "lsp", checkpoint_subject(folder / "net0.pt"), tmp_path / "out.json", config=CONFIG)
    left_out = json.loads(done.json_path.read_text())["left_out"]
    assert [entry["row"] for entry in left_out] == [0, 1]
    assert "no such file" in left_out[0]["reason"]
    assert "can't be read" in left_out[1]["reason"]
    assert done.result.rows.tolist() == [2]
    assert done.result.card["frames"]["count"] == 1
    label = cv2.imread(str(root / people.part[2]), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(root / people.part[2]), np.where(label == 2, 77, label))
    with pytest.raises(StageError, match="none of its 3 samples could be measured"):
        evaluate(data, "lsp", checkpoint_subject(folder / "net0.pt"), tmp_path / "out.json", config=CONFIG)


def test_bodies_that_are_no_numbers_are_listed(data: DataFolder, tmp_path: Path) -> None:
    people = read(data, "3dpw")
    pose = people.pose.copy()
    pose[1, 5] = np.nan
    subject = result_subject(save_result(tmp_path / "theirs.npz", people, pose=pose), people)
    done = evaluate(data, "3dpw", subject, tmp_path / "out.json", config=CONFIG)
    assert [(entry["row"], entry["reason"]) for entry in done.result.left_out] == [
        (1, "its body is not a number")
    ]
    assert done.metrics["mpjpe_mm"] == pytest.approx(0, abs=1e-3)


def test_results_of_other_data_sets_are_refused(data: DataFolder, folder: Path, tmp_path: Path) -> None:
    lsp, people = read(data, "lsp"), read(data, "3dpw")
    theirs = save_result(tmp_path / "theirs.npz", people)
    with pytest.raises(StageError, match=f"{len(people)} rows, but data set lsp has {len(lsp)}"):
        result_subject(theirs, lsp)
    evaluate(data, "3dpw", result_subject(theirs, people), tmp_path / "ours.json", config=CONFIG)
    renamed = replace(people, image=[f"other/{image}" for image in people.image])
    with pytest.raises(StageError, match="of other frames than data set 3dpw"):
        result_subject(tmp_path / "ours.npz", renamed)
    with pytest.raises(ExchangeError, match="betas"):
        result_subject(save_result(tmp_path / "x.npz", people, betas=np.zeros((len(people), 11))), people)
    np.savez(tmp_path / "fits.npz", pose=people.pose)
    with pytest.raises(ExchangeError, match="expected an evaluation's result"):
        result_subject(tmp_path / "fits.npz", people)
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(ExchangeError, match=r"text\.npz"):
        result_subject(tmp_path / "text.npz", people)
    rows = np.arange(len(people))[::-1]
    with pytest.raises(StageError, match="not in order"):
        result_subject(save_result(tmp_path / "y.npz", people, rows=rows), people)
    with pytest.raises(StageError, match="are not rows of data set 3dpw"):
        result_subject(save_result(tmp_path / "z.npz", people, rows=rows[::-1] + 1), people)


def test_files_that_are_no_checkpoint_of_ours_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"no checkpoint")
    with pytest.raises(ModelFileError, match=r"x\.pt"):
        checkpoint_subject(tmp_path / "x.pt")
    torch.save({"model": torch.nn.Linear(3, 3).state_dict()}, tmp_path / "y.pt")
    with pytest.raises(ModelFileError, match="no known backbone"):
        checkpoint_subject(tmp_path / "y.pt")
    state = tiny_network(0).state_dict()
    del state["decpose.weight"]
    torch.save({"model": state}, tmp_path / "z.pt")
    with pytest.raises(ModelFileError, match=r"1 missing \(first: decpose\.weight"):
        checkpoint_subject(tmp_path / "z.pt")


def test_a_data_set_without_truth_is_refused(data: DataFolder, folder: Path, tmp_path: Path) -> None:
    people = read(data, "lsp")
    blank = [""] * len(people)
    replace(people, mask=blank, part=blank).write(data.annotations("lsp"))
    with pytest.raises(StageError, match="nothing is known to be true of its samples"):
        evaluate(data, "lsp", checkpoint_subject(folder / "net0.pt"), tmp_path / "out.json", config=CONFIG)


# ---- comparing ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def results(data: DataFolder, folder: Path, tmp_path: Path) -> list[Path]:
    for seed in (0, 1):
        evaluate(
            data,
            "3dpw",
            checkpoint_subject(folder / f"net{seed}.pt"),
            tmp_path / f"r{seed}.json",
            config=CONFIG,
        )
    return [tmp_path / "r0.json", tmp_path / "r1.json"]


def test_results_of_one_protocol_are_compared(results: list[Path]) -> None:
    found = compare_results(*results, seed=1, draws=200)
    assert (found.paired, found.resampled, found.differing) == (True, "sequences", {})
    first, second = (read_result(path) for path in results)
    number = found.numbers["mpjpe_mm"]
    assert number.difference.value == pytest.approx(
        second.scores.metrics()["mpjpe_mm"] - first.scores.metrics()["mpjpe_mm"]
    )
    assert number.difference.low <= number.difference.value <= number.difference.high
    content = as_json(found)
    assert json.loads(json.dumps(content)) == content
    assert content == as_json(compare_results(*results, seed=1, draws=200))
    assert sum(entry["samples"] for entry in content["sequences"][0]) == first.scores.count
    worst = content["changes"][0]
    assert worst["second"] - worst["first"] == pytest.approx(
        (second.scores.pose.pa_mpjpe_mm - first.scores.pose.pa_mpjpe_mm).max()  # type: ignore[union-attr]
    )
    same = compare_results(results[0], results[0], by="frames", draws=200)
    assert same.numbers["mpjpe_mm"].difference.high == 0


def test_a_single_frame_says_nothing_about_chance(
    results: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipelines.evaluation.compare, "read_result", lambda path: _first(read_result(path)))
    with pytest.raises(StageError, match="of one frame; to say what chance does"):
        compare_results(*results, draws=200)


def _first(result: Result) -> Result:
    return replace(
        result, rows=result.rows[:1], images=result.images[:1], scores=result.scores.take(np.array([0]))
    )


def test_the_npz_may_lie_in_another_folder(data: DataFolder, folder: Path, tmp_path: Path) -> None:
    output, npz = tmp_path / "run" / "r.json", tmp_path / "else where" / "r.npz"
    evaluate(data, "3dpw", checkpoint_subject(folder / "net0.pt"), output, npz=npz, config=CONFIG)
    assert read_result(output).scores.count > 0


def test_several_people_in_an_image_are_no_recording(results: list[Path]) -> None:
    result = read_result(results[0])
    pairs = [f"{i // 2}.jpg" for i in range(result.scores.count)]
    assert per_sequence(result)
    assert per_sequence(replace(result, images=pairs)) == []


def test_results_of_two_protocols_are_not_compared_unless_asked(
    data: DataFolder, folder: Path, results: list[Path], tmp_path: Path
) -> None:
    config = replace(CONFIG, protocol=PROTOCOLS["mpi-inf-3dhp-valid"], limit=4)
    evaluate(data, "3dpw", checkpoint_subject(folder / "net1.pt"), tmp_path / "other.json", config=config)
    with pytest.raises(
        StageError, match=r"not comparable.*protocol: 3dpw against.*frames:.*joints:.*--anyway"
    ) as error:
        compare_results(results[0], tmp_path / "other.json")
    assert "body" not in str(error.value).split("joints:")[0]
    found = compare_results(results[0], tmp_path / "other.json", anyway=True, draws=200)
    assert set(found.differing) == {"protocol", "frames", "joints", "true joints"}
    assert found.paired  # on the frames that both have
    assert found.first.scores.count == found.second.scores.count == 4


def test_results_that_were_taken_apart_or_damaged_are_refused(results: list[Path], tmp_path: Path) -> None:
    content = json.loads(results[0].read_text())
    cases = {
        "not JSON": "{",
        "not a result of": json.dumps({"mpjpe_mm": 1.0}),
        "of version 9": json.dumps(content | {"version": 9}),
        "its gone.npz is missing": json.dumps(content | {"npz": "gone.npz"}),
        "is not what was measured": json.dumps(content | {"samples": 3}),
    }
    for message, text in cases.items():
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(StageError, match=message):
            compare_results(results[0], tmp_path / "bad.json")
    with pytest.raises(StageError, match="no such file"):
        compare_results(results[0], tmp_path / "gone.json")


@pytest.mark.parametrize(
    ("image", "sequence"),
    [
        ("imageFiles/downtown_arguing_00/image_00012.jpg", "imageFiles/downtown_arguing_00"),
        ("images/S9_Directions_1.54138969_000001.jpg", "images/S9_Directions_1.54138969"),
        ("mpi_inf_3dhp_test_set/TS1/imageSequence/img_000001.jpg", "mpi_inf_3dhp_test_set/TS1/imageSequence"),
        ("images/im1001.jpg", "images/im1001.jpg"),
        ("val2014/COCO_val2014_000000000042.jpg", "val2014/COCO_val2014_000000000042.jpg"),
    ],
)
def test_recordings_are_told_by_their_images(image: str, sequence: str) -> None:
    assert sequence_of(image) == sequence


# ---- commands -----------------------------------------------------------------------------------------------------------


def test_the_commands_with_their_published_options(
    run, data: DataFolder, folder: Path, mesh, tmp_path: Path
) -> None:
    with_joints(data, mesh, "mpi-inf-3dhp-valid")
    common = ("--data", str(data.root), "--workers", "1")
    measured = run(
        "eval", "--checkpoint", str(folder / "net0.pt"), "--dataset", "mpi-inf-3dhp", "--batch_size", "2", "--log_freq", "1",
        "--num_workers", "1", "--result_file", str(tmp_path / "out.npz"), "--out", str(tmp_path / "a.json"), *common,
    )  # fmt: skip
    assert measured.code == 0, measured.err
    assert "PA-MPJPE mm" in measured.out
    assert "mpi-inf-3dhp-valid, 4 of" in measured.err
    with np.load(tmp_path / "out.npz") as npz:
        assert npz["pred_joints"].shape[1:] == (17, 3)
    again = run(
        "eval", "--result-in", str(tmp_path / "out.npz"), "--dataset", "mpi-inf-3dhp", "--out", str(tmp_path / "b.json"),
        "--json", *common,
    )  # fmt: skip
    assert (
        json.loads(again.out)["metrics"].keys()
        == json.loads((tmp_path / "a.json").read_text())["metrics"].keys()
    )
    compared = run("compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--draws", "100")
    assert compared.code == 0
    assert "the protocol cards agree" in compared.out
    other = run(
        "eval", "--result-in", str(tmp_path / "out.npz"), "--dataset", "mpi-inf-3dhp", "--out", str(tmp_path / "c.json"),
        "--protocol", "h36m-p1", *common,
    )  # fmt: skip
    assert other.code == 0
    assert run("compare", str(tmp_path / "a.json"), str(tmp_path / "c.json")).code == 1
    anyway = run(
        "compare", str(tmp_path / "a.json"), str(tmp_path / "c.json"), "--anyway", "--json", "--draws", "100"
    )
    assert json.loads(anyway.out)["comparable"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give one of"),
        (("--checkpoint", "x.pt", "--stored-fits"), "give one of"),
        (("--stored-fits", "--protocol", "coco"), "--protocol coco: not known"),
        (("--stored-fits", "--out", "x.txt"), "--out x.txt: expected a name that ends in .json"),
        (("--stored-fits", "--result", "x.json"), "--result x.json: expected a name that ends in .npz"),
    ],
)
def test_wrong_commands_are_refused(run, folder: Path, arguments: tuple[str, ...], message: str) -> None:
    refused = run("eval", "--dataset", "3dpw", "--data", str(folder / "data"), *arguments)
    assert refused.code == 2
    assert message in refused.err
