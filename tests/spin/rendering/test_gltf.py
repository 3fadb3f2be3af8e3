"""glTF files, read back by a reader of their own and posed by their skeletons, against the body's own mesh."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spin.body import BodyData, BodyMesh
from spin.joints import SMPL_NAMES
from spin.rendering import gltf

_TYPES = {5126: "<f4", 5125: "<u4", 5121: "u1"}
_VALIDATOR = "gltf-validator@2.0.0-dev.3.10"
_WIDTHS = {"SCALAR": 1, "VEC3": 3, "VEC4": 4, "MAT4": 16}


class Reader:
    """As the specification says, knowing nothing of the writer."""

    def __init__(self, data: bytes) -> None:
        magic, version, total = struct.unpack_from("<4sII", data)
        assert (magic, version, total) == (b"glTF", 2, len(data))
        length, kind = struct.unpack_from("<I4s", data, 12)
        assert kind == b"JSON"
        assert length % 4 == 0
        self.json: dict[str, Any] = json.loads(data[20 : 20 + length])
        size, kind = struct.unpack_from("<I4s", data, 20 + length)
        assert kind == b"BIN\0"
        self.bytes = data[28 + length :]
        assert len(self.bytes) == size == self.json["buffers"][0]["byteLength"]

    def array(self, number: int) -> np.ndarray:
        about = self.json["accessors"][number]
        view = self.json["bufferViews"][about["bufferView"]]
        assert view["byteOffset"] % 4 == 0
        width = _WIDTHS[about["type"]]
        flat = np.frombuffer(self.bytes, _TYPES[about["componentType"]], about["count"] * width, view["byteOffset"])
        rows = flat.reshape(about["count"], width)
        if "min" in about:
            assert rows.min(0).tolist() == about["min"]
            assert rows.max(0).tolist() == about["max"]
        return rows

    def globals(self, moved: dict[tuple[int, str], np.ndarray] | None = None) -> dict[int, np.ndarray]:
        """Each node's matrix in the scene; `moved`: values of an animation that stand in for a node's own."""
        nodes, out = self.json["nodes"], {}

        def visit(number: int, parent: np.ndarray) -> None:
            node = nodes[number]
            own = np.eye(4)
            given = moved or {}
            turn = given.get((number, "rotation"), node.get("rotation", [0, 0, 0, 1]))
            own[:3, :3] = matrix(np.asarray(turn, float))
            own[:3, 3] = given.get((number, "translation"), node.get("translation", [0, 0, 0]))
            out[number] = parent @ own
            for child in node.get("children", []):
                visit(child, out[number])

        for root in self.json["scenes"][0]["nodes"]:
            visit(root, np.eye(4))
        return out

    @property
    def camera_m(self) -> np.ndarray:
        """Where the only camera is in the scene; it is not turned."""
        (node,) = [n for n in self.json["nodes"] if "camera" in n]
        assert "rotation" not in node
        return np.array(node["translation"])

    def posed(self, person: int, moved: dict[tuple[int, str], np.ndarray] | None = None) -> np.ndarray:
        """A skinned mesh's vertices in the axes of glTF, from the camera."""
        (node,) = [n for n in self.json["nodes"] if n.get("mesh") == person]
        skin, (primitive,) = self.json["skins"][node["skin"]], self.json["meshes"][person]["primitives"]
        world = self.globals(moved)
        bind = self.array(skin["inverseBindMatrices"]).reshape(-1, 4, 4).transpose(0, 2, 1)
        bones = np.stack([world[j] for j in skin["joints"]]) @ bind
        attributes = {name: self.array(number) for name, number in primitive["attributes"].items()}
        position = np.concatenate([attributes["POSITION"], np.ones((len(attributes["POSITION"]), 1))], 1)
        each = np.einsum("vkij,vj->vki", bones[attributes["JOINTS_0"]], position)[..., :3]
        assert np.linalg.norm(attributes["NORMAL"], axis=1) == pytest.approx(1, abs=1e-3)
        return (attributes["WEIGHTS_0"][..., None] * each).sum(1) - self.camera_m


def matrix(q: np.ndarray) -> np.ndarray:
    x, y, z, w = q / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def some_people(count: int) -> list[gltf.PosedPerson]:
    rng = np.random.default_rng(4)
    return [
        gltf.PosedPerson(f"person {i}", 0.4 * rng.standard_normal(72), rng.standard_normal(10), rng.uniform(1, 5, 3))
        for i in range(count)
    ]


def own_mesh(body: BodyData, person: gltf.PosedPerson) -> np.ndarray:
    """The body's own function, in glTF's axes."""
    mesh = BodyMesh(body, torch.float64)
    with torch.no_grad():
        posed = mesh(torch.from_numpy(person.pose_aa)[None], torch.from_numpy(person.betas)[None]).vertices_m[0].numpy()
    return (posed + person.translation_m) * [1, -1, -1]


def of_four_weights(body: BodyData) -> BodyData:
    """The body with the weights that a skin has, and without pose blend shapes: what glTF can say exactly."""
    joints, weights = gltf.skin_of(body)
    four = np.zeros_like(body.skin_weights)
    np.add.at(four, (np.arange(len(joints))[:, None], joints), weights)  # joint 0 may appear twice, once without weight
    return replace(body, skin_weights=four, posedirs=None)


def test_the_skeleton_poses_every_person_as_the_body_does(body: BodyData) -> None:
    people = some_people(2)
    file = Reader(gltf.glb(body, people))
    for i, person in enumerate(people):
        assert np.abs(file.posed(i) - own_mesh(of_four_weights(body), person)).max() < 1e-5
    names = [file.json["nodes"][j]["name"] for j in file.json["skins"][0]["joints"]]
    assert names == list(SMPL_NAMES)
    faces = file.array(file.json["meshes"][0]["primitives"][0]["indices"])
    assert np.array_equal(faces.reshape(-1, 3), body.faces)


def test_what_a_skin_can_not_hold_is_small(body: BodyData) -> None:
    """docs/formats.md states it for the open body, which has no pose blend shapes: four weights."""
    people = some_people(8)
    file = Reader(gltf.glb(body, people))
    error_mm = [1000 * np.linalg.norm(file.posed(i) - own_mesh(body, p), axis=1) for i, p in enumerate(people)]
    assert np.mean(error_mm) < 0.2
    assert np.max(error_mm) < 25


def test_an_animation_goes_through_its_poses(body: BodyData) -> None:
    rng = np.random.default_rng(0)
    start, step = 0.3 * rng.standard_normal(72), 0.3 * rng.standard_normal(72)
    poses = start + np.arange(6)[:, None] * step
    places = rng.uniform(1, 4, (6, 3))
    motion = gltf.Motion("walk", poses, rng.standard_normal(10), places, fps=20)
    file = Reader(gltf.animated_glb(body, motion))
    (animation,) = file.json["animations"]
    for frame in (0, 3, 5):
        moved = {}
        for channel in animation["channels"]:
            sampler = animation["samplers"][channel["sampler"]]
            assert file.array(sampler["input"])[:, 0] == pytest.approx(np.arange(6) / 20)
            moved[channel["target"]["node"], channel["target"]["path"]] = file.array(sampler["output"])[frame]
        person = gltf.PosedPerson("walk", poses[frame], motion.betas, places[frame])
        assert np.abs(file.posed(0, moved) - own_mesh(of_four_weights(body), person)).max() < 1e-5
    turns = np.stack([file.array(s["output"]) for s in animation["samplers"][1:]], 1)
    assert ((turns[1:] * turns[:-1]).sum(-1) > 0).all()  # never the long way round
    with pytest.raises(gltf.MeshFileError, match="0 frames"):
        gltf.animated_glb(body, replace(motion, pose_aa=poses[:0]))


def test_the_first_person_is_at_the_origin_and_the_camera_shows_the_picture(body: BodyData) -> None:
    people = some_people(2)
    view = gltf.Viewpoint.of(900.0, np.array([100.0, 60.0]), np.zeros(2), np.array([320, 240]))
    file = Reader(gltf.glb(body, people, view))
    pelvis = file.globals()[file.json["skins"][0]["joints"][0]][:3, 3]
    assert pelvis == pytest.approx(0, abs=1e-9)
    lens = file.json["cameras"][0]["perspective"]
    # 220 px to the right of the principal point, 180 px below it.
    assert np.tan(lens["yfov"] / 2) == pytest.approx(180 / 900)
    assert lens["aspectRatio"] == pytest.approx(220 / 180)
    crop = Reader(gltf.glb(body, people)).json["cameras"][0]["perspective"]
    assert (np.tan(crop["yfov"] / 2), crop["aspectRatio"]) == pytest.approx((112 / 5000, 1))
    with pytest.raises(gltf.MeshFileError, match="no person to write"):
        gltf.glb(body, [])


def test_where_a_weight_is_zero_the_joint_is_zero(body: BodyData) -> None:
    file = Reader(gltf.glb(body, some_people(1)))
    attributes = file.json["meshes"][0]["primitives"][0]["attributes"]
    joints, weights = (file.array(attributes[name]) for name in ("JOINTS_0", "WEIGHTS_0"))
    assert (weights == 0).any()
    assert not joints[weights == 0].any()


def test_everything_has_a_name(body: BodyData) -> None:
    motion = gltf.Motion("walk", np.zeros((2, 72)), np.zeros(10), np.ones((2, 3)))
    file = Reader(gltf.animated_glb(body, motion)).json
    for kind in ("nodes", "meshes", "skins", "materials", "cameras", "scenes", "animations"):
        assert all(item["name"] for item in file[kind]), kind


@pytest.fixture(scope="module")
def validator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Khronos validator's npm package, in $GLTF_VALIDATOR or fetched by npm; the test is skipped without it."""
    node, npm, given = shutil.which("node"), shutil.which("npm"), os.environ.get("GLTF_VALIDATOR")
    if node is None or (npm is None and given is None):
        pytest.skip("no node and npm on this machine, which run the glTF validator (see CONTRIBUTING.md)")
    if given is not None:
        return Path(given)
    folder = tmp_path_factory.mktemp("validator")
    install = [
        npm,
        "install",
        "--prefix",
        folder,
        "--no-audit",
        "--no-fund",
        "--fetch-retries=0",
        "--fetch-timeout=20000",
        _VALIDATOR,
    ]
    try:
        subprocess.run(list(map(str, install)), check=True, capture_output=True, timeout=60)
    except (subprocess.SubprocessError, OSError):
        pytest.skip(f"npm can't fetch {_VALIDATOR} here; name a folder that has it in $GLTF_VALIDATOR")
    return folder / "node_modules" / "gltf-validator"


def test_the_khronos_validator_finds_nothing(body: BodyData, validator: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    poses = 0.4 * rng.standard_normal((5, 72))
    motion = gltf.Motion("walk / 1", poses, rng.standard_normal(10), rng.uniform(1, 4, (5, 3)))
    still = replace(motion, pose_aa=np.zeros((1, 72)), translation_m=np.ones((1, 3)))
    files = {
        "single": gltf.glb(body, some_people(1)),
        "several": gltf.glb(body, some_people(3), gltf.Viewpoint.of(30.0, np.array([900.0, -20.0]), np.zeros(2), np.ones(2))),
        "sequence": gltf.animated_glb(body, motion),
        "a sequence of one frame": gltf.animated_glb(body, still),
    }
    for name, content in files.items():
        (tmp_path / f"{name}.glb").write_bytes(content)
    script = (
        "const v = require(process.argv[1]), fs = require('fs');"
        "Promise.all(process.argv.slice(2).map(f => v.validateBytes(new Uint8Array(fs.readFileSync(f)))))"
        ".then(all => console.log(JSON.stringify(all.map(r => r.issues))))"
    )
    paths = [str(tmp_path / f"{name}.glb") for name in files]
    done = subprocess.run(
        ["node", "-e", script, str(validator), *paths], capture_output=True, text=True, timeout=120, check=True
    )
    for name, issues in zip(files, json.loads(done.stdout)):
        assert not issues["messages"], (name, issues["messages"][:3])
        assert (issues["numErrors"], issues["numWarnings"]) == (0, 0), name


def test_obj_holds_the_posed_vertices(body: BodyData) -> None:
    vertices = [np.arange(9.0).reshape(3, 3), 1 + np.arange(9.0).reshape(3, 3)]
    text = gltf.obj(vertices, np.array([[0, 1, 2]]), ["a b", "c\nf 9 9 9"]).decode().splitlines()
    corners = [
        "v 0.000000 -1.000000 -2.000000",
        "v 3.000000 -4.000000 -5.000000",
        "v 6.000000 -7.000000 -8.000000",
    ]
    assert text[1:6] == ["o a_b", *corners, "f 1 2 3"]
    assert text[6] == "o c_f_9_9_9"
    assert text[-1] == "f 4 5 6"


def test_an_unknown_ending_is_refused() -> None:
    with pytest.raises(gltf.MeshFileError, match=r"x\.fbx: expected a name ending in \.glb or \.obj"):
        gltf.check_ending(Path("x.fbx"))
