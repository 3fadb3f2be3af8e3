"""What a training starts from: ImageNet weights, published checkpoints, the run's own; and what is refused at once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import pipelines.download.imagenet
import pipelines.training.preflight
from pipelines import journal
from pipelines.download.http import DownloadError
from pipelines.download.imagenet import FILES, imagenet_weights
from pipelines.errors import StageError, UsageError
from pipelines.folders import DataFolder, RunFolder
from pipelines.training.checkpoints import new_tag, note_best, prune
from pipelines.training.config import TrainConfig
from pipelines.training.preflight import require_same_fingerprints, run_lock, with_starting_weights
from pipelines.training.run import train
from spin.errors import ModelFileError
from spin.network.backbone import BACKBONES, ResNetFeatures
from spin.network.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from spin.network.hmr import HMR, MeanParameters
from store.annotations.table import Annotations
from store.fits.fingerprint import Fingerprint

CONFIG = TrainConfig(
    datasets=("world",), backbone="resnet18", img_res=32, batch_size=4, max_steps=1, checkpoint_steps=1, picture_steps=99,
    run_smplify=False, precision="float32",
)  # fmt: skip


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """The address of a server, and the folder that it serves."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "mirror"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    server.server_close()
    thread.join()


def torchvision_file(folder: Path) -> str:
    """A state dict as torchvision writes it, with the head; named by its checksum."""
    torch.manual_seed(0)
    state = ResNetFeatures("resnet18").state_dict() | {
        "fc.weight": torch.zeros(9, 512),
        "fc.bias": torch.zeros(9),
    }
    torch.save(state, folder / "new.pth")
    name = f"resnet18-{hashlib.sha256((folder / 'new.pth').read_bytes()).hexdigest()[:8]}.pth"
    (folder / "new.pth").rename(folder / name)
    return name


def test_a_server_that_never_answers_ends_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipelines.download.imagenet, "TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts by its backlog, and answers nothing
        place = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(DownloadError, match=r"can't be reached or written .*timed out.*--backbone-weights FILE"):
            imagenet_weights(DataFolder(tmp_path), "resnet18", place=place)
    assert socket.getdefaulttimeout() is None


def test_every_backbone_has_imagenet_weights_of_a_checked_name() -> None:
    assert set(FILES) == set(BACKBONES)
    for backbone, file in FILES.items():
        assert file.startswith(f"{backbone}-") and file.endswith(".pth")
        int(file.removesuffix(".pth").rpartition("-")[2], 16)


def test_imagenet_weights_come_once_and_are_checked(mirror: tuple[str, Path], tmp_path: Path) -> None:
    place, folder = mirror
    data, file = DataFolder(tmp_path / "data"), torchvision_file(folder)
    get: Callable[[], Path] = partial(imagenet_weights, data, "resnet18", place=place, file=file)
    path = get()
    assert path.read_bytes() == (folder / file).read_bytes()
    assert {p.name for p in path.parent.iterdir()} == {file, "lock"}
    whole = (folder / file).read_bytes()
    (folder / file).unlink()
    assert get() == path, "asked for again"
    path.write_bytes(b"damaged")
    (folder / file).write_bytes(whole[:-1] + b"?")
    with pytest.raises(DownloadError, match="another file, its SHA-256"):
        get()
    (folder / file).write_bytes(whole)
    assert get().read_bytes() == whole


def test_without_a_connection_the_remedy_is_said(mirror: tuple[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"404.*get that file elsewhere and name it with --backbone-weights"):
        imagenet_weights(DataFolder(tmp_path), "resnet50", place=mirror[0])
    with pytest.raises(DownloadError, match=r"can't be reached .*refused.*--backbone-weights FILE"):
        imagenet_weights(DataFolder(tmp_path), "resnet50", place="http://127.0.0.1:9")


def test_a_training_starts_from_imagenet_weights_and_says_so_in_its_configuration(
    ray_running: None, preprocessed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, run = DataFolder(shutil.copytree(preprocessed, tmp_path / "data")), RunFolder.of(tmp_path, "run")
    weights = tmp_path / torchvision_file(tmp_path)
    monkeypatch.setattr(pipelines.training.preflight, "imagenet_weights", lambda folder, backbone: weights)
    train(data, run, replace(CONFIG, backbone_weights="imagenet"), resume=False, in_process=True)
    begun = load_checkpoint(run.checkpoint(0)).model
    state = torch.load(weights, weights_only=True)
    assert all(torch.equal(begun[name], state[name]) for name in state if not name.startswith("fc."))
    assert TrainConfig.load(run.config).backbone_weights == "imagenet"


def test_a_training_starts_from_a_published_checkpoint(ray_running: None, preprocessed: Path, tmp_path: Path) -> None:
    """model_checkpoint.pt as SPIN wrote it: names behind DataParallel's prefix, no counters, numbers of its own run."""
    data, run = DataFolder(shutil.copytree(preprocessed, tmp_path / "data")), RunFolder.of(tmp_path, "run")
    network = HMR("resnet18", mean=MeanParameters.from_body_pose(torch.full((69,), 0.1)))
    state = {f"module.{name}": t for name, t in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    path = tmp_path / "model_checkpoint.pt"
    torch.save(
        {
            "model": state,
            "epoch": 4,
            "batch_idx": 9,
            "batch_size": 64,
            "dataset_perm": [1, 0],
            "total_step_count": 99,
        },
        path,
        _use_new_zipfile_serialization=False,
    )
    train(data, run, replace(CONFIG, pretrained_checkpoint=str(path)), resume=False, in_process=True)
    begun = load_checkpoint(run.checkpoint(0))
    assert begun.step == 0 and run.checkpoint(1).is_file()
    assert all(torch.equal(begun.model[name.removeprefix("module.")], t) for name, t in state.items())


class Malicious:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("ran",)


def test_weights_that_are_none_are_refused_before_anything_starts(
    preprocessed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data, run = DataFolder(preprocessed), RunFolder.of(tmp_path, "run")

    def refuse(message: str, kind: type[Exception] = UsageError, **change: str) -> None:
        with pytest.raises(kind, match=message):
            train(data, run, replace(CONFIG, **change), resume=False)
        assert not run.root.exists()

    refuse("--pretrained-checkpoint gone.pt: no such file", pretrained_checkpoint="gone.pt")
    refuse("--backbone-weights gone.pth: no such file", backbone_weights="gone.pth")
    (tmp_path / "text.pt").write_text("no checkpoint")
    refuse(r"text\.pt: refused", ModelFileError, pretrained_checkpoint="text.pt")
    refuse(r"text\.pt: refused", ModelFileError, backbone_weights="text.pt")
    torch.save({"model": {"conv1.weight": Malicious()}}, tmp_path / "bad.pt")
    refuse("asks for code to be run", ModelFileError, pretrained_checkpoint="bad.pt")
    refuse("asks for code to be run", ModelFileError, backbone_weights="bad.pt")
    assert not (tmp_path / "ran").exists()
    torch.save(ResNetFeatures("resnet34").state_dict(), tmp_path / "34.pth")
    refuse("of a resnet34, the network is a resnet18; give --backbone resnet34", backbone_weights="34.pth")
    save_checkpoint(tmp_path / "34.pt", Checkpoint(ResNetFeatures("resnet34").state_dict()))
    refuse("of a resnet34, the network is a resnet18; give --backbone", pretrained_checkpoint="34.pt")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    refuse("of no ResNet that is known here", backbone_weights="other.pth")


def test_a_start_from_random_weights_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_starting_weights(DataFolder(tmp_path), RunFolder.of(tmp_path, "run"), CONFIG)
    assert "random weights; as published it starts from --backbone-weights imagenet" in capsys.readouterr().err


def test_a_run_goes_on_only_with_what_it_began_with(ray_running: None, preprocessed: Path, tmp_path: Path) -> None:
    data, run = DataFolder(shutil.copytree(preprocessed, tmp_path / "data")), RunFolder.of(tmp_path, "run")
    train(data, run, CONFIG, resume=False, in_process=True)
    known = Annotations.read(data.annotations("world"))
    known.take(range(len(known) - 1)).write(data.annotations("world"), provenance={"reader": "test"})
    with pytest.raises(StageError, match=r"the annotations of world changed since step 1, .*--pretrained-checkpoint"):
        train(data, run, replace(CONFIG, max_steps=2), resume=True, in_process=True)
    assert run.latest_checkpoint() == run.checkpoint(1)
    # Not even with fits made anew, which the store itself would take.
    shutil.rmtree(data.fits("world"))
    with pytest.raises(StageError, match="the annotations of world changed"):
        train(data, run, replace(CONFIG, max_steps=2), resume=True, in_process=True)
    known.write(data.annotations("world"), provenance={"reader": "test"})
    with pytest.raises(StageError, match=r"world have no tag 'run\.step1\..* --pretrained-checkpoint .*step_00000001\.pt"):
        train(data, run, replace(CONFIG, max_steps=2), resume=True, in_process=True)

    values = load_checkpoint(run.checkpoint(1)).config["fingerprints"]["world"]
    same = Fingerprint(**values)
    require_same_fingerprints(run, {"world": same})
    for part, name in (("body", "the body model"), ("objective", "the objective of the fits")):
        with pytest.raises(StageError, match=f"{name} of world changed since step 1, .* then, 'other:1' now"):
            require_same_fingerprints(run, {"world": replace(same, **{part: "other:1"})})


def test_a_damaged_newest_checkpoint_names_the_one_to_go_back_to(tmp_path: Path) -> None:
    run = RunFolder.of(tmp_path, "run")
    save_checkpoint(run.checkpoint(1), Checkpoint({"conv1.weight": torch.zeros(1)}))
    run.checkpoint(2).write_bytes(b"half")
    with pytest.raises(StageError, match=r"step_00000002\.pt: refused.*--resume --checkpoint .*step_00000001\.pt"):
        require_same_fingerprints(run, {})
    run.checkpoint(1).unlink()
    with pytest.raises(StageError, match="there is none before it"):
        require_same_fingerprints(run, {})


def test_a_run_is_trained_by_one_command_at_a_time(tmp_path: Path) -> None:
    run = RunFolder.of(tmp_path / "logs", "run")
    with run_lock(run), pytest.raises(UsageError, match="logs/run: another training is running"), run_lock(run):
        pass
    assert not run.root.exists()  # nothing came of it
    with run_lock(run):
        run.config.write_text("{}")
    with run_lock(run):  # the next one may
        assert run.config.is_file()


def test_pruning_leaves_the_tags_of_another_log_folder_s_run_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = (RunFolder.of(tmp_path / logs, "run-1") for logs in ("logs", "more-logs"))
    tags = [new_tag(mine, 1), new_tag(mine, 2), new_tag(other, 1)]
    mine.checkpoints.mkdir(parents=True)
    for step in (1, 2):
        mine.checkpoint(step).touch()
    removed: list[str] = []
    service = SimpleNamespace(tags=SimpleNamespace(remote=lambda: tags), untag=SimpleNamespace(remote=removed.extend))
    monkeypatch.setattr("ray.get", lambda answer: answer)
    prune(mine, {"world": service}, keep=1)
    assert mine.all_checkpoints() == [mine.checkpoint(2)]
    assert removed == tags[:1]


def test_the_best_that_was_measured_stays_and_its_tag_and_what_waits_to_be_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, removed = RunFolder.of(tmp_path, "run"), list[str]()
    tags = [new_tag(run, step) for step in range(8)]
    service = SimpleNamespace(tags=SimpleNamespace(remote=lambda: tags), untag=SimpleNamespace(remote=removed.extend))
    monkeypatch.setattr("ray.get", lambda answer: answer)
    run.checkpoints.mkdir(parents=True)
    run.to_validate.mkdir()
    for step in range(8):
        run.checkpoint(step).touch()
    (run.to_validate / run.checkpoint(4).name).touch()
    # One data set alone, or a step that is no checkpoint, is no best; of a step measured twice the last time counts.
    for step, a, b in ((9, 0, 0), (1, 0, 80), (2, 40, 60), (3, 50, 54), (5, 70, 30), (1, 90, 80)):
        journal.append(run.validation, {"step": step, "a/pa_mpjpe_mm": a, "b/pa_mpjpe_mm": b, "b/mpjpe_mm": -step})
    journal.append(run.validation, {"step": 6, "a/pa_mpjpe_mm": 1})
    prune(run, {"world": service}, 2, ("a", "b"))
    assert run.all_checkpoints() == [run.checkpoint(step) for step in (2, 4, 6, 7)]
    assert removed == [tags[step] for step in (0, 1, 3, 5)]
    assert json.loads(run.best.read_text()) == {
        "checkpoint": "step_00000002.pt", "step": 2, "metric": "pa_mpjpe_mm", "datasets": ["a", "b"], "value": 50,
    }  # fmt: skip
    journal.append(run.validation, {"step": 4, "a/pa_mpjpe_mm": 10, "b/pa_mpjpe_mm": 10})
    (run.to_validate / run.checkpoint(4).name).unlink()
    prune(run, {"world": service}, 2, ("a", "b"))
    assert run.all_checkpoints() == [run.checkpoint(step) for step in (4, 6, 7)]


def test_where_pa_mpjpe_is_not_known_a_mask_says_which_is_best(tmp_path: Path) -> None:
    run = RunFolder.of(tmp_path, "run")
    run.checkpoints.mkdir(parents=True)
    for step, accuracy in ((1, 0.7), (2, 0.9), (3, 0.9)):
        run.checkpoint(step).touch()
        journal.append(run.validation, {"step": step, "lsp/mask_accuracy": accuracy, "lsp/part_f1": -accuracy})
    assert note_best(run, ("lsp",)) == run.checkpoint(2)
    assert note_best(run, ()) is None
