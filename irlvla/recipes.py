"""Whole recipes: the configs of all stages that belong together. Adding one is a function here and a line in the dict."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from irlvla.data.features import SensorConfig
from irlvla.data.store import Store
from irlvla.files import json_mapping, short
from irlvla.learned import checkpoint_of
from irlvla.model.elements import ElementConfig
from irlvla.model.language import LanguageConfig
from irlvla.model.perception import PerceptionConfig
from irlvla.model.planner_loss import PlannerWeights
from irlvla.model.policy import PolicyConfig
from irlvla.model.vision import VisionConfig
from irlvla.rollout import chosen_device, load_policy
from irlvla.run import config_of, write_json
from irlvla.scene_cache import stage_caches
from irlvla.train import continuation, controls, imitation, ppo, reward
from irlvla.train.candidates import CandidatesConfig
from irlvla.train.continuation import ContinuationConfig
from irlvla.train.controls import EgoMlpConfig
from irlvla.train.imitation_loss import ImitationConfig
from irlvla.train.ppo import PpoConfig
from irlvla.train.reward import RewardConfig
from irlvla.variants import IMITATION_VARIANTS, PPO_VARIANTS, REWARD_VARIANTS, SAME_LABELS, STAGES


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Configs of a whole run; the seed is in every config.

    `logs` is the embedded world's size (None: its default). `ablated` is what IMITATION_VARIANTS change: `imitation`, or a shorter run of it.
    """

    name: str
    seed: int
    logs: int | None
    sensors: SensorConfig
    imitation: ImitationConfig
    ablated: ImitationConfig
    no_camera: ImitationConfig
    ego_mlp: EgoMlpConfig
    reward: RewardConfig
    ppo: PpoConfig
    imitation_continued: ContinuationConfig
    best_of_g: ContinuationConfig


def default(seed: int = 0) -> Recipe:
    """The recipe of `make demo`: sized for 15 minutes on two cores."""
    imitation = ImitationConfig(seed=seed, prior=EgoMlpConfig(seed=seed, steps=3000))
    return Recipe(
        name="default",
        seed=seed,
        logs=None,
        sensors=SensorConfig(),
        imitation=imitation,
        ablated=imitation,
        no_camera=replace(imitation, policy=replace(imitation.policy, perception=None)),
        ego_mlp=EgoMlpConfig(seed=seed),
        reward=RewardConfig(seed=seed),
        ppo=PpoConfig(seed=seed),
        imitation_continued=ContinuationConfig(seed=seed, target="human"),
        best_of_g=ContinuationConfig(seed=seed, target="best_of_g"),
    )


def vla(seed: int = 0) -> Recipe:
    """The whole architecture: detection, map and semantic tokens beside the bird's-eye view, a planner that steers more precisely."""
    recipe = default(seed)
    perception = recipe.imitation.policy.perception
    view = replace(perception.birds_eye, lamps=True)
    perception = replace(perception, birds_eye=view, elements=ElementConfig(), language=LanguageConfig())
    weights = PlannerWeights(regression=60.0, path=1.0)
    policy = replace(recipe.imitation.policy, perception=perception, local=True)
    ablated = replace(recipe.imitation, policy=policy, planner=weights, lamp_weight=1.0, colour=0.05)
    return replace(
        recipe,
        name="vla",
        imitation=replace(ablated, steps=1200),
        ablated=ablated,
        no_camera=replace(ablated, policy=replace(policy, perception=None)),
        imitation_continued=replace(recipe.imitation_continued, planner=weights),
        best_of_g=replace(recipe.best_of_g, planner=weights),
    )


def tiny(seed: int = 0) -> Recipe:
    """Every stage for a few steps on a handful of logs: shows that the path is whole, learns next to nothing."""
    recipe = default(seed)
    policy = PolicyConfig(perception=PerceptionConfig(vision=VisionConfig(widths=(8, 16, 16))), anchors=6, width=32)
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
        ablated=imitation,
        no_camera=replace(imitation, policy=replace(policy, perception=None)),
        ego_mlp=replace(prior, candidates=1),
        reward=reward,
        ppo=replace(recipe.ppo, iterations=3, scenes=6, group=4, candidates=2, save_every=1),
        imitation_continued=continued,
        best_of_g=replace(continued, target="best_of_g"),
    )


def navtrain(seed: int = 0) -> Recipe:
    """Imitation on NAVSIM's navtrain with 8 GPUs; docs/scale.md has the arithmetic. No number of it was measured by us.

    | what | value | source |
    |---|---|---|
    | encoder | ResNet-34, pretrained, learns on | DiffusionDrive (arXiv 2411.15139), TransFuser |
    | cameras | front, left, right, and the front one's middle half | DiffusionDrive's three; the fourth picture is ours |
    | road in the ego frame | 0.4 m below its origin | nuPlan's origin is the rear axle, see `irlvla.data.rig` |
    | picture | 256 x 448 | DiffusionDrive joins its three to 256 x 1024; ours keep 16:9 |
    | batch, rate, decay | 512, 6e-4, 1e-4, AdamW | DiffusionDrive: 8 GPUs x 64 |
    | updates | 20,000 of 512 | its 100 epochs of 103,288 scenes are 20,174 |
    | warm-up | 600 updates | its 3 epochs |
    | memory a GPU | about 16 GB | estimate: 64 moments x 4 pictures x 50 MB, and the planner; element decoder and language model not counted |
    | hours | 6 to 12 | estimate: 2 of arithmetic at 40 TFLOP/s a GPU; published runs of this size take 5 to 24 |

    Source: DiffusionDrive, section 4; hours of others: autonomousvision/navsim issue 39 (TransFuser, 100 epochs, one GPU: 24),
    LogosRoboticsGroup/SeerDrive issue 2 (30 epochs, 8 RTX 3090: 5 to 6).
    """
    recipe = vla(seed)
    vision = VisionConfig(encoder="hf:microsoft/resnet-34", widths=(64, 128, 256))
    perception = replace(recipe.imitation.policy.perception, vision=vision)
    policy = replace(recipe.imitation.policy, perception=perception, width=256)
    imitation = replace(
        recipe.imitation,
        policy=policy,
        steps=20_000,
        batch=512,
        planner_steps=20_000,
        planner_batch=512,
        warmup=600,
        average_decay=0.999,
        shift=8,
        save_every=1000,
        bfloat16=True,
    )
    return replace(
        recipe,
        name="navtrain",
        sensors=SensorConfig(height=256, width=448, ground=-0.4),
        imitation=imitation,
        ablated=imitation,
        no_camera=replace(imitation, policy=replace(policy, perception=None)),
    )


RECIPES: dict[str, Callable[[int], Recipe]] = {"default": default, "vla": vla, "tiny": tiny, "navtrain": navtrain}
TOGETHER = ("vision", "imitation", "no_camera")
"""Stages that several processes can train together."""


def recipe_of(name: str, seed: int) -> Recipe:
    """A recipe by name.

    Raises:
        ValueError: there is no such recipe.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}; there are: {', '.join(RECIPES)}")
    return RECIPES[name](seed)


def check_stage(stage: str) -> None:
    """Whether a stage is one of STAGES.

    Raises:
        ValueError: it is not.
    """
    if stage not in STAGES:
        raise ValueError(f"unknown stage {stage!r}; there are: {', '.join(STAGES)}")


def check_together(stage: str, processes: int, dry_run: bool) -> None:
    """Whether so many processes can train a stage, or a dry run of it be made.

    Raises:
        ValueError: they cannot.
    """
    if stage not in TOGETHER and (processes > 1 or dry_run):
        what = "there is no dry run of it" if dry_run else f"torchrun started {processes}"
        raise ValueError(f"stage {stage!r} is trained by one process, {what}; several train: {', '.join(TOGETHER)}")


def check_labels(stage: str, cluster: str | None) -> None:
    """Whether a stage has something to do for a Ray cluster, where one is given.

    Raises:
        ValueError: it has not.
    """
    if cluster is not None and stage != "reward" and stage not in REWARD_VARIANTS:
        raise ValueError(
            f"stage {stage!r} labels nothing, a Ray cluster cannot help; it labels for reward and {', '.join(REWARD_VARIANTS)}"
        )


def stage_config(stage: str, recipe: Recipe) -> Any:
    """The config with which a recipe trains one of STAGES.

    Raises:
        ValueError: the stage is not known.
    """
    check_stage(stage)
    if stage in IMITATION_VARIANTS:
        return _changed(recipe.ablated, IMITATION_VARIANTS[stage])
    if stage in REWARD_VARIANTS:
        return _changed(recipe.reward, REWARD_VARIANTS[stage])
    if stage in PPO_VARIANTS:
        return _changed(recipe.ppo, PPO_VARIANTS[stage][0])
    return getattr(recipe, "imitation" if stage == "vision" else stage)


def judge_of(stage: str) -> str:
    """The stage of the reward world model that a PPO stage asks."""
    return PPO_VARIANTS[stage][1] if stage in PPO_VARIANTS else "reward"


def _changed(config: Any, changes: dict[str, Any]) -> Any:
    """A config with some fields changed; a dict changes fields of a field."""
    values = {name: _changed(getattr(config, name), value) if isinstance(value, dict) else value for name, value in changes.items()}
    return replace(config, **values)


def fit_stage(stage: str, recipe: Recipe, folder: Path, train: Store, val: Store, resume: bool, cluster: str | None = None) -> Path:
    """Trains one of STAGES in a run's folder.

    Args:
        stage: which.
        recipe: its config and that of all others.
        folder: of the run.
        train: scenes to learn from.
        val: scenes to choose checkpoints by.
        resume: continue what an interrupted run left.
        cluster: address of a Ray cluster that labels candidates, or "local".

    Returns:
        The checkpoint's folder.

    Raises:
        ValueError: the stage is not known, or one that it needs has no checkpoint yet.
    """
    own, policy, judge = folder / stage, checkpoint_of(folder, "imitation"), checkpoint_of(folder, judge_of(stage))
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
            return reward.fit(config, policy, train, val, own, resume, tokens, cluster=cluster)
        case "imitation_continued" | "best_of_g":
            return continuation.fit(config, policy, judge, train, val, own, resume, tokens)
    if stage in IMITATION_VARIANTS:
        checkpoint = imitation.fit(config, train, val, own, resume, own / "tokens")
        shutil.rmtree(own / "tokens", ignore_errors=True)  # half a gigabyte that no other stage reads
        return checkpoint
    if stage in REWARD_VARIANTS:
        labels = folder / "reward" / "labels" if stage in SAME_LABELS else None
        return reward.fit(config, policy, train, val, own, resume, tokens, labels, cluster)
    return ppo.fit(config, policy, judge, train, val, own, resume, tokens)


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
