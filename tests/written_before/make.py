"""Write the files of this folder: what the code made before its modules moved, and the answers that it gave.

Run once, at commit 0fda72c, as `python tests/written_before/make.py EMPTY_FOLDER`; kept to show how the files came about,
it need not run with later code. The network's weights, and what Adam knows of them, are replaced by views of a few numbers:
names, shapes and types are those of a trained ResNet-18, the file is small. An optimiser can load them, but not step with them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from pipelines.compare import compare_results
from pipelines.layout import DataFolder, RunFolder
from store.annotation_schema import ARRAYS, TEXTS
from store.records import COLUMNS

from pipelines.evaluation.result import read_result
from spin.network.checkpoints import load_checkpoint, network_from_checkpoint, save_checkpoint
from store.annotations import Annotations
from store.crops import PackedCrops
from store.exchange import read_fits_file, read_samples_file
from store.fits import FitStore

ROOT = "raw/world"
FORMATS = ("spin", "static", "mview", "eft", "4dhumans", "bedlam")
STRIDES = {4: (7, 5, 3, 1), 2: (7, 5)}


def command(*words: str) -> None:
    subprocess.run(["spin-pipe", *words], check=True)


def every_column() -> Annotations:
    """Three rows of one pose in calibrated views, of which the first knows everything."""
    rng, first = np.random.default_rng(5), np.array([True, False, False])
    all_rows = np.ones(3, bool)

    def of_first(*shape: int) -> np.ndarray:
        return (rng.normal(size=(3, *shape)) * first.reshape(3, *[1] * len(shape))).astype(np.float32)

    return Annotations(
        name="views", image_root=ROOT, image=[f"S1/camera{i}.jpg" for i in range(3)],
        center_px=rng.uniform(50, 99, (3, 2)).astype(np.float32), scale=np.array([0.5, 0.6, 0.7], np.float32),
        keypoints_px=rng.uniform(0, 1, (3, 49, 3)).astype(np.float32), source=["a:0", "a:1", "é:2"],
        openpose_match=["", "no person near enough", ""], has_smpl=first, pose=of_first(72), betas=of_first(10),
        has_joints3d=first, joints3d_m=of_first(24, 4), has_joints17=first, joints17_m=of_first(17, 3),
        gender=["female", "male", ""], has_camera=all_rows, focal_px=np.array([1100, 1200, 1300], np.float32),
        principal_px=rng.uniform(50, 99, (3, 2)).astype(np.float32), has_view=all_rows,
        view_rotation=np.stack([np.eye(3)[[0, 1, 2]], np.eye(3)[[1, 2, 0]], np.eye(3)[[2, 0, 1]]]).astype(np.float32),
        view_translation_m=rng.normal(size=(3, 3)).astype(np.float32), pose_id=["p", "p", "p"],
        mask=["m.png", "", ""], part=["", "p.png", ""],
    )  # fmt: skip


def shrink(path: Path) -> None:
    """The checkpoint with its large tensors replaced by views of a few numbers."""
    few = 0.02 * torch.randn(13_000, generator=torch.Generator().manual_seed(1))
    squares = few**2

    def small(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() not in STRIDES or tensor.numel() < 1000:
            return tensor.clone()
        return (squares if name == "exp_avg_sq" else few).as_strided(tensor.shape, STRIDES[tensor.dim()])

    before = load_checkpoint(path)
    optimiser = dict(before.optimizer or {})
    optimiser["state"] = {
        key: {name: small(name, value) for name, value in state.items()} for key, state in optimiser["state"].items()
    }
    model = {name: small(name, tensor) for name, tensor in before.model.items()}
    save_checkpoint(path, replace(before, model=model, optimizer=optimiser))


def after_the_tag(store: FitStore) -> None:
    """Two segments: retractions, and fits of another run, of which one takes a retracted sample's place."""
    store.reset(np.array([1, 4]), where="loss > 1")
    fits = store.at("static").get(np.array([1, 2]))
    columns = {name: getattr(fits, name).copy() for name in COLUMNS}
    columns["score"][:] = columns["score"] / 2
    columns["epoch"][:] = store.get(np.array([1, 2])).epoch
    columns["run"][:] = store.name_run("by-hand")
    store.merge(np.array([1, 2]), type(fits)(**columns))
    store.flush()
    store.set_fence("first", "fence-of-first")


def annotation_columns(name: str, a: Annotations) -> dict[str, np.ndarray]:
    out = {f"{name}/{c}": getattr(a, c) for c in ARRAYS}
    return out | {f"{name}/{c}": np.array(getattr(a, c), np.str_) for c in TEXTS}


def main(work: Path) -> None:
    out = Path(__file__).parent.resolve()
    for there in out.iterdir():
        if there.name != "make.py":
            shutil.rmtree(there) if there.is_dir() else there.unlink()
    os.chdir(work)
    command("synth", "--out", ROOT, "--people", "14", "--test-people", "6", "--seed", "3", "--truth-share", "0.5")
    command("preprocess", "coco", "--root", ROOT, "--name", "world", "--workers", "1")
    command("preprocess", "coco", "--root", ROOT, "--split", "val2014", "--name", "world-test", "--workers", "1")
    command("pack", "world", "--img-res", "64", "--quality", "50", "--workers", "1")
    command("fit-static", "world", "--workers", "1")
    command(
        "train", "--name", "first", "--dataset", "world", "--backbone", "resnet18", "--img-res", "64", "--batch-size", "4",
        "--max-steps", "4", "--checkpoint-steps", "2", "--keep", "1", "--summary-steps", "2", "--lr", "1e-3",
        "--eval-dataset", "world-test", "--test-steps", "4", "--precision", "float32",
    )  # fmt: skip
    data, run = DataFolder(Path("data")), RunFolder(Path("logs/first"))
    command("eval", "--stored-fits", "--dataset", "world", "--workers", "1", "--out", "results/fits.json")
    command(
        "eval",
        "--name",
        "first",
        "--dataset",
        "world",
        "--workers",
        "1",
        "--out",
        "results/network-world.json",
    )
    command(
        "eval",
        "--name",
        "first",
        "--dataset",
        "world-test",
        "--workers",
        "1",
        "--out",
        "results/network.json",
    )
    newest = run.latest_checkpoint()
    assert newest is not None
    shrink(newest)
    for form in FORMATS:
        command("export-fits", "world", "--format", form)
    command("export-annotations", "world")
    # The folder that the images were in is not part of the content hash.
    for name in ("world", "world-test"):
        known = Annotations.read(data.annotations(name))
        replace(known, image_root=ROOT).write(data.annotations(name), provenance={"reader": "coco"})
    every_column().write(data.annotations("views"), provenance={"reader": "make.py"})
    store = FitStore.open(data.fits("world"), writer="by-hand")
    after_the_tag(store)
    for path in ("data/annotations", "data/fits/world", "data/final_fits", "data/dataset_extras", "results"):
        shutil.copytree(path, out / path)
    for path in (out / "results").glob("*.json"):
        path.write_text(path.read_text().replace(f"{work.resolve()}/", ""))
    kept = [run.config, run.metrics, run.validation, run.best, newest]
    for path in kept:
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, out / path)
    write_answers(out, newest)


def write_answers(out: Path, newest: Path) -> None:
    """What this code reads from the copies."""
    data = DataFolder(out / "data")
    arrays: dict[str, np.ndarray] = {}
    answers: dict[str, object] = {}
    for name in ("world", "world-test", "views"):
        known = Annotations.read(data.annotations(name))
        arrays |= annotation_columns(f"annotations/{name}", known)
        answers[f"annotations/{name}"] = {"content_hash": known.content_hash, "image_root": known.image_root}
    store = FitStore.open(data.fits("world"))
    tags = store.tags()
    states = {"now": store.fits, **{tag: store.at(tag).fits for tag in tags}}
    for state, fits in states.items():
        arrays |= {f"fits/{state}/{name}": getattr(fits, name).copy() for name in COLUMNS}
    answers["store"] = {
        "tags": tags, "segments": store.segments, "runs": {str(k): v for k, v in store.runs.items()},
        "fingerprint": store.fingerprint.to_json(), "log": store.log(), "fence": store.fence("first"),
        "summaries": {"now": store.summary(), **{tag: store.at(tag).summary() for tag in tags}},
    }  # fmt: skip
    found = load_checkpoint(out / newest)
    network = network_from_checkpoint(found, str(newest)).eval()
    with torch.no_grad():
        image = torch.linspace(-2, 2, 2 * 3 * 64 * 64).reshape(2, 3, 64, 64).sin()
        predicted = network(image)
    arrays |= {f"network/{name}": getattr(predicted, name).numpy() for name in ("rotations", "betas", "weak_camera")}
    arrays |= {f"sums/{name}": t.double().sum().numpy() for name, t in found.model.items()}
    arrays |= {f"loop/{name}": t.numpy() for name, t in found.loop.items()}
    answers["checkpoint"] = {
        "file": str(newest), "backbone": found.backbone, "epoch": found.epoch, "step": found.step,
        "batch_idx": found.batch_idx, "seed": found.seed, "tag": dict(found.tag), "config": dict(found.config),
        "shapes": {name: list(t.shape) for name, t in found.model.items()},
    }  # fmt: skip
    for path in sorted((out / "results").glob("*.json")):
        result = read_result(path)
        answers[f"results/{path.stem}"] = {
            "metrics": result.scores.metrics(), "card": result.card, "images": result.images, "rows": result.rows.tolist(),
            "left_out": result.left_out,
        }  # fmt: skip
    compared = compare_results(out / "results/network-world.json", out / "results/fits.json", draws=100)
    answers["compared"] = {name: asdict(number) for name, number in compared.numbers.items()}
    for path in sorted((out / "data/final_fits").iterdir()):
        fits = read_fits_file(path)
        found_arrays = {name: getattr(fits, name) for name in
                        ("pose", "betas", "valid", "rotations", "weak_camera", "translation_m", "camera_matrix")}  # fmt: skip
        if fits.rotations is not None:  # an unset pose
            found_arrays.pop("pose")
        arrays |= {f"exchange/{path.name}/{k}": v for k, v in found_arrays.items() if v is not None}
        answers[f"exchange/{path.name}"] = {
            "body": fits.body,
            "problems": {str(k): v for k, v in fits.problems.items()},
        }
    people = read_samples_file(out / "data/dataset_extras/world.npz")
    arrays |= {f"people/{k}": v for k, v in vars(people).items() if isinstance(v, np.ndarray)}
    answers["people"] = {"image": people.image, "body": people.body}
    crops = PackedCrops(data.crops("world"))
    answers["crops"] = {
        "summary": asdict(crops.summary),
        "annotations": crops.annotations,
        "problems": crops.problems,
    }
    for row in range(len(crops)):
        crop = crops.get(row)
        assert not isinstance(crop, str)
        arrays |= {
            f"crops/{row}/jpeg": np.frombuffer(crop.jpeg, np.uint8),
            f"crops/{row}/affine": crop.from_image,
        }
    np.savez_compressed(out / "answers.npz", **arrays)
    (out / "answers.json").write_text(json.dumps(answers, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
