"""A small version of the benchmark of loading: it runs, and its reference is the published crop."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np

from spin.crop import crop_image, normalise
from spin.images import read_image
from tools.bench import data


def test_it_prints_one_line(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["data", "--images", "4", "--annotations", "60", "--runs", "1"])
    monkeypatch.setattr(data, "SIZES", {"640": (240, 320), "1000": (400, 400), "2048": (1024, 1024)})
    threads = cv2.getNumThreads()
    try:
        data.main()
    finally:
        cv2.setNumThreads(threads)
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])
    wanted = (
        "load_ratio_640 load_ratio_1000 load_ratio_2048 packed_ratio_1000 packed_ratio_2048 annotation_rows_per_s "
        "annotation_rows_per_s_openpose samples_per_s"
    )
    assert set(wanted.split()) <= set(found)
    assert all(found[name] > 0 for name in wanted.split())


def test_its_reference_shows_what_ours_does(tmp_path: Path) -> None:
    """A wrong turn, mirror or gain would compare different work."""
    image = data.natural_image(300, 400, np.random.default_rng(0))
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), image)
    gains = np.array([0.9, 1.0, 0.8])
    for rotation_deg, flip in ((0.0, False), (0.0, True), (20.0, False), (-35.0, True)):
        box = (np.array([200.0, 150.0]), 1.3)
        theirs = data.published_sample(path, *box, rotation_deg, flip, gains).numpy()
        ours = normalise(crop_image(read_image(path), *box, rotation_deg=rotation_deg, flip=flip), gains.astype(np.float32))
        assert np.corrcoef(theirs.ravel(), ours.ravel())[0, 1] > 0.97
