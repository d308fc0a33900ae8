"""Plans as the pickle that NAVSIM's leaderboard takes and its devkit scores, written and read without the devkit.

Source: autonomousvision/navsim at 0a380a9, navsim/planning/script/run_create_submission_pickle.py (110-118).
"""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from irlvla.data.frames import numbers
from irlvla.data.pickles import BAD_PICKLE, state_of, unpickled
from irlvla.files import short

TEAM_KEYS = ("team_name", "authors", "email", "institution", "country / region")
STAGE_KEYS = ("first_stage_predictions", "second_stage_predictions")
FARTHEST = 1e6
"""No plan leads farther away, m."""
LONGEST = 1e3
"""No plan's poses are farther apart, s."""


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
"""What the devkit (and its older NumPy) call the classes that we pickle. Protocol 2 names classes as plain text."""
CLASSES = ("nuplan.planning.simulation.trajectory.trajectory_sampling.TrajectorySampling", "navsim.common.dataclasses.Trajectory")
"""All that a submission may hold beside plain values and arrays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One predicted trajectory: rear-axle poses (x, y in m, heading in rad) in the ego frame, one every `interval` s, t = 0 excluded."""

    poses: Float[np.ndarray, "poses 3"]
    interval: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """Plans by scene token: of logged scenes (stage one) and of the synthetic scenes that follow them (stage two).

    `refused` says of the tokens whose plan cannot be used, why.
    """

    team: Mapping[str, str]
    stage_one: Mapping[str, Plan]
    stage_two: Mapping[str, Plan]
    refused: Mapping[str, str] = field(default_factory=dict)


def write_submission(
    path: Path,
    plans: Mapping[str, Float[np.ndarray, "8 3"]],
    team: Mapping[str, str],
    second: Mapping[str, Float[np.ndarray, "8 3"]] | None = None,
) -> None:
    """Writes a submission of one stage or two.

    Args:
        path: of the pickle.
        plans: scene token -> poses at 0.5 .. 4.0 s, rear axle, ego frame.
        team: values for team_name, authors, email, institution, country / region; what is absent is "none".
        second: the same of the synthetic scenes; None for one stage.

    Raises:
        ValueError: there are no plans, or a name in them is one that the file's format does not carry.
    """
    if not plans:
        raise ValueError(f"{path}: there are no plans to submit")
    sampling = TrajectorySampling()
    stages = [
        {token: Trajectory(np.array(poses, dtype=np.float32), sampling) for token, poses in stage.items()}
        for stage in (plans, second or {})
    ]
    values: dict[str, Any] = {name: team.get(name, "none") for name in TEAM_KEYS}
    content = pickle.dumps(values | dict(zip(STAGE_KEYS, ([stage] for stage in stages), strict=True)), protocol=2)
    for ours, theirs in MODULES.items():
        content = content.replace(ours, theirs)
    written = _submission(path, content)
    if (len(written.stage_one), len(written.stage_two)) != (len(stages[0]), len(stages[1])):
        raise ValueError(f"{path}: {next(iter(written.refused.items()))} cannot be submitted")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def read_submission(path: str | Path) -> Submission:
    """The plans of a submission pickle; a hostile one runs nothing.

    Raises:
        ValueError: The file is missing, no pickle, holds other things than a submission does, or plans of several seeds.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"submission {path} cannot be read: {error.strerror or error}") from error
    return _submission(path, content)


def _submission(path: Path, content: bytes) -> Submission:
    try:
        values = unpickled(content, CLASSES)
    except BAD_PICKLE as error:
        raise ValueError(f"submission {path}: not a readable pickle of plans ({type(error).__name__}: {str(error)[:200]})") from error
    if not isinstance(values, dict):
        raise ValueError(f"submission {path}: holds {short(values)}, no mapping")
    stages, refused = [], {}
    for key in STAGE_KEYS:
        if key not in values:
            raise ValueError(f"submission {path}: {key} is missing")
        seeds = values[key]
        if not isinstance(seeds, list) or len(seeds) != 1 or not isinstance(seeds[0], dict):
            count = f"{len(seeds)} of them" if isinstance(seeds, list) else short(seeds)
            raise ValueError(f"submission {path}: {key} is no list of one mapping from tokens to plans ({count})")
        stage = {}
        for token, trajectory in seeds[0].items():
            if not isinstance(token, str):
                raise ValueError(f"submission {path}: {key} has the token {short(token)}")
            try:
                stage[token] = _plan(trajectory)
            except ValueError as error:
                refused[token] = f"its plan cannot be used: {error}"
        stages.append(stage)
    team = {key: str(values[key]) for key in TEAM_KEYS if isinstance(values.get(key), str)}
    return Submission(team=team, stage_one=stages[0], stage_two=stages[1], refused=refused)


def _plan(trajectory: Any) -> Plan:
    values = state_of(trajectory, "Trajectory")
    if "trajectory_sampling" not in values:
        raise ValueError("trajectory_sampling is missing")
    sampling = state_of(values["trajectory_sampling"], "TrajectorySampling")
    poses = numbers(values, "poses", (-1, 3), FARTHEST)
    interval = sampling.get("interval_length")
    if not isinstance(interval, int | float | np.floating) or not 0.0 < interval <= LONGEST:
        raise ValueError(f"interval_length is {short(interval)}, no time between poses")
    if not len(poses):
        raise ValueError("a plan without poses")
    if sampling.get("num_poses") != len(poses):
        raise ValueError(f"{len(poses)} poses where its sampling says {short(sampling.get('num_poses'))}")
    return Plan(poses=poses, interval=float(interval))
