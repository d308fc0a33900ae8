"""Reward models under one small interface, and the candidates on which they are compared.

A reward model is a function of (store, indices, poses): prepared scenes, which of them, and candidates (scenes, G, 8, 3) in m and rad
in each scene's ego frame. It gives `SubScores` of arrays (scenes, G), or a plain score (scenes, G) where higher is better. What it may look
at is its own affair; a fair one uses `store.features` alone, which is what a policy sees.
"""

import importlib
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from irlvla import run
from irlvla.data.store import Indices, Store
from irlvla.learned import checkpoint_of
from irlvla.model.diffusion import ExplorationConfig, exploration_of
from irlvla.nearest_reward import kept_vocabulary, nearest_sub_scores
from irlvla.reward_quality import GROUPS, Answer, Candidates
from irlvla.rollout import (
    cached_plans,
    chosen_device,
    exact_sub_scores,
    load_policy,
    load_reward_world_model,
    predicted_sub_scores,
    proposals,
)
from irlvla.scene_cache import SceneCache, ego_inputs, scene_cache
from irlvla.score.epdms import epdms
from irlvla.train.candidates import CandidatesConfig, vocabulary
from irlvla.types import SUB_SCORE_NAMES, SubScores

Judge = Callable[[Store, Indices, np.ndarray], SubScores | np.ndarray]
WORDS = 1024
"""Words of the benchmark's vocabulary: not the one that a reward world model's candidates came from."""
BATCH = 64
"""Scenes handed to a reward model at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardModel:
    """A reward model, and the number of its parameters where that is known."""

    judge: Judge
    parameters: int | None


def own_models(folder: Path, store: Store, store_train: Store) -> dict[str, RewardModel]:
    """The reward models of a run by name, the reward world model first.

    Args:
        folder: the run.
        store: scenes that will be judged.
        store_train: the training scenes, whose labels are the nearest neighbour's table.

    Returns:
        `rwm`; `rwm_no_camera` and the like for each further stage `reward_no_camera` that was trained; `nearest`
        (`irlvla.nearest_reward`); `distance` (closeness to imitation's plan).
    """
    device = chosen_device()
    policy = load_policy(checkpoint_of(folder, "imitation"), device)
    cache = scene_cache(policy, store, np.arange(len(store)))
    models = {"rwm": _learned_model(checkpoint_of(folder, "reward"), cache)}
    for further in sorted(path.parents[1].name for path in folder.glob("reward_*/checkpoint/checkpoint.json")):
        models[f"rwm{further.removeprefix('reward')}"] = _learned_model(checkpoint_of(folder, further), cache)
    rows = np.arange(len(store_train))
    table = kept_vocabulary(folder / "reward" / "labels", *ego_inputs(store_train, rows))

    def nearest(_: Store, indices: Indices, poses: np.ndarray) -> SubScores:
        return nearest_sub_scores(table, cache.ego_history[indices], cache.command[indices], poses)

    models["nearest"] = RewardModel(judge=nearest, parameters=table.points.size + table.labels.size)
    plans = cached_plans(policy, cache)

    def closeness(_: Store, indices: Indices, poses: np.ndarray) -> np.ndarray:
        return -np.linalg.norm(poses[..., :2] - plans[indices][:, None, :, :2], axis=-1).mean(axis=-1)

    models["distance"] = RewardModel(judge=closeness, parameters=0)
    return models


def loaded(name: str) -> RewardModel:
    """Somebody else's reward model, from `package.module:function`; modules of the working folder are found too.

    The function may carry the number of its parameters as an attribute `parameters`.

    Raises:
        ValueError: the name has another form, or there is no such module or function.
    """
    module, _, function = name.partition(":")
    if not module or not function:
        raise ValueError(f"a reward model is named package.module:function, not {name!r}")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        judge = getattr(importlib.import_module(module), function, None)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ValueError(f"reward model {name}: there is no module {error.name}") from error
    if not callable(judge):
        raise ValueError(f"reward model {name}: {module} has no function {function}")
    return RewardModel(judge=judge, parameters=getattr(judge, "parameters", None))


def answer(name: str, model: RewardModel, store: Store, candidates: Candidates) -> Answer:
    """What a reward model says of all candidates.

    Raises:
        ValueError: its answer has another shape, or is not finite.
    """
    parts, shape = [], candidates.poses.shape[:2]
    start = time.perf_counter()
    for first in range(0, shape[0], BATCH):
        rows = np.arange(first, min(first + BATCH, shape[0]))
        parts.append(model.judge(store, rows, candidates.poses[rows]))
    milliseconds = 1e6 * (time.perf_counter() - start) / (shape[0] * shape[1])
    sub_scores = None
    if all(isinstance(part, SubScores) for part in parts):
        sub_scores = SubScores(
            **{field: np.concatenate([_array(getattr(part, field)) for part in parts]) for field in (*SUB_SCORE_NAMES, "ec_defined")}
        )
        score = epdms(sub_scores)
    else:
        score = np.concatenate([_array(part) for part in parts])
    if score.shape != shape or not np.isfinite(score).all():
        raise ValueError(f"reward model {name} gives an answer of shape {score.shape} for candidates {shape}, or one that is not finite")
    return Answer(model=name, sub_scores=sub_scores, score=score, parameters=model.parameters, milliseconds=milliseconds)


def answers(models: Mapping[str, RewardModel], store: Store, candidates: Candidates) -> list[Answer]:
    """What all models say, then the policy's own confidence where there is one, then the exact scorer."""
    found = [answer(name, model, store, candidates) for name, model in models.items()]
    if candidates.confidence is not None:
        found.append(Answer(model="confidence", sub_scores=None, score=candidates.confidence, parameters=None, milliseconds=None))
    found.append(
        Answer(
            model="exact", sub_scores=candidates.true, score=candidates.true_score, parameters=None, milliseconds=candidates.milliseconds
        )
    )
    return found


def policy_candidates(folder: Path, name: str, store: Store, count: int = max(GROUPS)) -> Candidates:
    """Samples of a policy of the run for every scene, its deployed plan first, and the truth about them.

    Args:
        folder: the run.
        name: imitation or ppo; their exploration is the one with which the reward world model was accepted.
        store: the scenes.
        count: candidates a scene.
    """
    policy = load_policy(checkpoint_of(folder, name), chosen_device())
    training = run.load(checkpoint_of(folder, "reward")).config["training"]
    noise = run.config_of(ExplorationConfig, training["exploration"])
    cache = scene_cache(policy, store, np.arange(len(store)))
    exploration = exploration_of(policy.in_metres(policy.anchors), policy.scale, noise)
    poses, confidence = proposals(policy, cache, exploration, count - 1, training["seed"])
    return _scored(name, store, poses, confidence.astype(np.float64))


def vocabulary_candidates(
    store_train: Store, store: Store, seed: int, count: int = max(GROUPS), words: int = WORDS, bounds: CandidatesConfig = CandidatesConfig()
) -> Candidates:
    """Words of a K-means vocabulary of training plans near the human's plan in every scene, in random order, and the truth about them.

    Args:
        store_train: whose human plans the words are centres of.
        store: the scenes.
        seed: of the K-means and of the choice.
        count: candidates a scene.
        words: size of the vocabulary.
        bounds: how far from the human's plan a word may lie; where too few are within, the nearest others are taken.
    """
    book = vocabulary(store_train.human(np.arange(len(store_train))).astype(np.float32), words, seed)
    random = np.random.default_rng(seed)
    reach = np.array([bounds.near_x, bounds.near_y, bounds.near_heading])
    chosen = []
    for human in store.human(np.arange(len(store))):
        apart = (np.abs(book - human).max(axis=1) / reach).max(axis=1)
        near = np.flatnonzero(apart <= 1.0)
        rows = random.permutation(near)[:count] if len(near) >= count else random.permutation(np.argsort(apart)[:count])
        chosen.append(book[rows])
    return _scored("vocabulary", store, np.stack(chosen), None)


def _scored(kind: str, store: Store, poses: np.ndarray, confidence: np.ndarray | None) -> Candidates:
    start = time.perf_counter()
    true = exact_sub_scores(store, np.arange(len(store)), poses)
    milliseconds = 1e6 * (time.perf_counter() - start) / (len(poses) * poses.shape[1])
    return Candidates(kind=kind, poses=poses, true=true, true_score=epdms(true), confidence=confidence, milliseconds=milliseconds)


def _learned_model(checkpoint: Path, cache: SceneCache) -> RewardModel:
    model = load_reward_world_model(checkpoint, chosen_device())

    def judge(_: Store, indices: Indices, poses: np.ndarray) -> SubScores:
        return predicted_sub_scores(model, cache, np.asarray(indices), torch.from_numpy(poses).float())

    return RewardModel(judge=judge, parameters=sum(values.numel() for values in model.parameters()))


def _array(values: np.ndarray | torch.Tensor) -> np.ndarray:
    values = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    return values.astype(np.float64)
