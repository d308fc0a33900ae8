"""How good a reward world model is, on candidates whose true sub-scores are known."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata

from irlvla.intervals import mean_interval
from irlvla.types import SUB_SCORE_NAMES, SubScores

PREDICTED_NAMES = SUB_SCORE_NAMES[:-1]
"""EC is computed from two plans, not predicted."""
BINS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What the reward world model said of a group of candidates a scene, beside the truth."""

    true: SubScores
    predicted: SubScores
    true_score: Float[np.ndarray, "scenes group"]
    predicted_score: Float[np.ndarray, "scenes group"]
    confidence: Float[np.ndarray, "scenes group"]


def auc(positive: Bool[np.ndarray, "candidates"], predicted: Float[np.ndarray, "candidates"]) -> float | None:
    """Chance that a positive candidate is predicted higher than a negative one, ties counted half; None without both kinds.

    Example:
        >>> auc(np.array([True, True, False, False]), np.array([0.9, 0.4, 0.4, 0.1]))
        0.875
    """
    count = int(positive.sum())
    if count in (0, len(positive)):
        return None
    ranks = rankdata(predicted)
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * (len(positive) - count)))


def calibration(
    true: Float[np.ndarray, "candidates"], predicted: Float[np.ndarray, "candidates"]
) -> tuple[Float[np.ndarray, "bins"], Float[np.ndarray, "bins"], Float[np.ndarray, "bins"]]:
    """Reliability of a predicted expectation in ten equal bins: mean prediction, mean truth and share of candidates in each."""
    index = np.minimum((predicted * BINS).astype(int), BINS - 1)
    counts = np.bincount(index, minlength=BINS)
    with np.errstate(invalid="ignore"):
        return (
            np.bincount(index, weights=predicted, minlength=BINS) / counts,
            np.bincount(index, weights=true, minlength=BINS) / counts,
            counts / len(predicted),
        )


def calibration_error(true: Float[np.ndarray, "candidates"], predicted: Float[np.ndarray, "candidates"]) -> float:
    """Expected calibration error over ten equal bins, in [0, 1]."""
    means, truths, shares = calibration(true, predicted)
    filled = shares > 0
    return float((np.abs(means - truths)[filled] * shares[filled]).sum())


def rank_correlation(true: Float[np.ndarray, "scenes group"], predicted: Float[np.ndarray, "scenes group"]) -> float | None:
    """Spearman's correlation within each scene, averaged over the scenes whose candidates differ in truth and in prediction."""
    values = []
    for left, right in zip(true, predicted, strict=True):
        if np.ptp(left) > 1e-9 and np.ptp(right) > 1e-9:
            values.append(np.corrcoef(rankdata(left), rankdata(right))[0, 1])
    return float(np.mean(values)) if values else None


def enrichment(true: Float[np.ndarray, "scenes group"], chosen_by: Float[np.ndarray, "scenes group"]) -> Float[np.ndarray, "scenes"]:
    """In each scene the truth of the candidate that `chosen_by` ranks first, minus the mean truth of all."""
    first = chosen_by.argmax(axis=1)
    return true[np.arange(len(true)), first] - true.mean(axis=1)


def acceptance(
    true: SubScores,
    predicted: SubScores,
    true_score: Float[np.ndarray, "scenes group"],
    predicted_score: Float[np.ndarray, "scenes group"],
    confidence: Float[np.ndarray, "scenes group"],
    log_names: Sequence[str],
) -> dict[str, Any]:
    """The reward world model's part of `results.json`.

    Args:
        true: measured sub-scores of a group of candidates a scene, arrays (scenes, group).
        predicted: the model's expectations for the same.
        true_score: EPDMS of `true`.
        predicted_score: what the model would choose by.
        confidence: what the policy itself would choose by.
        log_names: each scene's log.

    Returns:
        For each predicted sub-score AUC (of being 1; for EP of being above its median), calibration error and share below 1;
        Spearman within a scene; enrichment (0-100) of the model's, the exact scorer's and the policy's own choice, with intervals
        that resample logs.
    """
    report: dict[str, Any] = {}
    for name in PREDICTED_NAMES:
        truth, guess = np.asarray(getattr(true, name)).ravel(), np.asarray(getattr(predicted, name), dtype=np.float64).ravel()
        positive = truth > np.median(truth) if name == "ep" else truth >= 1.0
        report[name] = {"auc": auc(positive, guess), "ece": calibration_error(truth, guess), "below_one": float((truth < 1.0).mean())}
    report["spearman"] = rank_correlation(true_score, predicted_score)
    gains = {
        "enrichment": enrichment(true_score, predicted_score),
        "enrichment_exact": enrichment(true_score, true_score),
        "enrichment_confidence": enrichment(true_score, confidence),
    }
    gains["enrichment_over_confidence"] = gains["enrichment"] - gains["enrichment_confidence"]
    for name, values in gains.items():
        report[name] = 100 * float(values.mean())
        report[f"{name}_ci95"] = [100 * end for end in mean_interval(values, log_names)]
    report["scenes"], report["group"] = true_score.shape
    return report
