"""Two stages -> one score: plans of logged scenes count as much as what the plans of the scenes that follow make of them.

Of the synthetic scenes behind a logged one, those count most that begin where its plan ended.

Source: autonomousvision/navsim at 0a380a9, navsim/planning/script/run_pdm_score.py (187-320) and
planning/simulation/planner/pdm_planner/scoring/scene_aggregator.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from irlvla.score.comfort import extended_comfort
from irlvla.score.epdms import MAXIMUM_INTERVAL, epdms
from irlvla.types import SUB_SCORE_NAMES, StagePair, SubScores

SPREAD = 0.1
"""Square of the Gaussian kernel's width, m2: a synthetic scene 0.45 m beside the plan's end counts 0.37 of one at it."""
NOTHING = 1e-8
"""Below this sum of weights no synthetic scene is near the plan's end, and all count alike."""
COLUMNS = (*SUB_SCORE_NAMES, "score")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredPlan:
    """One plan of one scene, scored: sub-scores but EC, its simulated states, and where it begins and ends in the map."""

    token: str
    time_us: int
    start: Float[np.ndarray, "2"]
    end: Float[np.ndarray, "2"]
    """Last pose as planned (not as simulated), m."""
    values: Float[np.ndarray, "8"]
    """nc dac ddc tlc ep ttc lk hc."""
    states: Float[np.ndarray, "41 11"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoStageScores:
    """All `COLUMNS` by token, weights of the second stage, and the means over logged scenes.

    Where something could not be scored, `faults` says what: then, as in the devkit, weights are uniform and the whole is not
    valid; what lacks something is left out of the means, which are NaN if nothing is left.
    """

    rows: Mapping[str, Float[np.ndarray, "10"]]
    weights: Mapping[str, float]
    stage_one: Float[np.ndarray, "10"]
    stage_two: Float[np.ndarray, "10"]
    combined: float
    counted: int
    """Entries of the mapping that the combined score is a mean of."""
    faults: Sequence[str]


def two_stage_scores(pairs: Sequence[StagePair], plans: Mapping[str, ScoredPlan]) -> TwoStageScores:
    """The scores of both stages.

    Args:
        pairs: Which scenes belong together.
        plans: What was scored, by token.

    Source: SceneAggregator.aggregate_scores, compute_final_scores and calculate_individual_mapping_scores.
    """
    faults: list[str] = []
    comfort: dict[str, float] = {}
    for now, previous in [couple for pair in pairs for couple in ((pair.now, pair.previous), *pair.follow_ups)]:
        try:
            comfort[now] = comfort[previous] = _comfort(now, previous, plans)
        except ValueError as error:
            faults.append(str(error))
    lost = sorted(set(plans) - set(comfort))
    faults += [f"scene {token} has no extended comfort: it is in no pair that is whole" for token in lost if not faults]
    rows = {token: _row(plan, comfort.get(token, np.nan)) for token, plan in plans.items()}
    weights: dict[str, float] = {}
    ones, twos, products = [], [], []
    for pair in pairs:
        sides = zip((pair.now, pair.previous), zip(*pair.follow_ups, strict=True), strict=True)
        both = [_group(token, followers, rows, plans, weights, bool(faults)) for token, followers in sides]
        ones += [one for one, _ in both]
        twos += [two for _, two in both]
        products.append(np.mean([one[-1] * two[-1] for one, two in both]))
    return TwoStageScores(
        rows=rows,
        weights=weights,
        stage_one=_mean(ones),
        stage_two=_mean(twos),
        combined=float(_mean([np.array([product]) for product in products])[0]),
        counted=int(np.isfinite(products).sum()),
        faults=faults,
    )


def follow_up_weights(end: Float[np.ndarray, "2"], starts: Float[np.ndarray, "follow_ups 2"]) -> Float[np.ndarray, "follow_ups"]:
    """How much each synthetic scene counts, by the distance of its start from the end of the plan before; they sum to 1."""
    weights = np.exp(-((starts - end) ** 2).sum(axis=1) / (2.0 * SPREAD))
    total = weights.sum()
    return np.full(len(starts), 1.0 / len(starts)) if total <= NOTHING else weights / total


def _comfort(now: str, previous: str, plans: Mapping[str, ScoredPlan]) -> float:
    """EC of two consecutive scenes' plans."""
    for token in (now, previous):
        if token not in plans:
            raise ValueError(f"scene {token} was not scored")
    interval = plans[now].time_us * 1e-6 - plans[previous].time_us * 1e-6
    if not 0.0 < interval < MAXIMUM_INTERVAL:
        raise ValueError(f"scene {now} is {interval} s after {previous}, not up to {MAXIMUM_INTERVAL} s")
    return float(extended_comfort(plans[now].states[None], plans[previous].states[None], interval)[0])


def _row(plan: ScoredPlan, ec: float) -> Float[np.ndarray, "10"]:
    """Sub-scores and score of a plan; NaN for EC and score where there is no EC."""
    named = dict(zip(SUB_SCORE_NAMES[:-1], plan.values, strict=True))
    score = np.nan if np.isnan(ec) else float(epdms(SubScores(**named, ec=np.array(ec), ec_defined=np.array(1.0))))
    return np.array([*plan.values, ec, score])


def _group(
    token: str,
    followers: Sequence[str],
    rows: Mapping[str, np.ndarray],
    plans: Mapping[str, ScoredPlan],
    weights: dict[str, float],
    is_uniform: bool,
) -> tuple[Float[np.ndarray, "10"], Float[np.ndarray, "10"]]:
    """The row of a logged scene and the weighted one of those that follow it, NaN where one is missing; notes their weights."""
    nothing = np.full(len(COLUMNS), np.nan)
    if is_uniform:
        found = np.full(len(followers), 1.0 / len(followers))
    else:
        found = follow_up_weights(plans[token].end, np.stack([plans[follower].start for follower in followers]))
    weights.update(zip(followers, found.tolist(), strict=True))
    second = sum(weight * rows.get(follower, nothing) for weight, follower in zip(found, followers, strict=True))
    return rows.get(token, nothing), np.asarray(second)


def _mean(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Column by column the mean of what is known, NaN where nothing is."""
    table = np.stack(rows)
    known = np.isfinite(table)
    counts = known.sum(axis=0)
    return np.where(counts > 0, np.where(known, table, 0.0).sum(axis=0) / np.maximum(counts, 1), np.nan)
