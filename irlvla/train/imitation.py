"""Stage 1: imitation. The whole policy learns the human's plan, and a bird's-eye view from the log's annotations.

`fit` trains the policy, and with `PolicyConfig(vision=None)` the control without a camera; `fit_ego_mlp` (in
`irlvla.train.controls`) the one that knows only ego status.
"""

import copy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from irlvla import run
from irlvla.data.store import Store
from irlvla.model.bev import ahead_loss, map_loss
from irlvla.model.diffusion import k_means, noisy, normaliser_of
from irlvla.model.policy import Policy, PolicyConfig, planner_loss
from irlvla.rollout import ego_inputs, scene_cache
from irlvla.train.loop import batch_rows, cosine_rate, follow, probe, progress, set_rate, step_generator


@dataclass(frozen=True, slots=True, kw_only=True)
class ImitationConfig:
    """One imitation run. Rate, decay and loss weights are DiffusionDrive's; the rest was measured on the embedded world."""

    policy: PolicyConfig = field(default_factory=PolicyConfig)
    seed: int = 0
    steps: int = 1000
    batch: int = 32
    rate: float = 6e-4
    weight_decay: float = 1e-4
    warmup: int = 50
    average_decay: float = 0.995
    map_weight: float = 4.0
    ahead_weight: float = 0.5
    map_positive: tuple[float, float, float, float] = (1.0, 1.5, 3.0, 3.0)
    shift: int = 4
    colour: float = 0.1
    candidates: int = 3
    save_every: int = 200


def moments(store: Store) -> np.ndarray:
    """All (scene, previous?) pairs of a store: the moment 0.5 s earlier is training data too."""
    scenes = np.arange(len(store))
    now = np.stack([scenes, np.zeros_like(scenes)], axis=1)
    earlier = scenes[np.asarray(store.has_previous)]
    return np.concatenate([now, np.stack([earlier, np.ones_like(earlier)], axis=1)])


def humans(store: Store, pairs: np.ndarray) -> np.ndarray:
    """Logged futures of (scene, previous?) pairs."""
    poses = np.zeros((len(pairs), 8, 3), np.float32)
    for previous in (0, 1):
        rows = np.flatnonzero(pairs[:, 1] == previous)
        if len(rows):
            poses[rows] = store.human(pairs[rows, 0], previous=bool(previous))
    return poses


def ego_status(store: Store, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ego histories and commands of (scene, previous?) pairs."""
    parts = [ego_inputs(store, pairs[pairs[:, 1] == previous, 0], previous=bool(previous)) for previous in (0, 1)]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def fresh_policy(config: PolicyConfig, human: np.ndarray, seed: int) -> Policy:
    """A policy with random weights whose anchors and normaliser come from training trajectories."""
    torch.manual_seed(seed)
    policy = Policy(config)
    scale = np.array([1.0, 1.0, 4.0])
    anchors = k_means((human * scale).reshape(len(human), -1).astype(np.float64), config.anchors, seed).reshape(-1, 8, 3) / scale
    offset, spread = normaliser_of(human)
    policy.set_normaliser(
        torch.from_numpy(anchors).float(), torch.tensor(offset), torch.tensor(spread), torch.Generator().manual_seed(seed)
    )
    return policy


def fit(config: ImitationConfig, store_train: Store, store_val: Store, folder: Path | str, resume: bool = False) -> Path:
    """Trains a policy by imitation and keeps the best of its last candidates by exact EPDMS on val.

    Args:
        config: the run.
        store_train: scenes to learn from.
        store_val: scenes to choose by.
        folder: the stage's folder; gets metrics, a training state, and `checkpoint`.
        resume: continue a run that was interrupted.

    Returns:
        The checkpoint's folder.
    """
    folder = Path(folder)
    pairs = moments(store_train)
    human = humans(store_train, pairs)
    ego_history, command = ego_status(store_train, pairs)
    policy = fresh_policy(config.policy, human, config.seed)
    average = copy.deepcopy(policy).eval().requires_grad_(False)
    optimiser = torch.optim.AdamW(policy.parameters(), lr=config.rate, weight_decay=config.weight_decay)
    modules = {"policy": policy, "average": average}
    values = {"step": 0, "best": None}
    if resume and (folder / "state" / "state.json").exists():
        values = run.load_state(folder / "state", modules, {"adamw": optimiser}, {})
    val = np.arange(len(store_val))
    candidates = {config.steps - 1 - round(0.1 * config.steps) * index for index in range(config.candidates)}
    with (
        run.metrics_writer(folder, values["step"] - 1 if values["step"] else None) as write,
        progress("imitation" if config.policy.vision else "no_camera", config.steps, values["step"]) as advance,
    ):
        for step in range(values["step"], config.steps):
            set_rate(optimiser, config.rate * cosine_rate(step, config.steps, config.warmup))
            rows = batch_rows(len(pairs), config.batch, step, config.seed)
            moment = _Batch(
                pairs[rows], torch.from_numpy(ego_history[rows]), torch.from_numpy(command[rows]), torch.from_numpy(human[rows])
            )
            loss, parts = _loss(config, policy, store_train, moment, step_generator(config.seed, step))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 5.0)
            optimiser.step()
            follow(average, policy, config.average_decay, step)
            if step % 20 == 0 or step == config.steps - 1:
                write(step, **{f"train__{name}": float(part) for name, part in parts.items()})
            if step in candidates:
                average.eval()
                probed = probe(
                    average, store_val, val, scene_cache(average, store_val, val), scene_cache(average, store_val, val, previous=True)
                )
                write(step, **{f"val__{name}": value for name, value in probed.items()})
                if values["best"] is None or probed["epdms"] > values["best"]:
                    values["best"] = probed["epdms"]
                    save_policy(folder / "checkpoint", average, config, store_train)
            values["step"] = step + 1
            if values["step"] % config.save_every == 0 or values["step"] == config.steps:
                run.save_state(
                    folder / "state", {name: module.state_dict() for name, module in modules.items()}, {"adamw": optimiser}, {}, values
                )
            advance(f"loss {float(loss.detach()):.3f}")
    return folder / "checkpoint"


@dataclass(frozen=True, slots=True)
class _Batch:
    pairs: np.ndarray
    ego_history: Tensor
    command: Tensor
    human: Tensor


def _loss(
    config: ImitationConfig, policy: Policy, store: Store, moment: _Batch, generator: torch.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    policy.train()
    device = policy.scale.device
    batch, count = len(moment.pairs), config.policy.anchors
    scene, extra, parts = None, torch.zeros((), device=device), {}
    if config.policy.vision is not None:
        images, maps = pictures(store, moment.pairs)
        gain = (
            1
            + config.colour * torch.randn(batch, 1, generator=generator)
            + 0.5 * config.colour * torch.randn(batch, 3, generator=generator)
        )
        bias = config.colour * torch.randn(batch, 1, generator=generator).expand(-1, 3)
        images = _shifted(images, config.shift, generator)
        seen = policy.see(images.to(device), gain.to(device), bias.to(device))
        scene, maps = seen.scene, maps.to(device)
        parts["maps"], parts["ahead"] = map_loss(scene.grid, maps, config.map_positive), ahead_loss(seen.ahead, maps)
        extra = config.map_weight * parts["maps"] + config.ahead_weight * parts["ahead"]
    memory = policy.remember(scene, moment.ego_history.to(device), moment.command.to(device))
    anchor = torch.arange(count, device=device).expand(batch, -1)
    timestep = torch.randint(0, config.policy.diffusion.truncation, (batch, 1), generator=generator).expand(-1, count).to(device)
    noise = torch.randn(batch, count, 8, 3, generator=generator).to(device)
    state = noisy(policy.anchors.expand(batch, -1, -1, -1), noise, policy.alphas[timestep])
    loss, planner = planner_loss(policy, policy.denoise(memory, state, timestep, anchor), moment.human.to(device))
    return loss + extra, {"loss": loss.detach(), **planner, **{name: part.detach() for name, part in parts.items()}}


def pictures(store: Store, pairs: np.ndarray) -> tuple[Tensor, Tensor]:
    """Camera pictures and bird's-eye targets of (scene, previous?) pairs."""
    images: Tensor | None = None
    maps: Tensor | None = None
    for previous in (0, 1):
        rows = np.flatnonzero(pairs[:, 1] == previous)
        if not len(rows):
            continue
        seen = torch.from_numpy(np.ascontiguousarray(store.features(pairs[rows, 0], previous=bool(previous)).images))
        grids = torch.from_numpy(np.asarray(store.targets(pairs[rows, 0], previous=bool(previous)))).float()
        images = seen.new_zeros(len(pairs), *seen.shape[1:]) if images is None else images
        maps = grids.new_zeros(len(pairs), *grids.shape[1:]) if maps is None else maps
        images[rows], maps[rows] = seen, grids
    if images is None or maps is None:
        raise ValueError("no moments to gather pictures of")
    return images, maps


def _shifted(images: Tensor, reach: int, generator: torch.Generator) -> Tensor:
    """The batch's pictures moved by up to `reach` pixels each way, edges repeated: one shift for the whole batch."""
    if reach == 0:
        return images
    down, right = (torch.randint(-reach, reach + 1, (2,), generator=generator)).tolist()
    height, width = images.shape[2:4]
    rows = torch.arange(height).add(down).clamp(0, height - 1)
    columns = torch.arange(width).add(right).clamp(0, width - 1)
    return images[:, :, rows][:, :, :, columns]


def save_policy(folder: Path, policy: Policy, config: object, store: Store) -> None:
    """Writes a policy's checkpoint: `irlvla.rollout.load_policy` reads it."""
    normaliser = {"offset": policy.offset, "scale": policy.scale, "anchors": policy.in_metres(policy.anchors)}
    settings = {"policy": policy.config, "training": config}
    run.save(
        folder,
        {"policy": policy.state_dict()},
        settings,
        normaliser,
        run.provenance(getattr(store, "key", ""), getattr(config, "seed", None)),
    )
