"""What PPO is compared with: the same further updates from the same checkpoint, spent on imitation.

`imitation_continued` goes on imitating the human; `best_of_g` imitates the proposal that the reward world model likes best
of G (self-distillation with PPO's labels and budget).
"""

import copy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from irlvla import run
from irlvla.data.store import Store
from irlvla.model.diffusion import ExplorationConfig, exploration_of
from irlvla.model.planner_loss import PlannerWeights
from irlvla.model.policy import Policy, planner_parameters
from irlvla.rollout import (
    cached_plans,
    chosen_device,
    chosen_scenes,
    load_policy,
    load_reward_world_model,
    predicted_sub_scores,
    proposals,
    two_frame_comfort,
)
from irlvla.scene_cache import StageCaches, remembered, rows_of, stage_caches
from irlvla.score.epdms import epdms
from irlvla.train.imitation import keep_best
from irlvla.train.imitation_loss import PLAIN, denoising_loss
from irlvla.train.loop import batch_rows, cosine_rate, follow, progress, set_rate, step_generator
from irlvla.train.ppo import candidate_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinuationConfig:
    """One continuation; `target` is "human" (imitation_continued) or "best_of_g"."""

    target: str = "human"
    exploration: ExplorationConfig = field(default_factory=ExplorationConfig)
    seed: int = 0
    steps: int = 320
    batch: int = 48
    group: int = 16
    rate: float = 1e-4
    weight_decay: float = 0.0
    average_decay: float = 0.975
    candidates: int = 3
    save_every: int = 40
    planner: PlannerWeights = PLAIN


def fit(
    config: ContinuationConfig,
    imitation: Path | str,
    reward: Path | str,
    store_train: Store,
    store_val: Store,
    folder: Path | str,
    resume: bool = False,
    cache_folder: Path | None = None,
) -> Path:
    """Trains the planner on, on cached scene tokens; arguments and result as in `irlvla.train.ppo.fit`.

    Raises:
        ValueError: an unknown target.
    """
    if config.target not in ("human", "best_of_g"):
        raise ValueError(f"unknown target {config.target!r}: human or best_of_g")
    folder = Path(folder)
    policy = load_policy(imitation, chosen_device())
    average = copy.deepcopy(policy).requires_grad_(False)
    caches = stage_caches(policy, store_train, store_val, cache_folder)
    half = chosen_scenes("unjudged", reward, store_train) if config.target == "best_of_g" else np.arange(len(store_train))
    wanted = caches.train.human[half] if config.target == "human" else _best_of_group(config, policy, reward, caches, half)
    optimiser = torch.optim.AdamW(planner_parameters(policy), lr=config.rate, weight_decay=config.weight_decay)
    modules = {"policy": policy, "average": average}
    values = {"step": 0, "best": None}
    if resume and run.has_state(folder / "state"):
        values = run.load_state(folder / "state", modules, {"adamw": optimiser}, {})
    candidates = candidate_steps(config.steps, config.candidates)
    title = {"human": "imitation_continued", "best_of_g": "best_of_g"}[config.target]
    with (
        run.metrics_writer(folder, values["step"] - 1 if values["step"] else None) as write,
        progress(title, config.steps, values["step"]) as advance,
    ):
        for step in range(values["step"], config.steps):
            set_rate(optimiser, config.rate * cosine_rate(step, config.steps, 1))
            picked = batch_rows(len(half), config.batch, step, config.seed)
            generator = step_generator(config.seed, step)
            memory = remembered(policy, caches.train, half[picked])
            loss, parts = denoising_loss(policy, memory, torch.from_numpy(wanted[picked]).to(memory.ego.device), generator, config.planner)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 5.0)
            optimiser.step()
            follow(average, policy, config.average_decay, step)
            write(step, train__loss=float(loss.detach()), **{f"train__{name}": float(part) for name, part in parts.items()})
            if step in candidates:
                values["best"] = keep_best(values["best"], step, average, config, store_train, store_val, caches, folder, write)
            values["step"] = step + 1
            if values["step"] % config.save_every == 0 or values["step"] == config.steps:
                run.save_state(
                    folder / "state", {name: module.state_dict() for name, module in modules.items()}, {"adamw": optimiser}, {}, values
                )
            advance(f"loss {float(loss.detach()):.3f}")
    return folder / "checkpoint"


def _best_of_group(config: ContinuationConfig, policy: Policy, reward: Path | str, caches: StageCaches, half: np.ndarray) -> np.ndarray:
    """For each scene the proposal that PPO would reward most among the policy's G: EC counts against its plan of 0.5 s earlier."""
    model = load_reward_world_model(reward, policy.scale.device)
    exploration = exploration_of(policy.in_metres(policy.anchors), policy.scale, config.exploration)
    best = np.zeros((len(half), 8, 3), np.float32)
    for part in np.array_split(np.arange(len(half)), max(1, len(half) // 64)):
        cache = rows_of(caches.train, half[part])
        before = rows_of(caches.train_before, half[part])
        poses, _ = proposals(policy, cache, exploration, config.group - 1, config.seed)
        rows = np.arange(len(part))
        comfort = two_frame_comfort(cache, before, rows, poses, cached_plans(policy, before))
        scores = epdms(predicted_sub_scores(model, cache, rows, torch.from_numpy(poses).float(), comfort))
        best[part] = poses[rows, scores.argmax(1).cpu().numpy()]
    return best
