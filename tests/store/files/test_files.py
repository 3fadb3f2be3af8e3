"""What the fit store asks of the place where its files lie, asked of every kind of place."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from places import Place
from s3_server import S3, Fault

from store.errors import ObjectStoreAccessError, ObjectStoreError, UnusableNameError
from store.files.base import Files, Put
from store.files.open import is_url, open_files


@pytest.fixture
def files(place: Place) -> Files:
    made = open_files(place.location("fits"))
    made.write_root(lambda inside: inside.write("CURRENT", b"1"))
    return made


def fill(put: Put) -> bytes:
    put("zarr.json", b"{}")
    put("pose/c/0/0", b"numbers")
    return b"inventory"


def test_a_file_is_what_was_written(files: Files) -> None:
    files.write("segments/a.arrow", b"\0\xff" * 100)
    files.write("segments/empty", b"")
    assert files.read("segments/a.arrow") == b"\0\xff" * 100 and files.read("segments/empty") == b""
    assert files.exists("segments/a.arrow") and not files.exists("segments/b.arrow")
    files.remove("segments/a.arrow", "segments/never")
    files.remove()
    assert not files.exists("segments/a.arrow")
    with pytest.raises(FileNotFoundError):
        files.read("segments/a.arrow")
    assert files.where("segments/a.arrow") == f"{files.location}/segments/a.arrow"


def test_what_lies_where(files: Files) -> None:
    for name in ("segments/b", "segments/a", "segments/.tmp-1", "tags/.tmp-pin"):
        files.write(name, b"x")
    for number in (1, 2):
        files.write(f"segments/00000{number}/x.arrow", b"x")
    assert files.children("segments") == ["000001", "000002", "a", "b"]
    found = [".tmp-1", "000001/x.arrow", "000002/x.arrow", "a", "b"]
    assert files.descendants("segments") == found
    assert files.temporaries("segments") == ["segments/.tmp-1"]
    assert files.temporaries("tags") == ["tags/.tmp-pin"] and files.temporaries("") == []
    for nothing in (files.children, files.descendants, files.temporaries):
        assert nothing("nowhere") == []


def test_more_than_a_page_is_listed(files: Files, place: Place) -> None:
    count = 1100 if is_url(place.top) else 20
    for number in range(count):
        files.write(f"segments/{number:06d}", b"")
    assert len(files.descendants("segments")) == len(files.children("segments")) == count


def test_the_first_to_create_a_file_has_it(files: Files) -> None:
    assert files.create("tags/a", b"first") and not files.create("tags/a", b"second")
    assert files.read("tags/a") == b"first"


def test_current_moves_only_from_what_it_was(files: Files) -> None:
    assert files.swap("CURRENT", b"1", b"2")
    assert not files.swap("CURRENT", b"1", b"3")
    assert files.read("CURRENT") == b"2"
    with pytest.raises(FileNotFoundError):
        files.swap("NOTHING", b"1", b"2")


def test_of_many_swaps_at_once_one_succeeds(files: Files) -> None:
    moved: list[int] = []

    def move(number: int) -> None:
        with files.exclusive():
            if files.swap("CURRENT", b"1", b"2%d" % number):
                moved.append(number)

    threads = [threading.Thread(target=move, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [b"2%d" % number for number in moved] == [files.read("CURRENT")]


def test_a_tree_is_whole_or_unfinished(files: Files) -> None:
    tree, inventory = "generations/000007.zarr", "generations/000007.json"
    assert files.claim(tree)
    files.write_tree(tree, inventory, fill)
    assert not files.claim(tree)
    assert files.descendants(tree) == ["pose/c/0/0", "zarr.json"]
    assert files.read(inventory) == b"inventory" and files.read(f"{tree}/pose/c/0/0") == b"numbers"
    files.remove_tree(tree, inventory)
    files.remove_tree(tree, inventory)
    assert files.children("generations") == [] and files.claim(tree)

    def fail(put: Put) -> bytes:
        put("zarr.json", b"{}")
        raise OSError(28, "No space left")

    with pytest.raises(OSError, match="No space"):
        files.write_tree(tree, inventory, fail)
    assert not files.exists(inventory)


def test_a_place_that_is_in_use_is_not_taken(files: Files) -> None:
    with pytest.raises(FileExistsError):
        files.write_root(lambda inside: inside.write("CURRENT", b"2"))
    assert files.read("CURRENT") == b"1"


# What only an object store does.


@pytest.fixture
def objects(s3: S3) -> Files:
    made = open_files("s3://bucket/some/prefix")
    made.write("CURRENT", b"1")
    s3.requests.clear()
    return made


@pytest.mark.parametrize("kind", ["error", "slow down", "drop", "lost", "conflict", "wait"])
def test_a_request_that_fails_is_repeated_and_a_lost_answer_is_no_refusal(kind: str, s3: S3, objects: Files) -> None:
    for method, act in (
        ("PUT", lambda: objects.create("tags/a", b"mine")),
        ("PUT", lambda: objects.swap("CURRENT", b"1", b"2")),
        ("GET", lambda: objects.read("CURRENT") == b"2"),
    ):
        if kind != "conflict" or method == "PUT":
            s3.faults.append(Fault(kind, method, seconds=0.01))
        assert act()
        assert s3.faults == [] or s3.faults.pop().times == 0
    assert not objects.create("tags/a", b"another's") and not objects.swap("CURRENT", b"1", b"3")
    assert (objects.read("tags/a"), objects.read("CURRENT")) == (b"mine", b"2")


def test_what_was_written_while_every_answer_was_lost_is_found(s3: S3, objects: Files) -> None:
    s3.faults.append(Fault("lost", "PUT", times=10**6))
    assert objects.create("tags/a", b"mine") and objects.swap("CURRENT", b"1", b"2")
    s3.faults[:] = [Fault("lost", times=10**6)]
    with pytest.raises(ObjectStoreError):
        objects.create("tags/b", b"mine")


@pytest.mark.parametrize(
    ("url", "environment", "error", "said"),
    [
        ("s3://bucket/x", {"AWS_ACCESS_KEY_ID": "other"}, ObjectStoreAccessError, "denies access .InvalidAccessKeyId"),
        ("s3://elsewhere/x", {}, ObjectStoreError, "has no bucket 'elsewhere'"),
        ("s3://bucket/x", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, ObjectStoreError, "does not answer"),
        ("s3://Bucket/x", {}, UnusableNameError, "expected a folder or s3://"),
        ("s3://bucket//x", {}, UnusableNameError, "expected a folder or s3://"),
        ("s3://bucket/a/../x", {}, UnusableNameError, "expected a folder or s3://"),
        ("gs://bucket/x", {}, UnusableNameError, "expected a folder or s3://"),
    ],
)  # fmt: skip
def test_errors_say_what_is_wrong_in_one_line(
    url: str,
    environment: dict[str, str],
    error: type[Exception],
    said: str,
    s3: S3,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for act in (lambda: open_files(url).read("CURRENT"), lambda: open_files(url).write("a", b"")):
        with pytest.raises(error, match=said) as caught:
            act()
        assert "\n" not in str(caught.value) and url in str(caught.value)


def test_keys_are_found_where_aws_tools_keep_them(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = f"aws_access_key_id = {s3.environment['AWS_ACCESS_KEY_ID']}\naws_secret_access_key = secret\n"
    (tmp_path / "keys").write_text(f"[default]\naws_access_key_id = other\n[work]\n{keys}")
    (tmp_path / "config").write_text("[profile work]\nregion = eu-north-1\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "work")
    files = open_files("s3://bucket/x")
    files.write("a", b"content")
    assert s3.names("x/") == ["a"]
    monkeypatch.delenv("AWS_PROFILE")
    with pytest.raises(ObjectStoreAccessError, match="Missing SecretAccessKey"):
        open_files("s3://bucket/x")
    monkeypatch.setenv("AWS_PROFILE", "unknown")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(ObjectStoreAccessError, match="no credentials; set AWS_ACCESS_KEY_ID"):
        open_files("s3://bucket/x")


def test_a_store_that_ignores_conditions_is_refused(s3: S3) -> None:
    s3.conditions = False
    files = open_files("s3://bucket/x")
    with pytest.raises(ObjectStoreError, match="ignores If-None-Match or If-Match"):
        files.write_root(lambda inside: inside.write("CURRENT", b"1"))
    assert s3.names("") == []
