import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from irlvla import two_stage
from irlvla.submit import Plan, read_submission, write_submission
from irlvla.two_stage import HEADER, ROWS, at_known_rate, score_two_stage, summary_text

GOLDEN = Path(__file__).parent / "golden"
SPLIT = GOLDEN / "two_stage" / "conf" / "small.yaml"
NOW, PREVIOUS = "f0d818f83617d761", "7106ba34a274b1a1"
LOG = "2021.08.08.12.29.07_veh-59_01260_01290"


def rows_of(path):
    with path.open() as file:
        return {row["token"]: row for row in csv.DictReader(file)}


def scored(out, submission=GOLDEN / "two_stage" / "perturbed.pkl", split=SPLIT, logs=GOLDEN / "openscene", **options):
    return score_two_stage(submission, split, logs, GOLDEN / "maps", out, **{"processes": 1, **options})


@pytest.mark.parametrize("agent", ["constant_velocity", "perturbed"])
def test_the_table_has_the_devkits_layout_and_numbers(tmp_path, agent):
    found = scored(tmp_path / "t.csv", GOLDEN / "two_stage" / f"{agent}.pkl")
    ours, theirs = rows_of(tmp_path / "t.csv"), rows_of(GOLDEN / "two_stage" / f"{agent}.csv")
    assert tuple(ours[NOW]) == tuple(theirs[NOW]) == HEADER
    assert list(ours) == [NOW, PREVIOUS, *list(ours)[2:8], *ROWS] and set(theirs) == set(list(ours)[:8])
    for token, row in theirs.items():
        assert ours[token]["valid"] == row["valid"] == "True"
        for name in HEADER[3:]:
            assert (ours[token][name] == "") == (row[name] == "")
            assert row[name] == "" or abs(float(ours[token][name]) - float(row[name])) < 1e-3
    assert found["valid"] and not found["failed"] and found["plans_not_asked_for"] == 102
    assert float(ours[ROWS[2]]["score"]) == pytest.approx(found["combined"] / 100.0)
    assert ours[ROWS[0]]["ego_progress_stage_two"] == "" != ours[ROWS[2]]["ego_progress_stage_two"]
    assert json.loads((tmp_path / "t.json").read_text()) == found and f"combined  {found['combined']:.2f}" in summary_text(found)
    assert not (tmp_path / "t.csv.parts").exists()


def test_traffic_is_reactive_unless_it_is_asked_to_be_replayed(tmp_path):
    found = [scored(tmp_path / "t.csv", GOLDEN / "two_stage" / "constant_velocity.pkl", **some) for some in ({}, {"traffic": "log_replay"})]
    assert [one["traffic"] for one in found] == ["idm", "log_replay"]
    assert found[0]["stage_one"]["score"] == 25.0


def test_the_combined_score_is_stage_one_times_weighted_stage_two(tmp_path):
    scored(tmp_path / "t.csv")
    rows = rows_of(tmp_path / "t.csv")
    synthetic = list(rows)[2:8]
    lows, highs = ([float(rows[token]["score"]) for token in synthetic[side::2]] for side in (0, 1))
    assert min(lows + highs) <= float(rows[ROWS[1]]["score"]) <= max(lows + highs)
    assert float(rows[ROWS[2]]["score"]) <= float(rows[ROWS[0]]["score"]) == 1.0


def test_a_plan_that_is_missing_makes_its_row_and_the_whole_invalid_and_is_said(tmp_path):
    given = read_submission(GOLDEN / "two_stage" / "perturbed.pkl")
    poses = [{token: plan.poses for token, plan in stage.items()} for stage in (given.stage_one, given.stage_two)]
    del poses[1]["0129de0fb7424fa11"]
    write_submission(tmp_path / "s.pkl", poses[0], {}, poses[1])
    found = scored(tmp_path / "t.csv", tmp_path / "s.pkl")
    assert found["failed"] == {"0129de0fb7424fa11": "the submission has no plan for it"}
    assert found["faults"] == ["scene 0129de0fb7424fa11 was not scored"] and not found["valid"] and found["combined"] is None
    rows = rows_of(tmp_path / "t.csv")
    assert rows["0129de0fb7424fa11"]["valid"] == "False" and rows[ROWS[0]]["valid"] == "False" and rows[ROWS[2]]["score"] == ""
    assert rows["112ea335ff2e7e75d"]["valid"] == "True" and rows["112ea335ff2e7e75d"]["score"] != ""
    assert "NOT VALID: 1 scenes or logs were not scored, 1 pairs are not whole" in summary_text(found)


def test_a_log_or_synthetic_scene_that_cannot_be_read_is_named(tmp_path):
    shutil.copytree(GOLDEN / "openscene" / "navhard_two_stage", tmp_path / "logs" / "warmup")
    (tmp_path / "logs" / "navsim_logs" / "test").mkdir(parents=True)
    log = tmp_path / "logs" / "navsim_logs" / "test" / f"{LOG}.pkl"
    log.write_bytes(b"nothing")
    pickles = tmp_path / "logs" / "warmup" / "synthetic_scene_pickles"
    (pickles / "0129de0fb7424fa11.pkl").unlink()
    (pickles / "112ea335ff2e7e75d.pkl").write_bytes(b"nothing")
    found = scored(tmp_path / "t.csv", logs=tmp_path / "logs")
    assert "not a readable pickle of frames" in found["failed"][str(log)] and "in no readable log of the split" in found["failed"][NOW]
    assert "no synthetic scene of this name" in found["failed"]["0129de0fb7424fa11"]
    assert "112ea335ff2e7e75d.pkl: not a readable pickle" in found["failed"]["112ea335ff2e7e75d"]
    log.rename(log.with_name("other.pkl"))
    with pytest.raises(ValueError, match="none of the 1 logs of the split is below"):
        scored(tmp_path / "t.csv", logs=tmp_path / "logs")


def test_an_interrupted_table_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    whole = scored(tmp_path / "whole.csv")
    original, calls = two_stage.scored_plan, []

    def counted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(two_stage, "scored_plan", counted)
    with pytest.raises(KeyboardInterrupt):
        scored(tmp_path / "t.csv")
    found = scored(tmp_path / "t.csv")
    # The log's two scenes were finished before; only the six synthetic ones were scored again.
    assert len(calls) == 3 + 6 and found["combined"] == whole["combined"]
    assert (tmp_path / "t.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_processes_make_the_same_table(tmp_path):
    scored(tmp_path / "one.csv")
    scored(tmp_path / "two.csv", processes=2)
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()


def test_what_cannot_be_used_as_a_whole_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="the table is a CSV"):
        scored(tmp_path / "t.json")
    with pytest.raises(ValueError, match="is no folder"):
        score_two_stage(GOLDEN / "two_stage" / "perturbed.pkl", SPLIT, GOLDEN / "openscene", tmp_path / "nowhere", tmp_path / "t.csv")


def test_plans_of_other_samplings_are_read_at_ten_hertz_and_held_at_their_end():
    usual = Plan(poses=np.ones((8, 3)), interval=0.5)
    assert at_known_rate(usual) is usual.poses and at_known_rate(Plan(poses=np.ones((40, 3)), interval=0.1)).shape == (40, 3)
    poses = np.column_stack([np.arange(1.0, 4.0), np.zeros(3), [3.0, -3.2, -3.0]])
    found = at_known_rate(Plan(poses=poses, interval=1.0))
    np.testing.assert_allclose(found[[4, 9, 14, 29, 39], 0], (0.5, 1.0, 1.5, 3.0, 3.0))
    np.testing.assert_allclose(found[14, 2], (3.0 + 2 * np.pi - 3.2) / 2)
    assert at_known_rate(Plan(poses=np.ones((10, 3)), interval=0.5)).shape == (40, 3)
