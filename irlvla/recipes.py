"""Whole recipes: the configs of all stages that belong together. Adding one is a function here and a line in the dict."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from irlvla.data.features import SensorConfig
from irlvla.data.store import Store
from irlvla.files import json_mapping, short
from irlvla.learned import checkpoint_of
from irlvla.model.bev import BirdsEyeConfig
from irlvla.model.policy import PolicyConfig
from irlvla.model.vision import VisionConfig
from irlvla.rollout import chosen_device, load_policy
from irlvla.run import config_of, write_json
from irlvla.scene_cache import stage_caches
from irlvla.train import continuation, controls, imitation, ppo, reward
from irlvla.train.candidates import CandidatesConfig
from irlvla.train.continuation import ContinuationConfig
from irlvla.train.controls import EgoMlpConfig
from irlvla.train.imitation import ImitationConfig
from irlvla.train.ppo import PpoConfig
from irlvla.train.reward import RewardConfig
from irlvla.train.rewards import JUDGES


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Configs of a whole run. `logs` is the embedded world's size (None: its default); the seed is in every config."""

    name: str
    seed: int
    logs: int | None
    sensors: SensorConfig
    imitation: ImitationConfig
    no_camera: ImitationConfig
    ego_mlp: EgoMlpConfig
    reward: RewardConfig
    reward_no_camera: RewardConfig
    ppo: PpoConfig
    imitation_continued: ContinuationConfig
    best_of_g: ContinuationConfig


def default(seed: int = 0) -> Recipe:
    """The recipe of `make demo`: sized for 15 minutes on two cores."""
    imitation = ImitationConfig(seed=seed, prior=EgoMlpConfig(seed=seed, steps=3000))
    reward = RewardConfig(seed=seed)
    return Recipe(
        name="default",
        seed=seed,
        logs=None,
        sensors=SensorConfig(),
        imitation=imitation,
        no_camera=replace(imitation, policy=replace(imitation.policy, vision=None)),
        ego_mlp=EgoMlpConfig(seed=seed),
        reward=reward,
        reward_no_camera=without_camera(reward),
        ppo=PpoConfig(seed=seed),
        imitation_continued=ContinuationConfig(seed=seed, target="human"),
        best_of_g=ContinuationConfig(seed=seed, target="best_of_g"),
    )


def without_camera(config: RewardConfig) -> RewardConfig:
    """The same training of a reward world model that sees nothing of the scene: what can be judged without looking."""
    return replace(config, model=replace(config.model, camera=False))


def tiny(seed: int = 0) -> Recipe:
    """Every stage for a few steps on a handful of logs: shows that the path is whole, learns next to nothing."""
    recipe = default(seed)
    policy = PolicyConfig(vision=VisionConfig(widths=(8, 16, 16)), birds_eye=BirdsEyeConfig(), anchors=6, width=32)
    prior = replace(recipe.ego_mlp, steps=20, batch=16)
    imitation = replace(
        recipe.imitation,
        policy=policy,
        prior=prior,
        steps=8,
        batch=8,
        planner_steps=6,
        planner_batch=8,
        warmup=2,
        save_every=4,
        candidates=1,
    )
    few = CandidatesConfig(deployed=2, likely=4, even=2, vocabulary=16, near=3, far=1)
    reward = replace(recipe.reward, candidates=few, steps=6, batch=8, proposals=6, group=6, warmup=2, save_every=3)
    continued = replace(recipe.imitation_continued, steps=4, batch=8, group=4, candidates=2, save_every=2)
    return replace(
        recipe,
        name="tiny",
        logs=6,
        imitation=imitation,
        no_camera=replace(imitation, policy=replace(policy, vision=None)),
        ego_mlp=replace(prior, candidates=1),
        reward=reward,
        reward_no_camera=without_camera(reward),
        ppo=replace(recipe.ppo, iterations=3, scenes=6, group=4, candidates=2, save_every=1),
        imitation_continued=continued,
        best_of_g=replace(continued, target="best_of_g"),
    )


RECIPES: dict[str, Callable[[int], Recipe]] = {"default": default, "tiny": tiny}
PPO_VARIANTS: dict[str, dict[str, Any]] = {
    "ppo_exact": {"reward": "exact"},
    "ppo_nearest": {"reward": "nearest"},
    "ppo_no_camera_reward": {"reward": "no_camera"},
    "ppo_confidences": {"learn": "confidences"},
    "ppo_trajectories": {"learn": "trajectories"},
    "ppo_critic": {"advantage": "critic"},
    "ppo_anchor": {"advantage": "anchor"},
    "ppo_refit": {"refit_every": 40},
}
"""Stages that are the recipe's ppo but for one field."""
STAGES = (
    "vision",
    "imitation",
    "no_camera",
    "ego_mlp",
    "reward",
    "reward_no_camera",
    "ppo",
    "imitation_continued",
    "best_of_g",
    *PPO_VARIANTS,
)
"""What can be trained, in an order in which everything that a stage needs comes before it; "vision" is imitation's first half."""


def recipe_of(name: str, seed: int) -> Recipe:
    """A recipe by name.

    Raises:
        ValueError: there is no such recipe.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}; there are: {', '.join(RECIPES)}")
    return RECIPES[name](seed)


def stage_config(stage: str, recipe: Recipe) -> Any:
    """The config with which a recipe trains one of STAGES.

    Raises:
        ValueError: the stage is not known.
    """
    if stage not in STAGES:
        raise ValueError(f"unknown stage {stage!r}; there are: {', '.join(STAGES)}")
    if stage in PPO_VARIANTS:
        return replace(recipe.ppo, **PPO_VARIANTS[stage])
    return getattr(recipe, "imitation" if stage == "vision" else stage)


def fit_stage(stage: str, recipe: Recipe, folder: Path, train: Store, val: Store, resume: bool) -> Path:
    """Trains one of STAGES in a run's folder.

    Args:
        stage: which.
        recipe: its config and that of all others.
        folder: of the run.
        train: scenes to learn from.
        val: scenes to choose checkpoints by.
        resume: continue what an interrupted run left.

    Returns:
        The checkpoint's folder.

    Raises:
        ValueError: the stage is not known, or one that it needs has no checkpoint yet.
    """
    own, policy, judge = folder / stage, checkpoint_of(folder, "imitation"), checkpoint_of(folder, "reward")
    tokens, config = folder / "stores" / "tokens", stage_config(stage, recipe)
    match stage:
        case "vision":
            return imitation.fit(config, train, val, folder / "imitation", resume, tokens, vision_only=True)
        case "imitation":
            return imitation.fit(config, train, val, own, resume, tokens)
        case "no_camera":
            return imitation.fit(config, train, val, own, resume)
        case "ego_mlp":
            return controls.fit_ego_mlp(config, train, val, own, resume)
        case "reward":
            return reward.fit(config, policy, train, val, own, resume, tokens)
        case "reward_no_camera":
            return reward.fit(config, policy, train, val, own, resume, tokens, folder / "reward" / "labels")
        case "imitation_continued" | "best_of_g":
            return continuation.fit(config, policy, judge, train, val, own, resume, tokens)
    return ppo.fit(config, policy, _judge(config, folder), train, val, own, resume, tokens)


def _judge(config: PpoConfig, folder: Path) -> Path:
    """The checkpoint of the reward world model that a PPO run asks."""
    return checkpoint_of(folder, JUDGES.get(config.reward, "reward"))


def cache_tokens(folder: Path, train: Store, val: Store) -> None:
    """Computes the scene tokens of stage 3 once, so that processes side by side only read them."""
    stage_caches(load_policy(checkpoint_of(folder, "imitation"), chosen_device()), train, val, folder / "stores" / "tokens")


def keep_recipe(folder: Path, recipe: Recipe) -> None:
    """Writes the full config into the run's folder."""
    write_json(folder / "recipe.json", recipe)


def kept_recipe(folder: Path) -> tuple[int, SensorConfig]:
    """Seed and sensors with which a run was trained.

    Raises:
        ValueError: nothing was trained in this folder.
    """
    path = folder / "recipe.json"
    if not path.exists():
        raise ValueError(f"{folder} is no run: {path.name} is missing, train something first")
    values = json_mapping(path)
    if not isinstance(values.get("seed"), int):
        raise ValueError(f"{path}: seed is {short(values.get('seed'))}, no whole number")
    try:
        return values["seed"], config_of(SensorConfig, values.get("sensors"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
