"""The commands eval and compare."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipelines.folders import DataFolder
from tests.pipelines.evaluation.measured import fit_store, read, true_fits, with_joints


def test_the_commands_with_their_published_options(run, data: DataFolder, folder: Path, mesh, tmp_path: Path) -> None:
    with_joints(data, mesh, "mpi-inf-3dhp-valid")
    common = ("--data", str(data.root), "--workers", "1")
    measured = run(
        "eval", "--checkpoint", str(folder / "net0.pt"), "--dataset", "mpi-inf-3dhp", "--batch_size", "2", "--log_freq", "1",
        "--num_workers", "1", "--result_file", str(tmp_path / "out.npz"), "--out", str(tmp_path / "a.json"), *common,
    )  # fmt: skip
    assert measured.code == 0, measured.err
    assert "PA-MPJPE mm" in measured.out
    assert "mpi-inf-3dhp-valid, 4 of" in measured.err
    with np.load(tmp_path / "out.npz") as npz:
        assert npz["pred_joints"].shape[1:] == (17, 3)
    again = run(
        "eval", "--result-in", str(tmp_path / "out.npz"), "--dataset", "mpi-inf-3dhp", "--out", str(tmp_path / "b.json"),
        "--json", *common,
    )  # fmt: skip
    assert json.loads(again.out)["metrics"].keys() == json.loads((tmp_path / "a.json").read_text())["metrics"].keys()
    compared = run("compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--draws", "100")
    assert compared.code == 0
    assert "the protocol cards agree" in compared.out
    other = run(
        "eval", "--result-in", str(tmp_path / "out.npz"), "--dataset", "mpi-inf-3dhp", "--out", str(tmp_path / "c.json"),
        "--protocol", "h36m-p1", *common,
    )  # fmt: skip
    assert other.code == 0
    assert run("compare", str(tmp_path / "a.json"), str(tmp_path / "c.json")).code == 1
    anyway = run("compare", str(tmp_path / "a.json"), str(tmp_path / "c.json"), "--anyway", "--json", "--draws", "100")
    assert json.loads(anyway.out)["comparable"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give one of"),
        (("--checkpoint", "x.pt", "--stored-fits"), "give one of"),
        (("--stored-fits", "--protocol", "coco"), "--protocol coco: not known"),
        (("--stored-fits", "--crop", "plain"), "--crop plain: for a network's input"),
        (("--stored-fits", "--out", "x.txt"), "--out x.txt: expected a name that ends in .json"),
        (("--stored-fits", "--result", "x.json"), "--result x.json: expected a name that ends in .npz"),
    ],
)
def test_wrong_commands_are_refused(run, folder: Path, arguments: tuple[str, ...], message: str) -> None:
    refused = run("eval", "--dataset", "3dpw", "--data", str(folder / "data"), *arguments)
    assert refused.code == 2
    assert message in refused.err


def test_stored_fits_takes_a_tag_and_leaves_the_fits_folder_alone(
    run, data: DataFolder, body, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = read(data, "3dpw")
    rows = np.arange(0, len(people), 2)
    store = fit_store(data, people, body.fingerprint)
    store.merge(rows, true_fits(people, rows))
    store.tag("half")
    common = ("eval", "3dpw", "--data", str(data.root), "--workers", "1")
    elsewhere = tmp_path / "elsewhere"
    for number, (arguments, tag) in enumerate(
        [
            (("--stored-fits", "half"), "half"),
            (("--stored-fits",), ""),
            (("--stored-fits", "half", "--fits", str(elsewhere)), "half"),
            (("--fits", str(elsewhere), "--stored-fits", "half"), "half"),
        ]
    ):
        if "--fits" in arguments and not elsewhere.exists():
            data.fits("3dpw").parent.rename(elsewhere)
        output = tmp_path / f"{number}.json"
        measured = run(*common, *arguments, "--out", str(output))
        assert measured.code == 0, measured.err
        content = json.loads(output.read_text())
        assert content["subject"]["tag"] == tag
        assert content["samples"] == len(rows)
    monkeypatch.setenv("SPIN_PIPE_FITS", str(elsewhere))
    measured = run(*common, "--stored-fits", "half", "--out", str(tmp_path / "environment.json"))
    assert measured.code == 0, measured.err
    assert run(*common, "--stored-fits", "none-such").code == 1
