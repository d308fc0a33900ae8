"""The control that knows only ego status and command: what can be had without looking."""

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from irlvla import run
from irlvla.data.store import Store
from irlvla.model.diffusion import normaliser_of
from irlvla.model.policy import EgoMlp
from irlvla.rollout import ego_plans
from irlvla.train.imitation import ego_status, humans, moments
from irlvla.train.loop import batch_rows, cosine_rate, follow, probe_values, progress, set_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class EgoMlpConfig:
    """One run of the ego-status control."""

    seed: int = 0
    width: int = 256
    steps: int = 2000
    batch: int = 128
    rate: float = 1e-3
    weight_decay: float = 1e-4
    average_decay: float = 0.995
    candidates: int = 3


def fit_ego_mlp(config: EgoMlpConfig, store_train: Store, store_val: Store, folder: Path | str, resume: bool = False) -> Path:
    """Trains the ego-status control; it takes seconds, so an interrupted run starts again.

    Returns:
        The checkpoint's folder (kept as it is if `resume` and it is complete).
    """
    folder = Path(folder)
    if resume and (folder / "checkpoint" / "checkpoint.json").exists():
        return folder / "checkpoint"
    pairs = moments(store_train)
    human = humans(store_train, pairs)
    ego_history, command = (torch.from_numpy(values) for values in ego_status(store_train, pairs))
    offset, scale = normaliser_of(human)
    torch.manual_seed(config.seed)
    model = EgoMlp(config.width)
    model.offset.copy_(torch.tensor(offset))
    model.scale.copy_(torch.tensor(scale))
    average = copy.deepcopy(model).eval().requires_grad_(False)
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.rate, weight_decay=config.weight_decay)
    candidates = {config.steps - 1 - round(0.1 * config.steps) * index for index in range(config.candidates)}
    best = -1.0
    val = np.arange(len(store_val))
    with run.metrics_writer(folder) as write, progress("ego_mlp", config.steps, 0) as advance:
        for step in range(config.steps):
            set_rate(optimiser, config.rate * cosine_rate(step, config.steps, 50))
            rows = batch_rows(len(pairs), config.batch, step, config.seed)
            wanted = (torch.from_numpy(human[rows]) - model.offset) / model.scale
            loss = (model(ego_history[rows], command[rows]) - wanted).abs().mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            follow(average, model, config.average_decay, step)
            if step % 100 == 0:
                write(step, train__loss=float(loss.detach()))
            if step in candidates:
                probed = probe_values(store_val, val, ego_plans(average, store_val, val), ego_plans(average, store_val, val, previous=True))
                write(step, **{f"val__{name}": value for name, value in probed.items()})
                if probed["epdms"] > best:
                    best = probed["epdms"]
                    provenance = run.provenance(getattr(store_train, "key", ""), config.seed)
                    run.save(
                        folder / "checkpoint", {"ego_mlp": average.state_dict()}, config, {"offset": offset, "scale": scale}, provenance
                    )
            advance(f"loss {float(loss.detach()):.4f}")
    return folder / "checkpoint"
