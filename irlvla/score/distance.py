"""How far plans are from what the human drove: ADE and FDE."""

import numpy as np
from jaxtyping import Float


def displacement_errors(
    poses: Float[np.ndarray, "proposals poses 3"], human: Float[np.ndarray, "8 3"]
) -> tuple[Float[np.ndarray, "proposals"], Float[np.ndarray, "proposals"]]:
    """ADE and FDE of each plan, m: mean and last distance to the human's positions at 0.5, 1.0 .. 4.0 s.

    Args:
        poses: Plans in the ego frame, 8 poses at 2 Hz or 40 at 10 Hz (of which every fifth is compared).
        human: The logged future in the same frame, such as `PreparedScene.human_poses`.

    Example:
        >>> human = np.zeros((8, 3))
        >>> ahead = human + np.linspace(1, 8, 8)[:, None] * [1, 0, 0]
        >>> [error.tolist() for error in displacement_errors(ahead[None], human)]
        [[4.5], [8.0]]
    """
    every = poses.shape[1] // len(human)
    away = np.linalg.norm(poses[:, every - 1 :: every, :2] - human[:, :2], axis=2)
    return away.mean(axis=1), away[:, -1]
