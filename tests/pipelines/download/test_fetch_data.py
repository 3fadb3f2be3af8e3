"""fetch-data: archives come to their places, checked, and files of one's own stay."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from pipelines.download.archives import ARCHIVES, Archive, read_checksums, record_of
from pipelines.download.http import checked_url
from pipelines.errors import StageError, UsageError
from tests.pipelines.mirror import FILES, NOISE, Mirror, command, get, packed, tree


def test_all_archives_come_to_the_published_places(mirror: Mirror, tmp_path: Path) -> None:
    code, said = command("--data", str(tmp_path), "--base-url", mirror.url)
    assert code == 0, said
    assert tree(tmp_path) - {"journal.jsonl"} == {
        "J_regressor_extra.npy", "gmm_08.pkl", "static_fits/coco_fits.npy", "static_fits/lspet_fits.npy",
        "dataset_extras/coco_2014_train.npz", "model_checkpoint.pt",
    }  # fmt: skip
    assert (tmp_path / "gmm_08.pkl").read_bytes() == NOISE
    assert not list((tmp_path / ".fetch").glob("*.part*"))
    asked = len(mirror.asked)
    code, said = command("--data", str(tmp_path), "--base-url", mirror.url)
    assert code == 0
    assert said.count("there already") == 4
    assert len(mirror.asked) == asked
    (tmp_path / "gmm_08.pkl").unlink()
    assert not get(tmp_path, "data", mirror).earlier
    assert (tmp_path / "gmm_08.pkl").read_bytes() == NOISE


def test_what_is_not_in_the_published_script_comes_only_if_named(mirror: Mirror, tmp_path: Path) -> None:
    assert command("spin_fits", "--data", str(tmp_path), "--base-url", mirror.url)[0] == 0
    assert tree(tmp_path) - {"journal.jsonl"} == {"spin_fits/coco.npz"}


def test_listing_fetches_nothing_and_says_what_is_there(mirror: Mirror, tmp_path: Path) -> None:
    data = tmp_path / "data"
    get(data, "data", mirror)
    asked = len(mirror.asked)
    (data / "smpl").mkdir()
    (data / "smpl" / "SMPL_FEMALE.pkl").touch()
    code, said = command("--list", "--data", str(data), "--base-url", mirror.url)
    assert code == 0
    assert len(mirror.asked) == asked
    states = {
        line.split()[0]: line.split()[1] for line in said.splitlines() if line.startswith("  ") and not line.startswith("   ")
    }
    assert states["data"] == "there"
    assert states["static_fits"] == "missing"
    assert states["SMPL_NEUTRAL.pkl"] == "missing"
    assert states["SMPL_FEMALE.pkl"] == "unusable"
    assert states["coco"] == "not"
    assert "smplify.is.tue.mpg.de" in said
    assert "custom" not in states


def test_a_checkpoint_must_look_like_one(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files["model_checkpoint.pt"] = b"<html>"
    with pytest.raises(StageError, match="is not a PyTorch checkpoint"):
        get(tmp_path, "model_checkpoint", mirror)
    assert tree(tmp_path) == set()


def test_files_of_ones_own_are_kept_unless_asked(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "gmm_08.pkl").write_bytes(b"mine")
    (tmp_path / "J_regressor_extra.npy").write_bytes(b"extra")
    done = get(tmp_path, "data", mirror)
    assert done.kept == ("gmm_08.pkl",)
    assert (tmp_path / "gmm_08.pkl").read_bytes() == b"mine"
    assert get(tmp_path, "data", mirror).earlier
    assert get(tmp_path, "data", mirror, again=True).kept == ()
    assert (tmp_path / "gmm_08.pkl").read_bytes() == NOISE


def test_sums_are_checked(mirror: Mirror, second: Mirror, tmp_path: Path) -> None:
    mirror.files["data.tar.gz"] = packed({"data/gmm_08.pkl": b"other"})
    listed = tmp_path / "SHA256SUMS"
    listed.write_text(f"{hashlib.sha256(FILES['data.tar.gz']).hexdigest()}  spin/data.tar.gz\n")
    data = tmp_path / "data"
    with pytest.raises(StageError, match="is another file: SHA-256"):
        get(data, "data", mirror, checksums=read_checksums(listed))
    assert get(data, "data", mirror, second, checksums=read_checksums(listed)).url.startswith(second.url)
    listed.write_text("data.tar.gz 12\n")
    with pytest.raises(UsageError, match="--checksums"):
        read_checksums(listed)


def test_an_archive_that_fails_does_not_stop_the_others(mirror: Mirror, tmp_path: Path) -> None:
    del mirror.files["static_fits.tar.gz"]
    code, said = command("--data", str(tmp_path), "--base-url", mirror.url)
    assert code == 1
    assert "1 of 4 archives could not be fetched: static_fits.tar.gz" in said
    assert (tmp_path / "dataset_extras" / "coco_2014_train.npz").is_file()


def test_wrong_commands(tmp_path: Path) -> None:
    for url in ("file:///etc", "ftp://x/y", "nowhere", "http://", "http://[::"):
        with pytest.raises(UsageError, match="expected an address"):
            checked_url(url)
    assert "no archive is called 'everything'" in command("everything", "--data", str(tmp_path))[1]


def test_a_note_that_is_damaged_is_no_note(mirror: Mirror, tmp_path: Path) -> None:
    get(tmp_path, "data", mirror)
    note = tmp_path / ".fetch" / "data.json"
    for content in ("", "[]", json.dumps({"files": 3})):
        note.write_text(content)
        assert record_of(tmp_path, ARCHIVES["data"]) is None
    assert not get(tmp_path, "data", mirror).earlier


def test_each_archive_has_a_place_of_its_own() -> None:
    for archive in ARCHIVES.values():
        assert isinstance(archive, Archive)
        assert archive.folder == ("" if archive.name in ("data", "model_checkpoint") else archive.name)
