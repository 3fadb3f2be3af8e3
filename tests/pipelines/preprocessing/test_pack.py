from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.errors import StageError, UsageError
from pipelines.folders import DataFolder
from pipelines.preprocessing.pack import PackConfig, made_for, open_crops, outdated, pack
from pipelines.training.batch_plan import Plan
from pipelines.training.loading import TrainingData, batches
from spin.training.config import AugmentationConfig
from store.annotations.table import Annotations
from store.crops import packing_summary
from store.errors import CropsError

AUGMENTATION = AugmentationConfig()


@pytest.fixture
def data(preprocessed: Path, tmp_path: Path) -> DataFolder:
    return DataFolder(shutil.copytree(preprocessed, tmp_path / "data"))


def one_epoch(annotations: Annotations, crops, *, img_res: int = 224):
    data = TrainingData([annotations], img_res=img_res, ignore_3d=False, packed=[crops])
    (item,) = batches(data, Plan((len(data),), len(data), 1, 0, seed=1), AUGMENTATION, first=0, last=1)
    return item


def test_training_reads_the_same_from_packed_crops_without_an_image(data: DataFolder) -> None:
    annotations = Annotations.read(data.annotations("world"))
    summary = pack(data, "world", PackConfig(), workers=1)
    crops = open_crops(data, "world", annotations, made_for(224, AUGMENTATION))
    from_images = one_epoch(annotations, None)
    nowhere = replace(annotations, image_root="/nowhere")
    from_crops, again = one_epoch(nowhere, crops), one_epoch(nowhere, crops)
    assert from_crops.readable.all()
    assert torch.equal(from_crops.batch.images, again.batch.images)
    assert torch.equal(from_crops.batch.keypoints_crop_px, from_images.batch.keypoints_crop_px)
    # An image's standard deviation is 1 after normalising; 2 grey levels are 0.035.
    difference = (from_crops.batch.images - from_images.batch.images).abs().mean((1, 2, 3))
    assert difference.max() < 0.07
    assert difference.mean() < 0.035
    assert packing_summary(data.crops("world")) == summary
    assert summary.compared == summary.rows == len(annotations)
    assert 0 < summary.mean_absolute_difference < 2
    assert summary.psnr_db > 35
    images = {annotations.image_path(row) for row in range(len(annotations))}
    assert summary.image_bytes == sum(path.stat().st_size for path in images)


def test_two_workers_pack_the_same_file_as_one(ray_running: None, data: DataFolder) -> None:
    rows = np.arange(len(Annotations.read(data.annotations("world")))).repeat(3)
    many = Annotations.read(data.annotations("world")).take(rows)
    many = replace(many, source=[f"{i}" for i in range(len(many))])
    many.write(data.annotations("many"))
    content = []
    for workers in (1, 2):
        pack(data, "many", PackConfig(), workers=workers)
        content.append(data.crops("many").read_bytes())
    assert content[0] == content[1]


def test_crops_of_other_annotations_are_rejected_with_what_to_do(data: DataFolder) -> None:
    annotations = Annotations.read(data.annotations("world"))
    needed = made_for(224, AUGMENTATION)
    assert open_crops(data, "world", annotations, needed) is None
    pack(data, "world", PackConfig(), workers=1)
    assert not outdated(data, "world")
    changed = annotations.take(np.arange(len(annotations))[::-1])
    with pytest.raises(CropsError, match=r"packed from other annotations .* run `spin-pipe pack world` again"):
        open_crops(data, "world", changed, needed)
    changed.write(data.annotations("world"))
    assert outdated(data, "world")


@pytest.mark.parametrize(
    ("needed", "message"),
    [
        (
            made_for(256, AUGMENTATION),
            "--img-res 256: .* at most 224; run `spin-pipe pack world --img-res 256`",
        ),
        (made_for(224, replace(AUGMENTATION, scale=0.3)), "--scale-factor 0.3: .* at most 0.25"),
        (made_for(224, replace(AUGMENTATION, rotation_deg=40.0)), "--rot-factor 40: .* at most 30"),
    ],
)
def test_crops_made_for_less_than_training_asks_are_rejected(data: DataFolder, needed, message: str) -> None:
    pack(data, "world", PackConfig(), workers=1)
    annotations = Annotations.read(data.annotations("world"))
    with pytest.raises(UsageError, match=message):
        open_crops(data, "world", annotations, needed)
    assert open_crops(data, "world", annotations, made_for(112, replace(AUGMENTATION, scale=0.1))) is not None


def test_unreadable_images_are_listed_and_train_as_black(data: DataFolder) -> None:
    annotations = Annotations.read(data.annotations("world"))
    broken = replace(annotations, image=["gone.jpg", *annotations.image[1:]])
    broken.write(data.annotations("world"))
    assert pack(data, "world", PackConfig(), workers=1).unreadable == 1
    crops = open_crops(data, "world", broken, made_for(224, AUGMENTATION))
    assert crops is not None
    assert list(crops.problems) == [0]
    item = one_epoch(broken, crops, img_res=64)
    at = item.row.tolist().index(0)
    assert "gone.jpg: no such file" in item.unreadable[0]
    assert item.readable.tolist() == [i != at for i in range(len(item.row))]
    assert not item.batch.images[at].any()
    before = data.crops("world").read_bytes()
    replace(broken, image_root="/nowhere").write(data.annotations("world"))
    with pytest.raises(StageError, match=r"no image of its \d+ rows could be read; first: image /nowhere"):
        pack(data, "world", PackConfig(), workers=1)
    assert data.crops("world").read_bytes() == before
    assert not list(data.crops("world").parent.glob(".tmp-*"))
