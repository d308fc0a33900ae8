import numpy as np
import pytest

from irlvla.acceptance import acceptance, auc, calibration_error, enrichment, rank_correlation
from irlvla.types import SUB_SCORE_NAMES, SubScores


def sub_scores(values):
    arrays = {name: np.asarray(values, dtype=np.float64) for name in SUB_SCORE_NAMES}
    return SubScores(**arrays, ec_defined=np.zeros_like(arrays["ec"]))


def test_auc_of_a_perfect_a_blind_and_a_one_sided_prediction():
    positive = np.array([True, False, True, False])
    assert auc(positive, np.array([0.9, 0.1, 0.8, 0.2])) == 1.0
    assert auc(positive, np.full(4, 0.5)) == 0.5
    assert auc(np.ones(4, bool), np.full(4, 0.5)) is None


def test_a_prediction_that_is_always_a_half_too_high_is_off_by_a_half():
    assert calibration_error(np.array([0.0, 0.5, 0.0]), np.array([0.5, 1.0, 0.5])) == pytest.approx(0.5)


def test_a_calibrated_prediction_has_no_error():
    truth = np.array([1.0, 0.0, 0.0, 0.0])
    assert calibration_error(truth, np.full(4, 0.25)) == pytest.approx(0.0)


def test_enrichment_is_the_chosen_minus_the_mean():
    true = np.array([[0.0, 1.0, 0.5], [0.2, 0.2, 0.8]])
    assert enrichment(true, true) == pytest.approx([0.5, 0.4])
    assert enrichment(true, -true) == pytest.approx([-0.5, -0.2])


def test_rank_correlation_leaves_out_scenes_without_spread():
    true = np.array([[0.1, 0.2, 0.3], [1.0, 1.0, 1.0]])
    assert rank_correlation(true, np.array([[3.0, 4.0, 9.0], [1.0, 2.0, 3.0]])) == pytest.approx(1.0)
    assert rank_correlation(true[1:], true[1:]) is None


def test_the_report_holds_what_results_json_promises():
    random = np.random.default_rng(0)
    true = (random.random((40, 6)) > 0.3).astype(float)
    noisy = np.clip(0.6 * true + 0.4 * random.random((40, 6)), 0, 1)
    report = acceptance(sub_scores(true), sub_scores(noisy), true, noisy, random.random((40, 6)), [str(i // 4) for i in range(40)])
    assert set(SUB_SCORE_NAMES[:-1]) <= set(report) and report["nc"]["auc"] == 1.0
    assert report["enrichment"] == pytest.approx(report["enrichment_exact"]) and report["enrichment_ci95"][0] > 0
    assert report["enrichment"] > report["enrichment_confidence"] and report["group"] == 6
