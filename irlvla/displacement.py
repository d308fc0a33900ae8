"""Policies on logs that cannot be scored: how far their plans are from what was driven, and how much of that the pictures decide."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from irlvla.baselines import BASELINES
from irlvla.data.store import Indices, Store
from irlvla.learned import checkpoint_of
from irlvla.model.policy import Policy
from irlvla.rollout import load_policy
from irlvla.scene_cache import remembered, scene_cache
from irlvla.train.imitation import fresh_policy

HORIZONS = (1, 2, 3, 4)
"""Seconds after which a plan is compared with the driven path."""
SPEEDS = np.arange(0.0, 17.0, 2.0)
CURVATURES = (-0.1, -0.05, -0.02, -0.005, 0.0, 0.005, 0.02, 0.05, 0.1)
"""Of the arcs that stand in for human trajectories where a policy without a run needs anchors, m/s and 1/m."""
SIDEWAYS = 4.0
"""Most that an arc accelerates to the side, m/s2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposed:
    """A policy's plans of some scenes: the one to drive, and every anchor's with its share of the confidence; whether it has eyes at all."""

    plans: Float[np.ndarray, "scenes 8 3"]
    proposals: Float[np.ndarray, "scenes anchors 8 3"]
    confidences: Float[np.ndarray, "scenes anchors"]
    looks: bool


def proposed(policy: Policy, store: Store, indices: Indices, black: bool = False) -> Proposed:
    """What a policy proposes, in metres.

    Args:
        policy: trained or not.
        store: prepared scenes; annotations are not needed.
        indices: which of them.
        black: show black pictures instead of the store's.
    """
    cache = scene_cache(policy, store, indices, black=black)
    plans, proposals, confidences = [], [], []
    for rows in np.array_split(np.arange(len(cache)), max(1, -(-len(cache) // 64))):
        with torch.inference_mode():
            memory = remembered(policy, cache, rows)
            found = policy.deployed(memory)
            plans.append(policy.plan(memory).cpu().numpy())
            proposals.append(policy.in_metres(found.clean).cpu().numpy())
            confidences.append(torch.softmax(found.confidence, dim=1).cpu().numpy())
    parts = (np.concatenate(part).astype(np.float64) for part in (plans, proposals, confidences))
    return Proposed(**dict(zip(("plans", "proposals", "confidences"), parts)), looks=cache.tokens is not None)


def untrained_policy(seed: int, run: Path | None = None) -> Policy:
    """A policy with random weights.

    Args:
        seed: of the weights.
        run: a run whose imitation lends architecture, anchors and normaliser; without one the default architecture, and anchors from
            arcs of constant speed and curvature.
    """
    if run is None:
        from irlvla.recipes import default

        return fresh_policy(default(seed).imitation.policy, arcs(), seed).eval()
    trained = load_policy(checkpoint_of(run, "imitation"))
    torch.manual_seed(seed)
    policy = Policy(trained.config)
    anchors = trained.in_metres(trained.anchors)
    policy.set_normaliser(anchors, trained.offset, trained.scale, torch.Generator().manual_seed(seed))
    return policy.eval()


def arcs() -> Float[np.ndarray, "arcs 8 3"]:
    """Trajectories of constant speed and curvature, those that a car can drive."""
    speed, curvature = (values.reshape(-1, 1) for values in np.meshgrid(SPEEDS, CURVATURES))
    drivable = np.abs(curvature[:, 0]) * speed[:, 0] ** 2 <= SIDEWAYS
    speed, curvature = speed[drivable], curvature[drivable]
    way = speed * 0.5 * np.arange(1, 9)
    heading = curvature * way
    bend = np.where(curvature == 0, 1.0, curvature)
    x = np.where(curvature == 0, way, np.sin(heading) / bend)
    y = np.where(curvature == 0, 0.0, (1 - np.cos(heading)) / bend)
    return np.stack([x, y, heading], axis=2).astype(np.float32)


def baseline_poses(store: Store, indices: Indices) -> dict[str, Float[np.ndarray, "scenes 8 3"]]:
    """Plans of the baselines that see only the ego's state, by name."""
    histories = store.histories(indices)
    return {name: np.stack([plan(history) for history in histories]) for name, plan in BASELINES.items()}


def displacements(
    poses: Float[np.ndarray, "scenes 8 3"], driven: Float[np.ndarray, "scenes 8 3"]
) -> dict[str, Float[np.ndarray, "scenes"]]:
    """ADE and FDE of each scene's plan after each of HORIZONS, m, as ade_1s .. fde_4s; how far ahead and left it ends, as ahead_4s, left_4s.

    Args:
        poses: plans in the ego frame, at 0.5 .. 4 s.
        driven: the logged futures in the same frame.

    Example:
        >>> driven = np.zeros((1, 8, 3))
        >>> plan = driven + np.arange(1, 9)[:, None] * [1, 0, 0]
        >>> {name: value.tolist() for name, value in displacements(plan, driven).items() if name.endswith("1s")}
        {'ade_1s': [1.5], 'fde_1s': [2.0]}
    """
    off = poses[..., :2] - driven[..., :2]
    away = np.linalg.norm(off, axis=-1)
    found = {f"ade_{horizon}s": away[:, : 2 * horizon].mean(axis=1) for horizon in HORIZONS}
    found |= {f"fde_{horizon}s": away[:, 2 * horizon - 1] for horizon in HORIZONS}
    return found | {"ahead_4s": off[:, -1, 0], "left_4s": off[:, -1, 1]}
