"""A run's plans as the pickle that NAVSIM's leaderboard takes, written without NAVSIM installed."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class TrajectorySampling:
    """Stands in for nuPlan's class of this name: same fields, other module."""

    num_poses: int = 8
    time_horizon: float = 4.0
    interval_length: float = 0.5


@dataclass(frozen=True)
class Trajectory:
    """Stands in for NAVSIM's class of this name: same fields, other module."""

    poses: Float[np.ndarray, "8 3"]
    trajectory_sampling: TrajectorySampling


MODULES = {
    b"cirlvla.submit\nTrajectorySampling\n": b"cnuplan.planning.simulation.trajectory.trajectory_sampling\nTrajectorySampling\n",
    b"cirlvla.submit\nTrajectory\n": b"cnavsim.common.dataclasses\nTrajectory\n",
    b"cnumpy._core.": b"cnumpy.core.",
}
"""What the devkit (and its older NumPy) calls the classes that we pickle. Protocol 2 names classes as plain text."""


def write_submission(path: Path, plans: Mapping[str, Float[np.ndarray, "8 3"]], team: Mapping[str, str]) -> None:
    """Writes a one-stage submission.

    Args:
        path: of the pickle.
        plans: scene token -> poses at 0.5 .. 4.0 s, rear axle, ego frame.
        team: values for team_name, authors, email, institution, country / region; what is absent is "none".

    Raises:
        ValueError: there are no plans.

    Source:
        navsim/planning/script/run_create_submission_pickle.py:110-118.
    """
    if not plans:
        raise ValueError(f"{path}: there are no plans to submit")
    sampling = TrajectorySampling()
    predictions = {token: Trajectory(np.asarray(poses, dtype=np.float32), sampling) for token, poses in plans.items()}
    names = ("team_name", "authors", "email", "institution", "country / region")
    values = {name: team.get(name, "none") for name in names}
    values |= {"first_stage_predictions": [predictions], "second_stage_predictions": [{}]}
    content = pickle.dumps(values, protocol=2)
    for ours, theirs in MODULES.items():
        content = content.replace(ours, theirs)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
