"""Stage 2: the reward world model learns the exact scorer's sub-scores from what the policy sees.

It learns from half A of the training logs (`irlvla.halves.log_halves`), so that on half B, where PPO runs, its reward is
no memory of labels. Where some of the logs hold cameras only, it learns from all the others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from irlvla import run
from irlvla.data.store import Store
from irlvla.halves import HALVES
from irlvla.model.diffusion import ExplorationConfig, exploration_of
from irlvla.model.reward_world_model import HEADS, RewardWorldModel, RewardWorldModelConfig, reward_loss
from irlvla.rollout import chosen_device, labelled_scenes, load_policy
from irlvla.scene_cache import SceneCache, inputs, scene_cache
from irlvla.train import labels
from irlvla.train.calibration import accepted, calibrate, cost_text, judgement
from irlvla.train.candidates import VOCABULARY, CandidatesConfig
from irlvla.train.loop import batch_rows, cosine_rate, progress, set_rate, step_generator


@runtime_checkable
class Descent(Protocol):
    """What a config says of learning rate and steps."""

    steps: int
    rate: float
    weight_decay: float
    warmup: int
    save_every: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardConfig:
    """One run of the reward world model's training; `half` "B" takes labels of the logs that PPO drives on, where "A" is meant."""

    model: RewardWorldModelConfig = field(default_factory=RewardWorldModelConfig)
    candidates: CandidatesConfig = field(default_factory=CandidatesConfig)
    exploration: ExplorationConfig = field(default_factory=ExplorationConfig)
    seed: int = 0
    half: str = "A"
    steps: int = 1400
    batch: int = 32
    proposals: int = 24
    vocabulary_dropout: float = 0.5
    rate: float = 6e-4
    weight_decay: float = 1e-2
    warmup: int = 50
    group: int = 20
    save_every: int = 200

    def __post_init__(self) -> None:
        if self.half not in HALVES:
            raise ValueError(f"unknown half {self.half!r} of the logs: {' or '.join(HALVES)}")


def fit(
    config: RewardConfig,
    imitation: Path | str,
    store_train: Store,
    store_val: Store,
    folder: Path | str,
    resume: bool = False,
    cache_folder: Path | None = None,
    labels_folder: Path | None = None,
    cluster: str | None = None,
) -> Path:
    """Labels candidates with the exact scorer, trains, calibrates on val, and reports acceptance there.

    Args:
        config: the run.
        imitation: the policy's checkpoint, whose vision part stays frozen and whose plans are candidates.
        store_train: scenes; a half of their logs is used, or all annotated ones where some are not.
        store_val: scenes to calibrate on and to report.
        folder: the stage's folder; gets metrics, labels, a training state, `acceptance.json` and `checkpoint`.
        resume: continue a run that was interrupted.
        cache_folder: where scene tokens are kept for later stages; None keeps them in memory.
        labels_folder: where the labels are or shall be, for stages that learn from the same; None: in `folder`.
        cluster: address of a Ray cluster that labels candidates, or "local"; None: this process labels.

    Returns:
        The checkpoint's folder.
    """
    folder = Path(folder)
    policy = load_policy(imitation, chosen_device())
    cache = scene_cache(policy, store_train, np.arange(len(store_train)), folder=None if cache_folder is None else cache_folder / "train")
    half = labelled_scenes(store_train, config.seed, config.half)
    exploration = exploration_of(policy.in_metres(policy.anchors), policy.scale, config.exploration)
    words_folder = (folder if cache_folder is None else cache_folder) / "vocabularies"
    labelled = labels.labelled(
        policy,
        cache,
        store_train,
        half,
        config.exploration,
        config.candidates,
        config.seed,
        labels_folder or folder / "labels",
        words_folder,
        cluster,
    )
    counted = bootstrap([store_train.log_names[row] for row in labelled.rows], config.model.members, config.seed)
    ordinary, shifts = (cache, labelled, counted), config.candidates.shifted
    moved = ordinary
    if shifts is not None:
        place = (folder if cache_folder is None else cache_folder) / "shifted"
        seen, known, log_names = labels.shifted(
            policy, store_train, half, config.exploration, config.candidates, config.seed, folder / "labels_shifted", place, cluster
        )
        moved = (seen, known, bootstrap(log_names, config.model.members, config.seed))
    torch.manual_seed(config.seed)
    model = RewardWorldModel(config.model)
    model.offset.copy_(policy.offset)
    model.scale.copy_(policy.scale)
    model.to(policy.scale.device)

    def loss_of(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        return _loss(config, model, *(moved if shifts is not None and step % shifts.every == shifts.every - 1 else ordinary), step)

    descend("reward", config, model, loss_of, folder, resume)
    judged = judgement(policy, store_val, exploration, config.group, config.seed)
    held_out = calibrate(model, judged)
    report = accepted(model, judged) | {"held_out": held_out}
    with run.metrics_writer(folder, config.steps - 1) as write:
        write(config.steps, **{f"val__{name}": value for name, value in report.items() if isinstance(value, float)})
    print(cost_text(report))
    run.write_json(folder / "acceptance.json", report)
    normaliser = {"offset": policy.offset, "scale": policy.scale}
    settings = {"model": config.model, "training": config}
    run.save(
        folder / "checkpoint",
        {"reward_world_model": model.state_dict()},
        settings,
        normaliser,
        run.provenance(getattr(store_train, "key", ""), config.seed),
    )
    return folder / "checkpoint"


def descend(
    title: str,
    config: Descent,
    model: RewardWorldModel,
    loss_of: Callable[[int], tuple[Tensor, dict[str, Tensor]]],
    folder: Path,
    resume: bool,
) -> None:
    """Trains a reward world model step by step; leaves metrics and a training state from which an interrupted run goes on.

    Args:
        title: of the progress bar.
        config: learning rate and steps.
        model: is changed, and is in evaluation mode afterwards.
        loss_of: the loss of a step's batch, and its parts by name.
        folder: the stage's.
        resume: continue from the state in the folder, if there is one.
    """
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.rate, weight_decay=config.weight_decay)
    start = 0
    if resume and run.has_state(folder / "state"):
        start = run.load_state(folder / "state", {"model": model}, {"adamw": optimiser}, {})["step"]
    with run.metrics_writer(folder, start - 1 if start else None) as write, progress(title, config.steps, start) as advance:
        for step in range(start, config.steps):
            model.train()
            set_rate(optimiser, config.rate * cosine_rate(step, config.steps, config.warmup))
            loss, parts = loss_of(step)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimiser.step()
            done, value = step + 1, float(loss.detach())
            if step % 10 == 0 or done == config.steps:
                write(step, train__loss=value, **{f"train__{name}": float(part) for name, part in parts.items()})
            if done % config.save_every == 0 or done == config.steps:
                run.save_state(folder / "state", {"model": model.state_dict()}, {"adamw": optimiser}, {}, {"step": done})
            advance(f"loss {value:.3f}")
    model.eval()


def _loss(
    config: RewardConfig, model: RewardWorldModel, cache: SceneCache, labelled: labels.Labelled, counted: Tensor | None, step: int
) -> tuple[Tensor, dict[str, Tensor]]:
    rows = batch_rows(len(labelled.rows), config.batch, step, config.seed)
    generator = step_generator(config.seed, step)
    weight = torch.where(torch.from_numpy(labelled.kinds == VOCABULARY), 1.0 - config.vocabulary_dropout, 1.0)
    count = min(config.proposals, len(weight))
    chosen = torch.multinomial(weight.expand(len(rows), -1), count, generator=generator).numpy()
    poses = torch.from_numpy(np.take_along_axis(labelled.poses[rows], chosen[..., None, None], axis=1))
    labels = torch.from_numpy(np.take_along_axis(labelled.labels[rows], chosen[..., None], axis=1))
    scene, ego_history, command = inputs(cache, labelled.rows[rows], model.scale.device)
    if scene is None:
        raise ValueError("the reward world model needs scene tokens, the policy's cache holds none")
    device = model.scale.device
    logits = model.member_logits(scene, ego_history, command, poses.to(device))
    return members_loss(logits, labels.to(device), config.model.weights, None if counted is None else counted[:, rows].to(device))


def bootstrap(log_names: Sequence[str], members: int, seed: int) -> Float[Tensor, "members scenes"] | None:
    """How often each scene counts for each member: logs drawn with replacement, anew for each; None for a single member.

    Args:
        log_names: each scene's log.
        members: how many.
        seed: of the draws.
    """
    if members == 1:
        return None
    logs, index = np.unique(np.asarray(log_names), return_inverse=True)
    drawn = np.random.default_rng((seed, 23)).multinomial(len(logs), np.full(len(logs), 1 / len(logs)), size=members)
    return torch.from_numpy(drawn[:, index].astype(np.float32))


def members_loss(
    logits: dict[str, Float[Tensor, "members scenes proposals classes"]],
    labels: Float[Tensor, "scenes proposals 8"],
    weights: tuple[float, ...],
    counted: Float[Tensor, "members scenes"] | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean of the members' losses, each on its own bootstrap; and of their parts by name."""
    members = len(next(iter(logits.values())))
    each = [
        reward_loss(
            {name: values[member] for name, values in logits.items()}, labels, weights, None if counted is None else counted[member]
        )
        for member in range(members)
    ]
    if members == 1:
        return each[0]
    return torch.stack([total for total, _ in each]).mean(), {
        name: torch.stack([parts[name] for _, parts in each]).mean() for name in HEADS
    }
