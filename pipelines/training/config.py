"""Everything that decides what a training run computes; kept with the run as config.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pipelines.errors import StageError, UsageError
from pipelines.training.batch_plan import Plan, shares_of
from spin.errors import TrainingError
from spin.fitting.fitter import FitConfig
from spin.fitting.objective import OBJECTIVES, Objective
from spin.network.backbone import BACKBONES
from spin.training.config import AugmentationConfig, LossWeights, StepConfig
from spin.training.device import PRECISIONS
from store.files.atomic import write_file


@dataclass(frozen=True)
class TrainConfig:
    """Defaults are the published training's (SPIN, section 4), but for the solver."""

    datasets: tuple[str, ...]
    backbone: str = "resnet50"
    backbone_weights: str | None = None
    pretrained_checkpoint: str | None = None
    img_res: int = 224
    epochs: int = 50
    max_steps: int | None = None
    batch_size: int = 64  # of each worker
    accumulate: int = 1  # batches an optimiser step
    precision: str = "auto"  # of the convolutions
    channels_last: bool = True
    lr: float = 5e-5
    seed: int = 0
    workers: int = 1
    threads: int | None = None  # of each worker's computations; None: its share of the cores
    mix: dict[str, float] = field(
        default_factory=dict
    )  # shares of data sets that were named; see pipelines.training.batch_plan
    shuffle_train: bool = True
    num_workers: int = 2  # threads of each worker that decode images
    pin_memory: bool = True  # where there is a GPU
    time_to_run: float | None = None  # seconds, of one call of the command
    run_smplify: bool = True
    solver: str = "lm"
    smplify_iterations: int = 10
    objective: str = "anchored"
    ignore_3d: bool = False
    summary_steps: int = 10
    checkpoint_steps: int = 1000
    keep: int = 5  # newest checkpoints; 0: all
    test_steps: int = 1000  # between validations, where there are data sets for it
    eval_datasets: tuple[str, ...] = ()
    eval_images: int = 500  # of each, at most
    picture_steps: int = 500
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    step: StepConfig = field(default_factory=StepConfig)

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise UsageError(f"--backbone {self.backbone}: expected one of {', '.join(BACKBONES)}")
        if not 32 <= self.img_res <= 512:
            raise UsageError(f"--img-res {self.img_res}: expected 32 to 512 px")
        if self.checkpoint_steps % self.accumulate:
            raise UsageError(
                f"--checkpoint-steps {self.checkpoint_steps}: expected a multiple of --accumulate {self.accumulate}, "
                "as a checkpoint holds no half of an optimiser's step"
            )
        if self.precision not in ("auto", *PRECISIONS):
            raise UsageError(f"--precision {self.precision}: expected auto, {' or '.join(PRECISIONS)}")
        if self.seed < 0:
            raise UsageError(f"--seed {self.seed}: expected 0 or more")
        if self.objective not in OBJECTIVES:
            raise UsageError(f"--objective {self.objective}: expected {' or '.join(OBJECTIVES)}")
        if not self.lr > 0:
            raise UsageError(f"--lr {self.lr}: expected a number above 0")
        if self.time_to_run is not None and not self.time_to_run > 0:
            raise UsageError(f"--time-to-run {self.time_to_run}: expected seconds above 0")

    @property
    def fitting(self) -> FitConfig:
        """How a prediction is fitted in the loop."""
        objective = Objective.named(self.objective)
        # An anchored fit also begins at what the lifter says: see spin.training.loop.
        init = ("lifter",) if objective.is_anchored else ("network",)
        return FitConfig(self.solver, self.smplify_iterations, objective, init)  # type: ignore[arg-type]

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, (json.dumps(asdict(self), indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> TrainConfig:
        """Raises StageError if the file is not a run's configuration."""
        try:
            return cls.from_json(json.loads(path.read_text()))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise StageError(f"{path}: not a training configuration ({error}); it lies in a run's folder") from error

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> TrainConfig:
        step = content["step"]
        return cls(
            **content
            | {
                "datasets": tuple(content["datasets"]),
                "eval_datasets": tuple(content.get("eval_datasets", ())),
                "augmentation": AugmentationConfig(**content["augmentation"]),
                "step": StepConfig(**step | {"weights": LossWeights(**step["weights"])}),
            }
        )

    def resumed(self, given: dict[str, Any]) -> TrainConfig:
        """This configuration with what may change on resuming; UsageError if anything else was asked to change.

        `given`: by the names that the command line has for them (see `from_options`).
        """
        # Not the number of workers: which samples a step takes depends on it.
        free = {
            "epochs", "max_steps", "summary_steps", "checkpoint_steps", "test_steps", "eval_datasets", "eval_images",
            "picture_steps", "keep", "threads", "num_workers", "pin_memory", "time_to_run",
        }  # fmt: skip
        for name, value in given.items():
            if name not in free and self._setting(name) != value:
                raise UsageError(
                    f"{_option(name)} {_shown(value)}: the run to resume has {_shown(self._setting(name))}; "
                    "leave it out, or start a new run"
                )
        return replace(self, **{k: v for k, v in given.items() if k in free})

    def _setting(self, option: str) -> Any:
        part, name = _PLACES.get(option, ("", option))
        owner: Any = {"augmentation": self.augmentation, "step": self.step, "weights": self.step.weights}
        return getattr(owner.get(part, self), name)

    @classmethod
    def from_options(cls, datasets: tuple[str, ...], options: dict[str, Any]) -> TrainConfig:
        """As the command line has it: the settings of nested parts under the published options' names.

        Raises UsageError.
        """
        parts: dict[str, dict[str, Any]] = {"": {}, "augmentation": {}, "step": {}, "weights": {}}
        for option, value in options.items():
            part, name = _PLACES.get(option, ("", option))
            parts[part][name] = value
        try:
            step = StepConfig(weights=LossWeights(**parts["weights"]), **parts["step"])
            return cls(
                datasets=datasets,
                augmentation=AugmentationConfig(**parts["augmentation"]),
                step=step,
                **parts[""],
            )
        except TrainingError as error:
            # It names the field; the user knows the option.
            found = [o for o, (_, name) in _PLACES.items() if f".{name} is" in str(error)]
            raise UsageError(f"{_option(found[0])}: {error}" if found else str(error)) from error


def plan_of(config: TrainConfig, sizes: list[int], world: int = 1, rank: int = 0) -> Plan:
    """Which samples each step takes, of data sets of these sizes. UsageError if the mix can't be had."""
    shares = shares_of(dict(zip(config.datasets, sizes)), config.mix)
    return Plan(
        tuple(sizes),
        config.batch_size,
        world,
        rank,
        config.seed,
        tuple(shares.values()),
        config.shuffle_train,
    )


def last_step(config: TrainConfig, plan: Plan) -> int:
    """The number of batches of each worker in the whole training; no optimiser's step is left half done."""
    steps = config.epochs * plan.batches_per_epoch
    steps = steps if config.max_steps is None else min(steps, config.max_steps)
    return steps - steps % config.accumulate


# Options of nested settings, as published (utils/train_options.py) but for the last: option -> part, and its name there.
_PLACES = {
    "rot_factor": ("augmentation", "rotation_deg"),
    "scale_factor": ("augmentation", "scale"),
    "noise_factor": ("augmentation", "noise"),
    "keypoint_loss_weight": ("weights", "keypoints"),
    "pose_loss_weight": ("weights", "pose"),
    "beta_loss_weight": ("weights", "betas"),
    "shape_loss_weight": ("weights", "shape"),
    "openpose_train_weight": ("weights", "openpose"),
    "gt_train_weight": ("weights", "ground_truth"),
    "smplify_threshold": ("step", "accept_loss_px2"),
    "clip_gradient": ("step", "clip_norm"),
}
_SPELLED = {"smplify_iterations": "--iterations", "datasets": "DATASET", "epochs": "--num-epochs"}


def _option(name: str) -> str:
    return _SPELLED.get(name, "--" + name.replace("_", "-"))


def _shown(value: Any) -> Any:
    return ",".join(map(str, value)) if isinstance(value, tuple) else value
