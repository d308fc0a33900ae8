"""From plans to the 10 Hz references that the simulated car follows.

Source: navsim/evaluate/pdm_score.py (transform_trajectory, get_trajectory_as_array) at 0a380a9.
"""

from typing import no_type_check

import numpy as np
from jaxtyping import Float
from numba import njit

from irlvla.geometry import frozen, principal
from irlvla.types import STEPS


@no_type_check
@njit(cache=True, nogil=True)
def _fill_sampled(time_us, knot_times, knots, proposal, references):
    """Write the 41 poses of one reference, linear between knots, at float seconds cut to whole microseconds."""
    start, low = time_us * 1e-6, 0
    for step in range(references.shape[1]):
        time = min(max(int((step * 0.1 + start) * 1e6), knot_times[0]), knot_times[-1])
        while low < len(knot_times) - 2 and time > knot_times[low + 1]:
            low += 1
        share = (time - knot_times[low]) / (knot_times[low + 1] - knot_times[low])
        for column in range(2):
            references[proposal, step, column] = knots[low, column] + share * (knots[low + 1, column] - knots[low, column])
        turn = knots[low + 1, 2] - knots[low, 2]
        if abs(turn) >= np.pi:
            half = principal(turn)
            turn = np.pi if half == -np.pi and turn > 0.0 else half
        references[proposal, step, 2] = principal(knots[low, 2] + share * turn)


@no_type_check
@njit(cache=True, nogil=True)
def _fill_references(time_us, ego_state, poses, references):
    """Write the global references (proposals, 41, 3) of poses in the ego frame (proposals, 8 or 40, 3).

    The order of operations is that of a product of matrices: of a plan that hardly moves, the curvature is nothing but rounding,
    and the simulated car follows it.
    """
    count = poses.shape[1]
    interval = 4.0 / count
    times, knots = np.empty(count + 1, dtype=np.int64), np.empty((count + 1, 3))
    times[0], start = time_us, time_us * 1e-6
    for k in range(count):
        times[k + 1] = int((k * interval + interval + start) * 1e6)
    x, y, heading = ego_state[0], ego_state[1], ego_state[2]
    cos, sin = np.cos(heading), np.sin(heading)
    knots[0, 0], knots[0, 1], knots[0, 2] = x, y, heading
    for proposal in range(len(poses)):
        for k in range(count):
            ahead, aside = poses[proposal, k, 0], poses[proposal, k, 1]
            turn_cos, turn_sin = np.cos(poses[proposal, k, 2]), np.sin(poses[proposal, k, 2])
            knots[k + 1, 0] = x + (cos * ahead - sin * aside)
            knots[k + 1, 1] = y + (sin * ahead + cos * aside)
            knots[k + 1, 2] = np.arctan2(sin * turn_cos + cos * turn_sin, cos * turn_cos - sin * turn_sin)
        _fill_sampled(time_us, times, knots, proposal, references)


def reference_poses(
    ego_state: Float[np.ndarray, "7"], time_us: int, poses: Float[np.ndarray, "proposals poses 3"]
) -> Float[np.ndarray, "proposals 41 3"]:
    """The global poses at 0.0 .. 4.0 s (10 Hz) of plans, starting at the ego's logged pose.

    Args:
        ego_state: State at t0; its first three numbers are the global rear-axle pose.
        time_us: Stamp of t0: sample times are cut to whole microseconds as the devkit does.
        poses: 8 poses at 2 Hz or 40 at 10 Hz in the ego frame, t = 0 excluded.
    """
    references = np.empty((len(poses), STEPS, 3))
    _fill_references(int(time_us), frozen(ego_state, np.float64), frozen(poses, np.float64), references)
    return references


def sampled_reference(time_us: int, poses: Float[np.ndarray, "51 3"]) -> Float[np.ndarray, "41 3"]:
    """The 41 poses of PDM-Closed's global plan (51 at 10 Hz from t0) at the devkit's sample times."""
    times = int(time_us) + 100_000 * np.arange(len(poses))
    references = np.empty((1, STEPS, 3))
    _fill_sampled(int(time_us), times, np.array(poses, dtype=np.float64), 0, references)
    return references[0]
