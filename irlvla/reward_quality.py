"""How good reward models are on the same candidates: numbers, their intervals, and paired differences.

Everything is resampled by whole logs with one set of draws for all models, so that differences are paired. `irlvla.acceptance`
holds what the training stage itself reports.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata

from irlvla.acceptance import BINS, PREDICTED_NAMES, auc, calibration, calibration_error
from irlvla.types import SubScores

GROUPS = (8, 20, 64)
"""How many of a scene's candidates a model chooses from."""
RESAMPLES = 1000
RANKS = 256
"""Classes of rank by which an AUC is resampled; its value itself is exact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Candidates of every scene of a split and the truth about them.

    `confidence` is what the policy that drew them would choose by, None for candidates that no policy drew. `milliseconds` is what the
    exact scorer took for 1,000 of them. The first G of a scene are its group of G.
    """

    kind: str
    poses: Float[np.ndarray, "scenes candidates 8 3"]
    true: SubScores
    true_score: Float[np.ndarray, "scenes candidates"]
    confidence: Float[np.ndarray, "scenes candidates"] | None
    milliseconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one reward model says of the candidates: expected sub-scores (None: it gives a score alone) and what it chooses by."""

    model: str
    sub_scores: SubScores | None
    score: Float[np.ndarray, "scenes candidates"]
    parameters: int | None
    milliseconds: float | None


@dataclass(frozen=True, slots=True)
class Measure:
    """A number (None where it is not defined) and its values on resampled data sets."""

    value: float | None
    draws: Float[np.ndarray, "resamples"]


def quality(candidates: Candidates, answers: Sequence[Answer], log_names: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """The report on one kind of candidates.

    Args:
        candidates: of every scene.
        answers: of the models; the first is compared with each of the others.
        log_names: each scene's log.
        seed: of the resampling.

    Returns:
        "rows", one a model: AUC, calibration error (both with 95 % intervals), reliability in ten bins of each sub-score; Spearman with true
        EPDMS within a scene; for each group size enrichment and regret in points of EPDMS (0-100), and the share of the exact scorer's
        enrichment. "pairs": the first model minus each other.
    """
    _, log = np.unique(np.asarray(log_names), return_inverse=True)
    logs = int(log.max()) + 1
    weights = np.random.default_rng(seed).multinomial(logs, np.full(logs, 1 / logs), size=RESAMPLES).astype(np.float64)
    groups = [group for group in GROUPS if group <= candidates.true_score.shape[1]]
    measured = {answer.model: measures(candidates, answer, log, weights, groups) for answer in answers}
    rows = []
    for answer in answers:
        row: dict[str, Any] = {"model": answer.model, "parameters": answer.parameters, "milliseconds_per_1000": answer.milliseconds}
        row |= {name: {"value": measure.value, "ci95": _interval(measure.draws)} for name, measure in measured[answer.model].items()}
        row["reliability"] = {} if answer.sub_scores is None else reliability(candidates.true, answer.sub_scores)
        rows.append(row)
    first = answers[0].model
    pairs = [
        {"model": first, "against": other, "metric": name, "difference": mine.value - its.value, "ci95": _interval(mine.draws - its.draws)}
        for other in list(measured)[1:]
        for name, mine in measured[first].items()
        if (its := measured[other].get(name)) is not None and mine.value is not None and its.value is not None
    ]
    below = {name: float((np.asarray(getattr(candidates.true, name)) < 1.0).mean()) for name in PREDICTED_NAMES}
    return {
        "scenes": len(log),
        "logs": logs,
        "candidates": candidates.true_score.shape[1],
        "mean_epdms": 100 * float(candidates.true_score.mean()),
        "below_one": below,
        "groups": groups,
        "rows": rows,
        "pairs": pairs,
    }


def measures(
    candidates: Candidates,
    answer: Answer,
    log: Int[np.ndarray, "scenes"],
    weights: Float[np.ndarray, "resamples logs"],
    groups: Sequence[int],
) -> dict[str, Measure]:
    """All numbers of one model by name: auc_nc .., ece_nc .., spearman, enrichment_8 .., regret_8 .., share_8 ..."""
    found: dict[str, Measure] = {}
    if answer.sub_scores is not None:
        each = np.repeat(log, candidates.true_score.shape[1])
        for name in PREDICTED_NAMES:
            truth, guess = (np.asarray(getattr(scores, name), dtype=np.float64).ravel() for scores in (candidates.true, answer.sub_scores))
            middle = np.median(truth) if name == "ep" else 1.0
            positive = truth > middle if middle < 1.0 else truth >= 1.0
            found[f"auc_{name}"] = _auc(positive, guess, each, weights)
            found[f"ece_{name}"] = _calibration_error(truth, guess, each, weights)
    found["spearman"] = _mean(rank_correlations(candidates.true_score, answer.score), log, weights)
    for group in groups:
        true, score = candidates.true_score[:, :group], answer.score[:, :group]
        chosen = first_choice(true, score)
        gained, possible = chosen - true.mean(axis=1), true.max(axis=1) - true.mean(axis=1)
        found[f"enrichment_{group}"] = _mean(100 * gained, log, weights)
        found[f"regret_{group}"] = _mean(100 * np.maximum(true.max(axis=1) - chosen, 0.0), log, weights)
        found[f"share_{group}"] = _ratio(gained, possible, log, weights)
    return found


def first_choice(true: Float[np.ndarray, "scenes group"], score: Float[np.ndarray, "scenes group"]) -> Float[np.ndarray, "scenes"]:
    """In each scene the truth of the candidate that is scored highest; the mean over them where several are.

    Example:
        >>> first_choice(np.array([[0.2, 0.6, 1.0]]), np.array([[0.9, 0.9, 0.1]]))
        array([0.4])
    """
    highest = score == score.max(axis=1, keepdims=True)
    return (true * highest).sum(axis=1) / highest.sum(axis=1)


def rank_correlations(true: Float[np.ndarray, "scenes group"], score: Float[np.ndarray, "scenes group"]) -> Float[np.ndarray, "scenes"]:
    """Spearman's correlation in each scene; 0 where the truth differs and the score does not, NaN where the truth does not."""
    left, right = rankdata(true, axis=1), rankdata(score, axis=1)
    left, right = left - left.mean(axis=1, keepdims=True), right - right.mean(axis=1, keepdims=True)
    scale = np.sqrt((left**2).sum(axis=1) * (right**2).sum(axis=1))
    values = (left * right).sum(axis=1) / np.where(scale > 0, scale, 1.0)
    return np.where(np.ptp(true, axis=1) > 1e-9, values, np.nan)


def reliability(true: SubScores, predicted: SubScores) -> dict[str, dict[str, list[float | None]]]:
    """Mean prediction, mean truth and share of the candidates in ten equal bins of every predicted sub-score (None: an empty bin)."""
    report = {}
    for name in PREDICTED_NAMES:
        truth, guess = (np.asarray(getattr(scores, name), dtype=np.float64).ravel() for scores in (true, predicted))
        parts = zip(("predicted", "measured", "share"), calibration(truth, guess), strict=True)
        report[name] = {part: [None if np.isnan(value) else float(value) for value in values] for part, values in parts}
    return report


def _mean(values: np.ndarray, log: np.ndarray, weights: np.ndarray) -> Measure:
    defined = ~np.isnan(values)
    if not defined.any():
        return Measure(None, np.full(len(weights), np.nan))
    return _ratio(np.where(defined, values, 0.0), defined.astype(np.float64), log, weights)


def _ratio(above: np.ndarray, below: np.ndarray, log: np.ndarray, weights: np.ndarray) -> Measure:
    """Sum over scenes divided by another sum over scenes."""
    if not below.sum() > 0:
        return Measure(None, np.full(len(weights), np.nan))
    sums, counts = (weights @ np.bincount(log, weights=values) for values in (above, below))
    return Measure(float(above.sum() / below.sum()), _divided(sums, counts))


def _auc(positive: Bool[np.ndarray, "candidates"], guess: np.ndarray, log: np.ndarray, weights: np.ndarray) -> Measure:
    value = auc(positive, guess)
    if value is None:
        return Measure(None, np.full(len(weights), np.nan))
    rank = np.minimum(rankdata(guess) / len(guess) * RANKS, RANKS - 1).astype(int)
    good, bad = (_counts(log, rank, RANKS, weights.shape[1], chosen.astype(np.float64)) for chosen in (positive, ~positive))

    def ranked(sums: np.ndarray, others: np.ndarray) -> np.ndarray:
        lower = np.cumsum(others, axis=1) - 0.5 * others
        return _divided((sums * lower).sum(axis=1), sums.sum(axis=1) * others.sum(axis=1))

    whole = ranked(good.sum(axis=0, keepdims=True), bad.sum(axis=0, keepdims=True))[0]
    return Measure(value, ranked(weights @ good, weights @ bad) + (value - whole))


def _calibration_error(truth: np.ndarray, guess: np.ndarray, log: np.ndarray, weights: np.ndarray) -> Measure:
    place = np.minimum((guess * BINS).astype(int), BINS - 1)
    excess = weights @ _counts(log, place, BINS, weights.shape[1], guess - truth)
    sizes = weights @ np.bincount(log, minlength=weights.shape[1])
    return Measure(calibration_error(truth, guess), _divided(np.abs(excess).sum(axis=1), sizes))


def _counts(log: np.ndarray, place: np.ndarray, places: int, logs: int, values: np.ndarray) -> Float[np.ndarray, "logs places"]:
    return np.bincount(log * places + place, weights=values, minlength=logs * places).reshape(logs, places)


def _divided(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), np.nan)


def _interval(draws: Float[np.ndarray, "resamples"]) -> list[float] | None:
    """2.5 % and 97.5 % quantiles over the resampled data sets on which the number is defined."""
    defined = draws[~np.isnan(draws)]
    return np.quantile(defined, [0.025, 0.975]).tolist() if len(defined) else None
