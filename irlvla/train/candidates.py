"""Candidate trajectories for the reward world model: what the policy denoises and explores, and a vocabulary of human plans."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int

from irlvla.model.diffusion import Exploration, ExplorationConfig, exploration_of, k_means
from irlvla.model.policy import Policy
from irlvla.rollout import sampled_chains
from irlvla.scene_cache import SceneCache, remembered

DENOISED, VOCABULARY = 0, 1
"""Kinds of candidates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidatesConfig:
    """How many candidates of each kind a scene gets.

    `deployed`: most confident anchors' chains without noise, all steps of each. `likely` and `even`: exploring chains with
    anchors by confidence, and evenly with the noise widened by `wider`, so that a policy that moves on stays covered.
    `near`, `far`: vocabulary within and beyond DreamerAD's bounds of the human plan.
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


def candidates(
    policy: Policy, cache: SceneCache, noise: ExplorationConfig, config: CandidatesConfig, seed: int, batch: int = 64
) -> tuple[Float[np.ndarray, "scenes candidates 8 3"], Int[np.ndarray, "candidates"]]:
    """Candidates (m) of every row of a cache, and the kind of each column."""
    words = vocabulary(cache.human, config.vocabulary, seed)
    random = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    rows = np.arange(len(cache))
    anchors = policy.in_metres(policy.anchors)
    usual, wide = (
        exploration_of(anchors, policy.scale, replace(noise, along=by * noise.along, across=by * noise.across)) for by in (1, config.wider)
    )
    parts = []
    for start in range(0, len(cache), batch):
        part = rows[start : start + batch]
        denoised = _denoised(policy, cache, part, (usual, wide), config, generator)
        chosen = np.stack([_chosen(words, cache.human[row], config, random) for row in part])
        parts.append(np.concatenate([denoised, chosen], axis=1))
    poses = np.concatenate(parts).astype(np.float32)
    kinds = np.full(poses.shape[1], DENOISED)
    kinds[-(config.near + config.far) :] = VOCABULARY
    return poses, kinds


def vocabulary(human: Float[np.ndarray, "trajectories 8 3"], count: int, seed: int) -> Float[np.ndarray, "words 8 3"]:
    """K-means centres of human trajectories; fewer where there are fewer trajectories."""
    weight = np.array([1.0, 1.0, 4.0])
    points = (human * weight).reshape(len(human), -1).astype(np.float64)
    return k_means(points, min(count, len(points)), seed, iterations=10).reshape(-1, 8, 3) / weight


def _chosen(words: np.ndarray, human: np.ndarray, config: CandidatesConfig, random: np.random.Generator) -> np.ndarray:
    apart = np.abs(words - human).max(axis=1)
    near = np.flatnonzero((apart <= [config.near_x, config.near_y, config.near_heading]).all(axis=1))
    near = near if len(near) else np.array([apart[:, 0].argmin()])
    rows = np.concatenate([random.choice(near, config.near), random.choice(len(words), config.far)])
    return words[rows]


@torch.no_grad()
def _denoised(
    policy: Policy,
    cache: SceneCache,
    rows: np.ndarray,
    explorations: tuple[Exploration, Exploration],
    config: CandidatesConfig,
    generator: torch.Generator,
) -> np.ndarray:
    memory = remembered(policy, cache, rows)
    everyone = torch.arange(policy.config.anchors, device=memory.ego.device).expand(len(rows), -1)
    best = policy.deployed(memory).confidence.topk(min(config.deployed, policy.config.anchors), dim=1).indices
    state, parts = policy.start(everyone).gather(1, best[..., None, None].expand(-1, -1, 8, 3)), []
    for index in range(len(policy.config.diffusion.timesteps)):
        state, made = policy.step_mean(memory, state, torch.full_like(best, index), best)
        parts.append(made.clean)
    for samples, uniform, exploration in ((config.likely, False, explorations[0]), (config.even, True, explorations[1])):
        parts.append(sampled_chains(policy, memory, exploration, samples, generator, uniform).states[:, :, -1])
    return policy.in_metres(torch.cat(parts, dim=1)).cpu().numpy()
