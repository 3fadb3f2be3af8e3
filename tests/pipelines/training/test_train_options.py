"""The published command line and its files, taken as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import pipelines.training.run
from pipelines.cli import cli
from pipelines.errors import UsageError
from pipelines.training.config import TrainConfig
from pipelines.training.run import TrainSummary

# As SPIN's utils/train_options.py has them; every one away from its default.
PUBLISHED: dict[str, Any] = {
    "time_to_run": 3600.0, "num_workers": 4, "pin_memory": False, "pretrained_checkpoint": "net.pt", "num_epochs": 9,
    "lr": 1e-4, "batch_size": 32, "summary_steps": 50, "test_steps": 70, "checkpoint_steps": 500, "img_res": 192,
    "rot_factor": 20.0, "noise_factor": 0.1, "scale_factor": 0.15, "ignore_3d": True, "shape_loss_weight": 0.5,
    "keypoint_loss_weight": 4.0, "pose_loss_weight": 2.0, "beta_loss_weight": 0.01, "openpose_train_weight": 0.25,
    "gt_train_weight": 0.75, "run_smplify": False, "smplify_threshold": 80.0, "num_smplify_iters": 7, "shuffle_train": False,
}  # fmt: skip


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch, preprocessed: Path, tmp_path: Path):
    """Runs the command up to where training would begin; the configuration it would train with, and the run's name."""
    found: list[tuple[TrainConfig, str]] = []

    def train(data: Any, run: Any, config: TrainConfig, **_: Any) -> TrainSummary:
        found.append((config, run.root.name))
        return TrainSummary(run.root, run.checkpoint(0), 0, 0, {}, {})

    monkeypatch.setattr(pipelines.training.run, "train", train)

    def command(*arguments: str) -> tuple[TrainConfig, str]:
        folders = ["--data", str(preprocessed), "--log_dir", str(tmp_path / "logs"), "--dataset", "world"]
        result = CliRunner().invoke(cli, ["train", *folders, *arguments], catch_exceptions=False, standalone_mode=False)
        assert result.exit_code == 0, result.output
        return found.pop()

    return command


def as_arguments(options: dict[str, Any], dash: str) -> list[str]:
    words = []
    for name, value in options.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no_{name}")
        else:
            words += [f"--{name}", str(value)]
    return [w.replace("_", dash) if w.startswith("--") else w for w in words]


def expected(config: TrainConfig) -> None:
    weights, step, augmentation = config.step.weights, config.step, config.augmentation
    assert (config.time_to_run, config.num_workers, config.pin_memory) == (3600, 4, False)
    assert (config.pretrained_checkpoint, config.epochs, config.lr, config.batch_size) == (
        "net.pt",
        9,
        1e-4,
        32,
    )
    assert (config.summary_steps, config.test_steps, config.checkpoint_steps) == (50, 70, 500)
    assert (config.img_res, config.ignore_3d, config.run_smplify, config.shuffle_train) == (
        192,
        True,
        False,
        False,
    )
    assert (augmentation.rotation_deg, augmentation.noise, augmentation.scale) == (20, 0.1, 0.15)
    assert (weights.shape, weights.keypoints, weights.pose, weights.betas) == (0.5, 4, 2, 0.01)
    assert (weights.openpose, weights.ground_truth) == (0.25, 0.75)
    assert (step.accept_loss_px2, config.smplify_iterations) == (80, 7)


@pytest.mark.parametrize("dash", ["-", "_"])
def test_published_options_mean_what_they_say(begun, dash: str) -> None:
    config, _ = begun("--name", "x", *as_arguments(PUBLISHED, dash))
    expected(config)
    assert TrainConfig.from_json(json.loads(json.dumps(config.__dict__, default=vars))) == config


def test_defaults_are_the_published_ones_but_for_the_solver_and_the_log(begun) -> None:
    config, _ = begun("--name", "x")
    assert config == TrainConfig(datasets=("world",))
    assert (config.epochs, config.lr, config.batch_size, config.img_res) == (50, 5e-5, 64, 224)
    assert config.step.weights.total == 60
    assert (config.step.accept_loss_px2, config.shuffle_train, config.pin_memory) == (100, True, True)


def test_options_from_a_published_file_the_command_line_first(begun, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    whole = PUBLISHED | {
        "name": "theirs", "resume": False, "log_dir": "/there/logs/theirs", "summary_dir": "/there/tensorboard",
        "checkpoint_dir": "/there/checkpoints", "checkpoint": None, "from_json": None,
    }  # fmt: skip
    path.write_text(json.dumps(whole))
    config, name = begun("--from_json", str(path))
    expected(config)
    assert name == "theirs"
    config, name = begun("--from-json", str(path), "--name", "ours", "--lr", "0.5", "--run-smplify")
    assert (name, config.lr, config.run_smplify, config.epochs) == ("ours", 0.5, True, 9)
    path.write_text('{"time_to_run": Infinity, "mix": {"world": 1}}')  # as json.dump writes the published default
    config, _ = begun("--from-json", str(path))
    assert (config.time_to_run, config.mix) == (None, {"world": 1})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "expected an object of options"),
        ('{"lr": NaN}', "not JSON"),
        ("__import__('os')", "not JSON"),
        ('{"learning_rate": 1}', "'learning_rate' is no option of train"),
    ],
)
def test_a_file_of_options_that_is_none(begun, tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "options.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=message):
        begun("--from-json", str(path))


def test_runs_without_a_name_are_counted(begun, tmp_path: Path) -> None:
    assert begun()[1] == "run-1"
    (tmp_path / "logs" / "run-1").mkdir(parents=True)
    assert begun()[1] == "run-2"


def test_a_senseless_value_names_its_option(begun) -> None:
    with pytest.raises(UsageError, match=r"--rot-factor: .*expected degrees"):
        begun("--rot-factor", "200")
    with pytest.raises(UsageError, match=r"--smplify-threshold: "):
        begun("--smplify-threshold", "-1")
    with pytest.raises(UsageError, match="--mix half: expected NAME=SHARE"):
        begun("--mix", "half")
    with pytest.raises(UsageError, match="--time-to-run"):
        begun("--time-to-run", "0")
    with pytest.raises(UsageError, match="--checkpoint goes with --resume"):
        begun("--checkpoint", "x.pt")


def test_what_resuming_may_change(begun) -> None:
    config, _ = begun("--name", "x")
    assert config.resumed({"epochs": 9, "num_workers": 5}).epochs == 9
    for option, value, message in (
        ("lr", 0.1, r"--lr 0\.1: the run to resume has 5e-05"),
        ("workers", 2, "--workers 2"),
        ("rot_factor", 1.0, r"--rot-factor 1\.0: the run to resume has 30"),
        ("pose_loss_weight", 3.0, "--pose-loss-weight"),
        ("mix", {"world": 1.0}, "--mix"),
    ):
        with pytest.raises(UsageError, match=message):
            config.resumed({option: value})


def test_a_file_has_options_as_the_help_names_them(begun: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"dataset": "world", "eval_dataset": "world", "mix": "world=1"}))
    config, _ = begun("--from-json", str(file))
    assert config.datasets == ("world",)
    assert config.eval_datasets == ("world",)
    assert config.mix == {"world": 1}
