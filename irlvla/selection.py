"""Which moments of a log become scenes: those that plain extrapolation does not solve and that the human drove well."""

import numpy as np
from jaxtyping import Bool, Float

from irlvla.types import HISTORY, POSES

FUTURE = 10
SPACING = 2
"""Frames between two scenes of a log, at least: 1 s."""
CONSTANT_VELOCITY_BELOW = 0.8
HUMAN_FROM = 0.8


def promising(poses: Float[np.ndarray, "frames 3"], speeds: Float[np.ndarray, "frames"]) -> Bool[np.ndarray, "frames"]:
    """Frames of a log at which constant velocity probably fails, judged by the human's path alone.

    Args:
        poses: x, y, heading of the ego at each 2 Hz frame.
        speeds: m/s.

    Returns:
        True where a window with its previous frame fits and the ego turns off the straight line by 1.5 m or more within 4 s, or
        stays 4 m or more behind constant velocity; never where it hardly moves.
    """
    frames = len(poses)
    hard = np.zeros(frames, bool)
    now = np.arange(HISTORY, frames - FUTURE)
    offset = poses[now + POSES, :2] - poses[now, :2]
    cosine, sine = np.cos(poses[now, 2]), np.sin(poses[now, 2])
    ahead, aside = cosine * offset[:, 0] + sine * offset[:, 1], cosine * offset[:, 1] - sine * offset[:, 0]
    behind = speeds[now] * 0.5 * POSES - ahead
    moving = (speeds[now] > 0.5) | (np.hypot(ahead, aside) > 3.0)
    hard[now] = moving & ((np.abs(aside) > 1.5) | (behind > 4.0))
    return hard


def spaced(rng: np.random.Generator, candidates: Bool[np.ndarray, "frames"], most: int, spacing: int = SPACING) -> list[int]:
    """Up to `most` of the candidate frames, drawn at random, at least `spacing` frames apart, in order."""
    chosen: list[int] = []
    for frame in rng.permutation(np.flatnonzero(candidates)):
        if len(chosen) < most and all(abs(int(frame) - other) >= spacing for other in chosen):
            chosen.append(int(frame))
    return sorted(chosen)
