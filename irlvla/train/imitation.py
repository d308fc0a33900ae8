"""Stage 1: imitation. First the whole policy learns the human's plan, and a bird's-eye view from the log's annotations, where it
has any; then the vision part is frozen, its scene tokens are kept, and the planner learns on alone, many times faster.

Before both, a small network learns a plan from ego status alone (`EgoMlp`), which the planner gets as a hint: what needs
no looking is learned where it is cheap. `fit` trains the policy, and with `PolicyConfig(perception=None)` the control without a
camera.
"""

import copy
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from irlvla import run
from irlvla.data.store import Store
from irlvla.feature_cache import Look, sights
from irlvla.model.backbones import freeze, load_pretrained
from irlvla.model.bev import SceneTokens, ahead_loss, map_loss
from irlvla.model.diffusion import k_means, noisy, normaliser_of
from irlvla.model.perception import Seen
from irlvla.model.policy import Memory, Policy, PolicyConfig, planner_loss, planner_parameters
from irlvla.model.vision import Sight, on_device
from irlvla.rollout import chosen_device
from irlvla.scene_cache import SceneCache, StageCaches, inputs, remembered, stage_caches
from irlvla.train.controls import EgoMlpConfig, ego_mlp_step
from irlvla.train.loop import batch_rows, cosine_rate, follow, probe, progress, set_rate, step_generator
from irlvla.train.moments import ego_status, humans, moments, pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class ImitationConfig:
    """One imitation run: `steps` with pictures, then `planner_steps` on kept scene tokens.

    Loss weights and rate are DiffusionDrive's; the rest was measured on the embedded world. `camera_dropout` is the probability that a
    view of a scene is not shown, for policies that have to do without a camera now and then.
    """

    policy: PolicyConfig = field(default_factory=PolicyConfig)
    prior: EgoMlpConfig = field(default_factory=EgoMlpConfig)
    seed: int = 0
    steps: int = 600
    batch: int = 32
    rate: float = 6e-4
    planner_steps: int = 1000
    planner_batch: int = 64
    planner_rate: float = 6e-4
    weight_decay: float = 1e-4
    warmup: int = 50
    average_decay: float = 0.995
    map_weight: float = 4.0
    ahead_weight: float = 0.5
    map_positive: tuple[float, float, float, float] = (1.0, 1.5, 3.0, 3.0)
    shift: int = 4
    colour: float = 0.1
    camera_dropout: float = 0.0
    candidates: int = 3
    save_every: int = 200


def fresh_policy(config: PolicyConfig, human: np.ndarray, seed: int) -> Policy:
    """A policy with random weights whose anchors and normaliser come from training trajectories."""
    torch.manual_seed(seed)
    policy = Policy(config)
    if policy.perception is not None:
        load_pretrained(policy.perception.encoder)
    scale = np.array([1.0, 1.0, 4.0])
    anchors = k_means((human * scale).reshape(len(human), -1).astype(np.float64), config.anchors, seed).reshape(-1, 8, 3) / scale
    offset, spread = normaliser_of(human)
    policy.set_normaliser(
        torch.from_numpy(anchors).float(), torch.tensor(offset), torch.tensor(spread), torch.Generator().manual_seed(seed)
    )
    return policy


def fit(
    config: ImitationConfig,
    store_train: Store,
    store_val: Store,
    folder: Path | str,
    resume: bool = False,
    cache_folder: Path | None = None,
    vision_only: bool = False,
) -> Path:
    """Trains a policy by imitation and keeps the best of its last candidates by exact EPDMS on val.

    Args:
        config: the run.
        store_train: scenes to learn from.
        store_val: scenes to choose by.
        folder: the stage's folder; gets metrics, a training state, and `checkpoint`.
        resume: continue a run that was interrupted.
        cache_folder: where scene tokens are kept for this and later stages; None keeps them in memory.
        vision_only: stop where the vision part is frozen, its scene tokens kept; a later call with `resume` goes on from there.

    Returns:
        The checkpoint's folder (not yet written with `vision_only`).
    """
    folder = Path(folder)
    pairs = moments(store_train)
    human = humans(store_train, pairs)
    policy = fresh_policy(config.policy, human, config.seed).to(chosen_device())
    data = _Data(pairs, human, *ego_status(store_train, pairs), sights(policy, store_train))
    average = copy.deepcopy(policy).eval().requires_grad_(False)
    modules, values = {"policy": policy, "average": average}, {"step": 0, "best": None}
    resume = resume and (folder / "state" / "state.json").exists()
    if resume:
        values = run.load_state(folder / "state", modules, {}, {})
    else:
        _fit_prior(config, policy, average, data)
    optimiser, caches = _optimiser(config, policy, values["step"] > config.steps), None
    if resume:
        run.load_state(folder / "state", modules, {"adamw": optimiser}, {})
    total = config.steps + config.planner_steps
    candidates = {total - 1 - round(0.1 * config.planner_steps) * index for index in range(config.candidates)}
    title = "imitation" if config.policy.perception else "no_camera"
    with (
        run.metrics_writer(folder, values["step"] - 1 if values["step"] else None) as write,
        progress(title, total, values["step"]) as advance,
    ):
        for step in range(values["step"], config.steps if vision_only else total):
            if step == config.steps:
                policy.load_state_dict(average.state_dict())
                optimiser = _optimiser(config, policy, planner_only=True)
            generator = step_generator(config.seed, step)
            if step < config.steps:
                set_rate(optimiser, config.rate * cosine_rate(step, config.steps, config.warmup))
                rows = batch_rows(len(pairs), config.batch, step, config.seed)
                loss, parts = _whole_loss(config, policy, store_train, data, rows, generator)
            else:
                caches = caches or stage_caches(average.eval(), store_train, store_val, cache_folder)
                set_rate(optimiser, config.planner_rate * cosine_rate(step - config.steps, config.planner_steps, config.warmup))
                rows = batch_rows(len(pairs), config.planner_batch, step - config.steps, config.seed + 1)
                scene = _kept_tokens(caches, pairs[rows], policy.scale.device)
                loss, parts = _planner_loss(policy.eval(), scene, data, rows, generator)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(optimiser.param_groups[0]["params"], 5.0)
            optimiser.step()
            follow(average, policy, config.average_decay, step)
            if step % 20 == 0 or step == total - 1:
                write(step, **{f"train__{name}": float(part) for name, part in parts.items()})
            if step in candidates:
                caches = caches or stage_caches(average.eval(), store_train, store_val, cache_folder)
                values["best"] = keep_best(values["best"], step, average, config, store_train, store_val, caches, folder, write)
            values["step"] = step + 1
            if values["step"] % config.save_every == 0 or values["step"] in (config.steps, total):
                states = {name: module.state_dict() for name, module in modules.items()}
                run.save_state(folder / "state", states, {"adamw": optimiser}, {}, values)
            advance(f"loss {float(loss.detach()):.3f}")
    if vision_only:
        stage_caches(average.eval(), store_train, store_val, cache_folder)
    return folder / "checkpoint"


@dataclass(frozen=True, slots=True)
class _Data:
    pairs: np.ndarray
    human: np.ndarray
    ego_history: np.ndarray
    command: np.ndarray
    look: Look


def _optimiser(config: ImitationConfig, policy: Policy, planner_only: bool) -> torch.optim.Optimizer:
    policy.requires_grad_(True)
    policy.prior.requires_grad_(False)
    if policy.perception is not None:
        freeze(policy.perception.encoder)
    parameters = planner_parameters(policy) if planner_only else [value for value in policy.parameters() if value.requires_grad]
    return torch.optim.AdamW(parameters, lr=config.rate, weight_decay=config.weight_decay)


def _fit_prior(config: ImitationConfig, policy: Policy, average: Policy, data: _Data) -> None:
    """Trains the plan from ego status alone and puts its average into both policies."""
    model = policy.prior.requires_grad_(True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.prior.rate, weight_decay=config.prior.weight_decay)
    with progress("ego status", config.prior.steps, 0) as advance:
        for step in range(config.prior.steps):
            loss = ego_mlp_step(config.prior, model, average.prior, optimiser, data.ego_history, data.command, data.human, step)
            advance(f"loss {loss:.4f}")
    model.load_state_dict(average.prior.state_dict())
    model.requires_grad_(False)


def _whole_loss(
    config: ImitationConfig, policy: Policy, store: Store, data: _Data, rows: np.ndarray, generator: torch.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    policy.train()
    device, batch = policy.scale.device, len(rows)
    if config.policy.perception is None:
        return _planner_loss(policy, None, data, rows, generator)
    sight, maps = pictures(store, data.pairs[rows], data.look)
    gain = 1 + config.colour * (torch.randn(batch, 1, generator=generator) + 0.5 * torch.randn(batch, 3, generator=generator))
    bias = config.colour * torch.randn(batch, 1, generator=generator).expand(-1, 3)
    if sight.raw is None:
        sight = replace(sight, images=_shifted(sight.images, config.shift, generator))
    sight = without_some_cameras(sight, config.camera_dropout, generator)
    status = (torch.from_numpy(values[rows]).to(device) for values in (data.ego_history, data.command))
    seen = policy.see(on_device(sight, device), *status, gain.to(device), bias.to(device), reason=False)
    drawn, ahead = _birds_eye_losses(config, seen, maps.to(device), store.annotated[data.pairs[rows, 0]])
    loss, parts = _planner_loss(policy, seen.scene, data, rows, generator)
    return loss + config.map_weight * drawn + config.ahead_weight * ahead, {**parts, "maps": drawn.detach(), "ahead": ahead.detach()}


def _birds_eye_losses(config: ImitationConfig, seen: Seen, maps: Tensor, annotated: np.ndarray) -> tuple[Tensor, Tensor]:
    """What annotations teach: losses of maps and of distances ahead over the annotated moments, 0 where there are none."""
    grid, ahead = seen.view.grid, seen.view.ahead
    if not annotated.all():
        known = torch.from_numpy(np.flatnonzero(annotated)).to(maps.device)
        grid, ahead, maps = grid[known], ahead[known], maps[known]
    if not len(maps):
        return grid.sum(), ahead.sum()
    return map_loss(grid, maps, config.map_positive), ahead_loss(ahead, maps)


def _planner_loss(
    policy: Policy, scene: SceneTokens | None, data: _Data, rows: np.ndarray, generator: torch.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    device = policy.scale.device
    ego_history, command, human = (torch.from_numpy(values[rows]).to(device) for values in (data.ego_history, data.command, data.human))
    loss, parts = denoising_loss(policy, policy.remember(scene, ego_history, command), human, generator)
    return loss, {"loss": loss.detach(), **parts}


def denoising_loss(policy: Policy, memory: Memory, human: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """`planner_loss` of all anchors denoised from a random timestep of the truncated range (one a scene).

    Of full diffusion: of the human's trajectory denoised from as many timesteps and noises; of regression: of the anchors as they are.
    """
    device, batch, count = policy.scale.device, len(human), policy.config.anchors
    diffusion = policy.config.diffusion
    anchor = torch.arange(count, device=device).expand(batch, -1)
    if diffusion.kind == "regression":
        return planner_loss(policy, policy.denoise(memory, policy.start(anchor), torch.zeros_like(anchor), anchor), human)
    is_full = diffusion.kind == "full"
    timestep = torch.randint(0, diffusion.truncation, (batch, count if is_full else 1), generator=generator).expand(-1, count).to(device)
    noise = torch.randn(batch, count, 8, 3, generator=generator).to(device)
    clean = policy.normalised(human)[:, None].expand(-1, count, -1, -1) if is_full else policy.anchors.expand(batch, -1, -1, -1)
    state = noisy(clean, noise, policy.alphas[timestep])
    return planner_loss(policy, policy.denoise(memory, state, timestep, anchor), human)


def _kept_tokens(caches: StageCaches, pairs: np.ndarray, device: torch.device) -> SceneTokens | None:
    """Scene tokens of (scene, previous?) pairs; pairs are in the order of `moments`."""
    if caches.train.tokens is None:
        return None
    parts = []
    for previous, cache in ((0, caches.train), (1, caches.train_before)):
        scene = inputs(cache, pairs[pairs[:, 1] == previous, 0], device)[0]
        parts += [] if scene is None else [scene]
    return SceneTokens(torch.cat([part.tokens for part in parts]), torch.cat([part.grid for part in parts]))


def without_some_cameras(sight: Sight, probability: float, generator: torch.Generator) -> Sight:
    """A batch whose views are left out at random, each with a probability, but never all that a scene has."""
    if probability == 0.0:
        return sight
    chance = torch.rand(sight.valid.shape, generator=generator).to(sight.valid.device)
    kept = (chance >= probability) | (chance == torch.where(sight.valid, chance, -1.0).amax(1, keepdim=True))
    return replace(sight, valid=sight.valid & kept)


def _shifted(images: Tensor, reach: int, generator: torch.Generator) -> Tensor:
    """The batch's pictures moved by up to `reach` pixels each way, edges repeated: one shift for the whole batch."""
    if reach == 0:
        return images
    down, right = (torch.randint(-reach, reach + 1, (2,), generator=generator)).tolist()
    height, width = images.shape[2:4]
    rows = torch.arange(height).add(down).clamp(0, height - 1)
    columns = torch.arange(width).add(right).clamp(0, width - 1)
    return images[:, :, rows][:, :, :, columns]


@torch.no_grad()
def held_out_loss(policy: Policy, cache: SceneCache, batch: int = 64) -> float:
    """`denoising_loss` of a policy on cached scenes, always with the same noise: where it is flat, imitation is trained out."""
    generator, total = torch.Generator().manual_seed(0), 0.0
    for rows in np.array_split(np.arange(len(cache)), max(1, len(cache) // batch)):
        memory = remembered(policy, cache, rows)
        loss, _ = denoising_loss(policy, memory, torch.from_numpy(np.array(cache.human[rows])).to(memory.ego.device), generator)
        total += float(loss) * len(rows)
    return total / len(cache)


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


def keep_best(
    best: float | None,
    step: int,
    policy: Policy,
    config: object,
    store_train: Store,
    store_val: Store,
    caches: StageCaches,
    folder: Path,
    write,
) -> float:
    """Probes a candidate on val and saves it if it is the best so far; gives the best EPDMS."""
    policy.eval()
    probed = probe(policy, store_val, np.arange(len(store_val)), caches.val, caches.val_before)
    write(step, val__loss=held_out_loss(policy, caches.val))
    write(step, **{f"val__{name}": value for name, value in probed.items()})
    if best is None or probed["epdms"] > best:
        save_policy(folder / "checkpoint", policy, config, store_train)
        return probed["epdms"]
    return best
