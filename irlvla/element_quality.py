"""How well objects and lines of the map are found: average precision by centre distance and by chamfer distance, 0-100.

Every query is a candidate of every class, by the probability that it gives the class. Candidates are matched with annotated elements
within their scene, best first; then any selection of scenes, repeated or not, has its numbers from the same matches: intervals resample
whole logs at little cost.

Source: nuScenes (arXiv 1903.11027, section 3.1) for objects; HDMapNet (arXiv 2107.06307, section V) and MapTR (arXiv 2208.14437, section
4.1) for lines. Differs: candidates of equal score enter together, so that no order of scenes matters; a class without annotated elements
has no number (None) instead of 0. Lines are those that `Elements` holds: pieces, at most 32 a scene, so that a line found beyond the
nearest 32 counts as wrong.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from irlvla.chamfer import chamfer_distances
from irlvla.types import LINE_NAMES, OBJECT_GROUP_NAMES, OBJECT_GROUPS, Elements

CENTRE_LIMITS = (0.5, 1.0, 2.0, 4.0)
"""Centres nearer than this (m) match."""
CHAMFER_LIMITS = (0.5, 1.0, 1.5)
"""Lines whose chamfer distance (m) is not above this match."""
RANGES = ((0.0, 15.0), (15.0, 30.0), (30.0, 56.0))
"""Distances from the ego's rear axle (m) by which objects are told apart."""
ERROR_LIMIT = 2.0
"""Velocity errors are those of objects matched at this limit."""
LOWEST = 10
"""Percent of recall and of precision below which nothing counts."""
RESAMPLES = 1000
_LEVELS = np.arange(LOWEST + 1, 101) / 100 - 1e-9
"""Recalls of 11, 12 .. 100 %, a hair less: a level has the precision with which it is first reached, not that of false alarms after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matches:
    """How candidates of some scenes fared, best first in each class: all that the numbers of any of these scenes need.

    `hits`: which candidates match an element at each limit. `counted`: which candidates are judged at all (within a range of distances,
    by the element that they match, else by their own place). `truths`: annotated elements of each scene.
    """

    names: tuple[str, ...]
    limits: tuple[float, ...]
    scores: Float[np.ndarray, "classes candidates"]
    scenes: Int[np.ndarray, "classes candidates"]
    hits: Bool[np.ndarray, "classes limits candidates"]
    counted: Bool[np.ndarray, "classes limits candidates"]
    truths: Int[np.ndarray, "classes scenes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionMatches:
    """Matches of objects: of all, of those within each of RANGES, and each candidate's velocity error (m/s; 0 without a match)."""

    whole: Matches
    by_range: tuple[Matches, ...]
    velocity_errors: Float[np.ndarray, "classes candidates"]


def detection_quality(
    boxes: Float[np.ndarray, "scenes queries 7"], scores: Float[np.ndarray, "scenes queries classes"], elements: Elements
) -> dict[str, float | None]:
    """Numbers of found objects: `detection_numbers` of all scenes; arguments as in `detection_matches`."""
    return detection_numbers(detection_matches(boxes, scores, elements))


def map_quality(
    lines: Float[np.ndarray, "scenes queries 10 2"], scores: Float[np.ndarray, "scenes queries kinds"], elements: Elements
) -> dict[str, float | None]:
    """Numbers of found lines: `map_numbers` of all scenes; arguments as in `map_matches`."""
    return map_numbers(map_matches(lines, scores, elements))


def detection_matches(
    boxes: Float[np.ndarray, "scenes queries 7"], scores: Float[np.ndarray, "scenes queries classes"], elements: Elements
) -> DetectionMatches:
    """Matches of found boxes with annotated ones.

    A candidate, best first, takes the nearest element of its class that is still free, if its centre is near enough.

    Args:
        boxes: found boxes as in `Elements`.
        scores: probability of each of OBJECT_GROUP_NAMES, in [0, 1].
        elements: annotated elements of the same scenes.

    Returns:
        The matches.

    Raises:
        ValueError: a box is not finite, or a score is not in [0, 1].

    Source: nuScenes, section 3.1. Differs: by range, an element outside the range and what matches it are left out (as COCO's areas),
    instead of dropping boxes by their own distance.
    """
    _check("box", boxes.reshape(*boxes.shape[:2], -1), scores)
    groups = np.append(np.array(OBJECT_GROUPS), -1)[elements.classes]
    centres = np.nan_to_num(elements.boxes[..., :2])
    distances = np.linalg.norm(boxes[:, :, None, :2] - centres[:, None], axis=-1)
    velocities = np.linalg.norm(boxes[:, :, None, 5:] - np.nan_to_num(elements.boxes[:, None, :, 5:]), axis=-1)
    own, wanted = np.linalg.norm(boxes[..., :2], axis=-1), np.linalg.norm(centres, axis=-1)
    partners = _partners(distances, scores, groups, CENTRE_LIMITS, only_free=True)
    judged = np.where(partners >= 0, wanted[np.arange(len(boxes))[:, None], partners], own)
    order = np.argsort(-scores.reshape(-1, scores.shape[2]).T, axis=1, kind="stable")

    def matches(inside: np.ndarray, present: np.ndarray) -> Matches:
        return _matches(OBJECT_GROUP_NAMES, CENTRE_LIMITS, scores, order, partners >= 0, inside, present)

    present = groups == np.arange(len(OBJECT_GROUP_NAMES))[:, None, None]
    by_range = tuple(matches((judged >= low) & (judged < high), present & (wanted >= low) & (wanted < high)) for low, high in RANGES)
    at = partners[:, CENTRE_LIMITS.index(ERROR_LIMIT)]
    errors = np.where(at >= 0, np.take_along_axis(velocities[None], np.maximum(at, 0)[..., None], axis=3)[..., 0], 0.0)
    errors = np.take_along_axis(errors.reshape(len(order), -1), order, axis=1)
    return DetectionMatches(whole=matches(np.ones_like(partners, dtype=bool), present), by_range=by_range, velocity_errors=errors)


def map_matches(
    lines: Float[np.ndarray, "scenes queries 10 2"], scores: Float[np.ndarray, "scenes queries kinds"], elements: Elements
) -> Matches:
    """Matches of found lines with those of the map.

    A candidate, best first, takes the nearest element of its kind by chamfer distance, if that is near enough and free.

    Args:
        lines: found polylines, ego frame (m).
        scores: probability of each of LINE_NAMES, in [0, 1].
        elements: annotated elements of the same scenes.

    Returns:
        The matches.

    Raises:
        ValueError: a line is not finite, or a score is not in [0, 1].

    Source: hustvl/MapTR, map_utils/tpfp.py, commit 66a3d32; 100 points along each line, as there.
    """
    _check("line", lines.reshape(*lines.shape[:2], -1), scores)
    distances = chamfer_distances(lines, elements.lines, elements.kinds >= 0, max(CHAMFER_LIMITS))
    partners = _partners(distances, scores, elements.kinds, CHAMFER_LIMITS, only_free=False)
    order = np.argsort(-scores.reshape(-1, scores.shape[2]).T, axis=1, kind="stable")
    present = elements.kinds == np.arange(len(LINE_NAMES))[:, None, None]
    return _matches(LINE_NAMES, CHAMFER_LIMITS, scores, order, partners >= 0, np.ones_like(partners, dtype=bool), present)


def detection_numbers(matches: DetectionMatches, weights: Float[np.ndarray, "scenes"] | None = None) -> dict[str, float | None]:
    """Average precision of objects and velocity error of those found.

    Args:
        matches: of all scenes.
        weights: how often each scene counts; once if not given.

    Returns:
        ap_vehicle .. (mean over limits) and their mean ap; ap_at_0.5 .. (mean over classes); ap_0_15 .. and ap_vehicle_0_15 .. by
        distance (m); velocity_error_vehicle .. (m/s) and velocity_error, the mean without "other", which stands. None where there is no
        annotated element (for a velocity error also: where no more than a tenth of them are found).

    Source: nuScenes, section 3.1: AP above 10 % recall and precision; the velocity error is the mean over recalls above 10 % of the
    mean error up to that recall.
    """
    weights = np.ones(matches.whole.truths.shape[1]) if weights is None else weights
    numbers = _averages(matches.whole, weights, clipped_precision)
    for (low, high), part in zip(RANGES, matches.by_range):
        found = _averages(part, weights, clipped_precision)
        numbers |= {f"{name}_{low:g}_{high:g}": found[name] for name in ("ap", *(f"ap_{group}" for group in part.names))}
    errors = [_velocity_error(matches, index, weights) for index in range(len(matches.whole.names))]
    numbers |= {f"velocity_error_{name}": error for name, error in zip(matches.whole.names, errors)}
    numbers["velocity_error"] = _mean(errors[: OBJECT_GROUP_NAMES.index("other")])
    return numbers


def map_numbers(matches: Matches, weights: Float[np.ndarray, "scenes"] | None = None) -> dict[str, float | None]:
    """Average precision of lines: ap_centre .. (mean over limits), their mean ap, ap_at_0.5 .. (mean over kinds); see `detection_numbers`."""
    return _averages(matches, np.ones(matches.truths.shape[1]) if weights is None else weights, area)


def resampled_intervals(
    numbers: Callable[[Float[np.ndarray, "scenes"]], dict[str, float | None]],
    log_names: Sequence[str],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, tuple[float, float] | None]:
    """95 % intervals of numbers when whole logs are drawn with replacement.

    Args:
        numbers: from how often each scene counts to numbers by name, e.g. `lambda weights: map_numbers(matches, weights)`.
        log_names: each scene's log.
        resamples: number of resampled data sets.
        seed: of the resampling; two models with the same seed get the same draws.

    Returns:
        2.5 % and 97.5 % quantiles over the data sets on which a number is defined, None if there are none.

    Raises:
        ValueError: there are no scenes.
    """
    if len(log_names) == 0:
        raise ValueError("no scenes: an interval needs at least one log")
    _, log = np.unique(np.asarray(log_names), return_inverse=True)
    logs = int(log.max()) + 1
    draws = np.random.default_rng(seed).multinomial(logs, np.full(logs, 1 / logs), size=resamples).astype(np.float64)
    found = [numbers(draw[log]) for draw in draws]
    columns = {name: [row[name] for row in found if row[name] is not None] for name in found[0]}
    return {name: tuple(np.quantile(values, [0.025, 0.975]).tolist()) if values else None for name, values in columns.items()}


def clipped_precision(recall: Float[np.ndarray, "points"], precision: Float[np.ndarray, "points"]) -> float:
    """Mean precision at recalls of 11 .. 100 %, 10 % taken off each, scaled so that a perfect finder has 1.

    Args:
        recall: rising.
        precision: at these recalls; interpolated between them, 0 beyond.

    Source: nuScenes, section 3.1; nuscenes-devkit, eval/detection/algo.py, calc_ap. Differs: where false alarms follow a find, the recall
    that it reached keeps its precision; every query being a candidate of every class, there always are some at the end.

    Example:
        >>> clipped_precision(np.array([0.55]), np.array([1.0])).__round__(4)
        0.5
    """
    lowest = LOWEST / 100
    at = np.interp(_LEVELS, recall, precision, right=0.0)
    return float(np.maximum(at - lowest, 0.0).mean() / (1.0 - lowest))


def area(recall: Float[np.ndarray, "points"], precision: Float[np.ndarray, "points"]) -> float:
    """Area under the precision that is reached at a recall or any higher one.

    Source: hustvl/MapTR, map_utils/mean_ap.py, commit 66a3d32, mode "area".

    Example:
        >>> area(np.array([0.5, 0.5, 1.0]), np.array([1.0, 0.5, 0.75]))
        0.875
    """
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * best).sum())


def _check(name: str, values: Float[np.ndarray, "scenes queries numbers"], scores: Float[np.ndarray, "scenes queries classes"]) -> None:
    finite, shares = np.isfinite(values).all(axis=2), ((scores >= 0) & (scores <= 1)).all(axis=2)
    for scene, query in np.argwhere(~finite)[:1]:
        raise ValueError(f"scene {scene}: the {name} of query {query} is not finite: {values[scene, query]}")
    for scene, query in np.argwhere(~shares)[:1]:
        raise ValueError(f"scene {scene}: a score of query {query} is not in [0, 1]: {scores[scene, query]}")


def _partners(
    distances: Float[np.ndarray, "scenes queries targets"],
    scores: Float[np.ndarray, "scenes queries classes"],
    classes: Int[np.ndarray, "scenes targets"],
    limits: tuple[float, ...],
    only_free: bool,
) -> Int[np.ndarray, "classes limits scenes queries"]:
    """The element that each candidate takes (-1: none), best candidate first, all scenes at once.

    `only_free`: the nearest free element nearer than the limit (nuScenes); else the nearest element not beyond the limit, if it is free
    (MapTR).
    """
    scenes, queries, count = scores.shape
    partners = np.full((count, len(limits), scenes, queries), -1, dtype=np.int64)
    every = np.arange(scenes)
    for index in range(count):
        apart = np.where((classes == index)[:, None], distances, np.inf)
        order = np.argsort(-scores[:, :, index], axis=1, kind="stable")
        for place, limit in enumerate(limits):
            taken = np.zeros(classes.shape, dtype=bool)
            for rank in range(queries):
                query = order[:, rank]
                row = apart[every, query]
                if only_free:
                    row = np.where(taken, np.inf, row)
                best = row.argmin(axis=1)
                least = row[every, best]
                hit = least < limit if only_free else (least <= limit) & ~taken[every, best]
                taken[every[hit], best[hit]] = True
                partners[index, place, every[hit], query[hit]] = best[hit]
    return partners


def _matches(
    names: tuple[str, ...],
    limits: tuple[float, ...],
    scores: Float[np.ndarray, "scenes queries classes"],
    order: Int[np.ndarray, "classes candidates"],
    hits: Bool[np.ndarray, "classes limits scenes queries"],
    counted: Bool[np.ndarray, "classes limits scenes queries"],
    present: Bool[np.ndarray, "classes scenes targets"],
) -> Matches:
    flat = (len(names), len(limits), -1)
    return Matches(
        names=names,
        limits=limits,
        scores=np.take_along_axis(scores.reshape(-1, len(names)).T, order, axis=1),
        scenes=order // scores.shape[1],
        hits=np.take_along_axis(hits.reshape(flat), order[:, None], axis=2),
        counted=np.take_along_axis(counted.reshape(flat), order[:, None], axis=2),
        truths=present.sum(axis=2),
    )


def _averages(matches: Matches, weights: np.ndarray, average: Callable[[np.ndarray, np.ndarray], float]) -> dict[str, float | None]:
    values: list[list[float | None]] = []
    for index in range(len(matches.names)):
        total = float(weights @ matches.truths[index])
        weight, ends = weights[matches.scenes[index]], _ends(matches.scores[index])
        values.append([])
        for hits, counted in zip(matches.hits[index], matches.counted[index]):
            judged = np.where(counted, weight, 0.0)
            true, every = np.cumsum(judged * hits)[ends], np.cumsum(judged)[ends]
            reached = every > 0
            curve = (true[reached] / total, true[reached] / every[reached]) if total > 0 else None
            found = 0.0 if curve is None or not reached.any() else 100 * average(*curve)
            values[-1].append(found if total > 0 else None)
    by_class = [_mean(row) for row in values]
    numbers = {"ap": _mean(by_class)} | {f"ap_{name}": value for name, value in zip(matches.names, by_class)}
    return numbers | {f"ap_at_{limit:g}": _mean([row[place] for row in values]) for place, limit in enumerate(matches.limits)}


def _velocity_error(matches: DetectionMatches, index: int, weights: np.ndarray) -> float | None:
    whole = matches.whole
    total = float(weights @ whole.truths[index])
    true = weights[whole.scenes[index]] * whole.hits[index, whole.limits.index(ERROR_LIMIT)]
    ends = _ends(whole.scores[index])
    number, errors = np.cumsum(true)[ends], np.cumsum(true * matches.velocity_errors[index])[ends]
    reached = number > 0
    if not total > 0 or not reached.any():
        return None
    recall = number[reached] / total
    levels = _LEVELS[recall[-1] >= _LEVELS]
    return float(np.interp(levels, recall, errors[reached] / number[reached]).mean()) if len(levels) else None


def _ends(scores: Float[np.ndarray, "candidates"]) -> Int[np.ndarray, "ends"]:
    """Last place of each run of equal scores."""
    return np.flatnonzero(np.append(scores[1:] != scores[:-1], True)[: len(scores)])


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None
