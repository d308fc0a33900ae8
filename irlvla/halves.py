"""Training logs cut in two: one half's labels teach the reward world model, on the other the policy drives."""

from collections.abc import Sequence

import numpy as np

HALVES = ("A", "B")


def shuffled_logs(log_names: Sequence[str], seed: int = 0) -> list[str]:
    """The logs, each once, in the order in which they are cut."""
    names = np.array(sorted(set(log_names)))
    np.random.default_rng(seed + 77).shuffle(names)
    return names.tolist()


def log_halves(log_names: Sequence[str], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scenes of half A (reward world model) and half B (PPO): logs are shuffled once and cut in two."""
    names = shuffled_logs(log_names, seed)
    first = set(names[: len(names) // 2])
    inside = np.array([name in first for name in log_names])
    return np.flatnonzero(inside), np.flatnonzero(~inside)


def share_of_logs(rows: np.ndarray, log_names: Sequence[str], share: float, seed: int = 0) -> np.ndarray:
    """Those of some scenes whose logs are among the first `share` of theirs, shuffled: a smaller share is part of a larger one.

    Args:
        rows: of scenes.
        log_names: of all scenes.
        share: of the logs that the rows are of, at least one log.
        seed: of the shuffle.
    """
    names = shuffled_logs([log_names[row] for row in rows], seed)
    kept = set(names[: max(1, round(share * len(names)))])
    return np.array([row for row in rows if log_names[row] in kept], dtype=int)
