"""Stage 3: PPO on the denoising chain, with the reward world model's EPDMS as reward.

One scene is one episode: choose an anchor by confidence, take the deployed chain's denoising steps with smooth exploration
noise, drive; the reward comes at the end. The vision part is frozen and its scene tokens are cached; half B of the training
logs is used, which the reward world model has never seen.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from irlvla import run
from irlvla.data.store import Store
from irlvla.halves import share_of_logs
from irlvla.model.diffusion import Exploration, ExplorationConfig, exploration_of
from irlvla.model.policy import Policy, planner_parameters
from irlvla.rollout import LOGS, Chain, chain_log_probs, chosen_device, load_policy, sampled_chains
from irlvla.scene_cache import inputs, remembered, stage_caches
from irlvla.train.advantages import (
    ADVANTAGES,
    NORMALISATIONS,
    Critic,
    advantages,
    clip_ratios,
    denoising_weights,
    follow_spread,
    scene_rows,
)
from irlvla.train.calibration import objection
from irlvla.train.guards import GuardConfig, Probe, finish, guarded_probe, keep_candidate, not_finite, reason_to_stop
from irlvla.train.loop import follow, progress, step_generator
from irlvla.train.refit import RefitConfig, refit
from irlvla.train.rewards import LEARNED, REWARDS, Judge, Scenes, driven_scenes, labels_of, reward_function, rewards_of
from irlvla.types import SUB_SCORE_NAMES

KINDS = {
    "reward": REWARDS,
    "logs": LOGS,
    "advantage": ADVANTAGES,
    "normalisation": NORMALISATIONS,
    "learn": ("both", "confidences", "trajectories"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PpoConfig:
    """One PPO run.

    `advantage` and `normalisation` are those of `irlvla.train.advantages.advantages`, `advantage_scale` is the fixed scale.
    `clip_first`: clip range of the first denoising step, from which it grows to `clip_ratio` at the last (None: the same at all).
    `gate_below`: NC or DAC below this makes an advantage -1 at most; 0 turns that off. `learn`: "both" (the whole planner), or one
    head of its last layer alone, "confidences" or "trajectories"; `trajectory_weight` weighs the denoising steps against the anchor.
    `reward`: one of `irlvla.train.rewards.REWARDS`; `logs` to drive in: one of `irlvla.rollout.LOGS`, of which `log_share` is taken.
    `pessimism` and `temperature` are those of `irlvla.train.rewards.judging_model`. `refit_every`: iterations after which the reward
    world model is refitted on the policy's samples (0: never). `spread_share`: share of an iteration's scenes drawn by their running
    spread of rewards, the rest evenly. `clone_weight` weighs the log-likelihood of the frozen imitation policy's own chains,
    `kl_weight` the divergence from it: with little of either safety was bought with progress and comfort on val. Exploration is
    narrower than that of the candidates.
    """

    exploration: ExplorationConfig = field(default_factory=lambda: ExplorationConfig(along=0.06, across=0.02))
    seed: int = 0
    iterations: int = 160
    scenes: int = 48
    group: int = 16
    passes: int = 2
    rate: float = 1e-4
    critic_rate: float = 1e-3
    weight_decay: float = 0.0
    clip_ratio: float = 0.2
    clip_first: float | None = None
    gamma_denoising: float = 0.7
    advantage: str = "group"
    normalisation: str = "fixed"
    advantage_scale: float = 0.2
    gate_below: float = 0.5
    clone_weight: float = 0.45
    clone_samples: int = 4
    kl_weight: float = 0.0
    learn: str = "both"
    trajectory_weight: float = 8.0
    reward: str = "model"
    logs: str = "unjudged"
    log_share: float = 1.0
    pessimism: float | None = None
    temperature: float = 0.6
    refit_every: int = 0
    refit: RefitConfig = field(default_factory=RefitConfig)
    with_ec: bool = True
    spread_share: float = 0.0
    average_decay: float = 0.95
    candidates: int = 3
    save_every: int = 20
    guards: GuardConfig = field(default_factory=GuardConfig)

    def __post_init__(self) -> None:
        for name, known in KINDS.items():
            if getattr(self, name) not in known:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}: {', '.join(known)}")
        if not 0 < self.log_share <= 1:
            raise ValueError(f"log_share is {self.log_share}, not within (0, 1]")
        for name, least in (("group", 2), ("clone_samples", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, at least {least} are needed")
        if self.refit_every and self.reward not in LEARNED:
            raise ValueError(
                f"reward {self.reward!r} cannot be refitted every {self.refit_every} iterations: only {', '.join(LEARNED)} can"
            )


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


@dataclass(frozen=True, slots=True)
class Learner:
    """What an iteration works with and changes in place."""

    config: PpoConfig
    policy: Policy
    frozen: Policy
    critic: Critic
    exploration: Exploration
    optimisers: dict[str, torch.optim.Optimizer]
    scenes: Scenes


def learner_of(config: PpoConfig, start: Policy, scenes: Scenes) -> Learner:
    """What the first iteration begins with: a copy of the policy to start from, a fresh critic and optimisers.

    Args:
        config: the run.
        start: the imitation policy; it stays as it is and gives the chains that are cloned.
        scenes: to drive in.
    """
    policy = copy.deepcopy(start)
    exploration = exploration_of(policy.in_metres(policy.anchors), policy.scale, config.exploration)
    torch.manual_seed(config.seed)
    critic = Critic(policy.config.perception.birds_eye.width).to(policy.scale.device)
    optimisers = {
        "policy": torch.optim.AdamW(learning(policy, config.learn), lr=config.rate, weight_decay=config.weight_decay),
        "critic": torch.optim.AdamW(critic.parameters(), lr=config.critic_rate),
    }
    return Learner(config, policy, start, critic, exploration, optimisers, scenes)


def learning(policy: Policy, learn: str) -> list[torch.nn.Parameter]:
    """What PPO changes of a policy: its planner, or one head of the planner's last layer, so that the other's answers stay as they are."""
    everything = planner_parameters(policy)
    if learn == "both":
        return everything
    policy.requires_grad_(False)
    head = {"confidences": policy.layers[-1].confidence, "trajectories": policy.layers[-1].residual}[learn]
    return list(head.requires_grad_(True).parameters())


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

    Beside it `probes.json` tells every probe, and which candidate the predicted EPDMS would have chosen, which lies in `by_predicted`.

    Args:
        config: the run.
        imitation: the policy's checkpoint to start from.
        reward: the checkpoint of the reward world model: the one that judges, whichever `config.reward` says.
        store_train: scenes; those of `config.logs` are used.
        store_val: annotated scenes to probe on.
        folder: the stage's folder; gets metrics, a training state, `probes.json`, and `checkpoint`.
        resume: continue a run that was interrupted.
        cache_folder: where scene tokens are kept.

    Returns:
        The checkpoint's folder.
    """
    folder = Path(folder)
    device = chosen_device()
    frozen = load_policy(imitation, device)
    caches = stage_caches(frozen, store_train, store_val, cache_folder)
    driven = driven_scenes(config.logs, config.reward, reward, store_train)
    driven = share_of_logs(driven, store_train.log_names, config.log_share, config.seed)
    doubtful = objection(Path(reward)) if config.reward in (*LEARNED, "exact_or_model") else None
    if doubtful is not None:
        print(f"{folder.name}: warning: the reward world model is not accepted: {doubtful}")
    train, val = Scenes(store_train, caches.train, caches.train_before), Scenes(store_val, caches.val, caches.val_before)
    learner = learner_of(config, frozen, train)
    policy, optimisers, average = learner.policy, learner.optimisers, copy.deepcopy(frozen).requires_grad_(False)
    modules = {"policy": policy, "average": average, "critic": learner.critic}
    spread = torch.full((len(driven),), -1.0)
    values: dict[str, Any] = {"step": 0, "probes": [], "stopped": None}
    if resume and run.has_state(folder / "state"):
        values = run.load_state(folder / "state", modules, optimisers, {})
        spread.copy_(run.state_tensors(folder / "state", "spread")["estimate"])
    candidates = candidate_steps(config.iterations, config.candidates)
    while values["step"] < config.iterations and values["stopped"] is None:
        first = values["step"]
        place = _judging(config, reward, policy, store_train, store_val, folder, first, resume, cache_folder)
        judge = reward_function(config.reward, place, train, device, config.pessimism, config.temperature)
        last = min(config.iterations, (first // config.refit_every + 1) * config.refit_every if config.refit_every else config.iterations)
        with run.metrics_writer(folder, first - 1 if first else None) as write, progress(folder.name, config.iterations, first) as advance:
            if not values["probes"]:
                values["probes"] = [{"step": -1, "candidate": False, **_probed(write, 0, "start", frozen, judge, val)}]
            elif place != reward and first % config.refit_every == 0:
                _probed(write, first, "refit", average, judge, val)
            while values["step"] < last and values["stopped"] is None:
                step = values["step"]
                picked = scene_rows(spread, config.scenes, config.spread_share, step, config.seed)
                measures, spreads = iteration(learner, judge, driven[picked], step_generator(config.seed, step))
                follow_spread(spread, picked, spreads)
                wrong = not_finite(measures)
                write(step, **{f"train__{name}": value for name, value in measures.items() if np.isfinite(value)})
                if wrong is None:
                    follow(average, policy, config.average_decay, step)
                    extra = config.guards.probe_every > 0 and (step + 1) % config.guards.probe_every == 0
                    if step in candidates or extra:
                        probed = {"step": step, "candidate": step in candidates, **_probed(write, step, "val", average, judge, val)}
                        keep_candidate(values["probes"], probed, average, config, store_train, folder)
                        wrong = reason_to_stop(config.guards, values["probes"]) if step + 1 < config.iterations else None
                values["step"], values["stopped"] = step + 1, wrong
                if values["step"] % config.save_every == 0 or values["step"] == config.iterations or wrong is not None:
                    states = {name: module.state_dict() for name, module in modules.items()} | {"spread": {"estimate": spread}}
                    run.save_state(folder / "state", states, optimisers, {}, values)
                advance(f"reward {measures['reward']:.3f}")
    finish(values["probes"], values["step"] - 1, values["stopped"], frozen, config, store_train, folder)
    return folder / "checkpoint"


def candidate_steps(steps: int, count: int) -> set[int]:
    """After which steps a candidate is probed: evenly over the run, the last step included."""
    return {round(steps * (index + 1) / count) - 1 for index in range(count)}


def _judging(
    config: PpoConfig,
    reward: Path | str,
    policy: Policy,
    store_train: Store,
    store_val: Store,
    folder: Path,
    step: int,
    resume: bool,
    cache_folder: Path | None,
) -> Path | str:
    """The checkpoint that judges from an iteration on; where a new round begins it is refitted on samples of the policy."""
    number = step // config.refit_every if config.refit_every else 0
    places = [reward, *(folder / "refit" / str(index) / "checkpoint" for index in range(1, number + 1))]
    if number and step % config.refit_every == 0:
        chosen = replace(config.refit, seed=1000 * number + config.seed)
        refit(chosen, places[-2], labels_of(reward), policy, store_train, store_val, Path(places[-1]).parent, resume, cache_folder)
    return places[-1]


def _probed(write: Callable[..., None], step: int, kind: str, policy: Policy, judge: Judge, scenes: Scenes) -> Probe:
    """`guarded_probe`, logged."""
    probed = guarded_probe(policy, judge, scenes)
    write(step, **{f"{kind}__{name}": value for name, value in probed.items()})
    return probed


def iteration(
    learner: Learner, judge: Judge, rows: Int[np.ndarray, "scenes"], generator: torch.Generator
) -> tuple[dict[str, float], Float[Tensor, "scenes"]]:
    """Collects chains and their rewards from the policy as it is, then makes the critic's and the policy's updates.

    Args:
        learner: changed in place.
        judge: the reward function.
        rows: scenes to drive in.
        generator: source of chance.

    Returns:
        Measures by name, and the spread of each scene's rewards. A loss or gradient that is not finite is not followed.
    """
    config, policy = learner.config, learner.policy
    policy.eval()
    with torch.no_grad():
        memory = remembered(policy, learner.scenes.now, rows)
        chain = sampled_chains(policy, memory, learner.exploration, config.group, generator)
        poses = policy.in_metres(chain.states[:, :, -1])
        copied_memory = remembered(learner.frozen, learner.scenes.now, rows)
        clone = sampled_chains(learner.frozen, copied_memory, learner.exploration, config.clone_samples, generator)
        both = Chain(torch.cat([chain.anchor, clone.anchor], dim=1), torch.cat([chain.states, clone.states], dim=1))
        old_anchor, old_steps = (values[:, : config.group] for values in chain_log_probs(policy, memory, both, learner.exploration))
        reference = chain_log_probs(learner.frozen, copied_memory, chain, learner.exploration) if config.kl_weight > 0 else None
    rewards = rewards_of(judge, policy, learner.scenes, rows, poses, config.with_ec, config.gate_below)
    value, value_loss = _critic_update(learner, rows, rewards.values)
    advantage = advantages(
        rewards.values, rewards.failed, value, chain.anchor, config.advantage, config.advantage_scale, config.normalisation
    )
    spread = rewards.values.std(1)
    measures: dict[str, float] = {"reward": float(rewards.values.mean()), "value_loss": value_loss}
    measures["spread"] = float(spread.mean())
    measures["no_spread"] = float((spread < 0.01).float().mean())
    measures |= {name: float(getattr(rewards.sub_scores, name).mean()) for name in SUB_SCORE_NAMES}
    measures["ec"] = float(rewards.sub_scores.ec.sum() / rewards.sub_scores.ec_defined.sum().clamp(min=1))
    for _ in range(config.passes):
        memory = remembered(policy, learner.scenes.now, rows)
        # Own and cloned chains in one go: they share the scenes' anchor probabilities.
        anchor, steps = chain_log_probs(policy, memory, both, learner.exploration)
        own, copied = (anchor[:, : config.group], steps[:, : config.group]), (anchor[:, config.group :], steps[:, config.group :])
        loss, parts = chain_loss(config, *own, old_anchor, old_steps, advantage, reference)
        loss = loss - config.clone_weight * (copied[0].mean() + config.trajectory_weight * copied[1].mean())
        learner.optimisers["policy"].zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        measures |= {"loss": float(loss.detach()), "gradient": float(norm)} | {name: float(part) for name, part in parts.items()}
        if not_finite(measures) is not None:
            break
        learner.optimisers["policy"].step()
    return measures, spread


def _critic_update(learner: Learner, rows: np.ndarray, rewards: Float[Tensor, "scenes samples"]) -> tuple[Float[Tensor, "scenes"], float]:
    """The critic's values before its update on these rewards, and its loss."""
    scene, ego_history, command = inputs(learner.scenes.now, rows, learner.policy.scale.device)
    if scene is None:
        raise ValueError("PPO's critic needs scene tokens, the policy's cache holds none")
    value = learner.critic(scene.tokens, ego_history, command)
    loss = (value[:, None] - rewards).square().mean()
    learner.optimisers["critic"].zero_grad(set_to_none=True)
    loss.backward()
    learner.optimisers["critic"].step()
    return value.detach(), float(loss.detach())


def chain_loss(
    config: PpoConfig,
    anchor: Float[Tensor, "scenes samples"],
    steps: Float[Tensor, "scenes samples steps"],
    old_anchor: Float[Tensor, "scenes samples"],
    old_steps: Float[Tensor, "scenes samples steps"],
    advantage: Float[Tensor, "scenes samples"],
    reference: tuple[Float[Tensor, "scenes samples"], Float[Tensor, "scenes samples steps"]] | None = None,
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """PPO's loss over a batch of chains: the anchor's choice and every denoising step are actions with the same advantage.

    Args:
        config: clip ranges, discount, and which kinds of action learn.
        anchor: log-probabilities of the chosen anchors now.
        steps: log-probabilities of the denoising steps now.
        old_anchor: those of the policy that sampled.
        old_steps: likewise.
        advantage: of each chain.
        reference: those of the policy that the divergence is from, needed where `config.kl_weight` is not 0.

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
        for index, clip_ratio in enumerate(clip_ratios(steps.shape[2], config.clip_ratio, config.clip_first)):
            part, measures = ppo_loss(steps[..., index], old_steps[..., index], advantage, clip_ratio)
            loss = loss + config.trajectory_weight * weights[index] * part
            parts |= {f"step{index}_{name}": value for name, value in measures.items()}
    if reference is not None:
        difference = torch.cat([(reference[0] - anchor)[..., None], reference[1] - steps], dim=2)
        loss = loss + config.kl_weight * (difference.exp() - 1 - difference).mean()
    return loss, parts
