"""A folder in which the commands of the documentation work: a small world under all the names that they use."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from own_data import coco_style, people_of, table_rows, write_csv, write_openpose

from pipelines.folders import DataFolder, RunFolder
from pipelines.preprocessing.preprocess import preprocess
from pipelines.readers import DATASETS
from pipelines.readers.base import ReaderOptions
from pipelines.synthetic.published import synthesize_layout
from pipelines.training.config import TrainConfig
from spin.fitting.prior import load_pose_prior
from spin.joints import OPENPOSE_NAMES
from spin.network.checkpoints import Checkpoint, save_checkpoint
from spin.network.hmr import HMR, MeanParameters
from store.annotations.table import Annotations

IMG_RES = 64


def make_docs_folder(folder: Path, world: Path) -> None:
    """The world is in raw/world; its people are the data sets world and coco, its test people those that are measured on.

    Of LSP, which has masks, there is a made-up tree. A run "first" has a tiny network, which the published one's file has, too.
    """
    (folder / "raw").mkdir(parents=True)
    (folder / "raw" / "world").symlink_to(world)
    (folder / "raw" / "coco").symlink_to(world)
    data = DataFolder(folder / "data")
    for name, split in (("world", "train2014"), ("world-test", "val2014")):
        preprocess(data, DATASETS["coco"], world, name, ReaderOptions(split))
    annotations, test = (Annotations.read(data.annotations(name)) for name in ("world", "world-test"))
    replace(annotations, name="coco").write(data.annotations("coco"))
    for name in ("h36m-p1", "h36m-p2", "3dpw", "mpi-inf-3dhp-valid"):
        replace(test, name=name).write(data.annotations(name))
    synthesize_layout(folder / "raw" / "lsp", "lsp", people=2, seed=0)
    preprocess(data, DATASETS["lsp"], folder / "raw" / "lsp", "lsp", ReaderOptions(""))
    _own_data(folder, world)
    _network(folder, data)
    (folder / "static_fits").mkdir()
    bodies = np.zeros((len(annotations), 82), np.float32)
    bodies[:, 0] = np.pi
    np.save(folder / "static_fits" / "coco_fits.npy", bodies)
    _examples(folder / "examples", annotations)
    for ending, name in ((".jpg", "im1010.jpg"), (".json", "im1010_openpose.json")):
        shutil.copy(folder / "examples" / name, folder / f"photo{ending}")


def _own_data(folder: Path, world: Path) -> None:
    """photos/, and the same people as keypoints.json, openpose_json/, keypoints.csv, and under odd names."""
    people = people_of(world, 8)
    (folder / "photos").mkdir()
    for name in {p.image for p in people}:
        shutil.copy(world / "train2014" / name, folder / "photos" / name)
    content = coco_style(people, boxes=False)
    (folder / "keypoints.json").write_text(json.dumps(content))
    content["categories"][0]["keypoints"][1] = "kneecap"
    content["categories"][0]["keypoints"][-1] = "tail"
    (folder / "odd-names.json").write_text(json.dumps(content))
    write_openpose(folder / "openpose_json", people, OPENPOSE_NAMES)
    write_csv(folder / "keypoints.csv", table_rows(people, boxes=False))


def _network(folder: Path, data: DataFolder) -> None:
    """An untrained network, as a run's checkpoint and where the published one is."""
    run = RunFolder(folder / "logs" / "first")
    run.root.mkdir(parents=True)
    TrainConfig(datasets=("world",), backbone="resnet18", img_res=IMG_RES).save(run.config)
    mean = MeanParameters.from_body_pose(torch.from_numpy(load_pose_prior(data.prior).mean_pose()))
    network = HMR("resnet18", mean=mean)
    checkpoint = Checkpoint(model=network.state_dict(), step=7, config={"img_res": IMG_RES})
    save_checkpoint(run.checkpoint(7), checkpoint)
    shutil.copy(run.checkpoint(7), folder / "data" / "model_checkpoint.pt")


def _examples(folder: Path, annotations: Annotations) -> None:
    """A photograph of one person with its box and its detections, under the published names."""
    folder.mkdir()
    row = int(np.argmax((annotations.keypoints_px[:, :25, 2] > 0).sum(1)))
    image = cv2.imread(str(annotations.image_path(row)))
    cv2.imwrite(str(folder / "im1010.jpg"), image)
    side = 200 * float(annotations.scale[row])
    x, y = (annotations.center_px[row] - side / 2).tolist()
    (folder / "im1010_bbox.json").write_text(json.dumps({"bbox": [x, y, side, side]}))
    detected = annotations.keypoints_px[row, :25].ravel().tolist()
    people = [{"pose_keypoints_2d": detected}]
    (folder / "im1010_openpose.json").write_text(json.dumps({"version": 1.3, "people": people}))
