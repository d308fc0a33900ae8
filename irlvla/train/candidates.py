"""Candidate trajectories for the reward world model: what the policy denoises and explores, and vocabularies of human plans."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from irlvla.model.diffusion import Exploration, ExplorationConfig, exploration_of, k_means
from irlvla.model.policy import Policy
from irlvla.rollout import sampled_chains
from irlvla.scene_cache import SceneCache, remembered
from irlvla.shifted import ShiftConfig
from irlvla.train.vocabularies import apart

DENOISED, EXPLORED, VOCABULARY = 0, 1, 2
KIND_NAMES = ("denoised", "explored", "vocabulary")
"""Kinds of candidates: a denoising step's proposal, an exploring chain's plan, a word of a vocabulary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidatesConfig:
    """How many candidates of each kind a scene gets; 0 (or no vocabularies) leaves a kind out.

    `deployed`: most confident anchors' chains without noise, all steps of each. `likely` and `even`: exploring chains with
    anchors by confidence, and evenly with the noise widened by `wider`, so that a policy that moves on stays covered.
    `near`, `far`: of a vocabulary of `vocabulary` words, those within and beyond DreamerAD's bounds of the human plan.
    `vocabularies`: sizes of further ones, made once a store (`irlvla.train.vocabularies`), with `words` near words of each.
    `shifted`: candidates also in scenes whose ego was moved, with pictures drawn again (`irlvla.shifted`); None leaves them out,
    as on real logs it must.
    """

    deployed: int = 6
    likely: int = 40
    even: int = 24
    wider: float = 2.0
    vocabulary: int = 512
    near: int = 16
    far: int = 6
    near_x: float = 10.0
    near_y: float = 5.0
    near_heading: float = float(np.radians(20))
    vocabularies: tuple[int, ...] = ()
    words: int = 16
    shifted: ShiftConfig | None = None

    def __post_init__(self) -> None:
        counts = (self.deployed, self.likely, self.even, self.near, self.far, self.words, *self.vocabularies)
        if min(counts) < 0 or not any((*counts[:5], self.words * len(self.vocabularies))):
            raise ValueError(f"a scene gets candidates of at least one kind and no negative number of any, not {self}")


@dataclass(frozen=True, slots=True)
class Columns:
    """What each candidate of every scene is: its kind, and the number of words of the vocabulary it is from (0: of none)."""

    kinds: Int[np.ndarray, "candidates"]
    vocabulary: Int[np.ndarray, "candidates"]


@dataclass(frozen=True, slots=True)
class Palette:
    """All that candidates are drawn from beside the policy: exploration as usual and widened, and vocabularies (m, rad)."""

    usual: Exploration
    wide: Exploration
    words: Float[np.ndarray, "words 8 3"]
    more: tuple[Float[np.ndarray, "_ 8 3"], ...]


@dataclass(frozen=True, slots=True)
class Chance:
    """Sources of chance, drawn from batch by batch; their states are kept with each finished batch of labels."""

    chains: torch.Generator
    words: np.random.Generator


def chance(seed: int) -> Chance:
    """Fresh sources of chance."""
    return Chance(torch.Generator().manual_seed(seed), np.random.default_rng(seed))


def palette(
    policy: Policy,
    human: Float[np.ndarray, "trajectories 8 3"],
    noise: ExplorationConfig,
    config: CandidatesConfig,
    seed: int,
    more: tuple[Float[np.ndarray, "_ 8 3"], ...] = (),
) -> Palette:
    """What the candidates of some scenes are drawn from.

    Args:
        policy: whose anchors are explored.
        human: plans of all scenes that are to be labelled, of which the first vocabulary is made, m and rad.
        noise: the usual exploration.
        config: how many candidates of each kind.
        seed: of the first vocabulary.
        more: the vocabularies of `config.vocabularies`.

    Raises:
        ValueError: other vocabularies are given than the config asks for.
    """
    if len(more) != len(config.vocabularies):
        raise ValueError(f"{len(more)} vocabularies are given, the config asks for {len(config.vocabularies)}")
    anchors = policy.in_metres(policy.anchors)
    usual, wide = (
        exploration_of(anchors, policy.scale, replace(noise, along=by * noise.along, across=by * noise.across)) for by in (1, config.wider)
    )
    return Palette(usual, wide, vocabulary(human, config.vocabulary, seed) if config.near + config.far else np.zeros((0, 8, 3)), more)


def columns(policy: Policy, colours: Palette, config: CandidatesConfig) -> Columns:
    """Kind and vocabulary of the candidates in the order in which `candidates` gives them."""
    steps = len(policy.config.diffusion.timesteps)
    groups = [
        (DENOISED, 0, min(config.deployed, policy.config.anchors) * steps),
        (EXPLORED, 0, config.likely + config.even),
        (VOCABULARY, len(colours.words), config.near + config.far),
        *((VOCABULARY, len(words), config.words) for words in colours.more),
    ]
    counts = [count for *_, count in groups]
    return Columns(np.repeat([kind for kind, *_ in groups], counts), np.repeat([words for _, words, _ in groups], counts))


def candidates(
    policy: Policy,
    cache: SceneCache,
    rows: Int[np.ndarray, "scenes"],
    colours: Palette,
    config: CandidatesConfig,
    seed: int,
    source: Chance,
) -> Float[np.ndarray, "scenes candidates 8 3"]:
    """Candidates (m) of some rows of a cache.

    Args:
        policy: whose plans they are.
        cache: scenes as the policy's vision part sees them.
        rows: which of them, few enough for one batch.
        colours: what to draw from.
        config: how many of each kind.
        seed: for the words of further vocabularies, which depend on it and the row alone.
        source: chance for all else; it moves on.
    """
    parts = _denoised(policy, cache, rows, colours, config, source.chains)
    if config.near + config.far:
        parts.append(np.stack([_chosen(colours.words, cache.human[row], config, source.words) for row in rows]))
    for number, words in enumerate(colours.more):
        parts.append(np.stack([_near(words, cache.human[row], config, np.random.default_rng((seed, number, row))) for row in rows]))
    return np.concatenate(parts, axis=1).astype(np.float32)


def vocabulary(human: Float[np.ndarray, "trajectories 8 3"], count: int, seed: int) -> Float[np.ndarray, "words 8 3"]:
    """K-means centres of human trajectories; fewer where there are fewer trajectories."""
    weight = np.array([1.0, 1.0, 4.0])
    points = (human * weight).reshape(len(human), -1).astype(np.float64)
    return k_means(points, min(count, len(points)), seed, iterations=10).reshape(-1, 8, 3) / weight


def is_near(words: Float[np.ndarray, "words 8 3"], human: Float[np.ndarray, "8 3"], config: CandidatesConfig) -> Bool[np.ndarray, "words"]:
    """Which words stay within the config's bounds of the human plan at all poses.

    Source: DreamerAD's filter, |dx| <= 10 m, |dy| <= 5 m, |dheading| <= 20 degrees.
    """
    return (apart(words, human) <= [config.near_x, config.near_y, config.near_heading]).all(axis=1)


def _near(words: np.ndarray, human: np.ndarray, config: CandidatesConfig, random: np.random.Generator) -> np.ndarray:
    """Near words of one vocabulary, none twice unless there are too few; the nearest one where none is near."""
    near = np.flatnonzero(is_near(words, human, config))
    near = near if len(near) else np.array([apart(words, human)[:, 0].argmin()])
    return words[random.choice(near, config.words, replace=len(near) < config.words)]


def _chosen(words: np.ndarray, human: np.ndarray, config: CandidatesConfig, random: np.random.Generator) -> np.ndarray:
    difference = np.abs(words - human).max(axis=1)
    near = np.flatnonzero((difference <= [config.near_x, config.near_y, config.near_heading]).all(axis=1))
    near = near if len(near) else np.array([difference[:, 0].argmin()])
    rows = np.concatenate([random.choice(near, config.near), random.choice(len(words), config.far)])
    return words[rows]


@torch.no_grad()
def _denoised(
    policy: Policy, cache: SceneCache, rows: np.ndarray, colours: Palette, config: CandidatesConfig, generator: torch.Generator
) -> list[np.ndarray]:
    memory = remembered(policy, cache, rows)
    parts = []
    if config.deployed:
        everyone = torch.arange(policy.config.anchors, device=memory.ego.device).expand(len(rows), -1)
        best = policy.deployed(memory).confidence.topk(min(config.deployed, policy.config.anchors), dim=1).indices
        state = policy.start(everyone).gather(1, best[..., None, None].expand(-1, -1, 8, 3))
        for index in range(len(policy.config.diffusion.timesteps)):
            state, made = policy.step_mean(memory, state, torch.full_like(best, index), best)
            parts.append(made.clean)
    for samples, uniform, exploration in ((config.likely, False, colours.usual), (config.even, True, colours.wide)):
        if samples:
            parts.append(sampled_chains(policy, memory, exploration, samples, generator, uniform).states[:, :, -1])
    return [policy.in_metres(torch.cat(parts, dim=1)).cpu().numpy()] if parts else []
