"""SMPL is found where SPIN and its downloads have it, and what is found but not used is named."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from spin.body import BodyData, choose_body, find_body, load_body
from spin.body.choice import find_gendered
from spin.body.model_file import OPEN_BODY
from spin.errors import BodyFileError
from spin.fitting.prior import OPEN_PRIOR, find_prior
from tests.spin.smpl_files import write_regressors, write_smpl

ORIGINAL = "basicModel_neutral_lbs_10_207_0_v1.0.0.pkl"
NEWER = "basicmodel_neutral_lbs_10_207_0_v1.1.0.pkl"


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("SMPL_NEUTRAL.pkl", 10),
        ("smpl/SMPL_NEUTRAL.pkl", 10),
        (ORIGINAL, 10),
        (f"smpl/{ORIGINAL}", 10),
        (NEWER, 300),
        (f"smpl/{NEWER}", 300),
        (f"smpl/models/{NEWER}", 300),
        (f"SMPL_python_v.1.1.0/smpl/models/{NEWER}", 300),  # the downloads, as they are unpacked
        (f"smplify_public/code/models/{ORIGINAL}", 10),
        ("smpl/smpl_neutral.pkl", 10),
    ],
)
def test_smpl_is_found_under_every_name(name: str, shapes: int, body: BodyData, tmp_path: Path) -> None:
    write_regressors(tmp_path, body)
    path = write_smpl(tmp_path / name, body, shapes=shapes)
    chosen = choose_body(tmp_path)
    assert (chosen.path, chosen.name, chosen.ignored) == (path, "SMPL_NEUTRAL", ())
    assert chosen.line == f"SMPL_NEUTRAL, from {path}"
    read = load_body(path)
    assert np.array_equal(read.shapedirs, body.shapedirs)
    # The body is the same under any file name.
    assert read.fingerprint == load_body(write_smpl(tmp_path / "elsewhere.pkl", body)).fingerprint.replace(
        "elsewhere", "SMPL_NEUTRAL"
    )


def test_the_regressors_may_be_next_to_it(body: BodyData, tmp_path: Path) -> None:
    path = write_smpl(tmp_path / "smpl" / "SMPL_NEUTRAL.pkl", body)
    write_regressors(tmp_path / "smpl", body)
    assert find_body(tmp_path) == path


def test_a_link_uses_the_data_folders_regressors(body: BodyData, tmp_path: Path) -> None:
    write_smpl(tmp_path / "downloads" / ORIGINAL, body)
    write_regressors(tmp_path, body)
    (tmp_path / "smpl").mkdir()
    (tmp_path / "smpl" / "SMPL_NEUTRAL.pkl").symlink_to(tmp_path / "downloads" / ORIGINAL)
    assert choose_body(tmp_path).name == "SMPL_NEUTRAL"


def test_without_any_file_it_is_the_open_body(tmp_path: Path) -> None:
    (tmp_path / "smpl_mean_params.npz").touch()  # of SPIN's data archive, no body
    chosen = choose_body(tmp_path)
    assert (chosen.path, chosen.ignored) == (OPEN_BODY, ())
    assert chosen.line == f"the open body, as {tmp_path} and {tmp_path / 'smpl'} have no SMPL_NEUTRAL.pkl"
    assert find_body(None) == OPEN_BODY


def other_things(folder: Path, body: BodyData) -> dict[str, str]:
    """Files that are no neutral SMPL, each with a part of the reason."""
    smpl = folder / "smpl"
    smpl.mkdir()
    (smpl / "SMPL_NEUTRAL.pkl").touch()
    (folder / NEWER).write_bytes(pickle.dumps({"means": np.zeros(3)}))
    (folder / ORIGINAL).write_text("<html>please log in</html>")
    np.save(smpl / "array.npy", np.zeros(3))
    (smpl / "array.npy").rename(smpl / "SMPL_NEUTRAL.npz")
    (smpl / NEWER).symlink_to(folder / "gone.pkl")
    (folder / "SMPL_NEUTRAL.npz").write_bytes(b"")
    write_smpl(smpl / "SMPL_MALE.pkl", body)
    write_smpl(smpl / "basicModel_f_lbs_10_207_0_v1.0.0.pkl", body)
    (smpl / "SMPLX_NEUTRAL.npz").touch()
    return {
        "smpl/SMPL_NEUTRAL.pkl": "it is empty",
        NEWER: "has no 'v_template'",
        ORIGINAL: "refused",
        "smpl/SMPL_NEUTRAL.npz": "not a readable .npz",
        f"smpl/{NEWER}": "a link to a file that is missing",
        "SMPL_NEUTRAL.npz": "it is empty",
        "smpl/SMPL_MALE.pkl": "SMPL_MALE is not the neutral body",
        "smpl/basicModel_f_lbs_10_207_0_v1.0.0.pkl": "SMPL_FEMALE is not the neutral body",
        "smpl/SMPLX_NEUTRAL.npz": "not a name of SMPL's neutral body",
    }


def test_what_is_found_but_not_used_is_named_with_the_reason(body: BodyData, tmp_path: Path) -> None:
    reasons = other_things(tmp_path, body)
    chosen = choose_body(tmp_path)
    assert chosen.path == OPEN_BODY
    found = {str(item.path.relative_to(tmp_path)): item.reason for item in chosen.ignored}
    assert set(found) == set(reasons)
    for name, reason in reasons.items():
        assert reason in found[name], name
        assert f"{tmp_path / name} ({found[name]})" in chosen.line
    assert "have no usable SMPL_NEUTRAL.pkl; ignored: " in chosen.line


def test_an_unusable_file_does_not_hide_a_usable_one(body: BodyData, tmp_path: Path) -> None:
    (tmp_path / "SMPL_NEUTRAL.pkl").touch()
    write_regressors(tmp_path, body)
    first = write_smpl(tmp_path / "smpl" / "SMPL_NEUTRAL.pkl", body)
    second = write_smpl(tmp_path / "smpl" / ORIGINAL, body)
    chosen = choose_body(tmp_path)
    assert chosen.path == first
    assert {item.path: item.reason for item in chosen.ignored} == {
        tmp_path / "SMPL_NEUTRAL.pkl": "it is empty",
        second: "SMPL_NEUTRAL.pkl comes first",
    }


def test_what_is_missing_is_named_until_it_is_there(body: BodyData, tmp_path: Path) -> None:
    path = write_smpl(tmp_path / "smpl" / "SMPL_NEUTRAL.pkl", body)
    (ignored,) = choose_body(tmp_path).ignored
    assert ignored.reason == f"needs {tmp_path / 'J_regressor_extra.npy'}, which SPIN's data archive holds; put it there"
    write_regressors(tmp_path, body)
    assert find_body(tmp_path) == path
    path.write_bytes(b"")
    assert find_body(tmp_path) == OPEN_BODY


@pytest.mark.parametrize("value", [np.zeros(()), np.zeros((5, 2)), "text", None, [1, 2], np.array([["a"]])])
@pytest.mark.parametrize("key", ["v_template", "shapedirs", "kintree_table", "weights", "f", "J_regressor", "vertex_ids"])
def test_wrong_arrays_are_refused_by_name(key: str, value: object, body: BodyData, tmp_path: Path) -> None:
    path = write_smpl(tmp_path / "SMPL_NEUTRAL.pkl", body)
    write_regressors(tmp_path, body)
    content = dict(np.load(OPEN_BODY, allow_pickle=False)) | {key: value}
    path.write_bytes(pickle.dumps(content))
    (ignored,) = choose_body(tmp_path).ignored
    assert ignored.path == path and ignored.reason
    with pytest.raises(BodyFileError, match=r"SMPL_NEUTRAL\.pkl"):
        load_body(path)


def test_bodies_of_both_genders_are_found_too(body: BodyData, tmp_path: Path) -> None:
    write_regressors(tmp_path, body)
    male = write_smpl(tmp_path / "smpl" / "basicmodel_m_lbs_10_207_0_v1.1.0.pkl", body, shapes=300)
    assert find_gendered(tmp_path, "male") == male
    assert load_body(male).name == "SMPL_MALE"
    assert find_gendered(tmp_path, "female") is None
    (tmp_path / "smpl" / "SMPL_FEMALE.pkl").touch()
    with pytest.raises(BodyFileError, match=r"SMPL_FEMALE\.pkl: it is empty"):
        find_gendered(tmp_path, "female")


def test_smplifys_prior_goes_with_smpl_wherever_that_is(tmp_path: Path) -> None:
    (tmp_path / "gmm_08.pkl").touch()
    assert find_prior(tmp_path, tmp_path / "smpl" / "SMPL_NEUTRAL.pkl") == tmp_path / "gmm_08.pkl"
    assert find_prior(tmp_path, OPEN_BODY) == OPEN_PRIOR
