"""Stage 1: imitation. First the whole policy learns the human's plan, and a bird's-eye view from the log's annotations, where it
has any; then the vision part is frozen, its scene tokens are kept, and the planner learns on alone, many times faster.

Before both, a small network learns a plan from ego status alone (`EgoMlp`), which the planner gets as a hint: what needs
no looking is learned where it is cheap. `fit` trains the policy, and with `PolicyConfig(perception=None)` the control without a
camera.
"""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from irlvla import run
from irlvla.data.store import Store
from irlvla.feature_cache import Look, sights
from irlvla.model.backbones import freeze, load_pretrained
from irlvla.model.bev import SceneTokens
from irlvla.model.diffusion import k_means, normaliser_of
from irlvla.model.policy import Policy, PolicyConfig, planner_parameters
from irlvla.model.vision import on_device
from irlvla.rollout import chosen_device
from irlvla.scene_cache import SceneCache, StageCaches, inputs, remembered, stage_caches
from irlvla.train import distributed
from irlvla.train.controls import ego_mlp_step
from irlvla.train.imitation_loss import Chance, ImitationConfig, Lesson, Teacher, chance_of, denoising_loss, part_of, summed
from irlvla.train.lamps import fit_lamps
from irlvla.train.loop import batch_rows, cosine_rate, follow, probe, progress, set_rate
from irlvla.train.moments import ego_status, elements_around, humans, moments, pictures, rationales
from irlvla.train.recompute import recompute


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

    Processes that are `distributed.joined` train it together: batches are the config's, each takes its part of them.

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

    Raises:
        ValueError: a batch is too small for so many processes and micro-batches, or the config names what is not known.
    """
    folder = Path(folder)
    pairs = moments(store_train)
    human = humans(store_train, pairs)
    policy = fresh_policy(config.policy, human, config.seed).to(chosen_device())
    with distributed.first_alone():
        look = sights(policy, store_train)
    data = _Data(store_train, pairs, human, *ego_status(store_train, pairs), look)
    average = copy.deepcopy(policy).eval().requires_grad_(False)
    policy = distributed.synchronised(policy)
    modules, values = {"policy": policy, "average": average}, {"step": 0, "best": None}
    resume = resume and run.has_state(folder / "state")
    if resume:
        values = run.load_state(folder / "state", modules, {}, {})
    else:
        _fit_prior(config, policy, average, data)
        _fit_lamps(config, policy, average, data)
    distributed.alike(policy, average)
    teacher = _teacher(config, policy, average)
    learner, optimiser = _learning(config, teacher, values["step"] > config.steps)
    caches = None
    if resume:
        run.load_state(folder / "state", {}, {"adamw": optimiser}, {})
        distributed.share_out(optimiser)
    if cache_folder is None and distributed.processes() > 1:
        cache_folder = folder / "tokens"
    total = config.steps + config.planner_steps
    candidates = {total - 1 - round(0.1 * config.planner_steps) * index for index in range(config.candidates)}
    title = "imitation" if config.policy.perception else "no_camera"
    with (
        _metrics(folder, values["step"] - 1 if values["step"] else None) as write,
        progress(title, total, values["step"]) as advance,
    ):
        for step in range(values["step"], config.steps if vision_only else total):
            if step == config.steps:
                policy.load_state_dict(average.state_dict())
                learner, optimiser = _learning(config, teacher, planner_only=True)
            with_pictures = step < config.steps
            if with_pictures:
                set_rate(optimiser, config.rate * cosine_rate(step, config.steps, config.warmup))
                rows = batch_rows(len(pairs), config.batch, step, config.seed)
            else:
                caches = caches or _caches(average, store_train, store_val, cache_folder)
                set_rate(optimiser, config.planner_rate * cosine_rate(step - config.steps, config.planner_steps, config.warmup))
                rows = batch_rows(len(pairs), config.planner_batch, step - config.steps, config.seed + 1)
            policy.train(with_pictures)
            parts = _update(config, learner, policy, optimiser, data, rows, step, None if with_pictures else caches)
            follow(average, policy, config.average_decay, step)
            if step % 20 == 0 or step == total - 1:
                write(step, **{f"train__{name}": part for name, part in distributed.agreed(parts).items()})
            if step in candidates:
                caches = caches or _caches(average, store_train, store_val, cache_folder)
                candidate = _whole(average)
                if distributed.rank() == 0:
                    values["best"] = keep_best(values["best"], step, candidate, config, store_train, store_val, caches, folder, write)
                distributed.wait()
            values["step"] = step + 1
            if values["step"] % config.save_every == 0 or values["step"] in (config.steps, total):
                states = {name: distributed.whole(module.state_dict()) for name, module in modules.items()}
                moved = distributed.whole(optimiser.state_dict())
                if distributed.rank() == 0:
                    run.save_state(folder / "state", states, {"adamw": moved}, {}, values)
            advance(f"loss {float(parts['total']):.3f}")
    if vision_only:
        _caches(average, store_train, store_val, cache_folder)
    distributed.wait()
    return folder / "checkpoint"


@dataclass(frozen=True, slots=True)
class _Data:
    store: Store
    pairs: np.ndarray
    human: np.ndarray
    ego_history: np.ndarray
    command: np.ndarray
    look: Look


def _teacher(config: ImitationConfig, policy: Policy, average: Policy) -> Teacher:
    """The loss around a policy; policy and average are sharded and recomputed as the config says."""
    if config.checkpointing:
        recompute(policy)
    teacher = Teacher(config, policy)
    if config.parallel == "sharded":
        for root, seeing in ((teacher, policy.perception), (average, average.perception)):
            parts = () if seeing is None else (seeing.encoder, seeing.birds_eye, seeing.elements)
            distributed.sharded(root, [part for part in parts if part is not None])
    return teacher


def _learning(config: ImitationConfig, teacher: Teacher, planner_only: bool) -> tuple[nn.Module, torch.optim.Optimizer]:
    """What gives the loss of all processes, and the optimiser of the whole policy or of the planner alone; never of the prior."""
    policy = teacher.policy
    policy.requires_grad_(True)
    policy.prior.requires_grad_(False)
    if policy.perception is not None:
        freeze(policy.perception.encoder)
    parameters = planner_parameters(policy) if planner_only else [value for value in policy.parameters() if value.requires_grad]
    learner = distributed.spread(teacher, config.parallel)
    return learner, torch.optim.AdamW(parameters, lr=config.rate, weight_decay=config.weight_decay)


def _update(
    config: ImitationConfig,
    learner: nn.Module,
    policy: Policy,
    optimiser: torch.optim.Optimizer,
    data: _Data,
    rows: np.ndarray,
    step: int,
    caches: StageCaches | None,
) -> dict[str, torch.Tensor]:
    """One update from a batch, of which this process takes its part in micro-batches; the losses' parts, and their total."""
    views = 0 if caches is not None or config.policy.perception is None else data.store.rig(data.pairs[rows[:1], 0]).valid.shape[1]
    chance = chance_of(config, policy, len(rows), step, views)
    optimiser.zero_grad(set_to_none=True)
    sums: dict[str, torch.Tensor] = {}
    micro_batches = distributed.own_parts(len(rows), config.accumulate)
    for place in micro_batches:
        lesson = _lesson(data, rows, place, chance, caches, policy)
        with distributed.reducing(learner, place == micro_batches[-1]):
            loss, parts = learner(lesson)
            loss.backward()
        sums = summed(sums, {"total": loss.detach(), **parts})
    torch.nn.utils.clip_grad_norm_(optimiser.param_groups[0]["params"], 5.0)
    optimiser.step()
    return sums


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


def _fit_lamps(config: ImitationConfig, policy: Policy, average: Policy, data: _Data) -> None:
    """Trains the lamp detector, where there is one, and puts it into both policies."""
    fit_lamps(config.lamps, policy, data.store, data.pairs, config.seed)
    if policy.perception is not None and average.perception is not None:
        average.perception.birds_eye.load_state_dict(policy.perception.birds_eye.state_dict())


def _lesson(data: _Data, rows: np.ndarray, place: slice, chance: Chance, caches: StageCaches | None, policy: Policy) -> Lesson:
    """A micro-batch: some of the rows of a step's batch."""
    device, own = policy.scale.device, rows[place]
    sight = maps = scene = around = written = None
    if caches is not None:
        scene = _kept_tokens(caches, data.pairs[own], device)
    elif policy.config.perception is not None:
        sight, maps = pictures(data.store, data.pairs[own], data.look)
        sight, maps = on_device(sight, device), maps.to(device)
        if policy.config.perception.elements is not None:
            around = elements_around(data.store, data.pairs[own], device)
        if policy.config.perception.language is not None:
            written = rationales(data.store, data.pairs[own]).to(device)
    ego_history, command, human = (torch.from_numpy(values[own]).to(device) for values in (data.ego_history, data.command, data.human))
    annotated = data.store.annotated[data.pairs[rows, 0]]
    return Lesson(
        sight=sight,
        maps=maps,
        around=around,
        written=written,
        annotated=annotated[place],
        scene=scene,
        ego_history=ego_history,
        command=command,
        human=human,
        chance=part_of(chance, place, device),
        share=distributed.processes() * len(own) / len(rows),
        annotated_share=distributed.processes() * int(annotated[place].sum()) / max(1, int(annotated.sum())),
    )


def _caches(average: Policy, store_train: Store, store_val: Store, folder: Path | None) -> StageCaches:
    """Scene caches of the averaged vision part: the first process computes them, the others read them."""
    policy = _whole(average).eval()
    with distributed.first_alone():
        return stage_caches(policy, store_train, store_val, folder)


def _whole(policy: Policy) -> Policy:
    """A policy with all of its weights: a copy on every process if they are sharded, else itself."""
    if not any(isinstance(weight, DTensor) for weight in policy.parameters()):
        return policy
    copied = Policy(policy.config).to(policy.scale.device).eval()
    copied.load_state_dict(distributed.whole(policy.state_dict()))
    return copied


def _metrics(folder: Path, resume_step: int | None) -> AbstractContextManager[Callable[..., None]]:
    """`run.metrics_writer` on the first process; on others a writer that writes nothing."""
    if distributed.rank() == 0:
        return run.metrics_writer(folder, resume_step)
    return nullcontext(lambda step, **values: None)


def _kept_tokens(caches: StageCaches, pairs: np.ndarray, device: torch.device) -> SceneTokens | None:
    """Scene tokens of (scene, previous?) pairs; pairs are in the order of `moments`."""
    if caches.train.tokens is None:
        return None
    parts = []
    for previous, cache in ((0, caches.train), (1, caches.train_before)):
        scene = inputs(cache, pairs[pairs[:, 1] == previous, 0], device)[0]
        parts += [] if scene is None else [scene]
    return SceneTokens(torch.cat([part.tokens for part in parts]), torch.cat([part.grid for part in parts]))


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
