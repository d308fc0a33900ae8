"""A store's moments as training data: every scene now, and 0.5 s earlier where its log goes back so far."""

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from irlvla.data.facts import FACT_NAMES
from irlvla.data.features import GRID_CELLS, TARGET_NAMES
from irlvla.data.store import Store
from irlvla.feature_cache import Look
from irlvla.model.element_loss import Wanted, wanted_of
from irlvla.model.vision import Sight, sight_of, sight_rows
from irlvla.rationale import VOCABULARY, rationale_ids
from irlvla.scene_cache import ego_inputs
from irlvla.types import ELEMENTS, LINE_POINTS, Elements


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


def pictures(store: Store, pairs: np.ndarray, look: Look | None = None) -> tuple[Sight, Tensor]:
    """Camera pictures and bird's-eye targets of (scene, previous?) pairs; targets are 0 where a scene has no annotations.

    `look` gives what is to be seen in place of the pictures themselves (`irlvla.feature_cache`).
    """
    sights, places = [], []
    for previous in (0, 1):
        rows = np.flatnonzero(pairs[:, 1] == previous)
        if not len(rows):
            continue
        scenes, earlier = pairs[rows, 0], bool(previous)
        sights.append(look(scenes, earlier) if look else sight_of(store.features(scenes, previous=earlier)))
        places.append(rows)
    if not sights:
        raise ValueError("no moments to gather pictures of")
    return sight_rows(sights, np.argsort(np.concatenate(places))), targets(store, pairs)


def targets(store: Store, pairs: np.ndarray) -> Tensor:
    """Bird's-eye targets of (scene, previous?) pairs, (pairs, 4, 32, 32); 0 where a scene has no annotations."""
    maps = torch.zeros(len(pairs), len(TARGET_NAMES), GRID_CELLS, GRID_CELLS)
    for previous in (0, 1):
        known = np.flatnonzero(store.annotated[pairs[:, 0]] & (pairs[:, 1] == previous))
        if len(known):
            maps[known] = torch.from_numpy(np.asarray(store.targets(pairs[known, 0], previous=bool(previous)))).float()
    return maps


def elements_around(store: Store, pairs: np.ndarray, device: torch.device) -> Wanted:
    """Boxes and lines around (scene, previous?) pairs; nothing is known around those without annotations."""
    boxes, lines = np.full((len(pairs), ELEMENTS, 7), np.nan), np.full((len(pairs), ELEMENTS, LINE_POINTS, 2), np.nan)
    classes, kinds = np.full((len(pairs), ELEMENTS), -1), np.full((len(pairs), ELEMENTS), -1)
    annotated = store.annotated[pairs[:, 0]]
    for previous in (0, 1):
        rows = np.flatnonzero(annotated & (pairs[:, 1] == previous))
        if len(rows):
            found = store.elements(pairs[rows, 0], previous=bool(previous))
            boxes[rows], classes[rows], lines[rows], kinds[rows] = found.boxes, found.classes, found.lines, found.kinds
    return wanted_of(Elements(boxes=boxes, classes=classes, lines=lines, kinds=kinds), annotated, device)


def rationales(store: Store, pairs: np.ndarray) -> Tensor:
    """Ids of the words that are to be written at (scene, previous?) pairs; padding alone at those without annotations."""
    facts = np.full((len(pairs), len(FACT_NAMES)), -1)
    for previous in (0, 1):
        rows = np.flatnonzero(pairs[:, 1] == previous)
        if len(rows):
            facts[rows] = store.facts(pairs[rows, 0], previous=bool(previous))
    return torch.from_numpy(rationale_ids(facts, VOCABULARY))


def shifted(images: UInt8[Tensor, "scenes views height width 3"], shift: tuple[int, int]) -> UInt8[Tensor, "scenes views height width 3"]:
    """Pictures cut out so many pixels further down and right, edges repeated."""
    if shift == (0, 0):
        return images
    height, width = images.shape[2:4]
    rows = torch.arange(height, device=images.device).add(shift[0]).clamp(0, height - 1)
    columns = torch.arange(width, device=images.device).add(shift[1]).clamp(0, width - 1)
    return images[:, :, rows][:, :, :, columns]
