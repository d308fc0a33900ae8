"""Whole recipes: the configs of all stages that belong together. Adding one is a function here and a line in the dict."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from irlvla.data.features import SensorConfig
from irlvla.model.bev import BirdsEyeConfig
from irlvla.model.policy import PolicyConfig
from irlvla.model.vision import VisionConfig
from irlvla.train.candidates import CandidatesConfig
from irlvla.train.continuation import ContinuationConfig
from irlvla.train.controls import EgoMlpConfig
from irlvla.train.imitation import ImitationConfig
from irlvla.train.ppo import PpoConfig
from irlvla.train.reward import RewardConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Configs of a whole run. `logs` is the embedded world's size (None: its default); the seed is in every config."""

    seed: int
    logs: int | None
    sensors: SensorConfig
    imitation: ImitationConfig
    no_camera: ImitationConfig
    ego_mlp: EgoMlpConfig
    reward: RewardConfig
    ppo: PpoConfig
    imitation_continued: ContinuationConfig
    best_of_g: ContinuationConfig


def default(seed: int = 0) -> Recipe:
    """The recipe of `make demo`: sized for 15 minutes on two cores."""
    imitation = ImitationConfig(seed=seed)
    return Recipe(
        seed=seed,
        logs=None,
        sensors=SensorConfig(),
        imitation=imitation,
        no_camera=replace(imitation, policy=replace(imitation.policy, vision=None)),
        ego_mlp=EgoMlpConfig(seed=seed),
        reward=RewardConfig(seed=seed),
        ppo=PpoConfig(seed=seed),
        imitation_continued=ContinuationConfig(seed=seed, target="human"),
        best_of_g=ContinuationConfig(seed=seed, target="best_of_g"),
    )


def tiny(seed: int = 0) -> Recipe:
    """Every stage for a few steps on a handful of logs: shows that the path is whole, learns next to nothing."""
    recipe = default(seed)
    policy = PolicyConfig(vision=VisionConfig(widths=(8, 16, 16)), birds_eye=BirdsEyeConfig(), anchors=6, width=32)
    imitation = replace(recipe.imitation, policy=policy, steps=12, batch=8, warmup=2, save_every=4, candidates=1)
    few = CandidatesConfig(deployed=2, likely=4, even=2, vocabulary=16, near=3, far=1)
    continued = replace(recipe.imitation_continued, steps=4, batch=8, group=4, candidates=2, save_every=2)
    return replace(
        recipe,
        logs=6,
        imitation=imitation,
        no_camera=replace(imitation, policy=replace(policy, vision=None)),
        ego_mlp=replace(recipe.ego_mlp, steps=20, batch=16, candidates=1),
        reward=replace(recipe.reward, candidates=few, steps=6, batch=8, proposals=6, group=6, warmup=2, save_every=3),
        ppo=replace(recipe.ppo, iterations=3, scenes=6, group=4, candidates=2, save_every=1),
        imitation_continued=continued,
        best_of_g=replace(continued, target="best_of_g"),
    )


RECIPES: dict[str, Callable[[int], Recipe]] = {"default": default, "tiny": tiny}
