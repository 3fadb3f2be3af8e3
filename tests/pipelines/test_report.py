"""The report: one page that needs nothing else, bodies where the people are, and whatever is missing said in a line."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pipelines.failures import StageError, UsageError
from pipelines.fitting import FittingFiles
from pipelines.layout import DataFolder, RunFolder
from pipelines.report import build_report, charts, contact_sheet, panels, tables
from pipelines.report.build import SHEET_PANEL_PX
from pipelines.report.samples import one_of_each, typical_rows, worst_rows
from pipelines.train_config import TrainConfig
from spin.camera import CROP_PX, FOCAL_PX, project
from spin.crop import crop_affine, crop_image
from spin.fitting.fitter import FitConfig
from spin.fitting.objective import OBJECTIVES
from spin.rendering import Mesh, Pinhole, Scene, render_mask
from store.annotations import Annotations
from store.errors import AnnotationsNotFoundError, FingerprintMismatchError
from store.fits import FitStore
from store.records import Fits, Source, Verdict

EVIL = "<script>alert('x')</script>"
LOSSES = np.array(
    [5.0, 1.0, 40.0, 300.0, 8.0, 2.0], np.float32
)  # of the fits before training; the last sample has none
IMPROVED = 2
SAMPLES = len(LOSSES) + 1


def make_fits(losses: np.ndarray, source: Source = Source.STATIC) -> Fits:
    count = len(losses)
    pose = np.zeros((count, 72), np.float32)
    pose[:, 0] = np.pi  # upright, where y points down
    return replace(
        Fits.empty(count),
        pose=pose,
        camera=np.tile(np.array([0.05, 0.1, 50.0], np.float32), (count, 1)),
        loss=losses,
        score=losses,
        source=np.full(count, source, np.uint8),
        verdict=np.where(losses < 100, Verdict.VALID, Verdict.LOSS_TOO_HIGH).astype(np.uint8),
    )


@dataclass(frozen=True)
class World:
    data: DataFolder
    run: RunFolder

    def build(self, run: RunFolder | None, **options):
        output = self.data.root / "out" / "report.html"
        summary = build_report(
            self.data, run, datasets=options.pop("datasets", None), output=output, **options
        )
        return summary, Page.of(output.read_text())


class Page(HTMLParser):
    """What a browser would see."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[str] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
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
            self.scripts.append(data)
        elif data.strip():
            self.text.append(" ".join(data.split()))

    def images(self) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == "img" and attributes.get("src")]

    @property
    def words(self) -> str:
        return " ".join(self.text)


def make_world(tmp_path: Path) -> World:
    """Six people with fits, one of them improved in training, one refused, one set aside; a run with all its files."""
    root, data = tmp_path / "images", DataFolder(tmp_path / "data")
    root.mkdir()
    noise = np.random.default_rng(0).integers(90, 160, (300, 400, 3), np.uint8)
    cv2.imwrite(str(root / "a.jpg"), noise)
    keypoints = np.zeros((SAMPLES, 49, 3), np.float32)
    keypoints[:, 25:, :2] = np.random.default_rng(1).uniform(80, 220, (SAMPLES, 24, 2))
    keypoints[:, 25:, 2] = 1
    keypoints[0, 3] = (150, 150, 0.5)  # and one of OpenPose's
    annotations = Annotations(
        name="people",
        image_root=str(root),
        image=["a.jpg"] * SAMPLES,
        center_px=np.full((SAMPLES, 2), 150, np.float32),
        scale=np.full(SAMPLES, 0.8, np.float32),
        keypoints_px=keypoints,
        source=[f"person {i} {EVIL}" for i in range(SAMPLES)],
        openpose_match=[""] * SAMPLES,
    )
    annotations.write(data.annotations("people"))
    store = open_store(data, annotations)
    store.merge(np.arange(len(LOSSES)), make_fits(LOSSES))
    store.tag("static")
    better = replace(
        make_fits(np.array([3.0], np.float32), Source.LOOP), improvements=np.array([2], np.uint32)
    )
    store.merge(np.array([IMPROVED]), replace(better, step=np.array([17])))
    store.flush()
    refused = [{"sample": SAMPLES - 1, "source": "p", "image": "a.jpg", "reason": "too few joints"}]
    data.refused_fits("people").write_text(json.dumps({"fingerprint": "x", "refused": refused}))
    aside = [{"source": "nobody", "image": f"{EVIL}.jpg", "reason": f"missing {EVIL}"}]
    data.set_aside("people").write_text(json.dumps(aside))
    return World(data, make_run(tmp_path / "logs" / "first", data))


@pytest.fixture
def world(tmp_path) -> World:
    return make_world(tmp_path)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The whole page, its summary and the progress it told; for tests that only look."""
    world = make_world(tmp_path_factory.mktemp("report"))
    seen: list[tuple[int, int]] = []
    summary, page = world.build(world.run, progress=lambda *now: seen.append(now))
    return summary, page, seen


def open_store(data: DataFolder, annotations: Annotations) -> FitStore:
    config = FitConfig(objective=OBJECTIVES["published"], init=("multistart",))
    fingerprint = FittingFiles.of(data, config).fingerprint(config.objective, annotations)
    return FitStore.create(data.fits(annotations.name), samples=len(annotations), fingerprint=fingerprint)


def metrics(step: int) -> dict[str, float]:
    return {
        "step": step,
        "epoch": 0,
        "loss/total": 8.0 / step,
        "loss/keypoints": 0.02,
        "loss/shape": 0.0,
        "fits/improved": 0.25,
        "fits/valid": 1.0,
        "seconds/load": 0.1,
        "seconds/forward": 1.5,
        "images_per_s": 4.0,
        "gradient_norm": 100.0,
    }


def make_run(root: Path, data: DataFolder) -> RunFolder:
    run = RunFolder(root)
    TrainConfig(datasets=("people",)).save(run.config)
    run.metrics.write_text("".join(json.dumps(metrics(s)) + "\n" for s in (10, 20, 30)) + '{"step": 4')
    evaluation = run.root / "evaluation"
    evaluation.mkdir()
    for dataset, step, error in (
        ("world-test", 30, 71.25),
        ("other-test", 30, 88.5),
        ("world-test", 10, 99.75),
    ):
        content = {
            "dataset": dataset,
            "checkpoint": str(run.checkpoint(step)),
            "step": step,
            "body": "open:1",
            "samples": 96,
            "mean_mpjpe_mm": 2 * error,
            "mean_pa_mpjpe_mm": error,
            "protocol": {"protocol": "h36m-j14", "joints": ["neck", "head top"], "units": "mm"},
            "npz": "x.npz",
        }
        (evaluation / f"{dataset}@{step}.json").write_text(json.dumps(content))
    stages = (
        {"stage": "preprocess", "dataset": "people", "people": 7, "seconds": 0.5},
        {"stage": "fit-static", "dataset": "people", "fitted": 6, "seconds": 75.0},
        {"stage": "train", "name": "first", "steps": 30, "seconds": 40.0},
        {"stage": "train", "name": "other-run", "steps": 99, "seconds": 1000.0},
        {"stage": "eval", "dataset": "world-test", "checkpoint": str(run.checkpoint(30)), "seconds": 4.5},
        {"stage": "eval", "dataset": "world-test", "checkpoint": "elsewhere/step.pt", "seconds": 1000.0},
        {"stage": "report", "name": "first", "seconds": 1000.0},
    )
    data.journal.write_text(
        "".join(json.dumps({"started": "2026-01-02T03:04:05+00:00", **s}) + "\n" for s in stages)
    )
    return run


# ---- the page -------------------------------------------------------------------------------------------------------


def test_the_page_needs_nothing_else(built):
    summary, page, _ = built
    assert summary.size_bytes == summary.page.stat().st_size
    assert page.images()
    for attributes in page.images():
        assert attributes["src"].startswith("data:image/jpeg;base64,")
        assert attributes["alt"]
        data = np.frombuffer(base64.b64decode(attributes["src"].split(",")[1]), np.uint8)
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
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert f"person 1 {EVIL}" in page.words
    assert f"missing {EVIL}" in page.words


def test_everybody_is_shown_once_with_losses_and_reasons(built):
    """Seven samples and one set aside: typical are the best four ranks, worst the rest, worst first."""
    summary, page, seen = built
    titles = [text for text in page.text if text.startswith("people, sample ")]
    assert titles == [f"people, sample {i}" for i in (1, 5, 2, 3, 4, 0, 6)]
    assert summary.people == SAMPLES + 1
    assert seen == [(i + 1, SAMPLES + 1) for i in range(SAMPLES + 1)]
    assert "loss 40.00 → 3.00 px² · loop fit · 2 improvements, the last at step 17" in page.words
    assert "loss 300.00 px², as before · static fit · not valid: loss of 100 px² or more" in page.words
    assert page.words.count("not valid") == 1
    assert "fit-static: too few joints" in page.words


def test_samples_bounds_each_kind(world):
    summary, page = world.build(world.run, samples=1)
    titles = [text for text in page.text if text.startswith("people, sample ")]
    assert titles == [f"people, sample {i}" for i in (1, 3, 6)]
    assert summary.people == 4


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
    _, page = world.build(None)
    assert "No run was named" in page.words
    assert "Nothing was measured yet" in page.words
    assert "people, sample 1" in page.words


def test_a_run_that_has_only_begun(world):
    world.run.metrics.unlink()
    for file in (world.run.root / "evaluation").iterdir():
        file.unlink()
    world.data.journal.unlink()
    _, page = world.build(world.run)
    assert "The run has no measurements yet" in page.words
    assert "Nothing was measured yet" in page.words
    assert "The journal of this data folder is empty" in page.words


def test_without_a_state_before_training(world):
    (world.data.fits("people") / "tags" / "static.json").unlink()
    _, page = world.build(world.run)
    assert "no state from before training" in page.words
    assert "fit before training" not in page.words
    assert "loss 3.00 px² · loop fit" in page.words


def test_before_any_fit(world):
    shutil.rmtree(world.data.fits("people"))
    summary, page = world.build(world.run)
    assert summary.sheet is None
    assert "people: no fits yet" in page.words


def test_damaged_lists_and_results_are_named_on_the_page(world):
    world.data.set_aside("people").write_text("[{")
    (world.run.root / "evaluation" / "cut.json").write_text('{"dataset": "x"')
    _, page = world.build(world.run)
    assert "people.set-aside.json: can't be read" in page.words
    assert "cut.json: not an evaluation's result" in page.words


@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: p.write_bytes(b"no image")])
def test_an_unreadable_photograph_is_a_panel_that_says_so(world, damage):
    damage(Path(Annotations.read(world.data.annotations("people")).image_root) / "a.jpg")
    summary, page = world.build(world.run)
    assert summary.unreadable == [f"{EVIL}.jpg", "a.jpg"]
    assert "people, sample 1" in page.words


def test_fits_of_other_annotations_are_refused(world):
    """Their bodies would be drawn on the wrong people."""
    path = world.data.annotations("people")
    annotations = Annotations.read(path)
    annotations.take(np.arange(SAMPLES)[::-1]).write(path)
    with pytest.raises(FingerprintMismatchError, match="annotations"):
        world.build(world.run)


def test_wrong_requests(world, tmp_path):
    with pytest.raises(UsageError, match=r"\.html"):
        build_report(world.data, None, datasets=None, output=tmp_path / "x.png")
    with pytest.raises(AnnotationsNotFoundError, match="absent"):
        world.build(None, datasets=["absent"])
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
    typical = 3  # of six fits, the better half
    rows, columns = -(-3 * typical // 6), 6
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


def test_typical_spreads_from_best_to_median_and_worst_leaves_it_out():
    loss = np.array([np.inf, 9, 1, 8, 2, 7, 3, 6, 4, 5], np.float32)
    typical = typical_rows(loss, 3)
    assert loss[typical].tolist() == [1, 3, 5]
    assert loss[worst_rows(loss, 2, besides=typical)].tolist() == [9, 8]
    assert loss[worst_rows(loss, 99, besides=typical)].tolist() == [9, 8, 7, 6, 4, 2]
    assert len(typical_rows(np.full(3, np.inf, np.float32), 5)) == 0


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
