"""Vocabularies of human plans of any size, made once a store and kept: K-means centres that fit into little memory."""

import hashlib
import os
from pathlib import Path

import numpy as np
from jaxtyping import Float

from irlvla import origin
from irlvla.data.store import Store

WEIGHT = np.array([1.0, 1.0, 4.0])
"""One rad of heading counts as much as 4 m."""
ITERATIONS = 10
LARGEST = 2**24
"""Distances that are held at once."""
CODE = ("train/vocabularies.py",)


def vocabularies(store: Store, sizes: tuple[int, ...], folder: Path) -> tuple[Float[np.ndarray, "_ 8 3"], ...]:
    """K-means centres of a store's human plans, m and rad, one array a size; read from `folder` where they are there.

    Plans of both moments of every scene count, and their mirror images, so that a few thousand scenes are enough for 8,192
    different words. Where there are fewer plans than words are asked for, all of them are words.

    Args:
        store: prepared scenes.
        sizes: numbers of words.
        folder: where they are kept.
    """
    if not sizes:
        return ()
    plans = human_plans(store)
    key = hashlib.sha256(plans.tobytes() + origin.code_hash(CODE).encode()).hexdigest()[:16]
    found = []
    for size in sizes:
        path = folder / f"vocabulary-{size}-{key}.npy"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            beside = folder / f".{path.stem}.{os.getpid()}.npy"
            np.save(beside, centres(plans, size))
            os.replace(beside, path)
        found.append(np.load(path, allow_pickle=False))
    return tuple(found)


def human_plans(store: Store) -> Float[np.ndarray, "plans 8 3"]:
    """The plans that vocabularies are made of: those of both moments of all scenes, and their mirror images."""
    every = np.arange(len(store))
    plans = np.concatenate([store.human(every), store.human(every[store.has_previous], previous=True)])
    return np.concatenate([plans, plans * [1.0, -1.0, -1.0]])


def centres(plans: Float[np.ndarray, "plans 8 3"], count: int, seed: int = 0) -> Float[np.ndarray, "words 8 3"]:
    """K-means centres of plans, begun at plans drawn by chance; distances to all centres are never held at once.

    Args:
        plans: m and rad.
        count: how many centres; all plans where there are fewer.
        seed: of the first centres.

    Raises:
        ValueError: no centre or no plan.
    """
    if count < 1 or not len(plans):
        raise ValueError(f"{count} words of {len(plans)} plans: a vocabulary has at least one of each")
    points = (plans * WEIGHT).reshape(len(plans), -1)
    words = points[np.sort(np.random.default_rng(seed).choice(len(points), min(count, len(points)), replace=False))]
    for _ in range(ITERATIONS if len(words) < len(points) else 0):
        members = nearest(points, words)
        counts = np.bincount(members, minlength=len(words))
        sums = np.zeros_like(words)
        np.add.at(sums, members, points)
        words = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], words)
    return words.reshape(-1, 8, 3) / WEIGHT


def nearest(points: Float[np.ndarray, "points axes"], words: Float[np.ndarray, "words axes"]) -> np.ndarray:
    """The number of each point's nearest word."""
    step = max(1, LARGEST // len(words))
    lengths = (words**2).sum(1)
    parts = [(lengths - 2 * points[start : start + step] @ words.T).argmin(1) for start in range(0, len(points), step)]
    return np.concatenate(parts)


def apart(words: Float[np.ndarray, "words 8 3"], human: Float[np.ndarray, "8 3"]) -> Float[np.ndarray, "words 3"]:
    """How far words are from a plan at most over all poses: |dx|, |dy| (m) and |dheading| (rad, the short way round)."""
    difference = np.abs(words - human)
    difference[..., 2] = np.minimum(difference[..., 2], np.abs(2 * np.pi - difference[..., 2]))
    return difference.max(axis=1)
