"""Teaches a policy's lamp detector before all else, from as many moments with a red light on the way as without.

Among moments as they come, red lights are rare and their lamps small: what the whole policy learns of them in its few hundred steps is
where queues stand. Balanced, by itself and early, the detector learns to look at lamps, and the planner learns with an answer
that it can trust.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool
from torch.nn import functional

from irlvla.data.store import Store
from irlvla.model.bev import red_ahead
from irlvla.model.policy import Policy
from irlvla.model.vision import on_device
from irlvla.train.loop import cosine_rate, progress, set_rate, step_generator
from irlvla.train.moments import pictures, shifted, targets


@dataclass(frozen=True, slots=True, kw_only=True)
class LampsConfig:
    """The detector's training: steps, moments a step (half of them with a red light), learning rate, pixels by which pictures are shifted."""

    steps: int = 600
    batch: int = 32
    rate: float = 6e-4
    weight_decay: float = 1e-4
    warmup: int = 30
    shift: int = 4


def fit_lamps(config: LampsConfig, policy: Policy, store: Store, pairs: np.ndarray, seed: int) -> None:
    """Trains the lamp detector of a policy in place; does nothing for a policy without, or where no moment has a red light or none is without.

    Args:
        config: the training.
        policy: has `BirdsEyeConfig(lamps=True)`; all else of it stays as it is.
        store: what to learn from; moments without annotations are left out.
        pairs: (scene, previous?) pairs of it.
        seed: of the order in which moments come.
    """
    if policy.perception is None or policy.perception.birds_eye.lamps is None or not config.steps:
        return
    view = policy.perception.birds_eye
    known = pairs[store.annotated[pairs[:, 0]]]
    red = _red(store, known)
    if red.all() or not red.any():
        return
    kinds = known[red], known[~red]
    half = config.batch // 2
    wanted = torch.cat([torch.ones(half), torch.zeros(half)]).to(policy.scale.device)
    view.lamps.requires_grad_(True)
    optimiser = torch.optim.AdamW(view.lamps.parameters(), lr=config.rate, weight_decay=config.weight_decay)
    view.lamps.train()
    with progress("lamps", config.steps, 0) as advance:
        for step in range(config.steps):
            set_rate(optimiser, config.rate * cosine_rate(step, config.steps, config.warmup))
            generator = step_generator(seed, step)
            chosen = [kind[torch.randint(len(kind), (half,), generator=generator).numpy()] for kind in kinds]
            sight = on_device(pictures(store, np.concatenate(chosen))[0], policy.scale.device)
            down, right = torch.randint(-config.shift, config.shift + 1, (2,), generator=generator).tolist()
            sight = replace(sight, images=shifted(sight.images, (down, right)))
            loss = functional.binary_cross_entropy_with_logits(view.lamp(sight), wanted)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(view.lamps.parameters(), 5.0)
            optimiser.step()
            advance(f"loss {float(loss.detach()):.3f}")


def _red(store: Store, pairs: np.ndarray, count: int = 1024) -> Bool[np.ndarray, "moments"]:
    """Which moments have a red light on the way, by their bird's-eye targets."""
    parts = np.array_split(np.arange(len(pairs)), max(1, -(-len(pairs) // count)))
    return np.concatenate([red_ahead(targets(store, pairs[rows])).numpy() for rows in parts])
