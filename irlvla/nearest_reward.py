"""The reward without learning and without looking: sub-scores of the nearest scored trajectories of similar scenes.

It knows what the reward world model's labels know (exact scores of candidates on annotated logs), but of a scene only the ego's
status and the command. What the reward world model is worth is what it adds to this.
Scores come from other scenes than the one asked about, so that the table works where the reward world model does.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from irlvla.train.labels import opened
from irlvla.types import SUB_SCORE_NAMES, SubScores

LABELLED = SUB_SCORE_NAMES[:-1]
"""Sub-scores of a label, in its order; EC needs no table."""
POSE_WEIGHTS = np.array([1.0, 1.0, 4.0], np.float32)
"""What a metre along, a metre across and a radian count when trajectories are compared."""
OTHER_COMMAND = 1e3
"""Added to the distance of scenes with another command: they serve only where too few have the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NearestConfig:
    """How the table is read: among so many most similar scenes, the mean label of so many nearest trajectories.

    Chosen on val among 8, 32 and 128 scenes, and 1, 8 and 32 neighbours.
    """

    scenes: int = 32
    neighbours: int = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredVocabulary:
    """Scored trajectories of many scenes: each scene's status and command, its trajectories (weighted) and their sub-scores."""

    status: Float[np.ndarray, "scenes 3"]
    command: Int[np.ndarray, "scenes"]
    points: Float[np.ndarray, "scenes candidates 24"]
    labels: Float[np.ndarray, "scenes candidates 8"]

    def __post_init__(self) -> None:
        if not len(self.status) == len(self.command) == len(self.points) == len(self.labels) > 0:
            raise ValueError(
                f"a scored vocabulary of {len(self.points)} scenes with {len(self.status)} states and {len(self.labels)} labels"
            )


def scored_vocabulary(
    poses: Float[np.ndarray, "scenes candidates 8 3"],
    labels: Float[np.ndarray, "scenes candidates 8"],
    ego_history: Float[np.ndarray, "scenes 4 7"],
    command: Float[np.ndarray, "scenes 4"],
) -> ScoredVocabulary:
    """A table of scored trajectories.

    Args:
        poses: trajectories of annotated scenes, m and rad in each scene's ego frame.
        labels: their sub-scores in the order of LABELLED.
        ego_history: of those scenes, as in `Features`.
        command: likewise, one-hot.

    Raises:
        ValueError: there are no scenes, or their numbers differ.
    """
    return ScoredVocabulary(status=_status(ego_history), command=command.argmax(1), points=_points(poses), labels=labels.astype(np.float32))


def kept_vocabulary(folder: Path, ego_history: Float[np.ndarray, "scenes 4 7"], command: Float[np.ndarray, "scenes 4"]) -> ScoredVocabulary:
    """The table of a run: the labels of its reward world model's training.

    Args:
        folder: `labels` of the reward stage (`irlvla.train.labels`).
        ego_history: of all scenes of the training store, in its order.
        command: likewise.

    Raises:
        ValueError: there are no labels, or some of scenes that the training store does not have.
    """
    known = opened(folder)
    if known.rows.max() >= len(ego_history):
        raise ValueError(f"{folder} labels scene {known.rows.max()}, the training store has {len(ego_history)}")
    return scored_vocabulary(known.poses[:], known.labels[:], ego_history[known.rows], command[known.rows])


def nearest_sub_scores(
    table: ScoredVocabulary,
    ego_history: Float[np.ndarray, "scenes 4 7"],
    command: Float[np.ndarray, "scenes 4"],
    poses: Float[np.ndarray, "scenes proposals 8 3"],
    config: NearestConfig = NearestConfig(),
) -> SubScores:
    """Sub-scores that the table suggests for proposals of some scenes; EC is left undefined.

    Args:
        table: scored trajectories of other scenes.
        ego_history: of the scenes asked about, as in `Features`.
        command: likewise, one-hot.
        poses: proposals, m and rad in the ego frame.
        config: how the table is read.

    Returns:
        Arrays (scenes, proposals): means over the nearest labelled trajectories among the most similar scenes.
    """
    status, asked = _status(ego_history), _points(poses)
    apart = ((status[:, None] - table.status) ** 2).sum(-1) + OTHER_COMMAND * (command.argmax(1)[:, None] != table.command)
    similar = _smallest(apart, config.scenes)
    values = np.zeros((*poses.shape[:2], len(LABELLED)))
    for row, scenes in enumerate(similar):
        points, labels = table.points[scenes].reshape(-1, 24), table.labels[scenes].reshape(-1, len(LABELLED))
        # |a - b|^2 without |a|^2, which does not change what is nearest.
        distances = (points**2).sum(1) - 2 * asked[row] @ points.T
        values[row] = labels[_smallest(distances, config.neighbours)].mean(axis=1, dtype=np.float64)
    nothing = np.zeros(poses.shape[:2])
    return SubScores(**{name: values[..., index] for index, name in enumerate(LABELLED)}, ec=nothing, ec_defined=nothing)


def _smallest(values: Float[np.ndarray, "rows columns"], count: int) -> Int[np.ndarray, "rows smallest"]:
    """Columns of each row's smallest values (all of them where there are no more), in no order."""
    count = min(count, values.shape[1])
    return np.argpartition(values, count - 1, axis=1)[:, :count]


def _status(ego_history: Float[np.ndarray, "scenes 4 7"]) -> Float[np.ndarray, "scenes 3"]:
    """What makes scenes similar: speed (m/s), acceleration ahead (m/s2), heading turned in the last 1.5 s (0.1 rad)."""
    speed = np.hypot(ego_history[:, -1, 3], ego_history[:, -1, 4])
    return np.stack([speed, ego_history[:, -1, 5], -10.0 * ego_history[:, 0, 2]], axis=1).astype(np.float32)


def _points(poses: Float[np.ndarray, "scenes candidates 8 3"]) -> Float[np.ndarray, "scenes candidates 24"]:
    return (poses * POSE_WEIGHTS).reshape(*poses.shape[:2], 24).astype(np.float32)
