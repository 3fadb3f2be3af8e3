from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipelines.cli import main
from pipelines.errors import StageError, UsageError
from pipelines.exchange.cameras import from_weak, image_cameras, to_weak
from pipelines.exchange.export import FIT_FORMATS, export_annotations, export_fits, valid_fits
from pipelines.exchange.import_annotations import import_annotations
from pipelines.exchange.import_fits import ImportSummary, belongs, import_fits
from pipelines.fitting.assets import FittingFiles
from pipelines.fitting.fit_static import StaticFitter, Work
from pipelines.fitting.from_annotations import groups_of
from pipelines.folders import DataFolder
from spin.body import load_body
from spin.fitting.fitter import FitConfig
from spin.rotations import axis_angle_to_matrix
from store.annotations.schema import ARRAYS, TEXTS
from store.annotations.table import Annotations
from store.fits.records import COLUMNS, Fits, Source, StartKind, Verdict
from store.fits.store import FitStore

CONFIG = FitConfig("adam", 5)  # two stages of five steps: quick, and fits of which most are valid
NOT_FITTED = [3, 11]
HOLDS_ALL = ("spin", "static", "mview", "4dhumans", "eft", "bedlam")


def fill(data: DataFolder, annotations: Annotations, skip: list[int]) -> Fits:
    """Fits of all rows but `skip`, in the store of the data set 'world'."""
    files = FittingFiles.of(data, CONFIG)
    ids = np.arange(len(annotations))
    done = StaticFitter(files, CONFIG, ignore_3d=False).fit(Work(ids, annotations, groups_of(annotations), ()))
    store = FitStore.create(
        data.fits("world"), samples=len(annotations),
        fingerprint=files.fingerprint(CONFIG.objective, annotations),
    )  # fmt: skip
    keep = ~np.isin(done.ids, skip)
    store.merge(done.ids[keep], done.fits.take(keep))
    store.flush()
    return store.get(ids)


@pytest.fixture(scope="module")
def fitted(preprocessed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = DataFolder(shutil.copytree(preprocessed, tmp_path_factory.mktemp("fitted") / "data"))
    fill(data, Annotations.read(data.annotations("world")), NOT_FITTED)
    return data.root


@pytest.fixture
def data(fitted: Path, tmp_path: Path) -> DataFolder:
    return DataFolder(shutil.copytree(fitted, tmp_path / "data"))


def stored(data: DataFolder) -> Fits:
    store = FitStore.open(data.fits("world"))
    return store.get(np.arange(store.samples))


def emptied(data: DataFolder) -> None:
    shutil.rmtree(data.fits("world"))


def brought_back(data: DataFolder, tmp_path: Path, format: str) -> tuple[Fits, Fits, np.ndarray, ImportSummary]:
    """Fits before, and as they come back into an empty store; where valid; what was reported."""
    before = stored(data)
    path = export_fits(data, "world", tmp_path / f"x{FIT_FORMATS[format].ending}", format=format).path
    emptied(data)
    done = import_fits(data, "world", path, same_body=format == "static")
    return before, stored(data), valid_fits(before), done


@pytest.mark.parametrize("format", HOLDS_ALL)
def test_what_is_exported_comes_back_to_the_bit(data: DataFolder, tmp_path: Path, format: str) -> None:
    before, after, valid, done = brought_back(data, tmp_path, format)
    expected = before.source != Source.NONE if format == "static" else valid
    assert 20 < expected.sum() < len(expected)
    assert np.array_equal(after.source == Source.IMPORTED, expected)
    assert (after.source[~expected] == Source.NONE).all()
    assert np.array_equal(after.betas[expected], before.betas[expected])
    if format == "eft":  # matrices: the same rotations, and the same angles up to float32's last digit
        matrices = [axis_angle_to_matrix(torch.from_numpy(f.pose[expected].reshape(-1, 3)).double()) for f in (before, after)]
        assert (matrices[0] - matrices[1]).abs().max() < 1e-6
    else:
        assert np.array_equal(after.pose[expected], before.pose[expected])
    if format in ("eft", "bedlam"):  # both have a camera
        assert np.array_equal(after.camera[expected], before.camera[expected])
        assert done.with_camera == expected.sum()
        np.testing.assert_allclose(after.score[expected], before.score[expected], rtol=1e-3)
    assert done.offered == done.better == expected.sum()
    assert (after.start[expected] == StartKind.FILE).all()


def test_a_camera_that_no_file_holds_is_found_as_good_as_the_fits_own(data: DataFolder, tmp_path: Path) -> None:
    before, after, valid, done = brought_back(data, tmp_path, "spin")
    assert done.with_camera == 0
    # The body's best place is where the fit had put it, or better: only the reprojection sees it.
    assert (after.loss[valid] <= before.loss[valid] * 1.02 + 0.05).all()
    far = np.abs(after.camera - before.camera)[valid] / before.camera[valid, 2:]
    assert np.percentile(far, 90) < 0.03
    assert (after.verdict[valid] == Verdict.VALID).mean() > 0.95


@pytest.mark.parametrize("format", HOLDS_ALL)
def test_a_second_round_writes_the_same_bodies(data: DataFolder, tmp_path: Path, format: str) -> None:
    """A file that came from outside and was imported is written again unchanged, if every row was used."""
    ending = FIT_FORMATS[format].ending
    first = export_fits(data, "world", tmp_path / f"a{ending}", format=format).path
    emptied(data)
    import_fits(data, "world", first, same_body=True) if format == "static" else import_fits(data, "world", first)
    second = export_fits(data, "world", tmp_path / f"b{ending}", format=format).path
    if ending.endswith(".json"):
        a, b = (json.loads(path.read_text())["data"] for path in (first, second))
        assert [e["annotId"] for e in a] == [e["annotId"] for e in b]
        for one, two in zip(a, b):
            np.testing.assert_allclose(one["parm_pose"], two["parm_pose"], atol=1e-6)
            assert one["parm_cam"] == two["parm_cam"]
    elif ending.endswith(".npy"):
        assert np.array_equal(np.load(first), np.load(second))
    else:
        with np.load(first) as one, np.load(second) as two:
            for name in set(one) - {"pose", "betas", "shape"}:
                assert np.array_equal(one[name], two[name]), name


def test_the_better_fit_stays(data: DataFolder, tmp_path: Path) -> None:
    before = stored(data)
    worse = np.concatenate([before.pose, before.betas], 1)
    worse[:, 3:72] *= 0.6  # still their own people's: other bodies fit them no better
    np.save(tmp_path / "worse.npy", worse)
    done = import_fits(data, "world", tmp_path / "worse.npy", same_body=True)
    after = stored(data)
    fitted = before.source != Source.NONE
    assert done.offered > 0.9 * fitted.sum()
    assert done.better < 0.2 * done.offered
    assert (after.score[fitted] <= before.score[fitted]).all()
    assert done.better == (after.source == Source.IMPORTED).sum()
    again = import_fits(data, "world", tmp_path / "worse.npy", same_body=True)
    assert again.better == 0


def test_scores_are_those_of_the_stores_objective(data: DataFolder, tmp_path: Path) -> None:
    path = export_fits(data, "world", tmp_path / "x.npz").path
    emptied(data)
    import_fits(data, "world", path, objective="published")
    fingerprint = FitStore.open(data.fits("world")).fingerprint
    assert fingerprint.score_rule == "reprojection-loss:1"
    found = stored(data)
    assert np.array_equal(found.score, found.loss)
    import_fits(data, "world", path)  # without a word, the store's own
    assert FitStore.open(data.fits("world")).fingerprint == fingerprint


def test_views_of_one_pose_are_scored_together(preprocessed: Path, tmp_path: Path) -> None:
    """Two rows that show one person from two sides: each row's body is seen by both cameras, and keeps its own frame."""
    data = DataFolder(shutil.copytree(preprocessed, tmp_path / "data"))
    one = Annotations.read(data.annotations("world")).take(np.array([0, 0, 1]))
    eye = np.tile(np.eye(3, dtype=np.float32), (3, 1, 1))
    pair = np.array([True, True, False])
    views = replace(
        one, source=["a", "b", "c"], has_camera=pair, focal_px=np.float32([1000, 1000, 0]),
        principal_px=np.float32([[128, 128], [128, 128], [0, 0]]), has_view=pair,
        view_rotation=eye * pair[:, None, None].astype(np.float32), view_translation_m=np.zeros((3, 3), np.float32),
        pose_id=["p", "p", ""], has_smpl=np.zeros(3, bool), pose=np.zeros((3, 72), np.float32),
        betas=np.zeros((3, 10), np.float32), has_joints3d=np.zeros(3, bool),
        joints3d_m=np.zeros((3, 24, 4), np.float32),
    )  # fmt: skip
    views.write(data.annotations("world"))
    fits = fill(data, views, [])
    np.save(tmp_path / "x.npy", np.concatenate([fits.pose, fits.betas], 1))
    emptied(data)
    done = import_fits(data, "world", tmp_path / "x.npy", same_body=True)
    after = stored(data)
    assert done.offered == 3
    assert np.array_equal(after.pose, fits.pose)
    np.testing.assert_allclose(after.score, fits.score, rtol=0.05)


# ---- whose bodies -----------------------------------------------------------------------------------------------------


def test_smpls_bodies_are_not_taken_for_the_open_bodys(data: DataFolder, tmp_path: Path) -> None:
    before = stored(data)
    np.save(tmp_path / "x.npy", np.concatenate([before.pose, before.betas], 1))
    with pytest.raises(UsageError, match=r"assumed to be SMPL's, but the body in use is open-body.*--same-body"):
        import_fits(data, "world", tmp_path / "x.npy")
    np.savez(tmp_path / "y.npz", pose=before.pose, shape=before.betas, spin_pipe_body="SMPL_NEUTRAL:0123456789ab")
    with pytest.raises(UsageError, match="found SMPL_NEUTRAL:0123456789ab"):
        import_fits(data, "world", tmp_path / "y.npz", same_body=True)
    assert all(np.array_equal(getattr(stored(data), name), getattr(before, name)) for name in COLUMNS)


def test_whose_bodies_are_whose() -> None:
    open_body, smpl = (SimpleNamespace(name=n, fingerprint=f"{n}:1") for n in ("open_body", "SMPL_NEUTRAL"))
    assert belongs("open_body:1", open_body, same_body=False)
    assert belongs("", open_body, same_body=True)
    assert not belongs("", open_body, same_body=False)
    assert not belongs("open_body:2", open_body, same_body=True)
    assert belongs("", smpl, same_body=False)
    assert belongs("SMPL:9", smpl, same_body=False)
    assert not belongs("open_body:1", smpl, same_body=True)


# ---- cameras ----------------------------------------------------------------------------------------------------------


def test_efts_camera_is_added_after_its_scale(data: DataFolder) -> None:
    """By hand: a point at the body's origin, 112 (s·0 + t) + 112 px of the crop, must be where ours projects it."""
    people = Annotations.read(data.annotations("world")).take(np.arange(4))
    weak = np.array([[0.9, 0.1, -0.2], [0.5, 0, 0], [1.1, -0.3, 0.4], [0.7, 0.2, 0.2]])
    moved = from_weak(weak, people.center_px.astype(float), people.scale.astype(float), people)
    pixels = 5000 * moved[:, :2] / moved[:, 2:] + 112
    np.testing.assert_allclose(pixels, 112 * weak[:, 1:] + 112, atol=1e-9)
    np.testing.assert_allclose(5000 / moved[:, 2], 112 * weak[:, 0])
    np.testing.assert_allclose(to_weak(moved, people), weak, atol=1e-6)
    # Another box of the same person sees the same body elsewhere in its crop.
    wider, shift = people.scale.astype(float) * 1.3, np.array([12.0, -7.0])
    there = people.center_px + shift
    other = from_weak(weak, there, wider, people)
    in_image = (112 * weak[:, 1:]) * (200 * wider / 224)[:, None] + there
    ours = 5000 * other[:, :2] / other[:, 2:] * (200 * people.scale / 224)[:, None] + people.center_px
    np.testing.assert_allclose(ours, in_image, atol=1e-3)


def test_the_images_camera_sees_what_the_crops_does(data: DataFolder) -> None:
    people = Annotations.read(data.annotations("world")).take(np.arange(3))
    point = np.array([0.3, -0.4, 40.0])
    seen = image_cameras(people) @ point
    crop = 5000 * point[:2] / point[2] + 112
    expected = (crop - 112) * (200 * people.scale.astype(float) / 224)[:, None] + people.center_px
    np.testing.assert_allclose(seen[:, :2] / seen[:, 2:], expected, rtol=1e-6)


# ---- annotations ------------------------------------------------------------------------------------------------------


def test_annotations_come_back_to_the_bit(data: DataFolder, tmp_path: Path) -> None:
    before = Annotations.read(data.annotations("world"))
    words = ["female", "male", "neutral", ""] * len(before)
    before = replace(before, gender=words[: len(before)], mask=[f"m/{i}.png" for i in range(len(before))])
    before.write(data.annotations("world"))
    done = export_annotations(data, "world", tmp_path / "w.npz")
    assert "source" in done.lost
    assert "pose_id" not in done.lost
    back = import_annotations(data, tmp_path / "w.npz", "back", Path(before.image_root))
    after = Annotations.read(back.summary.path)
    assert back.bodies_of == ""
    assert before.has_smpl.any()
    for name in ARRAYS:
        if "joints17" not in name:
            assert np.array_equal(getattr(after, name), getattr(before, name)), name
    for name in set(TEXTS) - {"source", "openpose_match"}:
        assert getattr(after, name) == getattr(before, name), name
    assert after.source[5] == "w.npz: row 5"


def test_bodies_of_another_body_are_left_out_and_rows_that_cant_be_used_rejected(data: DataFolder, tmp_path: Path) -> None:
    before = Annotations.read(data.annotations("world"))
    path = export_annotations(data, "world", tmp_path / "w.npz").path
    with np.load(path) as content:
        arrays = {name: content[name].copy() for name in content.files if name != "spin_pipe_body"}
    arrays["part"][2, 4, 0] = np.nan
    arrays["part"][2, 4, 2] = np.nan
    arrays["scale"][3] = 0
    arrays["imgname"][4] = "nowhere.jpg"
    arrays["imgname"][5] = "../../etc/passwd"
    arrays["gender"] = np.array(["?" if row == 6 else "m" for row in range(len(before))])
    arrays["openpose"][7, 0, 2] = 1.5
    np.savez(tmp_path / "broken.npz", **arrays)
    found = import_annotations(data, tmp_path / "broken.npz", "back", Path(before.image_root))
    assert found.bodies_of == "SMPL"
    assert found.summary.people == len(before) - 6
    assert sum(found.summary.rejected.values()) == 6
    listed = json.loads(found.summary.rejected_list.read_text())
    assert {entry["source"] for entry in listed} == {f"broken.npz: row {row}" for row in range(2, 8)}
    after = Annotations.read(found.summary.path)
    assert not after.has_smpl.any()
    kept = import_annotations(data, tmp_path / "broken.npz", "own", Path(before.image_root), same_body=True)
    assert Annotations.read(kept.summary.path).has_smpl.any()


def test_4d_humans_files_are_annotations_too(data: DataFolder, tmp_path: Path) -> None:
    before = Annotations.read(data.annotations("world"))
    path = export_fits(data, "world", tmp_path / "w.npz", format="4dhumans").path
    found = import_annotations(data, path, "back", Path(before.image_root))
    after = Annotations.read(found.summary.path)
    assert after.image == before.image
    assert np.array_equal(after.scale, before.scale)
    assert np.array_equal(after.keypoints_px[:, 25:44], before.keypoints_px[:, 25:44])
    openpose = before.keypoints_px[:, :25, 2] > 0
    assert np.array_equal(after.keypoints_px[:, :25][openpose], before.keypoints_px[:, :25][openpose])
    valid = valid_fits(stored(data))
    assert np.array_equal(after.has_smpl, valid)
    assert np.array_equal(after.pose[valid], stored(data).pose[valid])


# ---- commands ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: DataFolder):
    monkeypatch.chdir(data.root.parent)

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["spin-pipe", *arguments])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        return code, capsys.readouterr().err

    return call


@pytest.mark.parametrize("format", HOLDS_ALL)
def test_what_a_format_cant_hold_is_said(run, data: DataFolder, format: str) -> None:
    code, said = run("export-fits", "world", "--format", format)
    assert code == 0, said
    (line,) = [line for line in said.splitlines() if "not held by this format" in line]
    for name in ("loss", "score", "source", "step", "improvements", "start", "iterations", "coverage"):
        assert f" {name}," in line
    assert (": camera," in line) == (format not in ("eft", "bedlam"))
    assert ("whether a fit is valid" in line) == (format == "static")
    left_out = [line for line in said.splitlines() if "left out" in line]
    assert len(left_out) == (format in ("eft", "bedlam"))
    assert data.exported("world", FIT_FORMATS[format].ending).is_file()


def test_the_commands_follow_each_other(run, data: DataFolder) -> None:
    code, said = run("export-annotations", "world")
    assert code == 0, said
    assert "not held by this format: " in said
    assert data.dataset_extra("world.npz").is_file()
    code, said = run("export-annotations", "world")
    assert code == 2
    assert "--overwrite" in said
    root = Annotations.read(data.annotations("world")).image_root
    code, said = run("import-annotations", "data/dataset_extras/world.npz", "--name", "again", "--root", root)
    assert code == 0, said
    assert run("export-fits", "world", "--format", "eft")[0] == 0
    code, said = run("import-fits", "again", "data/final_fits/world_eft.json")
    assert code == 0, said
    assert "became their sample's fit" in said
    code, said = run("import-fits", "world", "data/final_fits/none.json")
    assert code == 1
    assert "no such file of fits" in said.splitlines()[-1]
    assert run("import-fits", "mars", "data/final_fits/world_eft.json")[0] == 2


def test_published_names(data: DataFolder) -> None:
    shutil.copy(data.annotations("world"), data.annotations("coco"))
    assert export_annotations(data, "coco").path == data.root / "dataset_extras" / "coco_2014_train.npz"


def test_a_file_for_other_samples_is_refused_and_changes_nothing(data: DataFolder, tmp_path: Path) -> None:
    before = stored(data)
    np.save(tmp_path / "short.npy", np.ones((7, 82), np.float32))
    with pytest.raises(StageError, match=r"short.npy: the data set has 40 samples.*found 7 rows"):
        import_fits(data, "world", tmp_path / "short.npy", same_body=True)
    rows = np.concatenate([before.pose, before.betas], 1)
    rows[0, 3], rows[1], rows[2, 5], rows[4, 75] = np.nan, 0, 1e30, 9
    np.save(tmp_path / "holes.npy", rows)
    done = import_fits(data, "world", tmp_path / "holes.npy", same_body=True)
    listed = json.loads(done.rejected_list.read_text())["rejected"]
    reasons = {entry["row"]: entry["reason"] for entry in listed}
    assert "not a number" in reasons[0]
    assert "no body" in reasons[1]
    assert "above 1000 rad" in reasons[2]
    assert "beta beyond" in reasons[4]


def test_the_open_body_is_in_use(data: DataFolder) -> None:
    assert not load_body(data.body).name.startswith("SMPL")
