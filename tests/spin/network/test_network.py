from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from spin.errors import ModelFileError
from spin.network.backbone import BACKBONES, ResNetFeatures, identify_backbone
from spin.network.checkpoints import (
    Checkpoint,
    apply_weights,
    load_backbone_weights,
    load_checkpoint,
    network_from_checkpoint,
    save_checkpoint,
)
from spin.network.hmr import HMR, MeanParameters
from spin.network.inference import for_inference
from spin.rotations import axis_angle_to_matrix


@pytest.fixture(scope="module")
def mean() -> MeanParameters:
    return MeanParameters.from_body_pose(torch.linspace(-0.3, 0.3, 69))


@pytest.fixture(scope="module")
def network(mean: MeanParameters) -> HMR:
    torch.manual_seed(0)
    return HMR("resnet18", mean=mean).eval()


# ---- backbone ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "parameters"),
    # torchvision's counts, less the 1000-class head
    [("resnet18", 11_176_512), ("resnet34", 21_284_672), ("resnet50", 23_508_032), ("resnet101", 42_500_160)],
)
def test_backbones_have_torchvisions_parameters(backbone: str, parameters: int) -> None:
    features = ResNetFeatures(backbone)
    assert sum(p.numel() for p in features.parameters()) == parameters
    assert identify_backbone(features.state_dict()) == backbone


def test_parameter_names_and_shapes_are_torchvisions() -> None:
    shapes = {name: tuple(t.shape) for name, t in ResNetFeatures("resnet50").state_dict().items()}
    assert shapes["conv1.weight"] == (64, 3, 7, 7)
    assert shapes["bn1.running_mean"] == (64,)
    assert shapes["layer1.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert shapes["layer1.0.downsample.1.num_batches_tracked"] == ()
    assert shapes["layer2.0.conv2.weight"] == (128, 128, 3, 3)
    assert shapes["layer4.2.conv3.weight"] == (2048, 512, 1, 1)
    small = ResNetFeatures("resnet18").state_dict()
    assert not any(name.startswith("layer1.0.downsample") for name in small)  # a plain shortcut
    assert tuple(small["layer2.0.downsample.0.weight"].shape) == (128, 64, 1, 1)


def test_bottleneck_strides_in_its_3x3_convolution() -> None:
    """torchvision's choice; striding in the first 1 × 1 loads the same weights and answers differently."""
    block = ResNetFeatures("resnet50").layer2[0]
    assert block.conv1.stride == (1, 1)
    assert block.conv2.stride == (2, 2)


def test_unknown_backbone_is_named() -> None:
    with pytest.raises(ModelFileError, match="'resnet20' is not known; choose one of resnet18"):
        ResNetFeatures("resnet20")


def test_pooling_equals_the_published_one_at_224(network: HMR) -> None:
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        adaptive = network.features(images)
        maps: list[torch.Tensor] = []
        hook = network.layer4.register_forward_hook(lambda _module, _inputs, output: maps.append(output))
        network.features(images)
        hook.remove()
        fixed = nn.AvgPool2d(7, stride=1)(maps[0]).flatten(1)
    assert torch.allclose(adaptive, fixed, atol=1e-6)


# ---- regressor -----------------------------------------------------------------------------------------


def test_prediction_has_rotations_and_smaller_images_work(network: HMR) -> None:
    for side in (224, 64, 32):
        with torch.no_grad():
            prediction = network(torch.randn(2, 3, side, side))
        r = prediction.rotations
        assert r.shape == (2, 24, 3, 3)
        assert torch.allclose(r @ r.transpose(-1, -2), torch.eye(3), atol=1e-5)
        assert torch.allclose(torch.linalg.det(r), torch.ones(2, 24), atol=1e-5)
        assert prediction.betas.shape == (2, 10)
        assert prediction.weak_camera.shape == (2, 3)


def test_decoders_at_zero_answer_with_the_mean(mean: MeanParameters) -> None:
    network = HMR("resnet18", mean=mean).eval()
    for decoder in (network.decpose, network.decshape, network.deccam):
        nn.init.zeros_(decoder.weight)
        nn.init.zeros_(decoder.bias)
    with torch.no_grad():
        prediction = network(torch.randn(1, 3, 32, 32))
    pose = torch.cat([torch.tensor([torch.pi, 0, 0]), torch.linspace(-0.3, 0.3, 69)])
    assert torch.allclose(prediction.rotations[0], axis_angle_to_matrix(pose.view(24, 3)), atol=1e-6)
    assert torch.equal(prediction.weak_camera[0], torch.tensor([0.9, 0.0, 0.0]))
    assert torch.equal(prediction.betas[0], torch.zeros(10))


def test_three_iterations_add_up(network: HMR) -> None:
    """The published loop, written out: each pass sees the estimate of the one before."""
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = network.features(images)
        state = torch.cat([network.init_pose, network.init_shape, network.init_cam], 1).expand(2, -1)
        for _ in range(3):
            hidden = network.fc2(network.fc1(torch.cat([features, state], 1)))
            steps = (network.decpose(hidden), network.decshape(hidden), network.deccam(hidden))
            state = state + torch.cat(steps, 1)
        prediction = network(images)
    assert torch.allclose(prediction.betas, state[:, 144:154], atol=1e-6)
    assert torch.allclose(prediction.weak_camera, state[:, 154:], atol=1e-6)


def test_heads_have_the_published_names_and_sizes(network: HMR) -> None:
    shapes = {name: tuple(t.shape) for name, t in network.state_dict().items()}
    assert shapes["fc1.weight"] == (1024, 512 + 157)
    assert shapes["fc2.weight"] == (1024, 1024)
    assert shapes["decpose.weight"] == (144, 1024)
    assert shapes["decshape.weight"] == (10, 1024)
    assert shapes["deccam.bias"] == (3,)
    assert (shapes["init_pose"], shapes["init_shape"], shapes["init_cam"]) == ((1, 144), (1, 10), (1, 3))


def test_mean_parameters_from_a_published_file(tmp_path: Path) -> None:
    path = tmp_path / "smpl_mean_params.npz"
    pose = np.arange(144, dtype=np.float32)
    np.savez(path, pose=pose, shape=np.ones(10), cam=np.array([0.8, 0.1, 0.2]))
    mean = MeanParameters.from_file(path)
    assert torch.equal(mean.pose_6d, torch.from_numpy(pose))
    assert torch.allclose(mean.weak_camera, torch.tensor([0.8, 0.1, 0.2]))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"pose": np.zeros(72), "shape": np.zeros(10), "cam": np.zeros(3)},
            "pose has 72 numbers; expected 144",
        ),
        ({"pose": np.zeros(144), "cam": np.zeros(3)}, "expected an .npz with pose, shape and cam"),
        ({"pose": np.zeros(144), "shape": np.full(10, np.nan), "cam": np.zeros(3)}, "shape has 10 numbers"),
    ],
)
def test_wrong_mean_parameters_are_named(tmp_path: Path, arrays: dict, message: str) -> None:
    np.savez(tmp_path / "mean.npz", **arrays)
    with pytest.raises(ModelFileError, match=message):
        MeanParameters.from_file(tmp_path / "mean.npz")
    with pytest.raises(ModelFileError, match="no such file"):
        MeanParameters.from_file(tmp_path / "other.npz")


# ---- checkpoints ---------------------------------------------------------------------------------------


def checkpoint_of(network: HMR) -> Checkpoint:
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4)
    network.deccam.bias.grad = torch.ones(3)
    optimiser.step()
    optimiser.zero_grad()
    return Checkpoint(
        model=network.state_dict(),
        optimizer=optimiser.state_dict(),
        epoch=2,
        step=17,
        batch_idx=5,
        seed=3,
        tag={"coco": "gen-4+7"},
        config={"lr": 1e-4, "weights": {"pose": 1.0}, "names": ["a"]},
    )


def test_checkpoint_comes_back_whole(tmp_path: Path, mean: MeanParameters) -> None:
    written = checkpoint_of(HMR("resnet18", mean=mean))
    save_checkpoint(tmp_path / "runs" / "a.pt", written)
    read = load_checkpoint(tmp_path / "runs" / "a.pt")
    for name in ("epoch", "step", "batch_idx", "seed", "tag", "config"):
        assert getattr(read, name) == getattr(written, name), name
    assert all(torch.equal(read.model[k], v) for k, v in written.model.items())
    network = HMR("resnet18", mean=mean)
    assert read.optimizer is not None
    torch.optim.Adam(network.parameters()).load_state_dict(dict(read.optimizer))


def test_checkpoint_rebuilds_its_network(tmp_path: Path, network: HMR) -> None:
    save_checkpoint(tmp_path / "a.pt", Checkpoint(model=network.state_dict()))
    own = load_checkpoint(tmp_path / "a.pt")
    assert (own.published, own.crop_rule) == (False, "plain")
    # A published network that is saved again by a training here is this project's.
    save_checkpoint(tmp_path / "b.pt", Checkpoint(model=own.model, published=True))
    assert not load_checkpoint(tmp_path / "b.pt").published
    rebuilt = network_from_checkpoint(load_checkpoint(tmp_path / "a.pt"), "a.pt").eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(rebuilt(images).rotations, network(images).rotations)


@pytest.mark.parametrize("zipped", [True, False])
def test_published_file_with_data_parallel_prefixes(tmp_path: Path, network: HMR, zipped: bool) -> None:
    """Written by torch 1.1 (no zip) from a DataParallel network, counters named as published."""
    state = OrderedDict((f"module.{name}", t) for name, t in network.state_dict().items())
    content = {"model": state, "epoch": 4, "batch_idx": 9, "dataset_perm": [2, 0, 1], "total_step_count": 99}
    torch.save(content, tmp_path / "model_checkpoint.pt", _use_new_zipfile_serialization=zipped)
    read = load_checkpoint(tmp_path / "model_checkpoint.pt")
    assert (read.epoch, read.batch_idx, read.step) == (4, 9, 99)
    assert read.optimizer is None
    assert (read.published, read.crop_rule) == (True, "published")
    assert set(read.model) == set(network.state_dict())
    assert read.backbone == "resnet18"


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path: Path, network: HMR, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, Checkpoint(model=network.state_dict(), epoch=1))
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(path, Checkpoint(model=network.state_dict(), epoch=2))
    assert load_checkpoint(path).epoch == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


class Malicious:
    """Pickles as a call to os.system."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.marker}",)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    torch.save({"model": {"conv1.weight": Malicious(marker)}}, tmp_path / "bad.pt")
    with pytest.raises(ModelFileError, match="refused") as caught:
        load_checkpoint(tmp_path / "bad.pt")
    assert "\n" not in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "refused, it is no torch file"),
        (b"not a torch file at all", "refused, it .*is no torch file"),
        (b"hello\n", "refused, it is no torch file"),
        ({"weights": torch.zeros(1)}, "expected a dict with 'model', found a dict with 'weights'"),
        (torch.zeros(3), "found a Tensor"),
        ({"model": {}}, "it is empty"),
        ({"model": {"conv1.weight": 3}}, "'conv1.weight' is a int"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "x.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ModelFileError, match=message) as caught:
        load_checkpoint(path)
    assert "x.pt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"none\.pt: no such file"):
        load_checkpoint(tmp_path / "none.pt")


def test_another_architecture_is_recognised(network: HMR, mean: MeanParameters) -> None:
    other = HMR("resnet50", mean=mean)
    before = {name: t.clone() for name, t in other.state_dict().items()}
    with pytest.raises(ModelFileError, match=r"a\.pt: \d+ missing \(first: layer1") as caught:
        apply_weights(other, network.state_dict(), "a.pt")
    assert "look like those of a resnet18, the network is a resnet50" in str(caught.value)
    assert all(torch.equal(t, before[name]) for name, t in other.state_dict().items())


def test_misshaped_and_unexpected_parameters_are_counted(network: HMR) -> None:
    state = dict(network.state_dict())
    state["deccam.weight"] = torch.zeros(4, 1024)
    state["extra.bias"] = torch.zeros(1)
    with pytest.raises(ModelFileError) as caught:
        apply_weights(network, state, "b.pt")
    assert "1 unexpected (first: extra.bias)" in str(caught.value)
    assert "1 mis-shaped (first: deccam.weight is (4, 1024), expected (3, 1024))" in str(caught.value)
    assert "look like" not in str(caught.value)


def test_imagenet_weights_load_into_the_backbone_alone(tmp_path: Path, mean: MeanParameters) -> None:
    """As torchvision writes them: with a 1000-class head, and in old files without BatchNorm's counters."""
    torch.manual_seed(1)
    source = ResNetFeatures("resnet18").state_dict()
    state = {k: t for k, t in source.items() if not k.endswith("num_batches_tracked")}
    state |= {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    torch.save(state, tmp_path / "resnet18.pth")
    network = HMR("resnet18", mean=mean)
    head = network.fc1.weight.clone()
    weights = load_backbone_weights(tmp_path / "resnet18.pth")
    assert "fc.weight" not in weights
    apply_weights(network, weights, "resnet18.pth", only_backbone=True)
    assert torch.equal(network.state_dict()["layer4.1.conv2.weight"], source["layer4.1.conv2.weight"])
    assert torch.equal(network.fc1.weight, head)
    with pytest.raises(ModelFileError, match="look like those of a resnet18"):
        apply_weights(HMR("resnet34", mean=mean), weights, "resnet18.pth", only_backbone=True)


def test_every_backbone_is_recognised_by_its_names() -> None:
    assert {identify_backbone(ResNetFeatures(name).state_dict()) for name in BACKBONES} == set(BACKBONES)
    assert identify_backbone(["encoder.weight", "layer1.0.conv1.weight"]) is None


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_a_network_for_inference_predicts_the_same_and_leaves_the_other_alone(backbone: str) -> None:
    torch.manual_seed(3)
    network = HMR(backbone, mean=MeanParameters.from_body_pose(torch.zeros(69))).train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    quick, images = for_inference(network), torch.randn(2, 3, 64, 64)
    assert network.training
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in quick.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    with torch.no_grad():
        mine, theirs = network.eval()(images), quick(images)
    for name in ("rotations", "betas", "weak_camera"):
        assert torch.allclose(getattr(mine, name), getattr(theirs, name), atol=2e-5)
