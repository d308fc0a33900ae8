"""A run's trained policies, planning: the learned rows of the table, and the reward world model beside the truth."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from irlvla import run
from irlvla.acceptance import Judged
from irlvla.data.store import Indices, Store
from irlvla.evaluate import Plans
from irlvla.model.diffusion import Exploration, ExplorationConfig, exploration_of
from irlvla.model.policy import Policy
from irlvla.rollout import (
    cached_plans,
    chosen_device,
    ego_plans,
    exact_sub_scores,
    load_ego_mlp,
    load_policy,
    load_reward_world_model,
    predicted_sub_scores,
    proposals,
    selected,
)
from irlvla.scene_cache import SceneCache, scene_cache, vision_key
from irlvla.score.epdms import epdms
from irlvla.types import SUB_SCORE_NAMES, SubScores

SELECTORS = {"selector": "imitation", "ppo_selector": "ppo"}
"""Row name -> the policy among whose proposals the reward world model picks."""
LEARNED = ("ego_mlp", "no_camera", "imitation", "imitation_continued", "best_of_g", "ppo", *SELECTORS)
"""Learned rows; variants of `imitation` and `ppo` go by the names of their folders."""
BY_PREDICTED = "_by_predicted"
"""Ending of rows that are only evaluated when they are asked for: a PPO run's candidate that its own reward would have chosen."""
EXACT_SELECTOR = "selector_exact"
"""A row that is only evaluated when it is asked for: `selector` with the exact scorer's pick of the present plan."""
ZEROED = "images_zeroed"
"""A row that is only evaluated when it is asked for: the imitation policy shown black pictures."""


def checkpoint_of(folder: Path, name: str) -> Path:
    """Where a run keeps the checkpoint of a policy (or of `reward`)."""
    if name.endswith(BY_PREDICTED):
        return folder / name.removesuffix(BY_PREDICTED) / "by_predicted" / "checkpoint"
    return folder / ("imitation" if name in (ZEROED, EXACT_SELECTOR) else name) / "checkpoint"


def trained(folder: Path) -> tuple[str, ...]:
    """Learned rows that a run's checkpoints allow: in the order of LEARNED, then variants by name."""

    def there(name: str) -> bool:
        run.settle(checkpoint_of(folder, name))
        return (checkpoint_of(folder, name) / "checkpoint.json").exists()

    names = (path.parent.parent.name for kind in ("imitation", "ppo") for path in folder.glob(f"{kind}_*/checkpoint/checkpoint.json"))
    variants = sorted(name for name in names if name not in LEARNED)
    known = (name for name in LEARNED if (there("reward") and there(SELECTORS[name]) if name in SELECTORS else there(name)))
    return (*known, *variants)


def learned_plans(folder: Path, store: Store, indices: Indices, names: Sequence[str], cache_folder: Path | None = None) -> dict[str, Plans]:
    """Plans of trained policies for the current and the previous moment of some scenes.

    Args:
        folder: the run.
        store: prepared scenes.
        indices: which of them.
        names: rows that are `trained`; or a PPO run with BY_PREDICTED behind it; or ZEROED; or EXACT_SELECTOR.
        cache_folder: where scene tokens of these scenes are kept for later calls; None keeps them in memory.

    Returns:
        Plans by row name, in metres.

    Raises:
        ValueError: a row is not known, or was not trained in this run.
    """
    known = trained(folder)
    extra = [name for name in names if name.endswith(BY_PREDICTED) or name in (ZEROED, EXACT_SELECTOR)]
    asked = [name for name in extra if (checkpoint_of(folder, name) / "checkpoint.json").exists()]
    unknown = [name for name in names if name not in (*known, *asked)]
    if unknown:
        raise ValueError(f"{folder} has no checkpoint for {unknown[0]!r}; there are: {', '.join(known) or 'none'}")
    torch.set_num_threads(1)
    device = chosen_device()
    caches: dict[str, tuple[SceneCache, SceneCache]] = {}
    found: dict[str, Plans] = {}
    for name in names:
        if name == "ego_mlp":
            model = load_ego_mlp(checkpoint_of(folder, name), device)
            found[name] = Plans(poses=ego_plans(model, store, indices), previous=ego_plans(model, store, indices, previous=True))
            continue
        policy = load_policy(checkpoint_of(folder, SELECTORS.get(name, name)), device)
        now, before = _caches(caches, policy, store, indices, name == ZEROED, cache_folder)
        if name in SELECTORS or name == EXACT_SELECTOR:
            exploration, samples, seed = _sampling(folder, policy)
            model = load_reward_world_model(checkpoint_of(folder, "reward"), device)
            exact = (store, indices) if name == EXACT_SELECTOR else None
            poses, previous = selected(policy, model, now, before, exploration, samples, seed, exact)
        else:
            poses, previous = cached_plans(policy, now), cached_plans(policy, before)
        found[name] = Plans(poses=poses, previous=previous)
    return found


def judged(folder: Path, store: Store, indices: Indices) -> Judged:
    """The reward world model's view of the imitation policy's proposals on scenes it never saw, beside the exact scores."""
    device = chosen_device()
    policy = load_policy(checkpoint_of(folder, "imitation"), device)
    model = load_reward_world_model(checkpoint_of(folder, "reward"), device)
    exploration, samples, seed = _sampling(folder, policy)
    cache = scene_cache(policy, store, indices)
    poses, confidence = proposals(policy, cache, exploration, samples, seed)
    true = exact_sub_scores(store, indices, poses)
    parts = []
    for start in range(0, len(cache), 64):
        rows = np.arange(start, min(start + 64, len(cache)))
        parts.append(predicted_sub_scores(model, cache, rows, torch.from_numpy(poses[rows]).float()))
    names = (*SUB_SCORE_NAMES, "ec_defined")
    predicted = SubScores(
        **{name: np.concatenate([getattr(part, name).cpu().numpy().astype(np.float64) for part in parts]) for name in names}
    )
    return Judged(true=true, predicted=predicted, true_score=epdms(true), predicted_score=epdms(predicted), confidence=confidence)


def _caches(
    caches: dict[str, tuple[SceneCache, SceneCache]],
    policy: Policy,
    store: Store,
    indices: Indices,
    black: bool = False,
    folder: Path | None = None,
) -> tuple[SceneCache, SceneCache]:
    """Scene caches of both moments; policies that share a frozen vision part share them."""
    key = f"{vision_key(policy)} {black}"
    if key not in caches:
        places = [None, None] if folder is None or black or policy.perception is None else [folder / "now", folder / "before"]
        caches[key] = tuple(
            scene_cache(policy, store, indices, previous, place, black=black) for previous, place in zip((False, True), places, strict=True)
        )
    return caches[key]


def _sampling(folder: Path, policy: Policy) -> tuple[Exploration, int, int]:
    """Exploration noise, samples beside the deployed plan, and seed with which the reward world model was accepted."""
    training = run.load(checkpoint_of(folder, "reward")).config["training"]
    config = run.config_of(ExplorationConfig, training["exploration"])
    return exploration_of(policy.in_metres(policy.anchors), policy.scale, config), training["group"] - 1, training["seed"]
