"""Shares moved the right way, worked by hand."""

import dataclasses

import numpy as np
import pytest

from irlvla.cause_quality import THRESHOLDS, cause_quality, cause_table, comparison, subsets, told_apart
from irlvla.causes import Case
from irlvla.interventions import ANSWER_NAMES, Answers

NAN = float("nan")


def given(changes, cause="red", speeds=(5.0, 5.0, 0.0, 0.0), alone=(True, False, True, False)):
    made = tuple(
        Case(cause=cause, index=row, thing=0, others=(), pixels=9, distance=9.0, speed=speed, alone=free)
        for row, (speed, free) in enumerate(zip(speeds, alone, strict=True))
    )
    return Answers(cases=made, before=np.zeros(len(made)), changes={name: np.array(rows, float) for name, rows in changes.items()})


LOGS = ["a", "a", "b", "b"]
CHANGES = {
    "masked": [[1.0], [0.6], [-0.6], [0.1]],
    "swapped": [[3.0], [3.0], [3.0], [3.0]],
    "elsewhere": [[0.0, 1.0], [0.0, 0.0], [-1.0, -1.0], [0.0, 0.0]],
    "other_swapped": [[NAN], [NAN], [NAN], [1.0]],
}


def test_shares_are_counted_by_hand():
    found = comparison(np.array(CHANGES["masked"]), np.array(CHANGES["elsewhere"]), LOGS, 1, 0.5)
    assert (found["cases"], found["logs"]) == (4, 2)
    assert (found["right"], found["wrong"], found["right_control"], found["wrong_control"]) == (0.5, 0.25, 0.125, 0.25)
    assert found["counts"] == {"right": 2.0, "wrong": 1.0, "right_control": 0.5, "wrong_control": 1.0}
    assert found["gain"] == pytest.approx(0.375)
    # Log a gains 0.75 a scene, log b nothing: these are the ends when both are drawn twice.
    assert found["gain_ci95"] == pytest.approx([0.0, 0.75])
    assert found["change"] == pytest.approx(0.275) and found["change_control"] == pytest.approx(-0.125)
    assert found["change_gain"] == pytest.approx(0.4)


def test_the_right_way_may_be_down():
    up, down = (comparison(sign * np.array(CHANGES["masked"]), np.array(CHANGES["elsewhere"]), LOGS, 1, 0.5) for sign in (1, -1))
    assert down["right"] == up["wrong"] == comparison(np.array(CHANGES["masked"]), np.array(CHANGES["elsewhere"]), LOGS, -1, 0.5)["right"]


def test_cases_without_a_control_are_left_out():
    found = comparison(np.array(CHANGES["swapped"]), np.array(CHANGES["other_swapped"]), LOGS, 1, 0.5)
    assert (found["cases"], found["logs"], found["gain"]) == (1, 1, 0.0)
    assert comparison(np.array(CHANGES["swapped"]), np.full((4, 1), NAN), LOGS, 1, 0.5) is None


def test_a_higher_threshold_counts_less():
    shares = [
        comparison(np.array(CHANGES["masked"]), np.array(CHANGES["elsewhere"]), LOGS, 1, limit)["right"] for limit in (0.05, 0.5, 0.9, 2.0)
    ]
    assert shares == [0.75, 0.5, 0.25, 0.0]


def test_subsets_are_told_by_speed_and_by_what_else_holds_the_ego():
    found = {name: chosen.tolist() for name, chosen in subsets(given(CHANGES)).items()}
    assert found["moving"] == [True, True, False, False] and found["waiting"] == [False, False, True, True]
    assert found["alone"] == [True, False, True, False] and all(found["all"])


def test_every_comparison_of_a_cause_is_a_row_for_each_subset_and_threshold():
    rows = cause_quality({"red": given(CHANGES)}, LOGS, (0.5, 2.0))
    kinds = [(row["intervention"], row["control"]) for row in rows if row["subset"] == "all" and row["threshold"] == 0.5]
    assert kinds == [("masked", "elsewhere"), ("swapped", "elsewhere"), ("swapped", "other_swapped")]
    assert len(rows) == 2 * (4 + 4 + 2)
    table = cause_table(rows, 0.5).splitlines()
    assert len(table) == 1 + 10
    assert "50.0/25.0" in table[1] and "12.5/25.0" in table[1] and "+37.5 (+0.0 .. +75.0)" in table[1]


def test_a_green_light_that_turns_red_should_shorten():
    changes = {"swapped": [[-1.0]] * 4, "elsewhere": [[0.0]] * 4, "other_swapped": [[NAN]] * 4}
    rows = cause_quality({"green": given(changes, cause="green")}, LOGS, (0.5,))
    assert rows[0]["right"] == 1.0 and rows[0]["change"] == 1.0 and rows[0]["way"] == -1


def test_every_answer_has_thresholds():
    assert tuple(THRESHOLDS) == ANSWER_NAMES


def lamps(before, masked, swapped, cause):
    changes = {"masked": [[value - was] for value, was in zip(masked, before, strict=True)]}
    changes["swapped"] = [[value - was] for value, was in zip(swapped, before, strict=True)]
    return dataclasses.replace(given(changes, cause=cause), before=np.array(before, float))


def test_an_answer_that_reads_lamps_turns_round_when_they_are_swapped():
    red = lamps([1, 2, 3, 4], [5, 5, 5, 5], [9, 9, 9, 9], "red")
    green = lamps([9, 9, 9, 3], [5, 5, 5, 5], [1, 1, 1, 1], "green")
    told = told_apart(red, green, LOGS)
    # Of 16 pairs three 9s win 12; the 3 wins two, ties one and loses one.
    assert told["original"]["auc"] == pytest.approx((12 + 2 + 0.5) / 16)
    assert told["masked"]["auc"] == 0.5 and told["swapped"]["auc"] == 0.0
    low, high = told["original"]["auc_ci95"]
    assert low <= told["original"]["auc"] <= high and told["swapped"]["auc_ci95"] == [0.0, 0.0]


def test_a_missing_answer_tells_nothing_apart():
    red = lamps([NAN, 2, 3, 4], [5, 5, 5, 5], [9, 9, 9, 9], "red")
    assert told_apart(red, red, LOGS)["original"] == {"auc": None, "auc_ci95": None}
