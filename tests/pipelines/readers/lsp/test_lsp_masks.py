"""Masks and parts of LSP's test set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.errors import StageError
from pipelines.readers.lsp.evaluation import UPI_PARTS, UPI_UNDECIDED
from spin.joints import JOINTS
from tests.pipelines.still_images import people_of, reasons


def test_masks_and_parts_are_the_persons_own(trees: Callable[[str], Path]) -> None:
    root = trees("lsp")
    truth = np.load(root / "truth.npz")
    rows = {str(image): row for row, image in enumerate(truth["image"])}
    right = wrong = 0
    labels: set[int] = set()
    for person in people_of("lsp", root):
        mask, part = (cv2.imread(str(root / name), cv2.IMREAD_UNCHANGED) for name in (person.mask, person.part))
        assert mask.ndim == part.ndim == 2
        assert set(np.unique(mask)) == {0, 255}
        labels |= set(np.unique(part).tolist())
        assert not part[mask == 0].any()
        assert (part[mask > 0] > 0).all()
        assert 0 < (part == UPI_UNDECIDED).mean() < 0.05
        for joint in ("wrist", "knee", "ankle"):
            for side in ("left", "right"):
                point = JOINTS.index[f"{side} {joint}"]
                if truth["visibility"][rows[person.image], point] != 2:
                    continue
                x, y = truth["keypoints_px"][rows[person.image], point].astype(int)
                limb = "arm" if joint == "wrist" else "leg"
                right += part[y, x] == 1 + UPI_PARTS.index(f"{side} {limb}")
                wrong += part[y, x] == 1 + UPI_PARTS.index(f"{'right' if side == 'left' else 'left'} {limb}")
    assert labels == {*range(7), UPI_UNDECIDED}
    assert right >= 20
    assert wrong <= 0.1 * right


def test_masks_may_lie_beside_the_root_or_in_it(mine: Callable[[str], Path], tmp_path: Path) -> None:
    root = mine("lsp")
    (tmp_path / "upi").mkdir()
    (root / "data").rename(tmp_path / "upi" / "data")
    assert all(p.mask == p.part == "" for p in people_of("lsp", root))
    outside = people_of("lsp", root, masks=tmp_path / "upi")
    assert all((root / p.mask).is_file() and (root / p.part).is_file() for p in outside)
    assert outside[0].mask == "../upi/data/lsp/im1001_segmentation.png"
    (root / "upi-s1h").symlink_to(tmp_path / "upi")
    assert all((root / p.mask).is_file() for p in people_of("lsp", root))
    with pytest.raises(StageError, match="has no folder data/lsp"):
        people_of("lsp", root, masks=tmp_path)


def test_a_mask_that_is_broken_or_of_another_image_is_named(mine: Callable[[str], Path]) -> None:
    root = mine("lsp")
    folder = root / "data" / "lsp"
    (folder / "im1001_segmentation.png").write_bytes(b"no picture")
    whole = (folder / "im1002_part_segmentation.png").read_bytes()
    (folder / "im1002_part_segmentation.png").write_bytes(whole[:-200])
    cv2.imwrite(str(folder / "im1003_segmentation.png"), np.zeros((9, 8), np.uint8))
    (folder / "im1004_segmentation.png").unlink()
    found = reasons("lsp", root)
    assert "im1001_segmentation.png: can't be decoded" in found["joints.mat 1001"]
    assert "im1002_part_segmentation.png: is cut short" in found["joints.mat 1002"]
    assert "8 × 9 px, its image" in found["joints.mat 1003"]
    alone = next(p for p in people_of("lsp", root) if p.source == "joints.mat 1004")
    assert (alone.mask, alone.part) == ("", "data/lsp/im1004_part_segmentation.png")
