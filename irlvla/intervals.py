"""How sure a number is: intervals that resample logs, since windows of one log are not independent."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped

RESAMPLES = 4000
COVERAGE = 0.95
BLOCK = 1_000_000
"""Numbers drawn at once: memory stays flat with the number of logs."""


def mean_interval(
    values: Float[np.ndarray, "scenes"], log_names: Sequence[str], resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Bootstrap interval of the mean over scenes when whole logs are drawn with replacement.

    For two policies on the same scenes pass the differences: the interval is then a paired one.

    Args:
        values: one value a scene.
        log_names: each scene's log.
        resamples: number of resampled data sets.
        seed: of the resampling.

    Returns:
        The 2.5 % and 97.5 % quantiles of the resampled means.

    Raises:
        ValueError: there are no scenes, or values and logs differ in number.

    Example:
        >>> low, high = mean_interval(np.array([0.0, 1.0, 2.0, 3.0]), ["a", "a", "b", "b"])
        >>> (low, high)
        (0.5, 2.5)
    """
    if len(values) == 0 or len(values) != len(log_names):
        raise ValueError(f"{len(values)} values for {len(log_names)} scenes: an interval needs one value for each of at least one scene")
    _, log = np.unique(np.asarray(log_names), return_inverse=True)
    low, high = intervals_of_sums(np.bincount(log, weights=values)[:, None], np.bincount(log)[:, None], resamples, seed)[0]
    return float(low), float(high)


def intervals_of_sums(
    sums: Float[np.ndarray, "logs columns"], counts: Shaped[np.ndarray, "logs columns"], resamples: int = RESAMPLES, seed: int = 0
) -> Float[np.ndarray, "columns 2"]:
    """`mean_interval` of several columns at once, from each log's sum of values and number of values (at least 1)."""
    logs = len(counts)
    generator, means, block = np.random.default_rng(seed), [], max(1, BLOCK // logs)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        draws = generator.multinomial(logs, np.full(logs, 1.0 / logs), size=size).astype(np.float64)
        means.append((draws @ sums) / (draws @ counts))
    tail = (1.0 - COVERAGE) / 2
    return np.quantile(np.concatenate(means), [tail, 1.0 - tail], axis=0).T


def mean_interval_over_seeds(
    values: Float[np.ndarray, "seeds scenes"], log_names: Sequence[Sequence[str]], resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Bootstrap interval of the mean when seeds are drawn with replacement, and within each draw its logs.

    Args:
        values: one value for each seed and scene; seeds may have scenes of their own, NaN-padded at the end.
        log_names: each seed's logs, one for each of its scenes.
        resamples: number of resampled data sets.
        seed: of the resampling.

    Returns:
        The 2.5 % and 97.5 % quantiles of the resampled means over seeds.
    """
    generator = np.random.default_rng(seed)
    means = np.zeros((resamples, len(values)))
    for index, names in enumerate(log_names):
        _, log = np.unique(np.asarray(names), return_inverse=True)
        sums, counts = np.bincount(log, weights=values[index, : len(names)]), np.bincount(log)
        draws = generator.multinomial(len(counts), np.full(len(counts), 1.0 / len(counts)), size=resamples)
        means[:, index] = (draws @ sums) / (draws @ counts)
    chosen = generator.integers(len(values), size=(resamples, len(values)))
    tail = (1.0 - COVERAGE) / 2
    low, high = np.quantile(np.take_along_axis(means, chosen, axis=1).mean(axis=1), [tail, 1.0 - tail])
    return float(low), float(high)
