"""The report: one page that needs nothing else, bodies where the people are, and whatever is missing said in a line."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from report_world import EVIL, IMPROVED, LOSSES, SAMPLES, World, make_fits, make_run, make_world, metrics

from pipelines import panels
from pipelines.errors import StageError, UsageError
from pipelines.folders import DataFolder, RunFolder
from pipelines.report import ReportSummary, build_report, charts, contact_sheet, tables
from pipelines.report.build import SHEET_PANEL_PX
from pipelines.report.samples import one_of_each
from pipelines.training.config import TrainConfig
from spin.camera import CROP_PX, FOCAL_PX, project
from spin.crop import crop_affine, crop_image
from spin.joints import SKELETON
from spin.rendering import Mesh, Pinhole, Scene, render_mask
from store.annotations.table import Annotations
from store.errors import AnnotationsNotFoundError, FingerprintMismatchError


class Page(HTMLParser):
    """What a browser would see."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[str] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.data: dict[str, Any] = {}
        self.source = ""

    @classmethod
    def of(cls, source: str) -> Page:
        page = cls()
        page.source = source
        page.feed(source)
        return page

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside.append(tag)

    def handle_endtag(self, tag):
        self.inside.append("")

    def handle_data(self, data):
        if self.inside and self.inside[-1] == "script":
            attributes = self.tags[-1][1]
            if attributes.get("type") == "application/json":
                self.data[str(attributes["id"])] = json.loads(data)
            else:
                self.scripts.append(data)
        elif data.strip():
            self.text.append(" ".join(data.split()))

    def images(self) -> dict[str, list[str]]:
        """Addresses of pictures, by where they stand: in the page itself, or in the data of a sample."""
        found = {name: list(pictures.values()) for name, pictures in self.data.items() if name != "data"}
        shown = [str(a["src"]) for tag, a in self.tags if tag == "img" and a.get("src") and a["alt"]]
        return found | {"page": shown}

    @property
    def fits(self) -> dict[str, list[Any]]:
        """The columns of the page's data."""
        return self.data["data"]["columns"]

    @property
    def words(self) -> str:
        return " ".join(self.text)


def build(world: World, run: RunFolder | None, **options: Any) -> tuple[ReportSummary, Page]:
    summary = world.build(run, **options)
    return summary, Page.of(summary.page.read_text())


@pytest.fixture
def world(tmp_path) -> World:
    return make_world(tmp_path)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The whole page, its summary and the progress it told; for tests that only look."""
    world = make_world(tmp_path_factory.mktemp("report"))
    seen: list[tuple[int, int]] = []
    summary, page = build(world, world.run, progress=lambda *now: seen.append(now))
    return summary, page, seen


# ---- the page -------------------------------------------------------------------------------------------------------


def test_the_page_needs_nothing_else(built):
    summary, page, _ = built
    assert summary.size_bytes == summary.page.stat().st_size
    pictures = [uri for uris in page.images().values() for uri in uris]
    assert (
        len(pictures) == 3 * (SAMPLES - 1) + len(LOSSES) + 1 + 1
    )  # all fits before and now; one without; one aside
    for uri in pictures:
        assert uri.startswith("data:image/jpeg;base64,")
        data = np.frombuffer(base64.b64decode(uri.split(",")[1]), np.uint8)
        assert cv2.imdecode(data, cv2.IMREAD_COLOR) is not None
    addresses = [
        a.get(key) or "" for tag, a in page.tags for key in ("href", "xlink:href", "src", "srcset", "action")
    ]
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
    assert fits["change"] == [
        3.0 - 40.0 if i == IMPROVED else None if i == 6 else 0.0 for i in range(SAMPLES)
    ]
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
        kind: [row for row, bits in enumerate(page.fits["kinds"]) if bits >> bit & 1]
        for bit, kind in enumerate(data["kinds"])
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
    assert "Beside run second" in page.words
    assert "lr 5e-05 0.5" in page.words
    assert "no: joints differ" in page.words
    assert "yes, measured alike" in page.words
    assert (
        "difference, 95 % -20.0 -20.0 to -20.0 -10.0 -10.0 to -10.0" in page.words
    )  # paired: nothing else differs
    assert f"{EVIL}0.jpg" in page.words  # among the samples that changed
    assert EVIL not in page.source
    (other.root / "evaluation" / "world-test@30.npz").unlink()
    assert "world-test@30.npz is missing" in build(world, world.run, other=other)[1].words
    assert "Beside run" not in build(world, world.run)[1].words


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
    assert "No run was named" in page.words
    assert "Nothing was measured yet" in page.words
    assert len(page.fits["sample"]) == SAMPLES


def test_a_run_that_has_only_begun(world):
    world.run.metrics.unlink()
    for file in (world.run.root / "evaluation").iterdir():
        file.unlink()
    world.data.journal.unlink()
    _, page = build(world, world.run)
    assert "The run has no measurements yet" in page.words
    assert "Nothing was measured yet" in page.words
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


# ---- pictures -------------------------------------------------------------------------------------------------------


ZOOM = panels.PANEL_PX / (CROP_PX * panels.SURROUNDINGS)
PUBLISHED_CAMERA = panels.PanelCamera(FOCAL_PX * ZOOM, (panels.PANEL_PX / 2, panels.PANEL_PX / 2))


def test_the_panels_camera_is_the_photographs_own_where_it_is_known(world, mesh):
    annotations = Annotations.read(world.data.annotations("people"))
    assert panels.panel_camera(annotations, 0) == PUBLISHED_CAMERA
    count = len(annotations)
    known = replace(
        annotations,
        has_camera=np.ones(count, bool),
        focal_px=np.full(count, 800, np.float32),
        principal_px=np.full((count, 2), 130, np.float32),
    )
    camera = panels.panel_camera(known, 0)
    point = np.array([0.2, -0.1, 4.0])
    image_px = 800 * point[:2] / point[2] + 130
    to_panel = crop_affine(
        known.center_px[0], panels.SURROUNDINGS * float(known.scale[0]), crop_px=panels.PANEL_PX
    )
    seen = camera.focal_px * point[:2] / point[2] + camera.center_px
    np.testing.assert_allclose(to_panel[:, :2] @ image_px + to_panel[:, 2], seen, atol=1e-3)


@pytest.mark.parametrize(("center", "scale"), [((150.0, 140.0), 0.8), ((390.0, 20.0), 2.3)])
def test_bodies_are_drawn_where_the_full_photograph_has_them(mesh, center, scale):
    """The panel's camera against the photograph's own: focal length 5000 × 200 scale / 224 px about the box's centre."""
    pose, betas = torch.zeros(1, 72), torch.zeros(1, 10)
    pose[0, 0], pose[0, 48:51] = np.pi, torch.tensor([0.0, 0.4, 0.8])
    vertices = (mesh(pose, betas).vertices_m[0] + torch.tensor([0.1, 0.15, 45.0])).numpy()
    center_px = np.array(center, np.float32)
    size = 1200
    camera = Pinhole(FOCAL_PX * 200 * scale / CROP_PX, (center[0] + 400, center[1] + 400), size, size)
    seen = (render_mask(Scene([Mesh(vertices, mesh.faces)]), camera) >= 0).astype(np.uint8)
    wide = np.repeat(255 * seen[..., None], 3, 2)
    expected = (
        crop_image(wide, center_px + 400, panels.SURROUNDINGS * scale, crop_px=panels.PANEL_PX)[..., 0] > 127
    )
    blank = panels.Photograph(np.zeros((panels.PANEL_PX, panels.PANEL_PX, 3), np.uint8))
    drawn = panels.with_fit(blank, vertices, mesh.faces, PUBLISHED_CAMERA).max(2) > 40
    assert drawn.sum() > 5000
    assert (drawn & expected).sum() / (drawn | expected).sum() > 0.94
    centres = [np.argwhere(mask).mean(0) for mask in (drawn, expected)]
    np.testing.assert_allclose(*centres, atol=0.5)


def test_keypoints_lie_on_the_projected_body(mesh):
    """A fit's keypoint, by way of the crop and the image, is drawn where the panel's camera sees it."""
    camera = torch.tensor([[0.1, -0.2, 40.0]])
    pose = torch.zeros(1, 72)
    points = mesh(pose, torch.zeros(1, 10)).keypoints_m
    crop_px = project(points, camera)[0].numpy()
    center_px, scale = np.array([333.0, 210.0], np.float32), 1.7
    to_crop = crop_affine(center_px, scale)
    image_px = np.linalg.solve(to_crop[:, :2], (crop_px - to_crop[:, 2]).T).T
    to_panel = crop_affine(center_px, panels.SURROUNDINGS * scale, crop_px=panels.PANEL_PX)
    panel = Pinhole(PUBLISHED_CAMERA.focal_px, PUBLISHED_CAMERA.center_px, panels.PANEL_PX, panels.PANEL_PX)
    expected = panel.project((points[0] + camera).numpy())
    np.testing.assert_allclose(image_px @ to_panel[:, :2].T + to_panel[:, 2], expected, atol=2e-3)


def test_a_batch_is_posed_as_its_samples_are(mesh, monkeypatch):
    monkeypatch.setattr(panels, "_BATCH", 2)
    fits = make_fits(LOSSES[:5])
    fits.pose[:] += np.random.default_rng(2).normal(0, 0.2, fits.pose.shape).astype(np.float32)
    together = panels.pose_vertices(mesh, fits)
    alone = np.concatenate([panels.pose_vertices(mesh, fits.take(slice(i, i + 1))) for i in range(5)])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_keypoints_and_sides(world):
    """A joint's dot has its side's colour; a joint that is not annotated has none."""
    annotations = Annotations.read(world.data.annotations("people"))
    keypoints = np.zeros_like(annotations.keypoints_px)
    left_wrist = 25 + 11
    keypoints[0, left_wrist] = (150, 150, 1)  # the middle of the box
    blank = panels.Photograph(np.zeros((panels.PANEL_PX, panels.PANEL_PX, 3), np.uint8))
    drawn = panels.with_keypoints(blank, replace(annotations, keypoints_px=keypoints), 0)
    rows, columns = np.nonzero(drawn.any(2))
    assert abs(rows.mean() + 0.5 - panels.PANEL_PX / 2) < 0.6
    assert abs(columns.mean() + 0.5 - panels.PANEL_PX / 2) < 0.6
    assert len(rows) < 100
    assert drawn[panels.PANEL_PX // 2, panels.PANEL_PX // 2].argmax() == 2  # the left side's blue


def test_the_side_view_holds_the_whole_body(mesh):
    """Lying along the line of sight, the body is far longer from the side than from the front."""
    fits = make_fits(LOSSES[:1])
    fits.pose[:, 0] = np.pi / 2
    (vertices,) = panels.pose_vertices(mesh, fits)
    near = vertices - [0, 0, 25]  # the camera comes close: too large for the panel
    drawn = (panels.from_the_side(near, mesh.faces, PUBLISHED_CAMERA) < 250).any(2)
    assert drawn.any(0).sum() > 0.8 * panels.PANEL_PX
    assert not drawn[0].any() and not drawn[-1].any() and not drawn[:, 0].any() and not drawn[:, -1].any()


def test_outside_the_photograph_is_not_black(world):
    annotations = Annotations.read(world.data.annotations("people"))
    moved = replace(annotations, center_px=np.zeros_like(annotations.center_px))
    cut = panels.cut_photograph(moved, 0).image
    assert (cut[: panels.PANEL_PX // 2 - 2] == cut[0, 0]).all()
    assert cut[0, 0, 0] > 200
    assert cut[-5:, -5:].mean() < 170


def test_the_sheet_shows_up_to_six_people(built):
    summary, _, _ = built
    sheet = cv2.imread(str(summary.sheet))
    better = 3  # of six fits
    rows, columns = -(-3 * better // 6), 6
    assert sheet.shape[0] // SHEET_PANEL_PX == rows
    assert sheet.shape[1] // SHEET_PANEL_PX == columns


def test_contact_sheet():
    tall, small = np.full((30, 10, 3), 7, np.uint8), np.full((10, 20, 3), 9, np.uint8)
    sheet = contact_sheet([tall, small, small], columns=2)
    assert sheet.shape == (2 * 30 + 6, 2 * 20 + 6, 3)
    assert (sheet[:30, 5:15] == 7).all()
    assert (sheet == 9).all(2).sum() == 2 * 200
    assert (sheet == 255).all(2).sum() == sheet.shape[0] * sheet.shape[1] - 300 - 400
    with pytest.raises(ValueError, match="0 panels"):
        contact_sheet([], columns=2)


# ---- choosing, charts, tables ---------------------------------------------------------------------------------------


def test_every_reason_is_shown_before_one_is_shown_twice():
    reasons = ["a", "a", "b", "a", "c", "b"]
    assert one_of_each(reasons, 3) == [0, 2, 4]
    assert one_of_each(reasons, 5) == [0, 2, 4, 1, 5]
    assert one_of_each(reasons, 99) == [0, 2, 4, 1, 5, 3]


def test_resumed_steps_count_once_and_long_runs_are_thinned():
    twice = [metrics(10), metrics(20), metrics(20) | {"loss/total": 0.125}, metrics(30)]
    total = charts.training_curves(twice)[0]
    assert "0.8 to 0.267" in total.text
    assert charts._columns(twice)["loss/total"].tolist() == [0.8, 0.125, 8 / 30]
    long = charts._thinned(charts._columns([metrics(i + 1) for i in range(10_001)]))
    assert all(len(column) <= 300 for column in long.values())
    assert abs(long["step"][0] - 17.5) < 1e-9  # the mean of steps 1 to 34


@pytest.mark.parametrize("count", [1, 2, 50])
def test_charts_are_text_in_the_pages_colour(count):
    for chart in charts.training_curves([metrics(i + 1) for i in range(count)]):
        assert chart.svg.startswith("<svg")
        assert "<text" in chart.svg
        assert "currentColor" in chart.svg
        assert "$" not in chart.svg  # no markup of matplotlib's instead of numbers
        assert "nan" not in chart.svg.lower()
    assert not charts.training_curves([{"step": 1}])


def test_validation_is_a_curve_for_each_error(world):
    rows = [{"step": s, "a/pa_mpjpe_mm": 90.0 - s, "b/pa_mpjpe_mm": 50.0, "a/mask_f1": 0.5} for s in (10, 20)]
    (chart,) = charts.validation_curves(rows)
    assert chart.text == "Measured during training by step: a, PA-MPJPE 80 to 70; b, PA-MPJPE 50 to 50"
    assert charts.validation_curves([]) == []
    world.run.validation.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "Measured during training" in build(world, world.run)[1].words


def test_terms_that_are_never_used_have_no_curve():
    terms = charts.training_curves([metrics(1), metrics(2)])[1]
    assert "keypoints" in terms.text
    assert "shape" not in terms.text


def test_histogram_takes_any_loss():
    for losses in ([0.0], [1e-9, 5e6], [100.0] * 4):
        chart = charts.loss_histogram("d", None, np.array(losses, np.float32))
        assert "<svg" in chart.svg


def test_durations():
    assert [tables.duration(s) for s in (0.04, 59.94, 60, 3599.6, 7384)] == [
        "0.0 s",
        "59.9 s",
        "1 min 00 s",
        "1 h 00 min",
        "2 h 03 min",
    ]


def test_the_users_home_is_left_alone(tmp_path):
    code = (
        "import numpy as np; from pipelines.report import charts; "
        "charts.loss_histogram('d', None, np.ones(3, np.float32))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "MPLCONFIGDIR" and not k.startswith("XDG_")}
    subprocess.run([sys.executable, "-c", code], env=environment | {"HOME": str(tmp_path)}, check=True)
    assert not list(tmp_path.iterdir())
