"""The demo: who is found, by which means, and what is written of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from pipelines.cli import cli
from pipelines.demo.bodies import BodyEstimator, Person, PersonBody, people_detected, person_of_box
from pipelines.demo.output import over_the_image
from pipelines.errors import StageError, UsageError
from pipelines.folders import DataFolder
from spin.camera import CROP_PX, FOCAL_PX
from spin.crop import crop_image, normalise
from spin.errors import SpinError
from spin.images import read_image
from spin.joints import JOINTS
from spin.network.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from spin.network.hmr import HMR, MeanParameters
from spin.published_crop import published_crop
from spin.rotations import matrix_to_axis_angle
from store.annotations.table import Annotations
from tests.spin.rendering.test_gltf import Reader


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    mean = MeanParameters.from_body_pose(torch.zeros(69))
    path = tmp_path_factory.mktemp("network") / "small.pt"
    save_checkpoint(path, Checkpoint(HMR("resnet18", mean=mean).state_dict(), config={"img_res": 64}))
    return path


@pytest.fixture(scope="module")
def known(preprocessed: Path) -> Annotations:
    return Annotations.read(DataFolder(preprocessed).annotations("world-test"))


@pytest.fixture
def photo(known: Annotations, tmp_path: Path) -> Path:
    """A photograph of one person, and the detections in it: of that person, and of a smaller one next to it."""
    image = cv2.imread(str(known.image_path(0)))
    assert image is not None
    cv2.imwrite(str(tmp_path / "photo.png"), image)
    joints = known.keypoints_px[0, JOINTS.openpose].copy()
    named = np.array(JOINTS.named_twice)
    joints[named[:, 0] - JOINTS.openpose.start] = known.keypoints_px[0, named[:, 1]]
    seen = joints[:, 2] > 0
    middle = joints[seen, :2].mean(0)
    small = joints.copy()
    small[seen, :2] = middle + 0.5 * (joints[seen, :2] - middle)
    people = [{"pose_keypoints_2d": p.ravel().tolist()} for p in (small, joints)]
    (tmp_path / "photo_keypoints.json").write_text(json.dumps({"people": people}))
    (tmp_path / "photo_bbox.json").write_text(json.dumps({"bbox": [10, 10, 100, 200]}))
    return tmp_path / "photo.png"


def demo(*arguments: object) -> str:
    result = CliRunner().invoke(cli, ["demo", *map(str, arguments)], catch_exceptions=False, standalone_mode=False)
    return result.output


def test_detections_are_fitted_and_the_body_lies_on_the_person(photo: Path, known: Annotations, preprocessed: Path) -> None:
    demo(
        "--img",
        photo,
        "--openpose",
        photo.with_name("photo_keypoints.json"),
        "--fit",
        "--save-params",
        "--data",
        preprocessed,
    )
    before = cv2.imread(str(photo)).astype(int)
    shape = cv2.imread(str(photo.with_name("photo_shape.png"))).astype(int)
    side = cv2.imread(str(photo.with_name("photo_shape_side.png")))
    assert shape.shape == before.shape
    drawn = np.abs(shape - before).sum(-1) > 0
    seen = known.keypoints_px[0][known.keypoints_px[0, :, 2] > 0, :2].round().astype(int)
    inside = [drawn[max(0, y - 4) : y + 5, max(0, x - 4) : x + 5].any() for x, y in seen if 0 <= x < 1e4]
    assert np.mean(inside) > 0.9
    assert (side == 255).mean() > 0.5
    with np.load(photo.with_name("photo_params.npz")) as found:
        assert found["person"].tolist() == [2]  # the larger one
        assert found["verdict"].tolist() == ["valid"]
        assert found["pose"].shape == (1, 72)


def test_parameters_give_the_same_pixels_in_every_camera(photo: Path, preprocessed: Path) -> None:
    demo(
        "--img", photo, "--openpose", photo.with_name("photo_keypoints.json"), "--fit", "--person", "all", "--focal", "700",
        "--save-params", photo.with_name("p.npz"), "--data", preprocessed,
    )  # fmt: skip
    with np.load(photo.with_name("p.npz")) as found:
        assert found["person"].tolist() == [1, 2]
        for i in range(2):
            crop_m = found["crop_translation_m"][i]
            in_crop = FOCAL_PX * crop_m[:2] / crop_m[2] + CROP_PX / 2
            side = 200 * found["scale"][i]
            in_image = found["center_px"][i] + (in_crop - CROP_PX / 2) * side / CROP_PX
            own = found["image_camera_matrix"][i] @ crop_m
            assert own[:2] / own[2] == pytest.approx(in_image, abs=1e-3)
            full = found["full_translation_m"][i]
            assert found["full_focal_px"][i] == 700
            assert 700 * full[:2] / full[2] + found["full_principal_px"][i] == pytest.approx(in_image, abs=1e-3)
            assert 700 / full[2] == pytest.approx(found["image_camera_matrix"][i, 0, 0] / crop_m[2], rel=1e-5)
            s = found["crop_weak_camera"][i, 0]
            assert s * CROP_PX / 2 == pytest.approx(FOCAL_PX / crop_m[2], rel=1e-5)


@pytest.mark.parametrize("ending", ["glb", "obj"])
def test_meshes_are_seen_where_the_people_are(ending: str, photo: Path, preprocessed: Path) -> None:
    path = photo.with_name(f"bodies.{ending}")
    demo(
        "--img", photo, "--openpose", photo.with_name("photo_keypoints.json"), "--fit", "--person", "all",
        "--save-mesh", path, "--save-params", photo.with_name("p.npz"), "--data", preprocessed,
    )  # fmt: skip
    if ending == "glb":
        file = Reader(path.read_bytes())
        with np.load(photo.with_name("p.npz")) as found:
            camera, center = found["image_camera_matrix"][1], found["center_px"][1]  # the larger person's
        seen = file.posed(1) * [1, -1, -1] @ camera.T
        assert np.abs((seen[:, :2] / seen[:, 2:]).mean(0) - center).max() < 60
        height, width = read_image(photo).shape[:2]
        lens = file.json["cameras"][0]["perspective"]
        shown = camera[0, 0] * np.tan(lens["yfov"] / 2)
        assert shown == pytest.approx(max(center[1], height - center[1]))
        assert lens["aspectRatio"] == pytest.approx(max(center[0], width - center[0]) / shown)
        return
    lines = path.read_text().splitlines()
    assert [line for line in lines if line.startswith("o ")] == ["o person_1", "o person_2"]
    vertices = np.array([line.split()[1:] for line in lines if line.startswith("v ")], float) * [1, -1, -1]
    with np.load(photo.with_name("p.npz")) as found:
        camera, center = found["image_camera_matrix"][1], found["center_px"][1]  # the larger person's
    seen = vertices @ camera.T
    middle = (seen[:, :2] / seen[:, 2:]).reshape(2, -1, 2).mean(1)
    assert np.abs(middle - center).max() < 60


def test_a_doubtful_body_is_shown_as_that(photo: Path, preprocessed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = (
        "--img", photo, "--openpose", photo.with_name("photo_keypoints.json"), "--fit", "--save-params", "--data", preprocessed,
    )  # fmt: skip
    assert re.search(r"person 2: valid, expected error \d+ mm, reprojection loss", demo(*arguments))
    for module in ("spin.fitting.verdicts", "pipelines.commands.demo"):  # which decides, and which prints it
        monkeypatch.setattr(f"{module}.DOUBTFUL_MM", 1.5)
    assert re.search(r"person 2: doubtful, expected error \d+ mm \(above 1.5 mm\), reprojection loss", demo(*arguments))
    with np.load(photo.with_name("photo_params.npz")) as found:
        assert found["verdict"].tolist() == ["valid"]  # which a doubtful body is
        assert 10 < found["expected_error_mm"][0] < 100


def test_a_network_needs_no_detections(photo: Path, network: Path, preprocessed: Path) -> None:
    demo("--img", photo, "--checkpoint", network, "--data", preprocessed)
    assert photo.with_name("photo_shape.png").is_file()
    demo(
        "--img",
        photo,
        "--bbox",
        photo.with_name("photo_bbox.json"),
        "--checkpoint",
        network,
        "--outfile",
        photo.with_name("b"),
    )
    whole, box = (cv2.imread(str(photo.with_name(n))) for n in ("photo_shape.png", "b_shape.png"))
    assert not np.array_equal(whole, box)
    changed = (box != cv2.imread(str(photo))).any(-1)
    assert changed[10:210, 10:110].sum() > 0.9 * changed.sum()  # in the box, near enough


def test_spins_checkpoints_are_given_the_published_crop(photo: Path, network: Path, preprocessed: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "model_checkpoint.pt"
    torch.save({"model": load_checkpoint(network).model, "epoch": 3, "total_step_count": 9}, theirs)
    people = [Person(1, np.array([60.3, 80.1], np.float32), 0.7)]
    image = (90 + read_image(photo) / 8).astype(np.uint8)  # without contrast
    data, cuts = DataFolder(preprocessed), {"published": published_crop, "plain": crop_image}

    def pose(checkpoint: Path, crop: str | None) -> tuple[str, np.ndarray]:
        estimator = BodyEstimator(data, checkpoint, fit=False, crop=crop)
        (body,) = estimator.estimate(image, people).bodies
        box = np.array([*body.person.center_px, body.person.scale])
        # 60.3, 80.1 ± 70: from (-9, 10) up to (130, 150), not square
        seen = (60.5, 80.0, 139.5 / 200) if estimator.crop == "published" else (60.3, 80.1, 0.7)
        assert box == pytest.approx(seen)
        return estimator.crop, body.pose

    for checkpoint, expected in ((theirs, "published"), (network, "plain")):
        for asked in (None, "published", "plain"):
            rule, found = pose(checkpoint, asked)
            assert rule == (asked or expected)
            own = BodyEstimator(data, network, fit=False)
            own.img_res = 224 if checkpoint == theirs else own.img_res
            crop = normalise(cuts[rule](image, people[0].center_px, people[0].scale, crop_px=own.img_res))
            with torch.no_grad():
                predicted = own.network(torch.from_numpy(crop)[None]).rotations
            assert found == pytest.approx(matrix_to_axis_angle(predicted).flatten().numpy(), abs=1e-4)


def test_the_network_may_start_the_fit(photo: Path, network: Path, preprocessed: Path) -> None:
    output = demo(
        "--img", photo, "--openpose", photo.with_name("photo_keypoints.json"), "--fit", "--checkpoint", network,
        "--save-params", "--data", preprocessed,
    )  # fmt: skip
    assert "reprojection loss" in output
    with np.load(photo.with_name("photo_params.npz")) as found:
        assert np.isfinite(found["loss_px2"]).all()


def test_a_folder_goes_on_past_bad_images(photo: Path, network: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no more")
    cv2.imwrite(str(tmp_path / "dot.png"), np.zeros((1, 1, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "grey.jpg"), np.full((80, 60), 90, np.uint8))
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((80, 60, 3), 9000, np.uint16))
    with pytest.raises(StageError, match="2 of 5 images rejected"):
        demo("--img", tmp_path, "--checkpoint", network, "--outfile", tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        f"{stem}_{kind}.png" for stem in ("deep", "grey", "photo") for kind in ("shape", "shape_side")
    )


def test_looking_twice_at_a_folder_leaves_its_own_pictures_alone(photo: Path, network: Path) -> None:
    demo("--img", photo.parent, "--checkpoint", network)
    before = sorted(photo.parent.iterdir())
    demo("--img", photo.parent, "--checkpoint", network)
    assert sorted(photo.parent.iterdir()) == before
    cv2.imwrite(str(photo.with_suffix(".jpg")), np.zeros((90, 90, 3), np.uint8))
    with pytest.raises(UsageError, match="two images are called photo"):
        demo("--img", photo.parent, "--checkpoint", network)


def test_who_can_not_be_fitted_is_rejected_and_the_others_are_shown(photo: Path, tmp_path: Path) -> None:
    content = json.loads(photo.with_name("photo_keypoints.json").read_text())
    poor = np.array(content["people"][1]["pose_keypoints_2d"]).reshape(25, 3)
    poor[:, 2] = 0.0
    # Neck and hips alone, which the objective doesn't look at.
    poor[[1, 8, 9, 12]] = [[60, 30, 1], [60, 70, 1], [52, 70, 1], [68, 70, 1]]
    content["people"].append({"pose_keypoints_2d": poor.ravel().tolist()})
    both, alone = tmp_path / "both.json", tmp_path / "alone.json"
    both.write_text(json.dumps(content))
    alone.write_text(json.dumps({"people": content["people"][2:]}))
    demo("--img", photo, "--openpose", both, "--fit", "--person", "all", "--save-params", tmp_path / "p.npz")
    with np.load(tmp_path / "p.npz") as found:
        assert found["person"].tolist() == [1, 2]
    with pytest.raises(StageError, match="no person can be fitted: person 1: fewer than"):
        demo("--img", photo, "--openpose", alone, "--fit")


def test_the_nearer_body_hides_the_farther() -> None:
    """Nearer is who has fewer metres to a pixel, with any box."""
    square = np.array([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    center = np.array([50.0, 50], np.float32)

    def found(number: int, scale: float, z: float) -> PersonBody:
        camera = np.array([0, 0, z], np.float32)
        return PersonBody(Person(number, center, scale), np.zeros(72), np.zeros(10), camera, square + camera)

    image = np.zeros((100, 100, 3), np.uint8)
    # Seen at 50 and at 20 px per metre: the second is farther, though its crop's camera has it nearer.
    first, second = found(1, 0.5, 44.6), found(2, 0.1, 22.3)
    assert first.focal_px / first.camera_m[2] > second.focal_px / second.camera_m[2]
    both = over_the_image(image, [first, second], faces)
    assert np.array_equal(both[50, 50] > 0, [True] * 3)
    alone = over_the_image(over_the_image(image, [second], faces), [first], faces)
    assert np.abs(both.astype(int) - alone)[50, 50].max() <= 60  # the first one's colour is on top
    assert both[50, 50].argmax() == 2  # and is the palette's blue


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--checkpoint", "NETWORK", "--focal", "900"], UsageError, "--focal is for the camera"),
        (["--checkpoint", "NETWORK", "--person", "2"], UsageError, "--person 2 chooses among detections"),
        (
            ["--checkpoint", "NETWORK", "--save-mesh", "x.fbx"],
            SpinError,
            r"x.fbx: expected a name ending in .glb or .obj",
        ),
        ([], UsageError, "no way to find a body: give a network"),
        (["--fit", "--openpose", "photo_keypoints.json", "--crop", "plain"], UsageError, "--crop plain: for a network's"),
        (["--fit"], UsageError, "--fit needs detections"),
        (
            ["--fit", "--openpose", "photo_keypoints.json", "--person", "7"],
            UsageError,
            "--person 7: .* has 1, 2; expected",
        ),
        (["--fit", "--openpose", "gone.json"], UsageError, "gone.json: no such file"),
        (["--fit", "--openpose", "photo_bbox.json"], StageError, "not an OpenPose file"),
        (["--fit", "--openpose", "empty.json"], StageError, "no person in the detections"),
        (["--checkpoint", "photo.png"], SpinError, "refused"),
        (
            ["--checkpoint", "NETWORK", "--bbox", "outside.json"],
            StageError,
            r"\[9000.0, 0.0, 10.0, 10.0\] is outside",
        ),
        (["--checkpoint", "NETWORK", "--bbox", "flat.json"], StageError, "has no area"),
        (["--checkpoint", "NETWORK", "--bbox", "photo_keypoints.json"], StageError, "no box .* expected"),
        (["--checkpoint", "NETWORK", "--bbox", "broken.json"], StageError, "broken.json: no box"),
    ],
)
def test_what_can_not_be_shown_is_said(
    arguments: list[str],
    error: type[Exception],
    message: str,
    photo: Path,
    network: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(photo.parent)
    Path("empty.json").write_text('{"people": []}')
    Path("outside.json").write_text("[9000, 0, 10, 10]")
    Path("flat.json").write_text('{"bbox": [1, 1, 0, 5]}')
    Path("broken.json").write_text('{"bbox": [')
    with pytest.raises(error, match=message):
        demo("--img", "photo.png", *(str(network) if a == "NETWORK" else a for a in arguments))


def test_detections_of_another_image_are_noticed(photo: Path) -> None:
    with pytest.raises(StageError, match="are outside the image, which is 4 x 5 px"):
        people_detected(photo.with_name("photo_keypoints.json"), np.zeros((5, 4, 3), np.uint8), "all")


@pytest.mark.parametrize("content", ["[1, 2, 3, " + "9" * 400 + "]", "[" * 100_000])
def test_a_box_that_is_no_box_is_said_so(content: str, tmp_path: Path) -> None:
    (tmp_path / "box.json").write_text(content)
    with pytest.raises(StageError, match=r"box\.json: no box"):
        person_of_box(tmp_path / "box.json", np.zeros((90, 90, 3), np.uint8))
