"""What all training loops share: chance by step, learning rates, averages of weights, progress, probes.

Randomness is a function of (seed, step), so that a resumed run draws what an uninterrupted one draws.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float, Int
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from irlvla.data.store import Store
from irlvla.model.policy import Policy
from irlvla.rollout import cached_plans, exact_sub_scores
from irlvla.scene_cache import SceneCache
from irlvla.score.epdms import epdms
from irlvla.train import distributed
from irlvla.types import SUB_SCORE_NAMES


def step_generator(seed: int, step: int) -> torch.Generator:
    """The source of chance of one step."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)


def batch_rows(count: int, batch: int, step: int, seed: int) -> Int[np.ndarray, "batch"]:
    """Rows of one step's batch: each epoch is a fresh shuffle; what is left over at its end is dropped.

    Raises:
        ValueError: there are no rows at all.
    """
    if count == 0:
        raise ValueError("no scenes to train on")
    batch = min(batch, count)
    epoch, place = divmod(step, count // batch)
    order = np.random.default_rng((seed, epoch)).permutation(count)
    return np.sort(order[place * batch : (place + 1) * batch])


def cosine_rate(step: int, steps: int, warmup: int, last: float = 0.02) -> float:
    """Share of the learning rate at a step: a linear warm-up, then half a cosine down to `last`."""
    if step < warmup:
        return (step + 1) / warmup
    share = (step - warmup) / max(1, steps - warmup)
    return last + (1 - last) * 0.5 * (1 + float(np.cos(np.pi * share)))


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of all parameter groups."""
    for group in optimiser.param_groups:
        group["lr"] = rate


@torch.no_grad()
def follow(average: nn.Module, module: nn.Module, decay: float, step: int) -> None:
    """Moves an exponential moving average of weights (buffers too) one step; early on it forgets faster."""
    decay = min(decay, (1 + step) / (10 + step))
    new = module.state_dict()
    for name, value in average.state_dict().items():
        if value.is_floating_point():
            value.lerp_(new[name], 1 - decay)
        else:
            value.copy_(new[name])


@contextmanager
def progress(title: str, steps: int, start: int) -> Iterator:
    """A progress bar (of the first process alone); gives a function `advance(text)` to be called once a step."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, disable=distributed.rank() > 0) as bar:
        task = bar.add_task(title, total=steps, completed=start, text="")

        def advance(text: str) -> None:
            bar.update(task, advance=1, text=text)

        yield advance


def probe_values(
    store: Store, indices: Int[np.ndarray, "scenes"], poses: Float[np.ndarray, "scenes 8 3"], prev_poses: Float[np.ndarray, "scenes 8 3"]
) -> dict[str, float]:
    """Mean exact EPDMS and sub-scores (0-100) of one plan a scene: the probe by which checkpoints are chosen."""
    scores = exact_sub_scores(store, indices, poses[:, None], prev_poses[:, None])
    values = {"epdms": 100 * float(np.mean(epdms(scores)))}
    for name in SUB_SCORE_NAMES[:-1]:
        values[name] = 100 * float(np.mean(getattr(scores, name)))
    defined = scores.ec_defined > 0
    return values | {"ec": 100 * float(np.mean(scores.ec[defined])) if defined.any() else 0.0}


def probe(policy: Policy, store: Store, indices: Int[np.ndarray, "scenes"], now: SceneCache, before: SceneCache) -> dict[str, float]:
    """`probe_values` of a policy's deployed plans on cached scenes."""
    return probe_values(store, indices, cached_plans(policy, now), cached_plans(policy, before))
