"""The control that knows only ego status and command: what can be had without looking."""

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from irlvla import run
from irlvla.data.store import Store
from irlvla.model.diffusion import normaliser_of
from irlvla.model.policy import EgoMlp
from irlvla.rollout import chosen_device, ego_plans
from irlvla.train.loop import batch_rows, cosine_rate, follow, probe_values, progress, set_rate
from irlvla.train.moments import ego_status, humans, moments


@dataclass(frozen=True, slots=True, kw_only=True)
class EgoMlpConfig:
    """One training of a plan from ego status alone: the control's, and the hint's that policies get."""

    seed: int = 0
    width: int = 256
    steps: int = 6000
    batch: int = 128
    rate: float = 2e-3
    weight_decay: float = 1e-2
    average_decay: float = 0.995
    candidates: int = 3


def fit_ego_mlp(config: EgoMlpConfig, store_train: Store, store_val: Store, folder: Path | str, resume: bool = False) -> Path:
    """Trains the ego-status control; it takes seconds, so an interrupted run starts again.

    Returns:
        The checkpoint's folder (kept as it is if `resume` and it is complete).
    """
    folder = Path(folder)
    run.settle(folder / "checkpoint")
    if resume and (folder / "checkpoint" / "checkpoint.json").exists():
        return folder / "checkpoint"
    pairs = moments(store_train)
    human = humans(store_train, pairs)
    ego_history, command = ego_status(store_train, pairs)
    offset, scale = normaliser_of(human)
    torch.manual_seed(config.seed)
    model = EgoMlp(config.width)
    model.offset.copy_(torch.tensor(offset))
    model.scale.copy_(torch.tensor(scale))
    model.to(chosen_device())
    average = copy.deepcopy(model).eval().requires_grad_(False)
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.rate, weight_decay=config.weight_decay)
    candidates = {config.steps - 1 - round(0.1 * config.steps) * index for index in range(config.candidates)}
    best = -1.0
    val = np.arange(len(store_val))
    with run.metrics_writer(folder) as write, progress("ego_mlp", config.steps, 0) as advance:
        for step in range(config.steps):
            loss = ego_mlp_step(config, model, average, optimiser, ego_history, command, human, step)
            if step % 100 == 0:
                write(step, train__loss=loss)
            if step in candidates:
                probed = probe_values(store_val, val, ego_plans(average, store_val, val), ego_plans(average, store_val, val, previous=True))
                write(step, **{f"val__{name}": value for name, value in probed.items()})
                if probed["epdms"] > best:
                    best = probed["epdms"]
                    provenance = run.provenance(getattr(store_train, "key", ""), config.seed)
                    run.save(
                        folder / "checkpoint", {"ego_mlp": average.state_dict()}, config, {"offset": offset, "scale": scale}, provenance
                    )
            advance(f"loss {loss:.4f}")
    return folder / "checkpoint"


def ego_mlp_step(
    config: EgoMlpConfig,
    model: EgoMlp,
    average: EgoMlp,
    optimiser: torch.optim.Optimizer,
    ego_history: Float[np.ndarray, "moments 4 7"],
    command: Float[np.ndarray, "moments 4"],
    human: Float[np.ndarray, "moments 8 3"],
    step: int,
) -> float:
    """One update on one batch of all moments; moves the average too and gives the loss."""
    set_rate(optimiser, config.rate * cosine_rate(step, config.steps, 50))
    rows = batch_rows(len(human), config.batch, step, config.seed)
    device = model.scale.device
    wanted = (torch.from_numpy(human[rows]).to(device) - model.offset) / model.scale
    loss = (model(torch.from_numpy(ego_history[rows]).to(device), torch.from_numpy(command[rows]).to(device)) - wanted).abs().mean()
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
    follow(average, model, config.average_decay, step)
    return float(loss.detach())
