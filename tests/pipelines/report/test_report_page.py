"""The page: one file that needs nothing else, with a line for each thing that is missing."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from report_page import build
from report_world import EVIL, IMPROVED, LOSSES, SAMPLES, World, make_fits, make_run

from pipelines.errors import StageError, UsageError
from pipelines.folders import DataFolder
from pipelines.report import build_report
from pipelines.report.samples import choose, load_dataset
from pipelines.report.tables import fit_states
from pipelines.training.config import TrainConfig
from spin.body import load_body
from spin.camera import FOCAL_PX, project
from spin.crop import crop_affine
from spin.joints import SKELETON
from store.annotations.table import Annotations
from store.errors import AnnotationsNotFoundError, FingerprintMismatchError


def test_the_page_needs_nothing_else(built):
    summary, page, _ = built
    assert summary.size_bytes == summary.page.stat().st_size
    pictures = [uri for uris in page.images().values() for uri in uris]
    assert len(pictures) == 3 * (SAMPLES - 1) + len(LOSSES) + 1 + 1  # all fits before and now; one without; one aside
    for uri in pictures:
        assert uri.startswith("data:image/jpeg;base64,")
        data = np.frombuffer(base64.b64decode(uri.split(",")[1]), np.uint8)
        assert cv2.imdecode(data, cv2.IMREAD_COLOR) is not None
    addresses = [a.get(key) or "" for tag, a in page.tags for key in ("href", "xlink:href", "src", "srcset", "action")]
    assert all(address.startswith(("#", "data:")) or not address for address in addresses)
    assert "@import" not in page.source
    assert not any(tag in ("link", "iframe", "object") for tag, _ in page.tags)


def test_only_the_pages_own_script_may_run(built):
    _, page, _ = built
    (policy,) = [a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a]
    (script,) = page.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_what_users_wrote_is_escaped(built):
    _, page, _ = built
    assert EVIL not in page.source
    assert "innerHTML" not in page.scripts[0]
    assert page.fits["name"][1] == f"person 1 {EVIL}"
    assert f"missing {EVIL}" in page.words


def test_the_page_holds_every_fit_as_the_store_has_it(built):
    _, page, _ = built
    fits = page.fits
    losses = [*LOSSES.tolist(), None]
    now = [3.0 if i == IMPROVED else loss for i, loss in enumerate(losses)]
    assert fits["sample"] == list(range(SAMPLES))
    assert fits["loss"] == fits["score"] == now
    assert fits["loss_before"] == fits["score_before"] == losses
    assert fits["change"] == [3.0 - 40.0 if i == IMPROVED else None if i == 6 else 0.0 for i in range(SAMPLES)]
    data = page.data["data"]
    assert [data["changes"][code] for code in fits["changed"]] == [
        "as before", "as before", "improved", "as before", "as before", "as before", "no earlier fit",
    ]  # fmt: skip
    assert [data["sources"][code] for code in fits["source"]] == [
        *["static"] * 2,
        "loop",
        *["static"] * 3,
        "none",
    ]
    reasons = [data["reasons"][code] for code in fits["reason"]]
    assert reasons == [*["valid"] * 3, "loss of 100 px² or more", "valid", "valid", "no fit: too few joints"]
    assert fits["improvements"][IMPROVED] == 2
    assert fits["step"][IMPROVED] == 17
    assert {len(column) for column in fits.values()} == {SAMPLES}
    assert data["before"] == "static"
    assert data["score"] == ["reprojection-loss"]


def test_doubtful_fits_are_told_from_valid_ones_and_counted(world: World) -> None:
    item = load_dataset(world.data, "people", load_body(world.data.body))
    assert item.now is not None
    item = replace(item, score_rule="expected-error-mm:x", now=replace(item.now, score=item.now.score * 20))
    doubtful = "doubtful: valid, but with an expected error above 100 mm"
    assert item.reasons() == [
        "valid", "valid", "valid", "loss of 100 px² or more", doubtful, "valid", "no fit: too few joints"
    ]  # fmt: skip
    (state,) = fit_states([item])
    assert (state.doubtful, state.valid_now) == (1, pytest.approx(5 / 7))
    assert "one of each reason" in choose([item], 4).rows[0][4]
    assert fit_states([replace(item, score_rule="reprojection-loss:1")])[0].doubtful is None


def test_joints_lie_where_the_crop_sees_them(world, mesh):
    """Keypoints, the fit now and before, against crop_affine and the full mesh under the published camera."""
    _, page = build(world, None)
    joints = page.data["data"]["joints"]
    steps = np.frombuffer(base64.b64decode(joints["base64"]), "<i2").astype(float)
    count = joints["count"]
    steps = np.where(steps == joints["missing"], np.nan, steps / joints["steps_per_px"]).reshape(SAMPLES, -1)
    given, now = (
        steps[:, : 2 * count].reshape(-1, count, 2),
        steps[:, 2 * count : 5 * count].reshape(-1, count, 3),
    )
    before = steps[:, 5 * count :].reshape(-1, count, 2)
    annotations = Annotations.read(world.data.annotations("people"))
    drawn = sorted({joint for bone in SKELETON for joint in bone})
    affine = crop_affine(annotations.center_px[0], float(annotations.scale[0]))
    expected = annotations.keypoints_px[:, drawn, :2] @ affine[:, :2].T + affine[:, 2]
    np.testing.assert_allclose(given, expected, atol=0.07)
    fits = make_fits(LOSSES)
    posed = mesh(torch.from_numpy(fits.pose), torch.from_numpy(fits.betas)).keypoints_m
    expected = project(posed, torch.from_numpy(fits.camera))[:, drawn].numpy()
    np.testing.assert_allclose(before[:-1], expected, atol=0.07)
    np.testing.assert_allclose(now[:-1, :, :2], expected, atol=0.07)
    depth_m = posed[0, drawn, 2].numpy()
    np.testing.assert_allclose(now[0, :, 2], (depth_m - depth_m.mean()) * FOCAL_PX / 50, atol=0.5)
    assert np.isnan(now[-1]).all() and np.isnan(before[-1]).all() and not np.isnan(given[-1]).any()


def test_everybody_is_pictured_as_far_as_there_is_room(built):
    summary, page, seen = built
    assert {name for name in page.data if name != "data"} == {f"pictures-0-{i}" for i in range(SAMPLES)}
    assert list(page.data["pictures-0-0"]) == ["photograph", "before", "now", "side"]
    assert list(page.data["pictures-0-6"]) == ["photograph"]
    assert summary.people == SAMPLES + 1
    assert seen == [(i + 1, SAMPLES + 1) for i in range(SAMPLES + 1)]


def test_samples_bounds_each_kind(world):
    _, page = build(world, world.run, samples=1)
    data = page.data["data"]
    kinds = {
        kind: [row for row, bits in enumerate(page.fits["kinds"]) if bits >> bit & 1] for bit, kind in enumerate(data["kinds"])
    }
    assert len(kinds.pop("random")) == 1
    assert kinds == {
        "best": [1], "worst": [3], "most improved": [IMPROVED], "most worsened": [], "one of each reason": [3],
    }  # fmt: skip


def test_only_so_many_rows_are_listed_with_the_pictured_among_them(world):
    _, page = build(world, world.run, samples=1, rows=5)
    assert len(page.fits["sample"]) == 5
    assert {1, 2, 3} <= set(page.fits["sample"])
    assert page.fits["sample"] == sorted(page.fits["sample"])
    assert f"5 of {SAMPLES} samples are listed" in page.words


def test_another_state_than_static_to_compare_with(world):
    _, page = build(world, world.run, before="absent")
    assert "no tag “absent”" in page.words
    assert set(page.fits["loss_before"]) == {None}
    assert set(page.fits["changed"]) == {0}


def test_two_runs_side_by_side(world):
    other = make_run(world.run.root.parent / "second", world.data, extra_mm=10)
    replace(TrainConfig.load(other.config), lr=0.5).save(other.config)
    path = next((other.root / "evaluation").glob("other-test*.json"))
    content = json.loads(path.read_text())
    content["card"]["joints"] = ["neck"]
    path.write_text(json.dumps(content))
    next((other.root / "evaluation").glob("world-test@10.json")).unlink()
    _, page = build(world, world.run, other=other)
    assert "Compared with run second" in page.words
    assert "lr 5e-05 0.5" in page.words
    assert "no: joints differ" in page.words
    assert "yes, the protocols match" in page.words
    assert "difference, 95 % -20.0 -20.0 to -20.0 -10.0 -10.0 to -10.0" in page.words  # paired: nothing else differs
    assert f"{EVIL}0.jpg" in page.words  # among the samples that changed
    assert EVIL not in page.source
    (other.root / "evaluation" / "world-test@30.npz").unlink()
    assert "world-test@30.npz is missing" in build(world, world.run, other=other)[1].words
    assert "Compared with run" not in build(world, world.run)[1].words


def test_valid_shares_and_medians(built):
    _, page, _ = built
    assert page.text.count(f"{100 * 5 / SAMPLES:.1f} %") == 2  # 300 px² is too much, one has none
    assert {"6.50", "4.00"} <= set(page.text)  # medians of LOSSES, and of LOSSES with 40 replaced by 3


def test_tables_of_the_run(built):
    _, page, _ = built
    cells = [text for text in page.text if text in ("88.5", "99.8", "71.2")]
    assert cells == ["88.5", "99.8", "71.2"]  # by data set, then by step
    assert "neck, head top" in page.words
    assert "1 min 15 s" in page.words
    assert "other-run" not in page.words
    assert "2 min 00 s" in page.words  # 0.5 + 75 + 40 + 4.5: without other runs and earlier reports
    assert "1000" not in page.words


def test_without_a_run(world):
    _, page = build(world, None)
    assert "No run was selected" in page.words
    assert "No measurements yet; run" in page.words
    assert len(page.fits["sample"]) == SAMPLES


def test_a_run_that_has_only_begun(world):
    world.run.metrics.unlink()
    for file in (world.run.root / "evaluation").iterdir():
        file.unlink()
    world.data.journal.unlink()
    _, page = build(world, world.run)
    assert "The run has no measurements yet" in page.words
    assert "No measurements yet; run" in page.words
    assert "The journal of this data folder is empty" in page.words


def test_before_any_fit(world):
    shutil.rmtree(world.data.fits("people"))
    summary, page = build(world, world.run)
    assert summary.sheet is None
    assert "people: no fits yet" in page.words


def test_damaged_lists_and_results_are_named_on_the_page(world):
    world.data.rejected("people").write_text("[{")
    (world.run.root / "evaluation" / "cut.json").write_text('{"dataset": "x"')
    _, page = build(world, world.run)
    assert "people.rejected.json: can't be read" in page.words
    assert "cut.json: not an evaluation's result" in page.words


@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: p.write_bytes(b"no image")])
def test_an_unreadable_photograph_is_a_panel_that_says_so(world, damage):
    damage(Path(Annotations.read(world.data.annotations("people")).image_root) / "a.jpg")
    summary, page = build(world, world.run)
    assert summary.unreadable == [f"{EVIL}.jpg", "a.jpg"]
    assert "pictures-0-1" in page.data


def test_fits_of_other_annotations_are_refused(world):
    """Their bodies would be drawn on the wrong people."""
    path = world.data.annotations("people")
    annotations = Annotations.read(path)
    annotations.take(np.arange(SAMPLES)[::-1]).write(path)
    with pytest.raises(FingerprintMismatchError, match="annotations"):
        build(world, world.run)


def test_wrong_requests(world, tmp_path):
    with pytest.raises(UsageError, match=r"\.html"):
        build_report(world.data, None, datasets=None, output=tmp_path / "x.png")
    with pytest.raises(AnnotationsNotFoundError, match="absent"):
        build(world, None, datasets=["absent"])
    with pytest.raises(StageError, match="preprocess"):
        build_report(DataFolder(tmp_path / "empty"), None, datasets=None, output=tmp_path / "x.html")
