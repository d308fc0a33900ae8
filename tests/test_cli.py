import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from irlvla import cli, score_table
from irlvla.cli import camera_names, main
from irlvla.definitions import DEFINITIONS, Definition
from irlvla.run_data import data_of

GOLDEN = Path(__file__).parent / "golden"


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["irlvla", *map(str, arguments)])
    main()


def test_the_verbs_are_the_promised_ones():
    assert set(cli.VERBS) == {"world", "strip", "pandaset", "score", "train", "evaluate", "compare", "submit", "export", "doctor", "demo"}


def test_definitions_are_listed_once():
    assert tuple(DEFINITIONS) == get_args(Definition)


def test_cameras_are_named_short_long_all_or_none():
    assert camera_names("f0, CAM_B0") == ("CAM_F0", "CAM_B0") and len(camera_names("all")) == 8 and camera_names("none") == ()
    with pytest.raises(ValueError, match="unknown camera CAM_X9"):
        camera_names("X9")


def test_scoring_writes_a_row_for_every_plan(tmp_path, monkeypatch, capsys):
    token = (GOLDEN / "scenes.csv").read_text().splitlines()[1].split(",")[0]
    np.savez(tmp_path / "plans.npz", **{f"{token}_poses": np.zeros((3, 8, 3))})
    arguments = ["--logs", GOLDEN / "openscene", "--maps", GOLDEN / "maps", "--split", "test"]
    run(monkeypatch, "score", *arguments, "--trajectories", tmp_path / "plans.npz", "--out", tmp_path / "out.csv")
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0] == "token,trajectory,NC,DAC,DDC,TLC,EP,TTC,LK,HC,EC,EPDMS,ade,fde,definition,traffic" and len(lines) == 4
    np.savez(tmp_path / "plans.npz", **{"00000000000000aa_poses": np.zeros((1, 8, 3))})
    with pytest.raises(SystemExit, match="1"):
        run(monkeypatch, "score", *arguments, "--trajectories", tmp_path / "plans.npz", "--out", tmp_path / "out.csv")
    assert "failed: 00000000000000aa" in capsys.readouterr().out


def test_an_interruption_says_where_to_go_on(monkeypatch, tmp_path, capsys):
    def interrupted(*arguments):
        (tmp_path / "out.csv.parts").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(score_table, "score_split", interrupted)
    with pytest.raises(SystemExit, match="130"):
        run(monkeypatch, "score", "--store", tmp_path, "--trajectories", tmp_path / "plans.npz", "--out", tmp_path / "out.csv")
    assert f"interrupted; {tmp_path} and {tmp_path / 'out.csv.parts'} keeps what was finished" in capsys.readouterr().err


def test_a_mistake_is_one_line_and_no_traceback(monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match="irlvla: .* is no run"):
        monkeypatch.setenv("OPENSCENE_DATA_ROOT", str(tmp_path)), monkeypatch.setenv("NUPLAN_MAPS_ROOT", str(tmp_path))
        run(monkeypatch, "evaluate", "--run", tmp_path, "--split", tmp_path / "x.yaml")


def test_roots_come_from_flags_or_from_navsims_variables(monkeypatch, tmp_path):
    monkeypatch.delenv("OPENSCENE_DATA_ROOT", raising=False)
    with pytest.raises(ValueError, match="pass --logs, or set the environment variable OPENSCENE_DATA_ROOT"):
        data_of(tmp_path, None, tmp_path, None, None)
    monkeypatch.setenv("OPENSCENE_DATA_ROOT", str(tmp_path / "logs"))
    kept = data_of(tmp_path, None, tmp_path / "maps", tmp_path / "train.yaml", None)
    assert kept == json.loads((tmp_path / "data.json").read_text())
    assert (kept["recipe"], kept["seed"]) == ("default", "0") and data_of(tmp_path, recipe="tiny", seed=4)["seed"] == "4"
    assert data_of(tmp_path)["recipe"] == "tiny" and kept["logs"] == str(tmp_path / "logs") and kept["val"] == str(tmp_path / "val.yaml")
    assert data_of(tmp_path, None, None, None, tmp_path / "other.yaml")["val"] == str(tmp_path / "other.yaml")


def test_a_run_that_does_not_know_its_split_says_so(tmp_path):
    with pytest.raises(ValueError, match="does not know its training split yet: pass --split"):
        data_of(tmp_path, tmp_path, tmp_path, None, None)


def test_without_torch_the_missing_extra_is_named():
    program = "import sys; sys.modules['torch'] = None; sys.argv = ['irlvla', 'demo']; from irlvla.cli import main; main()"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd="/")
    assert answer.returncode == 1 and "pip install 'irlvla[train]'" in answer.stderr and "Traceback" not in answer.stderr


def test_the_doctor_names_what_is_missing(monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit, match="1"):
        run(monkeypatch, "doctor", "--logs", tmp_path, "--maps", GOLDEN / "maps")
    printed = capsys.readouterr().out
    assert "ok   numerics: tracker" in printed and f"BAD  logs {tmp_path}" in printed and "BAD  map sg-one-north" in printed
