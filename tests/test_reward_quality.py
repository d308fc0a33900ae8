"""Numbers of the benchmark of reward models, by hand and against slow twins on resampled data."""

import numpy as np
import pytest

from irlvla.acceptance import auc, calibration_error
from irlvla.reward_quality import Answer, Candidates, first_choice, measures, quality, rank_correlations, reliability
from irlvla.types import SUB_SCORE_NAMES, SubScores

LOGS = np.array([0, 0, 1, 1, 2, 2])
NAMES = [f"log{log}" for log in LOGS]


def sub_scores(values):
    arrays = {name: np.asarray(values, dtype=np.float64) for name in SUB_SCORE_NAMES}
    return SubScores(**arrays, ec_defined=np.zeros_like(arrays["ec"]))


def candidates(true):
    scores = np.asarray(true, dtype=np.float64)
    return Candidates(
        kind="by_hand",
        poses=np.zeros((*scores.shape, 8, 3)),
        true=sub_scores(scores),
        true_score=scores,
        confidence=None,
        milliseconds=1.0,
    )


def answer(name, values, with_parts=True):
    scores = np.asarray(values, dtype=np.float64)
    return Answer(model=name, sub_scores=sub_scores(scores) if with_parts else None, score=scores, parameters=None, milliseconds=None)


def drawn(seed=0):
    random = np.random.default_rng(seed)
    true = (random.random((6, 8)) > 0.4).astype(float)
    return true, np.clip(0.4 * true + 0.6 * random.random((6, 8)), 0, 1).round(2)


def test_a_tie_is_shared_so_that_a_model_without_opinion_gains_nothing():
    assert first_choice(np.array([[0.0, 1.0, 0.5]]), np.array([[0.3, 0.3, 0.3]])) == pytest.approx([0.5])
    assert first_choice(np.array([[0.0, 1.0, 0.5]]), np.array([[0.3, 0.1, 0.3]])) == pytest.approx([0.25])


def test_rank_correlation_is_1_0_or_minus_1_and_not_defined_where_the_truth_does_not_differ():
    true = np.array([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3], [0.1, 0.2, 0.3], [1.0, 1.0, 1.0]])
    values = rank_correlations(true, np.array([[1.0, 2.0, 9.0], [3.0, 2.0, 1.0], [5.0, 5.0, 5.0], [1.0, 2.0, 3.0]]))
    assert values[:3] == pytest.approx([1.0, -1.0, 0.0]) and np.isnan(values[3])


def test_a_perfect_model_has_all_that_can_be_had():
    true, noisy = drawn()
    report = quality(candidates(true), [answer("perfect", true), answer("noisy", noisy), answer("plain", noisy, False)], NAMES)
    perfect, other, plain = report["rows"]
    assert report["groups"] == [8] and (report["scenes"], report["logs"], report["candidates"]) == (6, 3, 8)
    assert perfect["auc_nc"]["value"] == 1.0 and perfect["ece_nc"]["value"] == 0.0
    assert perfect["regret_8"]["value"] == 0.0 and perfect["share_8"]["value"] == pytest.approx(1.0)
    assert perfect["enrichment_8"]["value"] == pytest.approx(100 * (true.max(axis=1) - true.mean(axis=1)).mean())
    assert other["enrichment_8"]["value"] + other["regret_8"]["value"] == pytest.approx(perfect["enrichment_8"]["value"])
    assert "auc_nc" not in plain and plain["spearman"] == other["spearman"] and plain["reliability"] == {}


def test_a_model_does_not_differ_from_itself():
    true, noisy = drawn()
    pairs = quality(candidates(true), [answer("one", noisy), answer("two", noisy)], NAMES)["pairs"]
    assert {pair["metric"] for pair in pairs} >= {"auc_nc", "ece_ep", "spearman", "enrichment_8", "regret_8", "share_8"}
    assert all(pair["difference"] == 0 and pair["ci95"] == [0.0, 0.0] for pair in pairs)


def test_draws_are_what_the_numbers_would_be_on_repeated_logs():
    true, noisy = drawn(1)
    weights = np.array([[1.0, 1.0, 1.0], [2.0, 0.0, 1.0]])
    found = measures(candidates(true), answer("noisy", noisy), LOGS, weights, [8])
    rows = np.concatenate([np.arange(6), [0, 1, 0, 1, 4, 5]])
    for draw, chosen in enumerate((rows[:6], rows[6:])):
        truth, guess = true[chosen], noisy[chosen]
        assert found["auc_nc"].draws[draw] == pytest.approx(auc(truth.ravel() == 1, guess.ravel()), abs=2e-3)
        assert found["ece_nc"].draws[draw] == pytest.approx(calibration_error(truth.ravel(), guess.ravel()))
        assert found["spearman"].draws[draw] == pytest.approx(np.nanmean(rank_correlations(truth, guess)))
        gained, possible = first_choice(truth, guess) - truth.mean(axis=1), truth.max(axis=1) - truth.mean(axis=1)
        assert found["enrichment_8"].draws[draw] == pytest.approx(100 * gained.mean())
        assert found["share_8"].draws[draw] == pytest.approx(gained.sum() / possible.sum())


def test_where_nothing_ever_fails_there_is_no_auc_and_no_share():
    ones = np.ones((6, 8))
    row = quality(candidates(ones), [answer("any", drawn()[1])], NAMES)["rows"][0]
    assert row["auc_nc"] == {"value": None, "ci95": None} == row["share_8"] == row["spearman"]


def test_reliability_leaves_empty_bins_out():
    curve = reliability(sub_scores([[1.0, 0.0]]), sub_scores([[0.75, 0.75]]))["nc"]
    assert curve["measured"][7] == 0.5 and curve["predicted"][7] == 0.75 and curve["share"][7] == 1.0
    assert curve["measured"][0] is None and curve["share"][0] == 0.0
