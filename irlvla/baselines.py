"""Plans that look at nothing but the ego's own state: the floor that a learned policy has to clear."""

import numpy as np
from jaxtyping import Float

from irlvla.types import POSES

POSE_INTERVAL = 0.5
SPEED_CAP = 15.0
STEPS_PER_POSE = 10


def constant_velocity(history: Float[np.ndarray, "4 7"]) -> Float[np.ndarray, "8 3"]:
    """Straight on at the present speed, as NAVSIM's agent of that name does.

    Args:
        history: x, y, heading in any frame, then vx, vy, ax, ay in the ego frame, at -1.5, -1.0, -0.5 and 0 s
            (`PreparedScene.past_states` or `Features.ego_history`).

    Returns:
        Poses in the ego frame at 0.5 .. 4.0 s.

    Source:
        navsim/agents/constant_velocity_agent.py: speed is the norm of the velocity, heading stays 0.
    """
    poses = np.zeros((POSES, 3))
    poses[:, 0] = np.hypot(history[-1, 3], history[-1, 4]) * POSE_INTERVAL * np.arange(1, POSES + 1)
    return poses


def ctra(history: Float[np.ndarray, "4 7"]) -> Float[np.ndarray, "8 3"]:
    """Constant turn rate and acceleration from now on.

    The turn rate is the heading change over the last 0.5 s; it acts only while the car moves. Speed stays in [0, 15] m/s (or
    below the present speed where that is higher), so that braking ends in a stop and not in reverse.

    Args:
        history: as in `constant_velocity`.

    Returns:
        Poses in the ego frame at 0.5 .. 4.0 s, integrated with midpoint steps of 0.05 s.

    Example:
        >>> history = np.zeros((4, 7))
        >>> history[:, 3], history[:, 5] = 4.0, -2.0
        >>> ctra(history)[-1].round(1).tolist()
        [4.0, 0.0, 0.0]
    """
    speed = max(float(history[-1, 3]), 0.0)
    acceleration = float(history[-1, 5])
    turn = (history[-1, 2] - history[-2, 2] + np.pi) % (2 * np.pi) - np.pi
    turn_rate = float(turn) / POSE_INTERVAL
    cap = max(SPEED_CAP, speed)
    interval = POSE_INTERVAL / STEPS_PER_POSE
    poses = np.zeros((POSES, 3))
    x = y = heading = 0.0
    for pose in range(POSES):
        for _ in range(STEPS_PER_POSE):
            faster = min(max(speed + acceleration * interval, 0.0), cap)
            travelled = 0.5 * (speed + faster) * interval
            rotation = turn_rate * interval if travelled > 0.0 else 0.0
            x += travelled * np.cos(heading + 0.5 * rotation)
            y += travelled * np.sin(heading + 0.5 * rotation)
            heading += rotation
            speed = faster
        poses[pose] = x, y, heading
    return poses


def stand_still(history: Float[np.ndarray, "4 7"]) -> Float[np.ndarray, "8 3"]:
    """All poses at the present place, whatever the speed.

    Args:
        history: as in `constant_velocity`; not looked at.

    Returns:
        Zeros: the scorer's tracker brakes as hard as it can.
    """
    return np.zeros((POSES, 3))


BASELINES = {"constant_velocity": constant_velocity, "ctra": ctra, "stand_still": stand_still}
"""Row name -> plan from the ego's state history."""
