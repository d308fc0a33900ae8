"""Whether answers move the right way more often when the cause itself is changed than when as much is changed elsewhere.

Paired by scene, with intervals that resample logs. A control of several draws counts with its mean.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from irlvla.intervals import mean_interval
from irlvla.interventions import Answers

COMPARISONS = (
    ("lead", "masked", "elsewhere", 1),
    ("lead", "removed", "elsewhere", 1),
    ("lead", "removed", "other_removed", 1),
    ("red", "masked", "elsewhere", 1),
    ("red", "swapped", "elsewhere", 1),
    ("red", "swapped", "other_swapped", 1),
    ("green", "swapped", "elsewhere", -1),
    ("green", "swapped", "other_swapped", -1),
)
"""Cause, intervention, control, and the right way: 1 farther, -1 less far. Without its green lamp alone a light says nothing."""
THRESHOLDS = {"plan": (0.5, 0.25, 1.0, 2.0), "sight": (0.1, 0.05, 0.25), "action": (0.5,), "text": (0.5,)}
"""An answer has moved if it changed by more than this: m for plans, shares for what is seen, steps of the meta action, or whether it is
said at all. The first is the one that tables tell."""
RESAMPLES = 1000
MOVING = 2.0
"""Egos faster than this move, others wait, m/s: ego status tells much of what they will do."""


def subsets(answers: Answers) -> dict[str, Bool[np.ndarray, "cases"]]:
    """Which cases are looked at together: all, those whose ego moves or waits, and those in which nothing else holds it."""
    speed, alone = (np.array([getattr(case, name) for case in answers.cases]) for name in ("speed", "alone"))
    return {"all": np.ones(len(speed), bool), "moving": speed > MOVING, "waiting": speed <= MOVING, "alone": alone.astype(bool)}


def comparison(
    changes: Float[np.ndarray, "cases 1"],
    control: Float[np.ndarray, "cases draws"],
    log_names: Sequence[str],
    way: int,
    threshold: float,
    seed: int = 0,
) -> dict[str, Any] | None:
    """How often an intervention moves an answer the right way, and how often its control does.

    Args:
        changes: of the answers by the intervention.
        control: of the answers by each draw of the control, NaN where there is none.
        log_names: each case's log.
        way: 1 if the right way is up, -1 if it is down.
        threshold: the least change that counts.
        seed: of the resampling.

    Returns:
        Cases and logs with both; the shares moved the right and the wrong way by each; the difference of the right ones with its interval;
        of changes (right way positive) the mean by each, and the difference with its interval. None if no case has both.
    """
    both = np.isfinite(changes).all(axis=1) & np.isfinite(control).all(axis=1)
    if not both.any():
        return None
    names = [name for name, has_both in zip(log_names, both, strict=True) if has_both]
    first, second = way * changes[both], way * control[both]
    shares = {
        f"{what}{ending}": (sign * values > threshold).mean(axis=1)
        for ending, values in (("", first), ("_control", second))
        for what, sign in (("right", 1), ("wrong", -1))
    }
    gain, larger = shares["right"] - shares["right_control"], first[:, 0] - second.mean(axis=1)
    return {
        "cases": int(both.sum()),
        "logs": len(set(names)),
        "counts": {name: float(values.sum()) for name, values in shares.items()},
        **{name: float(values.mean()) for name, values in shares.items()},
        "gain": float(gain.mean()),
        "gain_ci95": list(mean_interval(gain, names, seed=seed)),
        "change": float(first.mean()),
        "change_control": float(second.mean()),
        "change_gain": float(larger.mean()),
        "change_gain_ci95": list(mean_interval(larger, names, seed=seed)),
    }


def told_apart(
    red: Answers, green: Answers, log_names: Sequence[str], resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """How well an answer tells scenes with a red lamp from those with a green one, with the pictures as they are and changed.

    Args:
        red: the answers where the lamp is red.
        green: likewise green.
        log_names: of the scenes of the store, by their numbers.
        resamples: number of resampled sets of logs.
        seed: of the resampling.

    Returns:
        For "original", "masked" (no lamps) and "swapped" (all lamps the other way round) the "auc", the share of pairs in which the answer
        is the freer with the lamp that was green, ties counting half, and its "auc_ci95"; None where an answer is missing. An answer that
        reads lamps falls to 0.5 without them and below with swapped ones; one that keeps its value knows by something else.
    """
    every = [log_names[case.index] for some in (red, green) for case in some.cases]
    _, log = np.unique(np.asarray(every), return_inverse=True)
    logs = int(log.max()) + 1
    draws = np.random.default_rng(seed).multinomial(logs, np.full(logs, 1 / logs), size=resamples).astype(np.float64)
    first, second = draws[:, log[: len(red.cases)]], draws[:, log[len(red.cases) :]]
    found: dict[str, dict[str, Any]] = {}
    for name in ("original", "masked", "swapped"):
        closed, free = (some.before + (0.0 if name == "original" else some.changes[name][:, 0]) for some in (red, green))
        wins = (closed[:, None] < free) + 0.5 * (closed[:, None] == free)
        if not (np.isfinite(closed).all() and np.isfinite(free).all()):
            found[name] = {"auc": None, "auc_ci95": None}
            continue
        pairs = first.sum(axis=1) * second.sum(axis=1)
        shares = ((first @ wins) * second).sum(axis=1)[pairs > 0] / pairs[pairs > 0]
        found[name] = {"auc": float(wins.mean()), "auc_ci95": np.quantile(shares, [0.025, 0.975]).tolist()}
    return found


def cause_quality(answers: Mapping[str, Answers], log_names: Sequence[str], thresholds: Sequence[float]) -> list[dict[str, Any]]:
    """All comparisons of one answer of a policy, a row for each subset and threshold in which there are cases.

    Args:
        answers: cause -> one answer of the policy, of `irlvla.interventions.answers`.
        log_names: of the scenes of the store, by their numbers.
        thresholds: the least changes that count.
    """
    rows = []
    for cause, intervention, control, way in COMPARISONS:
        if cause not in answers:
            continue
        given = answers[cause]
        names = np.array([log_names[case.index] for case in given.cases])
        for subset, chosen in subsets(given).items():
            for threshold in thresholds:
                found = comparison(
                    given.changes[intervention][chosen], given.changes[control][chosen], names[chosen].tolist(), way, threshold
                )
                about = {"cause": cause, "intervention": intervention, "control": control, "way": way, "subset": subset}
                if found is not None:
                    rows.append(about | {"threshold": threshold} | found)
    return rows


def cause_table(rows: Sequence[Mapping[str, Any]], threshold: float) -> str:
    """Rows of `cause_quality` at one threshold as lines of text: shares in per cent, right / wrong."""
    lines = [
        f"{'cause':6} {'changed':8} {'control':14} {'subset':8}{'cases':>6}{'logs':>5}  {'right/wrong':>12} {'control':>12}  gain of right"
    ]
    for row in rows:
        if row["threshold"] != threshold:
            continue
        told = [f"{100 * row['right' + ending]:.1f}/{100 * row['wrong' + ending]:.1f}" for ending in ("", "_control")]
        low, high = (100 * value for value in row["gain_ci95"])
        lines.append(
            f"{row['cause']:6} {row['intervention']:8} {row['control']:14} {row['subset']:8}{row['cases']:6}{row['logs']:5}  "
            f"{told[0]:>12} {told[1]:>12}  {100 * row['gain']:+.1f} ({low:+.1f} .. {high:+.1f})"
        )
    return "\n".join(lines)
