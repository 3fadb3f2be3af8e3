"""Everything that decides what a training run computes: kept with the run as config.json, and the options of `train`.

A setting is one field here. Its metadata holds what the command line needs besides type and default (see `Setting`). Options of
the nested parts have the published names, and are listed in `_NESTED`. Torch is imported when a fit is configured, so that
`train --help` does not wait for it.
"""

from __future__ import annotations

import json
import types
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from pipelines.errors import StageError, UsageError
from spin.errors import TrainingError
from spin.training.config import AugmentationConfig, LossWeights, StepConfig
from store.files.atomic import write_file

if TYPE_CHECKING:
    from spin.fitting.fitter import FitConfig

RUN, SEEN, LOOP, LOSS, WATCH, MACHINE = HEADINGS = (
    "The run",
    "What the network sees",
    "Fits in the loop",
    "Losses and supervision",
    "Logs and validation",
    "Machine",
)


@dataclass(frozen=True)
class Setting:
    """What the command line knows of a setting. `kind` and `default` are those of the dataclass's field."""

    help: str | None = None
    heading: str = RUN
    names: tuple[str, ...] = ()  # spelled on the command line, the first in errors; default: the field's name
    also: tuple[str, ...] = ()  # former or published names, accepted but not shown
    choices: tuple[str, ...] = ()
    least: int | None = None
    is_file: bool = False
    metavar: str | None = None
    resumable: bool = False  # may change when a run is resumed
    option: str = ""  # the name of the value, as the command passes it
    kind: Any = None
    default: Any = None

    @property
    def spelled(self) -> str:
        return self.names[0]


def _setting(default: Any, help: str | None = None, heading: str = RUN, **more: Any) -> Any:
    return field(default=default, metadata={"setting": Setting(help, heading, **more)})


_MIX = Setting(
    "A data set's share of what is seen; may be repeated. Default: as published, h36m 0.3, mpi-inf-3dhp 0.1, all others "
    "0.6 by their size, of those that are there.",
    metavar="NAME=SHARE",
)


@dataclass(frozen=True)
class TrainConfig:
    """Defaults are the published training's (SPIN, section 4), but for the solver."""

    datasets: tuple[str, ...]
    mix: dict[str, float] = field(default_factory=dict, metadata={"setting": _MIX})
    pretrained_checkpoint: str | None = _setting(None, "Start from this network, ours or SPIN's.", is_file=True)
    epochs: int = _setting(50, least=1, names=("--epochs", "--num-epochs"), resumable=True)
    max_steps: int | None = _setting(None, "Stop after this many steps, even within an epoch.", least=1, resumable=True)
    time_to_run: float | None = _setting(
        None,
        "Stop by then, at a checkpoint; --resume continues.",
        metavar="SECONDS",
        resumable=True,
    )
    batch_size: int = _setting(64, "Of each worker.", least=1)
    lr: float = _setting(5e-5, "Adam's step size.")
    seed: int = _setting(0, least=0)
    keep: int = _setting(
        5,
        "How many of the newest checkpoints are kept, with the states of the fits that belong to them; the best of those "
        "measured on --eval-dataset, which checkpoints/best.json names, is kept, too; 0: all.",
        least=0,
        resumable=True,
    )
    checkpoint_steps: int = _setting(1000, "Steps between checkpoints.", least=1, resumable=True)
    backbone: str = _setting("resnet50", heading=SEEN, choices=("resnet18", "resnet34", "resnet50", "resnet101"))
    backbone_weights: str | None = _setting(
        None,
        "ImageNet weights: a torchvision file, or 'imagenet' to download torchvision's (published).",
        SEEN,
        is_file=True,
    )
    img_res: int = _setting(224, "Side of the crop the network sees, px.", SEEN)
    shuffle_train: bool = _setting(True, "A new order in every epoch.", SEEN)
    run_smplify: bool = _setting(True, "Fit in the loop.", LOOP)
    solver: str = _setting("lm", "adam: the published procedure.", LOOP, choices=("lm", "adam"))
    objective: str = _setting(
        "anchored",
        "Of the fits, as of those in the store: see fit-static.",
        LOOP,
        choices=("anchored", "published"),
    )
    smplify_iterations: int = _setting(
        10,
        "Of the solver (published: --solver adam with 100).",
        LOOP,
        least=1,
        names=("--iterations",),
        also=("--num-smplify-iters",),
    )
    ignore_3d: bool = _setting(False, "Use no true bodies and 3D joints, nor fits made with them.", LOSS)
    eval_datasets: tuple[str, ...] = _setting(
        (),
        "Data set to measure on during training; may be repeated.",
        WATCH,
        names=("--eval-dataset",),
        resumable=True,
    )
    test_steps: int = _setting(1000, "Steps between measurements.", WATCH, least=1, resumable=True)
    eval_images: int = _setting(500, "Of each data set, at most.", WATCH, least=1, resumable=True)
    summary_steps: int = _setting(
        10, "Steps between lines of the table and points of the curves.", WATCH, least=1, resumable=True
    )
    picture_steps: int = _setting(500, "Steps between pictures in TensorBoard.", WATCH, least=1, resumable=True)
    # Not resumable: which samples a step takes depends on the number of workers.
    workers: int = _setting(1, "Trainer processes.", MACHINE, least=1)
    threads: int | None = _setting(
        None,
        "Of each trainer's computations. Default: its share of the cores.",
        MACHINE,
        least=1,
        resumable=True,
    )
    accumulate: int = _setting(1, "Batches an optimiser step: 8 with one worker is the batch of 8 workers.", MACHINE, least=1)
    precision: str = _setting(
        "auto",
        "Of the convolutions. auto: bfloat16 where the processor multiplies it (new GPUs, CPUs with AMX).",
        MACHINE,
        choices=("auto", "float32", "bfloat16"),
    )
    channels_last: bool = _setting(True, "Memory format of images; faster.", MACHINE)
    num_workers: int = _setting(2, "Threads of each trainer that decode images.", MACHINE, least=1, resumable=True)
    pin_memory: bool = _setting(True, "Where there is a GPU.", MACHINE, resumable=True)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    step: StepConfig = field(default_factory=StepConfig)

    def __post_init__(self) -> None:
        for item in SETTINGS.values():
            value = getattr(self, item.option, None)
            if item.choices and value not in item.choices:
                raise UsageError(f"{item.spelled} {value}: expected one of {', '.join(item.choices)}")
        if not 32 <= self.img_res <= 512:
            raise UsageError(f"--img-res {self.img_res}: expected 32 to 512 px")
        if self.checkpoint_steps % self.accumulate:
            raise UsageError(
                f"--checkpoint-steps {self.checkpoint_steps}: expected a multiple of --accumulate {self.accumulate}, "
                "as a checkpoint holds no half of an optimiser's step"
            )
        if self.seed < 0:
            raise UsageError(f"--seed {self.seed}: expected 0 or more")
        if not self.lr > 0:
            raise UsageError(f"--lr {self.lr}: expected a number above 0")
        if self.time_to_run is not None and not self.time_to_run > 0:
            raise UsageError(f"--time-to-run {self.time_to_run}: expected seconds above 0")

    @property
    def fitting(self) -> FitConfig:
        """How a prediction is fitted in the loop."""
        from spin.fitting.fitter import FitConfig
        from spin.fitting.objective import Objective

        objective = Objective.named(self.objective)
        # An anchored fit also starts from the lifter's body: see spin.training.loop.
        init = ("lifter",) if objective.is_anchored else ("network",)
        return FitConfig(self.solver, self.smplify_iterations, objective, init)  # type: ignore[arg-type]

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, (json.dumps(asdict(self), indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> TrainConfig:
        """Read a run's configuration. Raise StageError if the file is not one."""
        try:
            return cls.from_json(json.loads(path.read_text()))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise StageError(
                f"{path}: not a training configuration ({error}); expected the config.json of a run's folder"
            ) from error

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
        """Return this configuration with what may change on resuming. Raise UsageError if another setting would change.

        `given`: by the names that the command line has for them (see `from_options`).
        """
        free = {name for name, item in SETTINGS.items() if item.resumable}
        for name, value in given.items():
            if name not in free and self._value(name) != value:
                spelled = "DATASET" if name == "datasets" else SETTINGS[name].spelled
                raise UsageError(
                    f"{spelled} {_shown(value)}: the run to resume has {_shown(self._value(name))}; "
                    "leave it out, or start a new run"
                )
        return replace(self, **{k: v for k, v in given.items() if k in free})

    def _value(self, option: str) -> Any:
        part, name, *_ = _NESTED.get(option, ("", option))
        owner: Any = {"augmentation": self.augmentation, "step": self.step, "weights": self.step.weights}
        return getattr(owner.get(part, self), name)

    @classmethod
    def from_options(cls, datasets: tuple[str, ...], options: dict[str, Any]) -> TrainConfig:
        """Return the configuration of the command line's values, by the names of SETTINGS. Raise UsageError."""
        parts: dict[str, dict[str, Any]] = {"": {}, **{part: {} for part in _PARTS}}
        for option, value in options.items():
            part, name, *_ = _NESTED.get(option, ("", option))
            parts[part][name] = value
        try:
            step = StepConfig(weights=LossWeights(**parts["weights"]), **parts["step"])
            augmentation = AugmentationConfig(**parts["augmentation"])
            return cls(datasets=datasets, augmentation=augmentation, step=step, **parts[""])
        except TrainingError as error:
            # It names the field; the user knows the option.
            found = [o for o, (_, name, *_) in _NESTED.items() if f".{name} is" in str(error)]
            raise UsageError(f"{SETTINGS[found[0]].spelled}: {error}" if found else str(error)) from error


_PARTS: dict[str, type] = {"augmentation": AugmentationConfig, "weights": LossWeights, "step": StepConfig}
# Options of nested settings, as published (utils/train_options.py) but for the last: option -> part, its field there, the rest.
_NESTED: dict[str, tuple[str, str, Setting]] = {
    "rot_factor": ("augmentation", "rotation_deg", Setting("Augmentation: turns, degrees.", SEEN)),
    "scale_factor": ("augmentation", "scale", Setting("Augmentation: size of the box.", SEEN)),
    "noise_factor": ("augmentation", "noise", Setting("Augmentation: colour gains.", SEEN)),
    "keypoint_loss_weight": (
        "weights",
        "keypoints",
        Setting("Of 2D keypoints, and of known 3D joints.", LOSS),
    ),
    "pose_loss_weight": ("weights", "pose", Setting("Of joints' rotations.", LOSS)),
    "beta_loss_weight": ("weights", "betas", Setting("Of shape coefficients.", LOSS)),
    "shape_loss_weight": ("weights", "shape", Setting("Of vertices; needs the full mesh.", LOSS)),
    "openpose_train_weight": ("weights", "openpose", Setting("Of OpenPose's 25 keypoints.", LOSS)),
    "gt_train_weight": ("weights", "ground_truth", Setting("Of the 24 annotated keypoints.", LOSS)),
    "smplify_threshold": (
        "step",
        "accept_loss_px2",
        Setting("A fit supervises if its reprojection loss, px², is below.", LOOP),
    ),
    "clip_gradient": (
        "step",
        "clip_norm",
        Setting(
            "Shorten longer gradients to this, against batches that undo a training; 0: don't (published).",
            LOSS,
            metavar="NORM",
        ),
    ),
}


def _complete(setting: Setting, option: str, owner: type, item: Field[Any]) -> Setting:
    """Return a setting with what the dataclass's field says of it."""
    kind = get_type_hints(owner)[item.name]
    if get_origin(kind) in (Union, types.UnionType):  # of a type and None
        kind = next(t for t in get_args(kind) if t is not type(None))
    default = item.default if item.default is not MISSING else None
    names = setting.names or ("--" + option.replace("_", "-"),)
    return replace(setting, names=names, option=option, kind=get_origin(kind) or kind, default=default)


def _settings() -> dict[str, Setting]:
    known: list[tuple[str, type, Field[Any], Setting]]
    known = [(i.name, TrainConfig, i, i.metadata["setting"]) for i in fields(TrainConfig) if i.metadata]
    for option, (part, name, setting) in _NESTED.items():
        owner = _PARTS[part]
        known.append((option, owner, next(i for i in fields(owner) if i.name == name), setting))
    return {option: _complete(setting, option, owner, item) for option, owner, item, setting in known}


SETTINGS = _settings()
"""Every setting that the command line has, by the name of its value."""


def _shown(value: Any) -> Any:
    return ",".join(map(str, value)) if isinstance(value, tuple) else value
