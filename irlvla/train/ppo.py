"""Stage 3: PPO on the denoising chain, with the reward world model's EPDMS as reward.

One scene is one episode: choose an anchor by confidence, take the deployed chain's denoising steps with smooth exploration
noise, drive; the reward comes at the end. The vision part is frozen and its scene tokens are cached; half B of the training
logs is used, which the reward world model has never seen.
"""

import copy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from irlvla import run
from irlvla.data.store import Store
from irlvla.model.attention import feed_forward
from irlvla.model.diffusion import Exploration, ExplorationConfig, exploration_of
from irlvla.model.policy import EgoEncoder, Policy, planner_parameters
from irlvla.model.reward_world_model import RewardWorldModel
from irlvla.rollout import (
    Chain,
    chain_log_probs,
    chosen_device,
    exact_sub_scores,
    load_policy,
    load_reward_world_model,
    predicted_sub_scores,
    sampled_chains,
    two_frame_comfort,
    unjudged,
)
from irlvla.scene_cache import SceneCache, StageCaches, inputs, remembered, stage_caches
from irlvla.score.epdms import epdms
from irlvla.train.imitation import keep_best
from irlvla.train.loop import batch_rows, follow, progress, step_generator
from irlvla.types import SubScores


@dataclass(frozen=True, slots=True, kw_only=True)
class PpoConfig:
    """One PPO run.

    `advantage`: "group" (reward minus the mean of the scene's group), "critic" (reward minus the scene's value) or "both"
    (their mean). `learn`: "both", "confidences" or "trajectories". `reward`: "model" or "exact" (the bound: the exact scorer on
    annotated scenes). `clone_weight` weighs the log-likelihood of the frozen imitation policy's own chains: with little of it
    safety was bought with progress and comfort on val. Exploration is narrower than that of the candidates.
    """

    exploration: ExplorationConfig = field(default_factory=lambda: ExplorationConfig(along=0.06, across=0.02))
    seed: int = 0
    iterations: int = 120
    scenes: int = 48
    group: int = 16
    passes: int = 2
    rate: float = 1e-4
    critic_rate: float = 1e-3
    weight_decay: float = 0.0
    clip_ratio: float = 0.2
    gamma_denoising: float = 0.7
    advantage: str = "group"
    advantage_scale: float = 0.2
    gate_below: float = 0.5
    clone_weight: float = 0.3
    clone_samples: int = 4
    kl_weight: float = 0.0
    learn: str = "both"
    reward: str = "model"
    with_ec: bool = True
    average_decay: float = 0.95
    candidates: int = 3
    save_every: int = 20


class Critic(nn.Module):
    """The expected reward of a scene, from its tokens and the ego's status."""

    def __init__(self, token_width: int, width: int = 64) -> None:
        super().__init__()
        self.ego = EgoEncoder(width)
        self.token = nn.Linear(token_width, width)
        self.out = feed_forward(3 * width, width, 1)

    def forward(
        self,
        tokens: Float[Tensor, "scenes tokens token_width"],
        ego_history: Float[Tensor, "scenes 4 7"],
        command: Float[Tensor, "scenes 4"],
    ) -> Float[Tensor, "scenes"]:
        """The expected reward; tokens as in `SceneTokens`, the rest as in `Features`."""
        seen = torch.relu(self.token(tokens))
        return self.out(torch.cat([seen.mean(1), seen.amax(1), self.ego(ego_history, command)], dim=1))[:, 0]


@dataclass(frozen=True, slots=True)
class Rewards:
    """What a batch of sampled plans earned: reward in [0, 1], and whether NC or DAC is judged to have failed."""

    values: Float[Tensor, "scenes samples"]
    failed: Bool[Tensor, "scenes samples"]
    sub_scores: SubScores


def advantages(
    rewards: Float[Tensor, "scenes samples"],
    failed: Bool[Tensor, "scenes samples"],
    values: Float[Tensor, "scenes"],
    kind: str,
    scale: float,
) -> Float[Tensor, "scenes samples"]:
    """Centred advantages, divided by a fixed scale; a proposal that fails NC or DAC gets at most -1.

    Args:
        rewards: in [0, 1].
        failed: NC or DAC failures.
        values: the critic's expectation of each scene's reward.
        kind: "group", "critic" or "both".
        scale: what one unit of advantage is in reward: not the group's own spread, which is noise where it is narrow.

    Raises:
        ValueError: an unknown kind.

    Example:
        >>> advantages(torch.tensor([[1.0, 0.5]]), torch.tensor([[False, False]]), torch.zeros(1), "group", 0.25)
        tensor([[ 1., -1.]])
    """
    group = rewards - rewards.mean(1, keepdim=True)
    critic = rewards - values[:, None]
    if kind not in ("group", "critic", "both"):
        raise ValueError(f"unknown kind of advantage {kind!r}: group, critic or both")
    centred = {"group": group, "critic": critic, "both": 0.5 * (group + critic)}[kind] / scale
    return torch.where(failed, centred.clamp(max=-1.0), centred)


def ppo_loss(
    log_prob: Float[Tensor, "*actions"], old_log_prob: Float[Tensor, "*actions"], advantage: Float[Tensor, "*actions"], clip_ratio: float
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """The clipped surrogate, negated, averaged over actions; and clip_fraction and approx_kl.

    Source: Schulman et al., PPO (arXiv 1707.06347), eq. 7; approx_kl is the k3 estimator (joschu.net/blog/kl-approx.html).
    """
    difference = log_prob - old_log_prob
    ratio = difference.exp()
    clipped = ratio.clamp(1 - clip_ratio, 1 + clip_ratio)
    loss = -torch.minimum(ratio * advantage, clipped * advantage).mean()
    with torch.no_grad():
        measures = {"clip_fraction": ((ratio - 1).abs() > clip_ratio).float().mean(), "approx_kl": (ratio - 1 - difference).mean()}
    return loss, measures


def denoising_weights(steps: int, gamma_denoising: float) -> Float[Tensor, "steps"]:
    """gamma_denoising to the power of the steps still to go."""
    return gamma_denoising ** torch.arange(steps - 1, -1, -1, dtype=torch.float32)


def rewards_of(
    config: PpoConfig,
    policy: Policy,
    model: RewardWorldModel,
    now: SceneCache,
    before: SceneCache,
    rows: np.ndarray,
    poses: Float[Tensor, "scenes samples 8 3"],
    store: Store,
) -> Rewards:
    """Rewards of sampled plans (m); EC is counted against the policy's own deployed plan of 0.5 s earlier, if there was one."""
    prev_poses = None
    if config.with_ec:
        with torch.no_grad():
            prev_poses = policy.plan(remembered(policy, before, rows)).cpu().numpy().astype(np.float64)
    metres = poses.cpu().numpy().astype(np.float64)
    if config.reward == "exact":
        repeated = None if prev_poses is None else np.repeat(prev_poses[:, None], metres.shape[1], axis=1)
        measured = exact_sub_scores(store, rows, metres, repeated)
        scores = SubScores(**{name: torch.from_numpy(getattr(measured, name)).float().to(poses.device) for name in measured.__slots__})
    else:
        comfort = None if prev_poses is None else two_frame_comfort(now, before, rows, metres, prev_poses)
        scores = predicted_sub_scores(model, now, rows, poses, comfort)
    failed = (scores.nc < config.gate_below) | (scores.dac < config.gate_below)
    return Rewards(epdms(scores), failed, scores)


def fit(
    config: PpoConfig,
    imitation: Path | str,
    reward: Path | str,
    store_train: Store,
    store_val: Store,
    folder: Path | str,
    resume: bool = False,
    cache_folder: Path | None = None,
) -> Path:
    """Improves the imitation policy by PPO; keeps the candidate with the best exact EPDMS on val.

    Args:
        config: the run.
        imitation: the policy's checkpoint to start from.
        reward: the reward world model's checkpoint.
        store_train: scenes; the half of their logs that the reward world model has not seen is used.
        store_val: annotated scenes to probe on.
        folder: the stage's folder; gets metrics, a training state, and `checkpoint`.
        resume: continue a run that was interrupted.
        cache_folder: where scene tokens are kept.

    Returns:
        The checkpoint's folder.

    Raises:
        ValueError: an unknown kind of reward, or of what is to learn.
    """
    if config.reward not in ("model", "exact"):
        raise ValueError(f"unknown reward {config.reward!r}: model or exact")
    if config.learn not in ("both", "confidences", "trajectories"):
        raise ValueError(f"unknown learn {config.learn!r}: both, confidences or trajectories")
    folder = Path(folder)
    device = chosen_device()
    policy, frozen, model = load_policy(imitation, device), load_policy(imitation, device), load_reward_world_model(reward, device)
    average = copy.deepcopy(policy).requires_grad_(False)
    caches = stage_caches(frozen, store_train, store_val, cache_folder)
    half = unjudged(reward, store_train.log_names)
    exploration = exploration_of(policy.in_metres(policy.anchors), policy.scale, config.exploration)
    torch.manual_seed(config.seed)
    critic = Critic(policy.config.birds_eye.width).to(device)
    optimiser = torch.optim.AdamW(planner_parameters(policy), lr=config.rate, weight_decay=config.weight_decay)
    critic_optimiser = torch.optim.AdamW(critic.parameters(), lr=config.critic_rate)
    modules, optimisers = {"policy": policy, "average": average, "critic": critic}, {"policy": optimiser, "critic": critic_optimiser}
    values = {"step": 0, "best": None}
    if resume and (folder / "state" / "state.json").exists():
        values = run.load_state(folder / "state", modules, optimisers, {})
    candidates = candidate_steps(config.iterations, config.candidates)
    with (
        run.metrics_writer(folder, values["step"] - 1 if values["step"] else None) as write,
        progress("ppo", config.iterations, values["step"]) as advance,
    ):
        for step in range(values["step"], config.iterations):
            rows = half[batch_rows(len(half), config.scenes, step, config.seed)]
            generator = step_generator(config.seed, step)
            measures = _iteration(config, policy, frozen, critic, model, caches, rows, exploration, optimisers, generator, store_train)
            follow(average, policy, config.average_decay, step)
            write(step, **{f"train__{name}": value for name, value in measures.items()})
            if step in candidates:
                values["best"] = keep_best(values["best"], step, average, config, store_train, store_val, caches, folder, write)
            values["step"] = step + 1
            if values["step"] % config.save_every == 0 or values["step"] == config.iterations:
                run.save_state(folder / "state", {name: module.state_dict() for name, module in modules.items()}, optimisers, {}, values)
            advance(f"reward {measures['reward']:.3f}")
    return folder / "checkpoint"


def candidate_steps(steps: int, count: int) -> set[int]:
    """After which steps a candidate is probed: evenly over the run, the last step included."""
    return {round(steps * (index + 1) / count) - 1 for index in range(count)}


def _iteration(
    config: PpoConfig,
    policy: Policy,
    frozen: Policy,
    critic: Critic,
    model: RewardWorldModel,
    caches: StageCaches,
    rows: np.ndarray,
    exploration: Exploration,
    optimisers: dict[str, torch.optim.Optimizer],
    generator: torch.Generator,
    store: Store,
) -> dict[str, float]:
    """Collects chains and their rewards from the policy as it is, then makes the critic's and the policy's updates."""
    policy.eval()
    with torch.no_grad():
        memory = remembered(policy, caches.train, rows)
        chain = sampled_chains(policy, memory, exploration, config.group, generator)
        poses = policy.in_metres(chain.states[:, :, -1])
        clone = sampled_chains(frozen, remembered(frozen, caches.train, rows), exploration, config.clone_samples, generator)
        both = Chain(torch.cat([chain.anchor, clone.anchor], dim=1), torch.cat([chain.states, clone.states], dim=1))
        old_anchor, old_steps = (values[:, : config.group] for values in chain_log_probs(policy, memory, both, exploration))
    rewards = rewards_of(config, policy, model, caches.train, caches.train_before, rows, poses, store)
    scene, ego_history, command = inputs(caches.train, rows, policy.scale.device)
    if scene is None:
        raise ValueError("PPO's critic needs scene tokens, the policy's cache holds none")
    value = critic(scene.tokens, ego_history, command)
    critic_loss = (value[:, None] - rewards.values).square().mean()
    optimisers["critic"].zero_grad(set_to_none=True)
    critic_loss.backward()
    optimisers["critic"].step()
    advantage = advantages(rewards.values, rewards.failed, value.detach(), config.advantage, config.advantage_scale)
    measures: dict[str, float] = {"reward": float(rewards.values.mean()), "value_loss": float(critic_loss.detach())}
    measures["spread"] = float(rewards.values.std(1).mean())
    measures["no_spread"] = float((rewards.values.std(1) < 0.01).float().mean())
    measures |= {
        name: float(getattr(rewards.sub_scores, name).mean()) for name in ("nc", "dac", "ddc", "tlc", "ep", "ttc", "lk", "hc", "ec")
    }
    for _ in range(config.passes):
        memory = remembered(policy, caches.train, rows)
        # Own and cloned chains in one go: they share the scenes' anchor probabilities.
        anchor, steps = chain_log_probs(policy, memory, both, exploration)
        own, copied = (anchor[:, : config.group], steps[:, : config.group]), (anchor[:, config.group :], steps[:, config.group :])
        loss, parts = chain_loss(config, *own, old_anchor, old_steps, advantage)
        loss = loss - config.clone_weight * (copied[0].mean() + copied[1].mean())
        optimisers["policy"].zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimisers["policy"].step()
        measures |= {name: float(part) for name, part in parts.items()}
    return measures


def chain_loss(
    config: PpoConfig,
    anchor: Float[Tensor, "scenes samples"],
    steps: Float[Tensor, "scenes samples steps"],
    old_anchor: Float[Tensor, "scenes samples"],
    old_steps: Float[Tensor, "scenes samples steps"],
    advantage: Float[Tensor, "scenes samples"],
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """PPO's loss over a batch of chains: the anchor's choice and every denoising step are actions with the same advantage.

    Args:
        config: clip range, discount, and which kinds of action learn.
        anchor: log-probabilities of the chosen anchors now.
        steps: log-probabilities of the denoising steps now.
        old_anchor: those of the policy that sampled.
        old_steps: likewise.
        advantage: of each chain.

    Returns:
        The loss, steps weighted by `denoising_weights`; and its measures by name.
    """
    weights = denoising_weights(steps.shape[2], config.gamma_denoising).to(steps.device)
    loss = torch.zeros((), device=steps.device)
    parts: dict[str, Tensor] = {}
    if config.learn in ("both", "confidences"):
        part, measures = ppo_loss(anchor, old_anchor, advantage, config.clip_ratio)
        loss = loss + part
        parts |= {f"anchor_{name}": value for name, value in measures.items()}
    if config.learn in ("both", "trajectories"):
        for index in range(steps.shape[2]):
            part, measures = ppo_loss(steps[..., index], old_steps[..., index], advantage, config.clip_ratio)
            loss = loss + weights[index] * part
            parts |= {f"step{index}_{name}": value for name, value in measures.items()}
    if config.kl_weight > 0:
        difference = torch.cat([(anchor - old_anchor)[..., None], steps - old_steps], dim=2)
        loss = loss + config.kl_weight * (difference.exp() - 1 - difference).mean()
    return loss, parts
