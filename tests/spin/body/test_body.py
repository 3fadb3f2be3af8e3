from __future__ import annotations

import os
import pickle
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from spin.body import BodyMesh, CompactBody, find_body, load_body
from spin.body.model_file import OPEN_BODY, BodyData
from spin.body.safe_pickle import read_array_pickle
from spin.errors import BodyFileError, ModelFileError
from spin.fitting.prior import load_pose_prior
from tests.spin.smpl_files import write_regressors, write_smpl


def with_pose_blend(body: BodyData) -> BodyData:
    """The open body has no pose blend shapes; SMPL has."""
    return replace(body, posedirs=np.random.default_rng(0).normal(size=(len(body.v_template), 3, 207)) * 1e-3)


def random_bodies(count: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    pose = 0.6 * torch.randn(count, 72, generator=generator, dtype=torch.float64)
    return pose.to(dtype), (2 * torch.randn(count, 10, generator=generator, dtype=torch.float64)).to(dtype)


@pytest.mark.parametrize("pose_blend", [False, True])
def test_compact_body_equals_smplx_mesh(body: BodyData, pose_blend: bool) -> None:
    chosen = with_pose_blend(body) if pose_blend else body
    pose, betas = random_bodies(256)
    with torch.no_grad():
        compact, mesh = CompactBody(chosen)(pose, betas), BodyMesh(chosen)(pose, betas).points_m
    assert (compact - mesh).norm(dim=-1).max() < 1e-5  # metres
    assert mesh.abs().max() > 0.5


@pytest.mark.parametrize("pose_blend", [False, True])
def test_jacobian_against_finite_differences(body: BodyData, pose_blend: bool) -> None:
    compact = CompactBody(with_pose_blend(body) if pose_blend else body, torch.float64)
    pose, betas = random_bodies(3, torch.float64)
    pose[0, 3:9] = 0  # where angles vanish, too
    found, h = compact.points_and_jacobian(pose, betas), 1e-6
    for by, size, move in (
        (found.by_pose, 72, lambda d: (pose + d, betas)),
        (found.by_betas, 10, lambda d: (pose, betas + d)),
    ):
        steps = h * torch.eye(size, dtype=torch.float64)
        numeric = torch.stack([(compact(*move(d)) - compact(*move(-d))) / (2 * h) for d in steps], -1)
        assert (by - numeric).abs().max() / numeric.abs().max() < 1e-6


def test_selected_points_are_the_same_points(compact: CompactBody) -> None:
    pose, betas = random_bodies(2)
    every, some = (
        compact.points_and_jacobian(pose, betas),
        compact.points_and_jacobian(pose, betas, [5, 30, 43]),
    )
    assert torch.equal(every.points_m[:, [5, 30, 43]], some.points_m)
    assert torch.equal(every.by_pose[:, [5, 30, 43]], some.by_pose)
    assert torch.equal(every.by_betas[:, [5, 30, 43]], some.by_betas)


def test_autograd_and_jacobian_agree(compact: CompactBody) -> None:
    pose, betas = random_bodies(1)
    by_pose, by_betas = torch.autograd.functional.jacobian(compact, (pose, betas))
    found = compact.points_and_jacobian(pose, betas)
    assert torch.allclose(by_pose[0, :, :, 0], found.by_pose[0], atol=1e-5)
    assert torch.allclose(by_betas[0, :, :, 0], found.by_betas[0], atol=1e-5)


def test_fingerprint_tells_bodies_apart(body: BodyData) -> None:
    assert body.fingerprint == load_body(OPEN_BODY).fingerprint
    assert body.fingerprint != with_pose_blend(body).fingerprint
    assert body.fingerprint.startswith("open-body")


def test_the_open_body_is_what_its_page_says(body: BodyData, mesh: BodyMesh) -> None:
    rest = mesh(torch.zeros(1, 72), torch.zeros(1, 10))
    assert np.ptp(body.v_template[:, 1]) == pytest.approx(1.70, abs=0.02)
    assert rest.points_m[0, 0].abs().max() < 0.01  # pelvis
    assert rest.joints17_m[0, 1, 0] > 0.05  # left hip at +x
    assert rest.points_m[0, 24, 2] > 0.05  # the nose looks to +z
    assert np.allclose(body.skin_weights.sum(1), 1, atol=1e-5)
    assert set(np.unique(body.vertex_part)) == set(range(6))


# ---- files ------------------------------------------------------------------------------------------------------------


def test_smpl_pickles_are_read_without_chumpy(tmp_path, body) -> None:
    path = write_smpl(tmp_path / "SMPL_NEUTRAL.pkl", body)
    with pytest.raises(BodyFileError, match=r"needs .*J_regressor_extra\.npy"):
        load_body(path)
    write_regressors(tmp_path, body)
    read = load_body(path)
    assert "chumpy" not in sys.modules
    for name in ("v_template", "shapedirs", "joint_regressor", "skin_weights", "faces", "keypoint_vertices"):
        assert np.allclose(getattr(read, name), getattr(body, name)), name
    assert read.parents == body.parents
    assert find_body(tmp_path) == path
    assert find_body(tmp_path / "elsewhere") == OPEN_BODY


class Payload:
    def __init__(self, function, argument: str) -> None:
        self.function, self.argument = function, argument

    def __reduce__(self):
        return self.function, (self.argument,)


@pytest.mark.parametrize("function", [os.system, eval, exec, __import__])
def test_pickles_that_run_code_are_refused(tmp_path, function) -> None:
    path, proof = tmp_path / "evil.pkl", tmp_path / "ran"
    argument = f"touch {proof}" if function is os.system else f"open({str(proof)!r}, 'w')"
    for content in ({"v_template": Payload(function, argument)}, Payload(function, argument)):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(BodyFileError, match=r"evil\.pkl: refused, it names"):
            read_array_pickle(path)
    assert not proof.exists()


def test_damaged_pickles_are_named(tmp_path, body) -> None:
    whole = write_smpl(tmp_path / "SMPL_NEUTRAL.pkl", body).read_bytes()
    path = tmp_path / "broken.pkl"
    generator = np.random.default_rng(0)
    for content in [b"", b"no pickle", whole[:1000], pickle.dumps([1, 2])] + [
        whole[:k] + bytes([generator.integers(256)]) + whole[k + 1 : k + 4000] for k in range(0, 2000, 100)
    ]:
        path.write_bytes(content)
        with pytest.raises(BodyFileError, match=r"broken\.pkl"):
            read_array_pickle(path)
    with pytest.raises(BodyFileError, match="no such file"):
        load_body(tmp_path / "none.npz")


def test_npz_of_the_wrong_shape_or_with_objects_is_refused(tmp_path, body) -> None:
    arrays = dict(np.load(OPEN_BODY, allow_pickle=False))
    path = tmp_path / "body.npz"
    for change, message in (
        ({"weights": arrays["weights"][:, :20]}, "weights has shape"),
        ({"v_template": arrays["v_template"] * np.nan}, "not numbers"),
        ({"kintree_table": arrays["kintree_table"][:, :10]}, "10 joints"),
        ({"J_regressor": np.array({"an": "object"}, dtype=object)}, "not a readable .npz of plain arrays"),
    ):
        np.savez(path, **(arrays | change))
        with pytest.raises(BodyFileError, match=message):
            load_body(path)
    del arrays["shapedirs"]
    np.savez(path, **arrays)
    with pytest.raises(BodyFileError, match="has no 'shapedirs'"):
        load_body(path)


def test_pose_prior_files(tmp_path, prior) -> None:
    mixture = {"means": prior.means_np, "covars": prior.covars_np, "weights": prior.weights_np}
    path = tmp_path / "gmm_08.pkl"
    path.write_bytes(pickle.dumps(mixture, protocol=2))
    pose = torch.zeros(1, 69)
    assert torch.allclose(load_pose_prior(path)(pose), prior(pose))
    path.write_bytes(pickle.dumps({"means": prior.means_np}))
    with pytest.raises(ModelFileError, match="has no 'covars'"):
        load_pose_prior(path)
