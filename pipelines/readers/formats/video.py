"""Frames of videos, as JPEG files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import cv2


def extract_frames(video: Path, wanted: Mapping[int, Path]) -> str:
    """Write frames of a video, by their number from 0, as JPEG files. Return why that failed, or ''.

    Files that exist stay. Other frames are skipped without being decoded.
    """
    left = {number: path for number, path in wanted.items() if not path.exists()}
    if not left:
        return ""
    if not video.is_file():
        return f"{video}: no such video"
    capture = cv2.VideoCapture(str(video))
    try:
        for number in range(max(left) + 1):
            if not capture.grab():
                return f"{video}: ends after {number} frames, {len(left)} wanted frames are missing"
            if number in left:
                _write_frame(capture, left.pop(number))
    except (OSError, cv2.error) as error:
        return f"{video}: its frames can't be written ({error})"
    finally:
        capture.release()
    return ""


def _write_frame(capture: cv2.VideoCapture, path: Path) -> None:
    read, picture = capture.retrieve()
    if not read:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # Whole or not at all, so that an interrupted extraction continues where it stopped. It need not be durable.
    unfinished = path.with_name(f".tmp-{path.name}")
    unfinished.write_bytes(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes())
    os.replace(unfinished, path)
