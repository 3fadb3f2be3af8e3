"""Train the SPIN loop on one's own keypoints: preprocess, fit, train, export.

    python examples/train_on_your_own_data.py [FOLDER] [--epochs N]

Each step is a command that can be killed and run again. The people here are a small made-up world in COCO's format; put
your images and keypoints in their place (docs/own-data.md).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path


def spin_pipe(*arguments: str, folder: Path) -> None:
    print("$ spin-pipe", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "pipelines.cli", *arguments], check=True, cwd=folder)


def main(folder: Path, people: int = 40, epochs: int = 1) -> None:
    spin_pipe("synth", "--out", "raw", "--people", str(people), "--test-people", "8", folder=folder)
    annotations = "raw/annotations/person_keypoints_train2014.json"
    spin_pipe(
        "preprocess", "custom", "--images", "raw/train2014", "--annotations", annotations, "--name", "mine",
        folder=folder,
    )  # fmt: skip
    spin_pipe("fit-static", "mine", folder=folder)
    spin_pipe(
        "train", "mine", "--run", "first", "--workers", "1", "--backbone", "resnet18", "--img-res", "64",
        "--batch-size", "8", "--epochs", str(epochs), folder=folder,
    )  # fmt: skip
    spin_pipe("export-fits", "mine", folder=folder)
    print(f"final fits: {folder / 'data' / 'final_fits' / 'mine.npz'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train the SPIN loop on a small data set.")
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--epochs", type=int, default=1)
    options = parser.parse_args()
    main(options.folder or Path(tempfile.mkdtemp()), epochs=options.epochs)
