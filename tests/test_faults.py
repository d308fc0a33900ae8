"""A cheap part of what benchmarks/faults.py tries, and its page."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fault_formats import damage, digest
from benchmarks.fault_tasks import Task
from benchmarks.faults import compared, done, files, killed, page, with_company

from .test_score_table import FOUR, FOUR_LOGS, GOLDEN, LOGS, MAPS

DOCS = Path(__file__).parents[1] / "docs"


def test_the_page_is_that_of_its_numbers_and_everything_on_it_is_well():
    found = json.loads((DOCS / "faults.json").read_text())
    assert (DOCS / "faults.md").read_text() == page(found)
    assert {row["kind"] for row in found["rows"]} == {"killed", "two processes", "disk full", "damaged"}
    assert all(row["good"] for row in found["rows"])


def test_damaged_files_are_named_and_what_is_written_here_is_never_read_as_something_else():
    rows = list(damage(flips=12, cuts=4))
    assert len(rows) == 16 and [row["seen"] for row in rows if not row["good"]] == []


def test_scoring_killed_in_the_middle_and_joined_by_another_process_gives_the_same_table(tmp_path):
    with np.load(GOLDEN / "trajectories.npz") as archive:
        np.savez(tmp_path / "plans.npz", **{f"{token}_poses": archive[f"{token}_poses"][:2] for token in FOUR})
    split = tmp_path / "four.yaml"
    split.write_text(json.dumps({"num_future_frames": 8, "tokens": FOUR, "log_names": FOUR_LOGS}))
    inputs = ["--logs", LOGS, "--maps", MAPS, "--split", split, "--trajectories", tmp_path / "plans.npz", "--processes", 2]
    task = Task(
        title="scoring",
        arguments=lambda world, place: ["score", *inputs, "--out", place / "table.csv"],
        kills=(("irlvla.score_table:write_part", 2),),
        pause=("irlvla.score_table:write_table", 1),
        leaves=("table.csv",),
    )
    whole, faulty = tmp_path / "whole", tmp_path / "faulty"
    whole.mkdir(), faulty.mkdir()
    assert done(task.arguments(tmp_path, whole)).returncode == 0
    assert killed(task.arguments(tmp_path, faulty), *task.kills[0], tmp_path) is None
    assert (faulty / "table.csv.parts").exists() and not (faulty / "table.csv").exists()
    said, answer = with_company(task.arguments(tmp_path, faulty), task, tmp_path)
    assert "another process is writing this table" in said and answer.returncode == 0
    assert compared(whole, faulty, task.leaves) == ("1 files, all the same", True)


def test_a_kill_that_is_not_reached_and_files_that_differ_are_told(tmp_path):
    for name, text in (("a", "1"), ("b", "2")):
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "inner" / "x.txt").write_text(text)
        (tmp_path / name / "inner" / "y.json").write_text(json.dumps({"commit": name, "rows": [{"seconds": text, "value": 3}]}))
    assert compared(tmp_path / "a", tmp_path / "b", ("inner",)) == ("1 of 2 files differ, the first is inner/x.txt", False)
    assert len(files(tmp_path / "a", ("inner/x.txt", "nowhere"))) == 1
    assert compared(tmp_path / "a", tmp_path / "b", ("nowhere",))[1] is False
    assert digest([np.zeros(2), {"a": 1}]) != digest([np.zeros(2), {"a": 2}])


@pytest.mark.parametrize("verb", [("world", "W", "--logs", "3"), ("train", "imitation", "--run", "R")])
def test_a_second_process_on_one_folder_is_refused(tmp_path, monkeypatch, verb):
    import errno
    import fcntl
    import sys

    from irlvla import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["irlvla", *verb])
    monkeypatch.setattr(fcntl, "lockf", lambda *arguments: (_ for _ in ()).throw(OSError(errno.EAGAIN, "held")))
    with pytest.raises(SystemExit, match="irlvla: (W|R/imitation): another process is at work there"):
        cli.main()
