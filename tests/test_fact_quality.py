"""Precision and recall of statements, worked by hand."""

import numpy as np
import pytest

from irlvla.fact_quality import STATEMENTS, Stated, fact_quality, quality_table, statements

NAMES = [name for _, _, name in STATEMENTS]
FREE = [0, 0, 0, 0, 0, 0, 2]
RED = [0, 0, 1, 0, 0, 0, 0]
FAR_RED = [0, 0, 3, 0, 0, 0, 0]
MALFORMED = [-1] * 7


def report(written, logged, logs):
    return fact_quality(statements(np.array(written), np.array(logged), logs))


def row(found, name):
    return found["statements"][NAMES.index(name)]


def test_names_of_statements_are_those_of_the_texts_and_none_is_there_twice():
    assert len(set(NAMES)) == len(NAMES)
    assert {"vehicle ahead", "vehicle ahead near", "red light", "pedestrian ahead", "turn left", "lateral keep"} <= set(NAMES)


def test_precision_and_recall_worked_by_hand():
    # Red near is true in scenes 0, 1, 2, 3; stated in 0, 1 and (wrongly) 4; scene 2 is stated to be far, scene 3 is malformed.
    found = report([RED, RED, FAR_RED, MALFORMED, RED], [RED, RED, RED, RED, FREE], list("abcde"))
    near, any_red = row(found, "red light near"), row(found, "red light")
    assert (near["stated"], near["true"]) == (3, 4)
    assert near["precision"]["value"] == pytest.approx(2 / 3) and near["recall"]["value"] == pytest.approx(1 / 2)
    assert any_red["precision"]["value"] == pytest.approx(3 / 4) and any_red["recall"]["value"] == pytest.approx(3 / 4)
    assert found["malformed"]["value"] == pytest.approx(1 / 5) and found["exact"]["value"] == pytest.approx(2 / 5)
    assert row(found, "turn left")["precision"] == {"value": None, "ci95": None}


def test_what_is_right_everywhere_has_an_interval_without_width():
    found = report([RED, FREE], [RED, FREE], ["a", "b"])
    assert row(found, "red light near")["recall"] == {"value": 1.0, "ci95": [1.0, 1.0]}
    assert found["exact"] == {"value": 1.0, "ci95": [1.0, 1.0]}


def test_scenes_without_known_facts_are_left_out():
    found = report([RED, RED, FREE], [RED, MALFORMED, FREE], ["a", "b", "c"])
    assert (found["scenes"], found["logs"]) == (2, 2) and row(found, "red light near")["precision"]["value"] == 1.0


def test_intervals_resample_logs_so_that_copies_of_a_scene_in_its_log_tell_nothing_new():
    random = np.random.default_rng(0)
    logged = np.where(random.random((60, 1)) < 0.5, RED, FREE)
    written = np.where(random.random((60, 1)) < 0.2, FREE, logged)
    logs = [str(index) for index in range(60)]
    once = report(written, logged, logs)
    copied = report(np.repeat(written, 5, axis=0), np.repeat(logged, 5, axis=0), [name for name in logs for _ in range(5)])
    assert row(once, "red light near")["recall"] == row(copied, "red light near")["recall"]
    low, high = row(once, "red light near")["recall"]["ci95"]
    assert low < row(once, "red light near")["recall"]["value"] < high


def test_the_table_has_a_line_for_every_statement():
    lines = quality_table(report([RED, FREE], [RED, RED], ["a", "b"])).splitlines()
    assert len(lines) == len(STATEMENTS) + 2 and "50.0" in lines[1 + NAMES.index("red light near")]
    assert lines[-1].startswith("malformed 0.0") and lines[-1].endswith("2 scenes of 2 logs")


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="2 log names for 1 scenes"):
        statements(np.array([RED]), np.array([RED]), ["a", "b"])
    with pytest.raises(ValueError, match="none of 1 scenes has known facts"):
        statements(np.array([RED]), np.array([MALFORMED]), ["a"])
    with pytest.raises(ValueError, match="1 log names for 2 scenes"):
        Stated(
            log_names=("a",),
            stated=np.zeros((2, 3), bool),
            true=np.zeros((2, 3), bool),
            malformed=np.zeros(2, bool),
            exact=np.zeros(2, bool),
        )
