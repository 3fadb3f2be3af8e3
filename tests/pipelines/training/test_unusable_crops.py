"""Keypoints far outside their crop have no weight, and a person whose crop shows something else teaches nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from pipelines.folders import DataFolder
from pipelines.training.batch_plan import Plan
from pipelines.training.loading import LoadedBatch, TrainingData, batches
from pipelines.training.loop_fits import stored_fits
from spin.camera import CROP_PX, REACH_PX
from spin.training.augment import augment_keypoints
from spin.training.config import AugmentationConfig, LossWeights
from spin.training.losses import keypoint_loss
from store.annotations.table import Annotations
from store.fits.records import Fits, Source

ELEVEN = 11


def people_of(preprocessed: Path) -> Annotations:
    annotations = Annotations.read(DataFolder(preprocessed).annotations("world"))
    return annotations.take(np.arange(ELEVEN))


def batch_of(annotations: Annotations) -> LoadedBatch:
    data = TrainingData([annotations], img_res=32, ignore_3d=False)
    (item,) = batches(data, Plan((len(data),), len(data), 1, 0, seed=0), AugmentationConfig(), first=0, last=1)
    return item


def loss_of(item: LoadedBatch) -> float:
    """The loss of a network that answers the middle of the crop, whoever it sees."""
    keypoints = augment_keypoints(item.batch.keypoints_crop_px, item.batch.augmentations)
    middle = torch.full((len(keypoints), 49, 2), CROP_PX / 2)
    return float(keypoint_loss(middle, keypoints, LossWeights()))


def test_one_person_with_a_tiny_box_does_not_make_the_loss(preprocessed: Path) -> None:
    """A box of 3 x 3 px in eleven people: keypoints hundreds of crops away made the loss thousands of times as large."""
    people = people_of(preprocessed)
    scale = people.scale.copy()
    scale[4] = 1.2 * 3 / 200
    item, without = batch_of(replace(people, scale=scale)), batch_of(people)
    at = item.row.tolist().index(4)
    assert item.readable.all()
    assert item.teaches.tolist() == [row != 4 for row in item.row]
    assert not item.batch.keypoints_crop_px[at, :, 2].any()
    assert not item.batch.truth.known[at]
    assert not item.batch.joints_known[at]
    assert loss_of(item) <= loss_of(without)
    others = [place for place, row in enumerate(item.row) if row != 4]
    assert torch.equal(item.batch.keypoints_crop_px[others], without.batch.keypoints_crop_px[others])
    fits = Fits.empty(ELEVEN)
    records = replace(fits, source=np.full(ELEVEN, Source.STATIC, np.uint8))
    assert stored_fits(records, item.teaches).valid.tolist() == item.teaches.tolist()


def test_a_keypoint_far_outside_has_no_weight_and_its_person_teaches(preprocessed: Path) -> None:
    people = people_of(preprocessed)
    side = 200 * people.scale[:, None]
    seen = people.keypoints_px[2, :, 2] > 0
    joint = int(np.flatnonzero(seen)[0])
    for distance, kept in ((0.98, True), (1.02, False)):
        keypoints = people.keypoints_px.copy()
        keypoints[2, joint, 0] = (people.center_px[:, 0] + (0.5 + distance * REACH_PX / CROP_PX) * side[:, 0])[2]
        item = batch_of(replace(people, keypoints_px=keypoints))
        at = item.row.tolist().index(2)
        confidence = item.batch.keypoints_crop_px[at, :, 2] > 0
        assert bool(confidence[joint]) is kept
        assert confidence.sum() == seen.sum() - (not kept)
        assert item.teaches.all()
