"""What the frozen vision part makes of many scenes, computed once: later stages and evaluation never see a picture again."""

import hashlib
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from irlvla import run
from irlvla.data.arrays import new_array
from irlvla.data.store import Indices, Store
from irlvla.feature_cache import sights
from irlvla.files import held, json_mapping
from irlvla.model.bev import SceneTokens
from irlvla.model.policy import Memory, Policy
from irlvla.model.vision import on_device, sight_of

CACHED = ("tokens", "grid", "ego_history", "command", "human", "valid")
"""Arrays of a scene cache on disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneCache:
    """Some moments as the frozen vision part sees them, beside the ego's status and the logged future.

    `tokens` and `grid` are half precision, possibly memory-mapped; None for a policy without pictures. `valid` is False for
    rows without a previous moment when that was asked for (such rows hold the current moment).
    """

    tokens: np.ndarray | None
    grid: np.ndarray | None
    ego_history: Float[np.ndarray, "scenes 4 7"]
    command: Float[np.ndarray, "scenes 4"]
    human: Float[np.ndarray, "scenes 8 3"]
    valid: Bool[np.ndarray, "scenes"]

    def __len__(self) -> int:
        return len(self.ego_history)


def scene_cache(
    policy: Policy, store: Store, indices: Indices, previous: bool = False, folder: Path | None = None, batch: int = 64, black: bool = False
) -> SceneCache:
    """Scene tokens and ego status of some scenes, computed once.

    Args:
        policy: whose vision part sees the pictures.
        store: prepared scenes.
        indices: which of them.
        previous: the moment 0.5 s earlier; scenes without one get the current moment and `valid` False.
        folder: where to keep the arrays memory-mapped; None keeps them in memory.
        batch: scenes at a time.
        black: show black pictures instead of the store's.

    Raises:
        ValueError: another process is computing what is to be kept in the folder.
    """
    indices = np.asarray(indices)
    key = _cache_key(policy, store, indices, previous) + ("-black" if black else "")
    if folder is not None and (folder / "cache.json").exists() and json_mapping(folder / "cache.json").get("key") == key:
        arrays = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in CACHED if (folder / f"{name}.npy").exists()]
        return SceneCache(**dict(zip(CACHED, arrays, strict=True)))
    with nullcontext() if folder is None else held(folder):
        return _made(policy, store, indices, previous, folder, batch, black, key)


def _made(
    policy: Policy, store: Store, indices: np.ndarray, previous: bool, folder: Path | None, batch: int, black: bool, key: str
) -> SceneCache:
    if folder is not None:
        # Until the new arrays are whole, nothing may vouch for what lies there.
        (folder / "cache.json").unlink(missing_ok=True)
    look = sights(policy, store)
    valid = np.array(store.has_previous[indices]) if previous else np.ones(len(indices), dtype=bool)
    tokens, grid = None, None
    ego_history = np.zeros((len(indices), 4, 7), np.float32)
    command = np.zeros((len(indices), 4), np.float32)
    human = np.zeros((len(indices), 8, 3), np.float32)
    for moment in (previous, False):
        rows = np.flatnonzero(valid if moment == previous else ~valid)
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            ego_history[part] = store.histories(indices[part], previous=moment)
            command[part] = store.commands(indices[part], previous=moment)
            human[part] = store.human(indices[part], previous=moment)
            if policy.perception is None:
                continue
            if black:
                sight = sight_of(store.features(indices[part], previous=moment), policy.scale.device)
                sight = replace(sight, images=torch.zeros_like(sight.images))
            else:
                sight = on_device(look(indices[part], moment), policy.scale.device)
            with torch.inference_mode():
                status = (torch.from_numpy(values).to(policy.scale.device) for values in (ego_history[part], command[part]))
                seen = policy.see(sight, *status).scene
            if tokens is None or grid is None:
                tokens = _array(folder, "tokens", (len(indices), *seen.tokens.shape[1:]))
                grid = _array(folder, "grid", (len(indices), *seen.grid.shape[1:]))
            tokens[part], grid[part] = seen.tokens.half().cpu().numpy(), seen.grid.half().cpu().numpy()
        if not previous:
            break
    cache = SceneCache(tokens=tokens, grid=grid, ego_history=ego_history, command=command, human=human, valid=valid)
    if folder is not None and tokens is not None:
        for name in CACHED[2:]:
            values = getattr(cache, name)
            new_array(folder / f"{name}.npy", values.shape, values.dtype)[:] = values
        run.write_json(folder / "cache.json", {"key": key})
    return cache


def vision_key(policy: Policy) -> str:
    """A hash of all that a policy's scene tokens depend on beside what it looks at: settings and weights of its perception."""
    digest = hashlib.sha256(str(policy.config.perception).encode())
    for tensor in () if policy.perception is None else policy.perception.state_dict().values():
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def _cache_key(policy: Policy, store: Store, indices: np.ndarray, previous: bool) -> str:
    digest = hashlib.sha256(f"{store.key} {previous} {vision_key(policy)}".encode())
    digest.update(indices.astype(np.int64).tobytes())
    return digest.hexdigest()


def _array(folder: Path | None, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if folder is None:
        return np.zeros(shape, np.float16)
    folder.mkdir(parents=True, exist_ok=True)
    return new_array(folder / f"{name}.npy", shape, np.float16)


def inputs(cache: SceneCache, rows: np.ndarray, device: torch.device | str = "cpu") -> tuple[SceneTokens | None, Tensor, Tensor]:
    """Scene tokens, ego history and command of some rows of a cache as tensors."""
    scene = None
    if cache.tokens is not None and cache.grid is not None:
        scene = SceneTokens(torch.from_numpy(cache.tokens[rows]).to(device).float(), torch.from_numpy(cache.grid[rows]).to(device).float())
    return scene, torch.from_numpy(cache.ego_history[rows]).to(device), torch.from_numpy(cache.command[rows]).to(device)


def remembered(policy: Policy, cache: SceneCache, rows: np.ndarray) -> Memory:
    """The planner's memory of some rows of a cache."""
    return policy.remember(*inputs(cache, rows, policy.scale.device))


def rows_of(cache: SceneCache, rows: np.ndarray) -> SceneCache:
    """Some rows of a cache as a cache of their own, in memory."""
    return SceneCache(
        tokens=None if cache.tokens is None else np.array(cache.tokens[rows]),
        grid=None if cache.grid is None else np.array(cache.grid[rows]),
        ego_history=np.array(cache.ego_history[rows]),
        command=np.array(cache.command[rows]),
        human=np.array(cache.human[rows]),
        valid=np.array(cache.valid[rows]),
    )


@dataclass(frozen=True, slots=True)
class StageCaches:
    """Scene caches of train and val, now and 0.5 s earlier."""

    train: SceneCache
    train_before: SceneCache
    val: SceneCache
    val_before: SceneCache


def stage_caches(policy: Policy, store_train: Store, store_val: Store, folder: Path | None) -> StageCaches:
    """Scene caches that imitation's second half and stage 3 work on; read from `folder` where they are already there."""

    def cache(store: Store, name: str, previous: bool) -> SceneCache:
        return scene_cache(policy, store, np.arange(len(store)), previous, None if folder is None else folder / name)

    return StageCaches(
        cache(store_train, "train", False),
        cache(store_train, "train_before", True),
        cache(store_val, "val", False),
        cache(store_val, "val_before", True),
    )


def ego_inputs(
    store: Store, indices: Indices, previous: bool = False
) -> tuple[Float[np.ndarray, "scenes 4 7"], Float[np.ndarray, "scenes 4"]]:
    """Ego histories and commands, no picture is read; scenes without a previous moment give the current one."""
    indices = np.asarray(indices)
    earlier = store.has_previous[indices] if previous else np.zeros(len(indices), bool)
    ego_history, command = np.zeros((len(indices), 4, 7), np.float32), np.zeros((len(indices), 4), np.float32)
    for moment in (False, True):
        rows = np.flatnonzero(earlier == moment)
        if len(rows):
            ego_history[rows] = store.histories(indices[rows], previous=moment)
            command[rows] = store.commands(indices[rows], previous=moment)
    return ego_history, command
