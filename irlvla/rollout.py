"""Policy -> proposals -> sub-scores -> reward: what training and evaluation both ask of a policy."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from irlvla import run
from irlvla.data.store import Indices, Store
from irlvla.halves import HALVES, log_halves
from irlvla.model.diffusion import Exploration, exploration_log_prob, exploration_noise
from irlvla.model.policy import EgoMlp, Memory, Policy, PolicyConfig
from irlvla.model.reward_world_model import RewardWorldModel, RewardWorldModelConfig
from irlvla.scene_cache import SceneCache, ego_inputs, inputs, remembered, scene_cache
from irlvla.score.comfort import extended_comfort
from irlvla.score.epdms import epdms, sub_scores
from irlvla.score.states import reference_poses
from irlvla.types import SUB_SCORE_NAMES, SubScores
from irlvla.vehicle import simulated

LOGS = ("unjudged", "annotated", "judged", "all")
"""Which training logs: those whose labels a reward world model has not seen (with logs without annotations among them just those), the
annotated ones, those whose labels it has seen, all."""
THREADS = 2
"""Threads that score scenes side by side; the kernels release the lock."""


@dataclass(frozen=True, slots=True)
class Chain:
    """Sampled denoising chains: the anchor behind each, and its normalised states from the noisy start to the plan."""

    anchor: Int[Tensor, "scenes samples"]
    states: Float[Tensor, "scenes samples states 8 3"]


def chosen_device() -> torch.device:
    """Where training and evaluation compute: CUDA where there is a GPU (hide it from CUDA to do without), else the CPU.

    Chance is always drawn on the CPU. There the same seed gives the same bits; a GPU adds in an order of its own.
    """
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_policy(folder: Path | str, device: torch.device | str = "cpu") -> Policy:
    """The policy of a checkpoint folder, ready to plan."""
    checkpoint = run.load(folder)
    policy = Policy(run.config_of(PolicyConfig, checkpoint.config["policy"]))
    policy.load_state_dict(checkpoint.weights["policy"])
    return policy.to(device).eval()


def load_ego_mlp(folder: Path | str, device: torch.device | str = "cpu") -> EgoMlp:
    """The ego-status control of a checkpoint folder."""
    checkpoint = run.load(folder)
    model = EgoMlp(checkpoint.config["width"])
    model.load_state_dict(checkpoint.weights["ego_mlp"])
    return model.to(device).eval()


def load_reward_world_model(folder: Path | str, device: torch.device | str = "cpu") -> RewardWorldModel:
    """The reward world model of a checkpoint folder."""
    checkpoint = run.load(folder)
    model = RewardWorldModel(run.config_of(RewardWorldModelConfig, checkpoint.config["model"]))
    model.load_state_dict(checkpoint.weights["reward_world_model"])
    return model.to(device).eval()


def cached_plans(policy: Policy, cache: SceneCache, batch: int = 128) -> Float[np.ndarray, "scenes 8 3"]:
    """The policy's deployed plan for every row of a cache, in metres."""
    with torch.inference_mode():
        parts = [policy.plan(remembered(policy, cache, rows)).cpu().numpy() for rows in _batches(len(cache), batch)]
    return np.concatenate(parts).astype(np.float64)


def plans(policy: Policy, store: Store, indices: Indices, previous: bool = False) -> Float[np.ndarray, "scenes 8 3"]:
    """The policy's deployed plans of some scenes, straight from the store, in metres."""
    return cached_plans(policy, scene_cache(policy, store, indices, previous))


def ego_plans(model: EgoMlp, store: Store, indices: Indices, previous: bool = False) -> Float[np.ndarray, "scenes 8 3"]:
    """The ego-status control's plans, in metres."""
    ego_history, command = (torch.from_numpy(values).to(model.scale.device) for values in ego_inputs(store, indices, previous))
    with torch.inference_mode():
        return model.plan(ego_history, command).cpu().numpy().astype(np.float64)


def sampled_chains(
    policy: Policy,
    memory: Memory,
    exploration: Exploration,
    samples: int,
    generator: torch.Generator,
    uniform: bool = False,
) -> Chain:
    """Chains of (anchor, denoising steps) drawn from the exploring policy.

    Args:
        policy: the sampling policy.
        memory: scenes.
        exploration: the noise after each step.
        samples: chains a scene.
        generator: source of chance.
        uniform: draw anchors evenly rather than by confidence.
    """
    log_share = anchor_log_probs(policy, memory)
    share = torch.full_like(log_share, 1 / policy.config.anchors) if uniform else log_share.exp()
    anchor = torch.multinomial(share.cpu(), samples, replacement=True, generator=generator).to(memory.ego.device)
    states = [policy.start(anchor)]
    for index in range(len(policy.config.diffusion.timesteps)):
        mean, _ = policy.step_mean(memory, states[-1], torch.full_like(anchor, index), anchor)
        states.append(mean + exploration_noise(exploration, anchor, generator))
    return Chain(anchor, torch.stack(states, dim=2))


def anchor_log_probs(policy: Policy, memory: Memory) -> Float[Tensor, "scenes anchors"]:
    """log softmax of the confidences, as the chain's first step gives them (before any exploration)."""
    everyone = torch.arange(policy.config.anchors, device=memory.ego.device).expand(len(memory.ego), -1)
    _, proposals = policy.step_mean(memory, policy.start(everyone), torch.zeros_like(everyone), everyone)
    return torch.log_softmax(proposals.confidence, dim=1)


def chain_log_probs(
    policy: Policy, memory: Memory, chain: Chain, exploration: Exploration
) -> tuple[Float[Tensor, "scenes samples"], Float[Tensor, "scenes samples steps"]]:
    """Log-probabilities of given chains under a policy: of the anchor, and of each denoising step."""
    scenes, samples = chain.anchor.shape
    steps = chain.states.shape[2] - 1
    anchor = chain.anchor.repeat(1, steps)
    step = torch.arange(steps, device=anchor.device).repeat_interleave(samples).expand(scenes, -1)
    before = chain.states[:, :, :-1].transpose(1, 2).flatten(1, 2)
    after = chain.states[:, :, 1:].transpose(1, 2).flatten(1, 2)
    mean, _ = policy.step_mean(memory, before, step, anchor)
    log_prob = exploration_log_prob(exploration, anchor, mean, after).unflatten(1, (steps, samples)).transpose(1, 2)
    return anchor_log_probs(policy, memory).gather(1, chain.anchor), log_prob


def exact_sub_scores(
    store: Store,
    indices: Indices,
    poses: Float[np.ndarray, "scenes proposals 8 3"],
    prev_poses: Float[np.ndarray, "scenes proposals 8 3"] | None = None,
    human_filter: bool = True,
) -> SubScores:
    """Measured sub-scores of every proposal of some scenes, arrays of (scenes, proposals).

    Args:
        store: prepared scenes.
        indices: which of them.
        poses: proposals, m and rad.
        prev_poses: plans of the previous moment, for EC (ignored where the log has none).
        human_filter: as in `irlvla.score`.
    """

    def scored(row: int) -> SubScores:
        scene = store.prepared(int(indices[row]))
        return sub_scores(scene, poses[row], None if prev_poses is None else prev_poses[row], human_filter)

    with ThreadPoolExecutor(THREADS) as pool:
        parts = list(pool.map(scored, range(len(indices))))
    names = (*SUB_SCORE_NAMES, "ec_defined")
    return SubScores(**{name: np.stack([getattr(part, name) for part in parts]) for name in names})


@dataclass(frozen=True, slots=True)
class Comfort:
    """EC of proposals, 0 or 1, and in which scenes there was an earlier plan to compare them with."""

    ec: Float[np.ndarray, "scenes proposals"]
    defined: Bool[np.ndarray, "scenes"]


def two_frame_comfort(
    now: SceneCache,
    before: SceneCache,
    rows: np.ndarray,
    poses: Float[np.ndarray, "scenes proposals 8 3"],
    prev_poses: Float[np.ndarray, "scenes 8 3"],
) -> Comfort:
    """EC of proposals against the plan made 0.5 s earlier: it needs both plans and the ego's own motion, no scene.

    Args:
        now: the current moments.
        before: the moments 0.5 s earlier; where there is none (not `valid`) EC is not defined.
        rows: which of them.
        poses: proposals now, each in its ego frame.
        prev_poses: the plan then, in the ego frame of then.
    """
    time_us = 1_600_000_000_000_000
    defined = np.array(before.valid[rows])
    scores = np.zeros(poses.shape[:2])
    for index in np.flatnonzero(defined):
        state = np.concatenate([np.zeros(3), now.ego_history[rows[index], 3, 3:]]).astype(np.float64)
        previous = np.concatenate([np.zeros(3), before.ego_history[rows[index], 3, 3:]]).astype(np.float64)
        states = simulated(state, reference_poses(state, time_us, poses[index].astype(np.float64)))
        old = simulated(previous, reference_poses(previous, time_us, prev_poses[index][None].astype(np.float64)))
        scores[index] = extended_comfort(states, np.repeat(old, len(states), axis=0), 0.5)
    return Comfort(scores, defined)


def predicted_sub_scores(
    model: RewardWorldModel,
    cache: SceneCache,
    rows: np.ndarray,
    poses: Float[Tensor, "scenes proposals 8 3"],
    comfort: Comfort | None = None,
) -> SubScores:
    """The reward world model's expectations, on its device, for proposals (m) of some rows of a cache; EC as `comfort` says.

    Raises:
        ValueError: the cache is one of a policy without pictures.
    """
    scene, ego_history, command = inputs(cache, rows, model.scale.device)
    if scene is None:
        raise ValueError("the reward world model needs scene tokens, the cache holds none")
    with torch.no_grad():
        scores = model.sub_scores(scene, ego_history, command, poses.to(ego_history.device))
    if comfort is None:
        return scores
    ec = torch.from_numpy(comfort.ec).float().to(ego_history.device)
    defined = torch.from_numpy(comfort.defined).to(ec)[:, None].expand_as(ec)
    return replace(scores, ec=ec, ec_defined=defined)


def proposals(
    policy: Policy, cache: SceneCache, exploration: Exploration, samples: int, seed: int = 0, batch: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """Proposals of every row of a cache: the deployed plan first, then samples of the exploring policy.

    A row of a batch always draws the same noise, so that caches of two consecutive moments get like proposals (EC).

    Returns:
        Poses (scenes, 1 + samples, 8, 3) in metres, and the confidence (log-probability) of each one's anchor.
    """
    poses, confidence = [], []
    for rows in _batches(len(cache), batch):
        with torch.no_grad():
            memory = remembered(policy, cache, rows)
            deployed = policy.deployed(memory)
            best = deployed.confidence.argmax(1, keepdim=True)
            first = deployed.clean.gather(1, best[..., None, None].expand(-1, -1, 8, 3))
            log_share = torch.log_softmax(deployed.confidence, dim=1)
            chain = sampled_chains(policy, memory, exploration, samples, torch.Generator().manual_seed(seed))
            every = torch.cat([first, chain.states[:, :, -1]], dim=1)
            poses.append(policy.in_metres(every).cpu().numpy().astype(np.float64))
            confidence.append(log_share.gather(1, torch.cat([best, chain.anchor], dim=1)).cpu().numpy())
    return np.concatenate(poses), np.concatenate(confidence)


def selected(
    policy: Policy,
    model: RewardWorldModel,
    now: SceneCache,
    before: SceneCache,
    exploration: Exploration,
    samples: int,
    seed: int = 0,
    exact: tuple[Store, Indices] | None = None,
) -> tuple[Float[np.ndarray, "scenes 8 3"], Float[np.ndarray, "scenes 8 3"]]:
    """The plans that the reward world model picks among a policy's proposals, now and 0.5 s earlier.

    The earlier pick knows no plan before it; the present one counts EC against the earlier pick. With `exact` (scenes, and which of
    them) the exact scorer makes the present pick after the same earlier one: the most that a selector could gain.
    """
    old, _ = proposals(policy, before, exploration, samples, seed)
    earlier = _picked(model, before, old, None)
    new, _ = proposals(policy, now, exploration, samples, seed)
    if exact is None:
        return _picked(model, now, new, (before, earlier)), earlier
    scores = epdms(exact_sub_scores(*exact, new, np.repeat(earlier[:, None], new.shape[1], axis=1)))
    return new[np.arange(len(new)), scores.argmax(axis=1)], earlier


def _picked(model: RewardWorldModel, cache: SceneCache, poses: np.ndarray, earlier: tuple[SceneCache, np.ndarray] | None) -> np.ndarray:
    chosen = []
    for rows in _batches(len(cache), 64):
        comfort = None if earlier is None else two_frame_comfort(cache, earlier[0], rows, poses[rows], earlier[1][rows])
        scores = predicted_sub_scores(model, cache, rows, torch.from_numpy(poses[rows]).float(), comfort)
        chosen.append(poses[rows, epdms(scores).argmax(1).cpu().numpy()])
    return np.concatenate(chosen)


def labelled_scenes(store: Store, seed: int, half: str = "A") -> Int[np.ndarray, "scenes"]:
    """Scenes whose exact scores a reward world model learns from: a half of the logs, or all annotated ones where some are not."""
    return log_halves(store.log_names, seed)[HALVES.index(half)] if store.annotated.all() else np.flatnonzero(store.annotated)


def chosen_scenes(logs: str, reward: Path | str, store: Store) -> Int[np.ndarray, "scenes"]:
    """Scenes of some of a training store's logs.

    Args:
        logs: one of LOGS.
        reward: the checkpoint of a reward world model, which knows the labels it has seen ("unjudged" and "judged").
        store: training scenes.

    Raises:
        ValueError: there are no such scenes, or no such name.
    """
    if logs not in LOGS:
        raise ValueError(f"unknown logs {logs!r}: {', '.join(LOGS)}")
    rows = np.arange(len(store))
    if logs == "annotated":
        rows = np.flatnonzero(store.annotated)
    elif logs != "all":
        training = run.load(reward).config["training"]
        seen = labelled_scenes(store, training["seed"], training.get("half", "A"))
        rows = seen if logs == "judged" else np.setdiff1d(rows, seen)
    if not len(rows):
        raise ValueError(f"none of {len(store)} training scenes is of {logs} logs")
    return rows


def _batches(count: int, batch: int) -> list[np.ndarray]:
    return [np.arange(start, min(start + batch, count)) for start in range(0, count, batch)]
