"""Whether a person that a reader found can become a sample: its box, keypoints, truth and image, looked at together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipelines.readers.base import Note
from pipelines.readers.formats.image_frames import stored_to_upright
from pipelines.readers.formats.image_names import is_text
from spin.joints import JOINTS

if TYPE_CHECKING:
    from jaxtyping import Float

    from pipelines.readers.base import Person
    from pipelines.readers.formats.image_check import ImageCheck

TURNED = "in images that EXIF turns or mirrors while no size shows it: read in the upright image's frame"
LISTED_TWICE = "is listed twice: another one of its image has the same keypoints and box"
_SPARE = 0.02  # of an image's size: keypoints may be as far outside it
_SMALLEST_PX = 4.0  # of a box: a smaller person can't be seen
_ROOM = 0.1  # of a crop's side: keypoints may be as far outside it
_TORSO = [[(JOINTS.index[f"{side} {part}"], JOINTS.index[f"OpenPose {side} {part}"]) for side in ("left", "right")]
          for part in ("shoulder", "hip")]  # fmt: skip


def problems_of(people: Sequence[Person], images: dict[str, ImageCheck]) -> list[str]:
    """Return why each person can't become a row, or ''. Readers give better reasons where they can; nothing passes both."""
    if not people:
        return []
    box = np.array([[*p.center_px, p.scale] for p in people], np.float64)
    keypoints = np.array([p.keypoints_px for p in people], np.float32)
    confidence = keypoints[..., 2]
    boxed = np.isfinite(box).all(1) & (box[:, 2] > 0)
    numbers: np.ndarray = np.all(np.isfinite(keypoints), axis=(1, 2))
    sure = (confidence.min(1) >= 0) & (confidence.max(1) <= 1)
    out = []
    met: set[tuple[str, bytes, bytes]] = set()
    for row, person in enumerate(people):
        image = images[person.image]
        if image.problem:
            out.append(image.problem)
        elif not boxed[row]:
            out.append("its box has no area, or is not a number")
        elif (np.abs(box[row, :2] - np.array(image.size_px) / 2) >= 100 * box[row, 2] + np.array(image.size_px) / 2).any():
            out.append(f"its box is outside the image ({image.size_px[0]} × {image.size_px[1]} px)")
        elif not numbers[row]:
            out.append("a keypoint is not a number")
        elif not sure[row]:
            out.append("a keypoint's confidence is outside 0..1")
        elif not all(map(is_text, (person.image, person.source))):
            out.append("its image or its name can't be written as text")
        elif not all(np.isfinite(part).all() for part in _truth(person)):
            out.append("its true body is not a number")
        else:
            own = keypoints[row, JOINTS.superset]  # a detection is given to one of two
            own = own if own[:, 2].any() else keypoints[row]
            key = (person.image, own.tobytes(), box[row].tobytes())
            again = LISTED_TWICE if key in met and confidence[row].any() else ""
            met.add(key)
            out.append(again or _in_box(keypoints[row], person) or _in_image(keypoints[row], person, image))
    return out


def notes_of(people: Sequence[Person], images: dict[str, ImageCheck]) -> list[Note]:
    """Return what is worth knowing of people that are used."""
    return [Note(TURNED) for person in people if _undecided(person, images[person.image])]


def _truth(person: Person) -> list[np.ndarray]:
    truth = person.truth
    known = [truth.pose_aa, truth.betas, truth.joints3d_m, truth.joints17_m] if truth else []
    return [part for part in known if part is not None]


def _in_box(keypoints: Float[np.ndarray, "49 3"], person: Person) -> str:
    """Return why a box is not that of the keypoints' person: it is tiny, or most of them are outside its crop; or ''."""
    side = 200 * person.scale
    if side < _SMALLEST_PX:
        return f"its box is {side:.2g} px wide: too small to show a person"
    seen = keypoints[keypoints[:, 2] > 0, :2]
    outside = int((np.abs(seen - person.center_px) > (0.5 + _ROOM) * side).any(1).sum())
    if 2 * outside > len(seen):
        return f"{outside} of {len(seen)} keypoints are outside its box's crop"
    return ""


def _in_image(keypoints: Float[np.ndarray, "49 3"], person: Person, image: ImageCheck) -> str:
    """Return why keypoints are not on the image: most are outside, or they are the stored image's; '' if they are on it."""
    seen = keypoints[keypoints[:, 2] > 0, :2]
    size = np.array(image.size_px)
    outside = int(((seen < -_SPARE * size) | (seen > (1 + _SPARE) * size)).any(1).sum())
    if 2 * outside > len(seen):
        return f"{outside} of {len(seen)} keypoints are outside its image ({image.size_px[0]} × {image.size_px[1]} px)"
    if _undecided(person, image) and _stands_as_stored(keypoints, image):
        return (
            "it stands upright in the stored image, but not as EXIF turns it: keypoints seem to be of the stored image; "
            "save the image without EXIF's orientation"
        )
    return ""


def _undecided(person: Person, image: ImageCheck) -> bool:
    """Whether an image is not stored upright, and no size says which frame keypoints were made for."""
    return image.orientation != 1 and (person.image_size_px is None or image.size_px == image.stored_px)


def _stands_as_stored(keypoints: Float[np.ndarray, "49 3"], image: ImageCheck) -> bool:
    """Whether hips are below shoulders if keypoints are of the stored image, and not if they are of the upright one."""
    means = []
    for part in _TORSO:
        joints = keypoints[[joint for names in part for joint in names]]
        means.append(joints[joints[:, 2] > 0, :2].mean(0) if joints[:, 2].any() else np.full(2, np.nan))
    as_read = means[1] - means[0]
    as_stored = stored_to_upright(image)[:, :2] @ as_read

    def stands(down: np.ndarray) -> bool:
        return bool(down[1] > abs(down[0]))

    return stands(as_stored) and not stands(as_read)
