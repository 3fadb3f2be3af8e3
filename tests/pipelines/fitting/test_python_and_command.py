"""`spin.Fitter` and `fit-static` give the same keypoints the same bodies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from pipelines.fitting.assets import FittingFiles
from pipelines.fitting.fit_static import StaticFitter, Work
from pipelines.folders import DataFolder
from spin import Fitter
from spin.crop import BOX_MARGIN
from spin.fitting.fitter import FitConfig
from spin.joints import JOINTS
from store.annotations.table import Annotations


def test_one_call_fits_as_the_command_does(preprocessed: Path) -> None:
    data, config = DataFolder(preprocessed), FitConfig()
    people = Annotations.read(data.annotations("world"))
    keypoints = np.zeros_like(people.keypoints_px)
    keypoints[:, list(JOINTS.coco)] = people.keypoints_px[:, list(JOINTS.coco)]
    people = replace(people, keypoints_px=keypoints)
    rows = np.arange(len(people))
    fitted = StaticFitter(FittingFiles.of(data, config), config, ignore_3d=True).fit(
        Work(rows, people, [rows[i : i + 1] for i in rows], ())
    )
    side = 200 * people.scale / BOX_MARGIN
    boxes = np.concatenate([people.center_px - side[:, None] / 2, side[:, None], side[:, None]], 1)
    camera = {}
    if people.has_camera.all():
        camera = {"focal_px": people.focal_px, "principal_px": people.principal_px}
    ours = Fitter.load(preprocessed).fit_coco(keypoints[:, list(JOINTS.coco)], boxes, **camera)

    assert np.array_equal(np.flatnonzero(ours.valid), fitted.all_ids[fitted.verdicts == 0])
    kept = fitted.ids
    assert len(kept) >= 30
    assert np.abs(ours.pose[kept] - fitted.fits.pose).max() < 1e-3
    assert np.abs(ours.camera_m[kept] / fitted.fits.camera - 1).max() < 1e-2
    assert np.abs(ours.score[kept] - fitted.fits.score).max() < 0.1
