"""Everything that decides what a training run computes; kept with the run as config.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from pipelines.failures import StageError, UsageError
from spin.fitting.fitter import FitConfig
from spin.fitting.objective import OBJECTIVES, Objective
from spin.network.backbone import BACKBONES
from spin.training.config import AugmentationConfig, LossWeights, StepConfig
from store.durable import write_file


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
    lr: float = 5e-5
    seed: int = 0
    workers: int = 1
    run_smplify: bool = True
    solver: str = "lm"
    smplify_iterations: int = 10
    objective: str = "anchored"
    ignore_3d: bool = False
    summary_steps: int = 10
    checkpoint_steps: int = 1000
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    step: StepConfig = field(default_factory=StepConfig)

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise UsageError(f"--backbone {self.backbone}: expected one of {', '.join(BACKBONES)}")
        if not 32 <= self.img_res <= 512:
            raise UsageError(f"--img-res {self.img_res}: expected 32 to 512 px")
        if self.seed < 0:
            raise UsageError(f"--seed {self.seed}: expected 0 or more")
        if self.objective not in OBJECTIVES:
            raise UsageError(f"--objective {self.objective}: expected {' or '.join(OBJECTIVES)}")
        if not self.lr > 0:
            raise UsageError(f"--lr {self.lr}: expected a number above 0")

    @property
    def fitting(self) -> FitConfig:
        """How a prediction is fitted in the loop."""
        objective = Objective.named(self.objective)
        return FitConfig(self.solver, self.smplify_iterations, objective, init=("network",))  # type: ignore[arg-type]

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, (json.dumps(asdict(self), indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> TrainConfig:
        """Raises StageError if the file is not a run's configuration."""
        try:
            return cls.from_json(json.loads(path.read_text()))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise StageError(
                f"{path}: not a training configuration ({error}); it lies in a run's folder"
            ) from error

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> TrainConfig:
        step = content["step"]
        return cls(
            **content
            | {
                "datasets": tuple(content["datasets"]),
                "augmentation": AugmentationConfig(**content["augmentation"]),
                "step": StepConfig(**step | {"weights": LossWeights(**step["weights"])}),
            }
        )

    def resumed(self, given: dict[str, Any]) -> TrainConfig:
        """This configuration with what may change on resuming; UsageError if anything else was asked to change."""
        # Not the number of workers: which samples a step takes depends on it.
        free = {"epochs", "max_steps", "summary_steps", "checkpoint_steps"}
        for name, value in given.items():
            if name not in free and getattr(self, name) != value:
                named = {
                    "augmentation": "--rot-factor, --scale-factor or --noise-factor",
                    "datasets": "--dataset",
                }
                named |= {"smplify_iterations": "--num-smplify-iters"}
                option = named.get(name, "--" + name.replace("_", "-"))
                raise UsageError(
                    f"{option} {value}: the run to resume has {getattr(self, name)}; leave it out, or start a new run"
                )
        known = {f.name for f in fields(self)}
        return replace(self, **{k: v for k, v in given.items() if k in free & known})
