"""What sampled plans earn: the one place that makes a reward function from a config, and applies it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from irlvla.data.store import Store
from irlvla.model.policy import Policy
from irlvla.model.reward_world_model import HEADS, RewardWorldModel
from irlvla.nearest_reward import ScoredVocabulary, kept_vocabulary, nearest_sub_scores
from irlvla.rollout import Comfort, chosen_scenes, exact_sub_scores, load_reward_world_model, predicted_sub_scores, two_frame_comfort
from irlvla.scene_cache import SceneCache, remembered
from irlvla.score.epdms import epdms
from irlvla.types import SUB_SCORE_NAMES, SubScores

REWARDS = ("model", "exact", "nearest", "no_camera", "exact_or_model")
"""The reward world model; the exact scorer, which needs annotations; the labels of the nearest scored plans of similar scenes; the
reward world model without pictures; the exact scorer where a scene is annotated, the reward world model where it is not."""
LEARNED = ("model", "no_camera")
"""Rewards that a reward world model gives."""


@dataclass(frozen=True, slots=True)
class Scenes:
    """Prepared scenes, all of them in order, and their caches now and 0.5 s earlier."""

    store: Store
    now: SceneCache
    before: SceneCache


Judge = Callable[[Scenes, np.ndarray, Tensor, np.ndarray | None], SubScores]
"""Sub-scores of plans in some scenes: their rows, poses (scenes, samples, 8, 3) in m, and the plans of 0.5 s earlier (scenes, 8, 3) or None."""


@dataclass(frozen=True, slots=True)
class Rewards:
    """What a batch of sampled plans earned: reward in [0, 1], and whether NC or DAC is judged to have failed."""

    values: Float[Tensor, "scenes samples"]
    failed: Bool[Tensor, "scenes samples"]
    sub_scores: SubScores


def reward_function(
    kind: str,
    checkpoint: Path | str,
    train: Scenes,
    device: torch.device,
    pessimism: float | None = None,
    temperature: float = 1.0,
) -> Judge:
    """The function that judges plans in any scenes.

    Args:
        kind: one of REWARDS.
        checkpoint: of the reward world model that judges, whichever stage trained it; "nearest" takes the labels beside it, "exact" does
            not look at it.
        train: the training scenes, whose labels are the table of "nearest".
        device: where the reward world model computes.
        pessimism: as in `judging_model`.
        temperature: likewise.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in REWARDS:
        raise ValueError(f"unknown reward {kind!r}: {', '.join(REWARDS)}")
    if kind == "exact":
        return _exact
    if kind == "nearest":
        table = kept_vocabulary(labels_of(checkpoint), train.now.ego_history, train.now.command)
        return lambda scenes, rows, poses, prev_poses: _nearest(table, scenes, rows, poses, prev_poses)
    model = judging_model(checkpoint, device, pessimism, temperature)

    def exact_or_predicted(scenes: Scenes, rows: np.ndarray, poses: Tensor, prev_poses: np.ndarray | None) -> SubScores:
        return _mixed(scenes.store.annotated[rows], _exact, predicted, scenes, rows, poses, prev_poses)

    def predicted(scenes: Scenes, rows: np.ndarray, poses: Tensor, prev_poses: np.ndarray | None) -> SubScores:
        return predicted_sub_scores(model, scenes.now, rows, poses, _comfort(scenes, rows, poses, prev_poses))

    return exact_or_predicted if kind == "exact_or_model" else predicted


def judging_model(
    checkpoint: Path | str, device: torch.device, pessimism: float | None = None, temperature: float = 1.0
) -> RewardWorldModel:
    """A reward world model as it is to judge.

    Its heads are calibrated one by one, while EPDMS multiplies them: failures coincide, so that a product of expectations is below the
    expectation of the product, and more so the less certain they are. A temperature below 1 makes up for that.

    Args:
        checkpoint: of the reward world model.
        device: where it computes.
        pessimism: how many times its members' spread is taken off; None leaves what it was trained with.
        temperature: by which every head's but EP's (a regression) is multiplied; below 1 its doubts count less.
    """
    model = load_reward_world_model(checkpoint, device)
    if pessimism is not None:
        model.config = replace(model.config, pessimism=pessimism)
    others = [index for index, name in enumerate(HEADS) if name != "ep"]
    model.temperature[others] *= temperature
    return model


def driven_scenes(logs: str, kind: str, checkpoint: Path | str, store: Store) -> Int[np.ndarray, "scenes"]:
    """Scenes that a policy drives in and is rewarded for.

    Args:
        logs: which of the training logs, one of `irlvla.rollout.LOGS`.
        kind: of the reward, one of REWARDS.
        checkpoint: of the reward world model, which knows whose labels it has seen.
        store: training scenes.

    Raises:
        ValueError: there are no such scenes, or some that the reward needs annotations of have none.
    """
    rows = chosen_scenes(logs, checkpoint, store)
    bare = int((~store.annotated[rows]).sum())
    if kind == "exact" and bare:
        raise ValueError(
            f"reward 'exact' needs annotations, and {bare} of {len(rows)} scenes of {logs} logs have none (cameras only): "
            "take logs 'annotated', or reward 'model' or 'exact_or_model'"
        )
    return rows


def labels_of(checkpoint: Path | str) -> Path:
    """The labels that a reward world model learned from: its stage's own, or those of `reward` beside it."""
    own = Path(checkpoint).parent / "labels"
    return own if own.exists() else Path(checkpoint).parents[1] / "reward" / "labels"


def rewards_of(
    judge: Judge,
    policy: Policy,
    scenes: Scenes,
    rows: np.ndarray,
    poses: Float[Tensor, "scenes samples 8 3"],
    with_ec: bool,
    gate_below: float,
) -> Rewards:
    """Rewards of sampled plans; EC is counted against the policy's own deployed plan of 0.5 s earlier, if there was one.

    Args:
        judge: `reward_function(...)`.
        policy: the sampling policy.
        scenes: that it drives in.
        rows: which of them.
        poses: plans, m and rad.
        with_ec: whether EC is part of the reward.
        gate_below: NC or DAC below this is a failure; 0 turns the gate off.
    """
    prev_poses = None
    if with_ec:
        with torch.no_grad():
            prev_poses = policy.plan(remembered(policy, scenes.before, rows)).cpu().numpy().astype(np.float64)
    scores = judge(scenes, rows, poses, prev_poses)
    failed = (scores.nc < gate_below) | (scores.dac < gate_below)
    return Rewards(epdms(scores), failed, scores)


def _comfort(scenes: Scenes, rows: np.ndarray, poses: Tensor, prev_poses: np.ndarray | None) -> Comfort | None:
    return None if prev_poses is None else two_frame_comfort(scenes.now, scenes.before, rows, _metres(poses), prev_poses)


def _exact(scenes: Scenes, rows: np.ndarray, poses: Tensor, prev_poses: np.ndarray | None) -> SubScores:
    repeated = None if prev_poses is None else np.repeat(prev_poses[:, None], poses.shape[1], axis=1)
    measured = exact_sub_scores(scenes.store, rows, _metres(poses), repeated)
    return as_tensors(measured, poses.device)


def _mixed(
    first: Bool[np.ndarray, "scenes"],
    judge: Judge,
    other: Judge,
    scenes: Scenes,
    rows: np.ndarray,
    poses: Tensor,
    prev_poses: np.ndarray | None,
) -> SubScores:
    """Sub-scores of some scenes by one judge, of the others by another."""
    values = {name: poses.new_zeros(poses.shape[:2], dtype=torch.float32) for name in (*SUB_SCORE_NAMES, "ec_defined")}
    for part, asked in ((np.flatnonzero(first), judge), (np.flatnonzero(~first), other)):
        if not len(part):
            continue
        places = torch.from_numpy(part).to(poses.device)
        scores = asked(scenes, rows[part], poses[places], None if prev_poses is None else prev_poses[part])
        for name, whole in values.items():
            whole[places] = getattr(scores, name).to(whole)
    return SubScores(**values)


def _nearest(table: ScoredVocabulary, scenes: Scenes, rows: np.ndarray, poses: Tensor, prev_poses: np.ndarray | None) -> SubScores:
    scores = nearest_sub_scores(table, scenes.now.ego_history[rows], scenes.now.command[rows], _metres(poses))
    comfort = _comfort(scenes, rows, poses, prev_poses)
    if comfort is not None:
        scores = replace(scores, ec=comfort.ec, ec_defined=np.repeat(comfort.defined[:, None], poses.shape[1], axis=1).astype(np.float64))
    return as_tensors(scores, poses.device)


def as_tensors(scores: SubScores, device: torch.device) -> SubScores:
    """Sub-scores in NumPy arrays as single-precision tensors."""
    names = (*SUB_SCORE_NAMES, "ec_defined")
    return SubScores(**{name: torch.from_numpy(getattr(scores, name)).float().to(device) for name in names})


def _metres(poses: Tensor) -> np.ndarray:
    return poses.cpu().numpy().astype(np.float64)
