"""Refit: a reward world model learns on, between PPO rounds, from exactly scored samples of the policy that it rewards.

A policy that moves on leaves the candidates its reward learned from, and finds the plans that are overrated there. Fresh
samples on half A of the training logs are scored and mixed with the old labels; half B stays unseen.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from irlvla import run
from irlvla.data.store import Store
from irlvla.model.diffusion import Exploration, ExplorationConfig, exploration_of
from irlvla.model.policy import Policy
from irlvla.model.reward_world_model import HEADS, RewardWorldModel
from irlvla.rollout import exact_sub_scores, labelled_scenes, load_reward_world_model, proposals
from irlvla.scene_cache import SceneCache, inputs, rows_of, scene_cache
from irlvla.train.calibration import accepted, calibrate, judgement
from irlvla.train.labels import Labelled, opened
from irlvla.train.loop import batch_rows, step_generator
from irlvla.train.reward import bootstrap, descend, members_loss


@dataclass(frozen=True, slots=True, kw_only=True)
class RefitConfig:
    """One refit. Of `scenes` scenes of half A (None: all) the policy's plan and `group` - 1 explored ones are scored; of each
    batch's scenes `fresh_share` show these, the others the old candidates. `seed` also tells one round from the next."""

    exploration: ExplorationConfig = field(default_factory=lambda: ExplorationConfig(along=0.06, across=0.02))
    seed: int = 0
    scenes: int | None = None
    group: int = 16
    steps: int = 120
    batch: int = 32
    proposals: int = 16
    fresh_share: float = 0.5
    rate: float = 2e-4
    weight_decay: float = 1e-2
    warmup: int = 10
    save_every: int = 40

    def __post_init__(self) -> None:
        if not 0 <= self.fresh_share <= 1:
            raise ValueError(f"fresh_share is a share of the batch, not {self.fresh_share}")


@dataclass(frozen=True, slots=True)
class Fresh:
    """Exactly scored samples of the policy as it is; sub-scores in the order of HEADS."""

    rows: Int[np.ndarray, "scenes"]
    poses: Float[np.ndarray, "scenes proposals 8 3"]
    labels: Float[np.ndarray, "scenes proposals 8"]


def refit(
    config: RefitConfig,
    reward: Path | str,
    labels: Path | str,
    policy: Policy,
    store_train: Store,
    store_val: Store,
    folder: Path | str,
    resume: bool = False,
    cache_folder: Path | None = None,
) -> Path:
    """Continues a reward world model on fresh samples of a policy beside its old labels, and calibrates it anew.

    Args:
        config: of the refit.
        reward: the checkpoint to continue.
        labels: the set of labels that it learned from.
        policy: whose samples are scored; its vision part is the one that the reward world model reads.
        store_train: scenes; half A of their logs, as the checkpoint cut them, is used.
        store_val: scenes to calibrate on and to report.
        folder: of this refit; gets metrics, the fresh labels, a training state, `acceptance.json` and `checkpoint`.
        resume: continue a refit of the same policy that was interrupted.
        cache_folder: where scene tokens are kept; None keeps them in memory.

    Returns:
        The new checkpoint's folder: PPO and selectors take it in place of the old one. `acceptance.json` holds the acceptance on
        val proposals of this policy before and after, and the hacking gap of each (predicted less true EPDMS, 0-100).
    """
    folder = Path(folder)
    kept = run.load(reward)
    device = policy.scale.device
    cache = scene_cache(policy, store_train, np.arange(len(store_train)), folder=None if cache_folder is None else cache_folder / "train")
    training = kept.config["training"]
    half = labelled_scenes(store_train, training["seed"], training.get("half", "A"))
    exploration = exploration_of(policy.in_metres(policy.anchors), policy.scale, config.exploration)
    if not resume:
        (folder / "fresh.npz").unlink(missing_ok=True)
    drawn = half
    if config.scenes is not None and config.scenes < len(half):
        drawn = np.sort(np.random.default_rng((config.seed, 31)).choice(half, config.scenes, replace=False))
    fresh = _fresh(config, policy, exploration, cache, drawn, store_train, folder)
    old = opened(Path(labels))
    model = load_reward_world_model(reward, device)
    judged = judgement(policy, store_val, exploration, config.group, config.seed)
    report: dict[str, Any] = {"before": accepted(model, judged)}
    times = bootstrap([store_train.log_names[row] for row in half], model.config.members, kept.config["training"]["seed"])
    counted = [None if times is None else times[:, np.searchsorted(half, source.rows)] for source in (fresh, old)]
    descend("refit", config, model, lambda step: _loss(config, model, cache, (fresh, old), counted, step), folder, resume)
    held_out = calibrate(model, judged)
    report["after"] = accepted(model, judged) | {"held_out": held_out}
    with run.metrics_writer(folder, config.steps - 1) as write:
        write(config.steps, **{f"val__gap_{when}": report[when]["gap"]["all"] for when in ("before", "after")})
    run.write_json(folder / "acceptance.json", report)
    run.save(
        folder / "checkpoint",
        {"reward_world_model": model.state_dict()},
        {**kept.config, "refit": config},
        {"offset": policy.offset, "scale": policy.scale},
        run.provenance(getattr(store_train, "key", ""), config.seed),
    )
    return folder / "checkpoint"


def _fresh(
    config: RefitConfig, policy: Policy, exploration: Exploration, cache: SceneCache, rows: np.ndarray, store: Store, folder: Path
) -> Fresh:
    path = folder / "fresh.npz"
    if path.exists():
        with np.load(path) as kept:
            return Fresh(kept["rows"], kept["poses"], kept["labels"])
    poses, _ = proposals(policy, rows_of(cache, rows), exploration, config.group - 1, config.seed)
    scores = exact_sub_scores(store, rows, poses)
    found = Fresh(rows, poses.astype(np.float32), np.stack([getattr(scores, name) for name in HEADS], axis=-1).astype(np.float32))
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / ".fresh.npz"
    np.savez(beside, rows=found.rows, poses=found.poses, labels=found.labels)
    beside.rename(path)
    return found


def _loss(
    config: RefitConfig,
    model: RewardWorldModel,
    cache: SceneCache,
    sources: tuple[Fresh, Labelled],
    counted: list[Tensor | None],
    step: int,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of one batch: some of its scenes with fresh proposals, the others with old candidates, as many of each."""
    generator = step_generator(config.seed, step)
    fresh = round(config.batch * config.fresh_share)
    count = min(config.proposals, *(source.poses.shape[1] for source in sources))
    rows, poses, labels, often = [], [], [], []
    for source, batch, times in zip(sources, (fresh, config.batch - fresh), counted, strict=True):
        if not batch:
            continue
        places = batch_rows(len(source.rows), batch, step, config.seed)
        chosen = torch.multinomial(torch.ones(len(places), source.poses.shape[1]), count, generator=generator).numpy()
        rows.append(source.rows[places])
        poses.append(np.take_along_axis(source.poses[places], chosen[..., None, None], axis=1))
        labels.append(np.take_along_axis(source.labels[places], chosen[..., None], axis=1))
        often.append(None if times is None else times[:, places])
    device = model.scale.device
    scene, ego_history, command = inputs(cache, np.concatenate(rows), device)
    if scene is None:
        raise ValueError("the reward world model needs scene tokens, the policy's cache holds none")
    logits = model.member_logits(scene, ego_history, command, torch.from_numpy(np.concatenate(poses)).to(device))
    wanted = torch.from_numpy(np.concatenate(labels)).to(device)
    weighed = None if often[0] is None else torch.cat([part for part in often if part is not None], dim=1).to(device)
    return members_loss(logits, wanted, model.config.weights, weighed)
