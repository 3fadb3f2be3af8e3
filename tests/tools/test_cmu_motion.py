"""Tiny clips with known rotations, written here, must come back as the SMPL pose that they are."""

from __future__ import annotations

import io
import tarfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from spin.joints import SMPL_NAMES
from tools.cmu_clips import ClipError, read_amc, read_bvh, read_expmap
from tools.cmu_motion import HELD_OUT, load_poses

INDEX = {name: i for i, name in enumerate(SMPL_NAMES)}
LEG = ("femur", "tibia", "foot", "toes")
ARM = ("clavicle", "humerus", "radius", "hand")
TILT = f"{np.sin(np.radians(20)):.6f}"
DROP = f"{-np.cos(np.radians(20)):.6f}"


def rest_joints_m() -> np.ndarray:
    """A T-pose as plain as can be: legs straight down, arms level, feet straight ahead."""
    joints = np.zeros((24, 3))
    heights = {"spine1": 0.1, "spine2": 0.2, "spine3": 0.3, "neck": 0.5, "head": 0.6}
    for name, y in heights.items():
        joints[INDEX[name], 1] = y
    for side, sign in (("left", 1.0), ("right", -1.0)):
        points = {
            "hip": (0.1, -0.1, 0), "knee": (0.1, -0.5, 0), "ankle": (0.1, -0.9, 0), "foot": (0.1, -0.9, 0.1),
            "collar": (0.05, 0.45, 0), "shoulder": (0.2, 0.45, 0), "elbow": (0.45, 0.45, 0),
            "wrist": (0.7, 0.45, 0), "hand": (0.8, 0.45, 0),
        }  # fmt: skip
        for part, point in points.items():
            joints[INDEX[f"{side} {part}"]] = np.array(point) * (sign, 1, 1)
    return joints


def asf_text() -> str:
    """A CMU skeleton whose legs rest 20° outwards, with its own axes for every bone, as the real ones do."""
    bones = [("lowerback", "0 1 0", "0 0 0"), ("upperback", "0 1 0", "0 0 0"), ("thorax", "0 1 0", "0 0 0")]
    bones += [("lowerneck", "0 1 0", "0 0 0"), ("upperneck", "0 1 0", "0 0 0"), ("head", "0 1 0", "0 0 0")]
    for prefix, s in (("l", ""), ("r", "-")):
        leg_axis = "0 0 20" if prefix == "l" else "0 0 -20"
        bones += [(prefix + b, f"{s}{TILT} {DROP} 0", leg_axis) for b in ("femur", "tibia")]
        bones += [(prefix + b, "0 0 1", leg_axis) for b in ("foot", "toes")]
        bones += [(prefix + b, f"{s}1 0 0", "180 -30 -90" if prefix == "l" else "180 30 90") for b in ARM]
    blocks = "".join(f"begin\n name {n}\n direction {d}\n axis {a} XYZ\n dof rx ry rz\nend\n" for n, d, a in bones)
    tree = "root lfemur rfemur lowerback\nlowerback upperback\nupperback thorax\n"
    tree += "thorax lowerneck lclavicle rclavicle\nlowerneck upperneck\nupperneck head\n"
    for prefix in "lr":
        tree += "".join(f"{prefix}{a} {prefix}{b}\n" for a, b in pairwise(LEG))
        tree += "".join(f"{prefix}{a} {prefix}{b}\n" for a, b in pairwise(ARM))
    return f":bonedata\n{blocks}:hierarchy\nbegin\n{tree}end\n"


def amc_text(*frames: dict[str, str]) -> str:
    names = ["lowerback", "upperback", "thorax", "lowerneck", "upperneck", "head"]
    names += [p + b for p in "lr" for b in LEG + ARM]
    lines = [":FULLY-SPECIFIED"]
    for number, frame in enumerate(frames, 1):
        lines += [str(number), f"root 0 0 0 {frame.get('root', '0 0 0')}"]
        lines += [f"{name} {frame.get(name, '0 0 0')}" for name in names]
    return "\n".join(lines) + "\n"


def write_amc(folder: Path, *frames: dict[str, str]) -> None:
    folder.mkdir(parents=True)
    (folder / "skeleton.asf").write_text(asf_text())
    (folder / "clip.amc").write_text(amc_text({}, *frames))


def joint_aa(pose_aa: np.ndarray, name: str) -> np.ndarray:
    return pose_aa.reshape(-1, 24, 3)[:, INDEX[name]]


def test_amc_hinges_become_smpl_hinges(tmp_path: Path) -> None:
    """Breaks when bone axes, the legs' 20° at rest or the elbows' 30° are not taken out."""
    write_amc(tmp_path / "02", {"ltibia": "60 0 0", "rtibia": "30 0 0", "lradius": "80 0 0", "root": "0 90 0"})
    motion = load_poses(tmp_path, rest_joints_m())
    assert motion.activity.tolist() == ["amc/02"]
    assert motion.pose_aa.dtype == np.float32
    for name, expected_deg in (
        ("left knee", (60, 0, 0)), ("right knee", (30, 0, 0)), ("pelvis", (0, 90, 0)), ("spine1", (0, 0, 0)),
    ):  # fmt: skip
        np.testing.assert_allclose(np.degrees(joint_aa(motion.pose_aa, name)[0]), expected_deg, atol=0.05)
    # The body's elbow bends about the vertical, which leaves the forearm level.
    forearm = Rotation.from_rotvec(joint_aa(motion.pose_aa, "left elbow")[0]).apply((1, 0, 0))
    np.testing.assert_allclose(forearm, (np.cos(np.radians(80)), 0, np.sin(np.radians(80))), atol=1e-4)
    # Legs of the source hang 20° outwards at rest; the body's hang straight, so its hips turn outwards.
    np.testing.assert_allclose(np.degrees(joint_aa(motion.pose_aa, "left hip")[0]), (0, 0, 20), atol=0.05)
    np.testing.assert_allclose(np.degrees(joint_aa(motion.pose_aa, "right hip")[0]), (0, 0, -20), atol=0.05)


def test_wrist_twist_is_shared_with_the_elbow(tmp_path: Path) -> None:
    """Breaks when sharing changes where the hand points: elbow times wrist must stay the whole turn."""
    write_amc(tmp_path / "03", {}, {"lhand": "0 0 50"})
    pose = load_poses(tmp_path, rest_joints_m()).pose_aa
    whole = [
        Rotation.from_rotvec(joint_aa(pose, "left elbow")[i]) * Rotation.from_rotvec(joint_aa(pose, "left wrist")[i])
        for i in range(2)
    ]
    turned = (whole[0].inv() * whole[1]).magnitude()
    assert np.degrees(turned) == pytest.approx(50, abs=0.05)


def test_collar_takes_a_share_and_the_arm_stays(tmp_path: Path) -> None:
    """Breaks when the collar is moved without taking the same turn out of the shoulder."""
    write_amc(tmp_path / "03", {"lhumerus": "0 0 60"})
    pose = load_poses(tmp_path, rest_joints_m()).pose_aa
    collar, shoulder = (Rotation.from_rotvec(joint_aa(pose, f"left {p}")[0]) for p in ("collar", "shoulder"))
    assert collar.magnitude() > 0.01
    # The humerus's own frame, 30° off the body's: a turn of 60° about one of its axes, after that rest twist.
    axes = Rotation.from_euler("xyz", (180, -30, -90), degrees=True)
    turn = axes * Rotation.from_euler("z", 60, degrees=True) * axes.inv()
    rest = Rotation.from_euler("x", -30, degrees=True)
    assert ((collar * shoulder).inv() * (turn * rest)).magnitude() < 1e-4


def test_bvh_channels_apply_in_their_order(tmp_path: Path) -> None:
    """Breaks when channels are read as a fixed Euler order, or a bone's end is not its direction."""
    text = """HIERARCHY
ROOT hip
{
 OFFSET 0 0 0
 CHANNELS 6 Xposition Yposition Zposition Zrotation Yrotation Xrotation
 JOINT lThigh
 {
  OFFSET 1 0 0
  CHANNELS 3 Zrotation Xrotation Yrotation
  End Site
  {
   OFFSET 0 -4 0
  }
 }
}
MOTION
Frames: 1
Frame Time: 0.0083
9 9 9 10 20 30 40 50 60
"""
    path = tmp_path / "a.bvh"
    path.write_text(text)
    clip = read_bvh(path)
    root = Rotation.from_euler("ZYX", (10, 20, 30), degrees=True)
    thigh = root * Rotation.from_euler("ZXY", (40, 50, 60), degrees=True)
    np.testing.assert_allclose(clip.rotations["hip"][0], root.as_matrix(), atol=1e-12)
    np.testing.assert_allclose(clip.rotations["lThigh"][0], thigh.as_matrix(), atol=1e-12)
    np.testing.assert_allclose(clip.directions["lThigh"], (0, -4, 0))


def expmap_row(**bones: tuple[float, float, float]) -> str:
    index = {"root": 0, "lfemur": 2, "ltibia": 3, "head": 18, "lradius": 22}
    values = np.zeros((39, 3))
    for name, vector in bones.items():
        values[1 + index[name]] = vector
    return ",".join(f"{v:.6f}" for v in values.ravel())


def test_expmap_signs_and_calibration_frame(tmp_path: Path) -> None:
    """Breaks when row-vector matrices are read as column ones, or the first frame of a clip is kept."""
    folder = tmp_path / "test" / "soccer"
    folder.mkdir(parents=True)
    bent = expmap_row(root=(0.0, 0.3, 0.0), ltibia=(-1.0, 0.0, 0.0), head=(0.28, 0.0, 0.0))
    (folder / "a.txt").write_text(f"{expmap_row()}\n{bent}\n")
    motion = load_poses(tmp_path, rest_joints_m())
    assert motion.activity.tolist() == ["seq/soccer"] and motion.activity[0] in HELD_OUT
    np.testing.assert_allclose(joint_aa(motion.pose_aa, "pelvis")[0], (0, -0.3, 0), atol=1e-4)
    knee = joint_aa(motion.pose_aa, "left knee")[0]
    # About the bone frame's x axis, seen from a leg that rests 20° outwards.
    assert np.linalg.norm(knee) == pytest.approx(1.0, abs=1e-3)
    assert knee[0] > 0.9
    np.testing.assert_allclose(joint_aa(motion.pose_aa, "head")[0], (-0.56, 0, 0), atol=1e-4)


def test_glitches_are_counted_and_bad_clips_are_reported(tmp_path: Path) -> None:
    """Breaks when a spun-round head is kept, or a bad clip vanishes without a word."""
    write_amc(tmp_path / "01", {"head": "0 170 0"}, {})
    bad = tmp_path / "running"
    bad.mkdir()
    (bad / "short.txt").write_text("1,2,3\n")
    (bad / "words.txt").write_text("one,two\n")
    with pytest.warns(UserWarning, match="clip left out"):
        motion = load_poses(tmp_path, rest_joints_m())
    assert (len(motion.pose_aa), motion.broken_frames) == (1, 1)
    assert [line.split(":")[0] for line in motion.unreadable] == ["running/short.txt", "running/words.txt"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.bvh", "HIERARCHY\n}\n}\nMOTION\nFrames: 1\nFrame Time: 1\n0\n"),
        ("a.bvh", "HIERARCHY\nOFFSET 0 0 0\nMOTION\n"),
        ("a.bvh", "nothing of the kind"),
        ("a.txt", ""),
        ("a.amc", "1\nroot 0 0 0 0 0 0\n"),
    ],
)
def test_malformed_clips_raise_one_clear_error(tmp_path: Path, name: str, text: str) -> None:
    """Breaks when a parser stumbles with an IndexError, or takes an empty clip for a clip."""
    path = tmp_path / name
    path.write_text(text)
    (tmp_path / "s.asf").write_text(asf_text())
    read = {".bvh": read_bvh, ".txt": read_expmap, ".amc": read_amc}[path.suffix]
    with pytest.raises(ClipError, match=name):
        read(path)


def test_archive_equals_folder_and_cannot_escape(tmp_path: Path) -> None:
    """Breaks when members are written where their names say."""
    write_amc(tmp_path / "clips" / "02", {"ltibia": "60 0 0"})
    archive = tmp_path / "clips.tar.xz"
    with tarfile.open(archive, "w:xz") as tar:
        tar.add(tmp_path / "clips", "clips")
    from_archive, from_folder = (load_poses(p, rest_joints_m()) for p in (archive, tmp_path / "clips"))
    np.testing.assert_array_equal(from_archive.pose_aa, from_folder.pose_aa)
    evil = tmp_path / "evil.tar"
    with tarfile.open(evil, "w") as tar:
        member = tarfile.TarInfo("../escaped.txt")
        member.size = 1
        tar.addfile(member, io.BytesIO(b"x"))
    with pytest.raises(tarfile.FilterError):
        load_poses(evil, rest_joints_m())
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_poses(tmp_path / "nowhere", rest_joints_m())
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="none that can be read"):
        load_poses(tmp_path / "empty", rest_joints_m())
