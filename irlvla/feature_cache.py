"""What a frozen encoder's backbone makes of a store's pictures, computed once and kept beside the store.

A folder `features-<key>` in the store's has one half-precision array a map, (scenes, moments, views, width, rows, columns), and `done.npy`, which
says what is in them. Maps are computed when they are first asked for, so that an interrupted job goes on where it was. The key is that of
the backbone's weights and settings and of the store.
"""

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from irlvla.data.arrays import new_array
from irlvla.data.store import Indices, Store
from irlvla.model.backbones import PretrainedEncoder
from irlvla.model.policy import Policy
from irlvla.model.vision import Sight, on_device, sight_of
from irlvla.types import Features

Look = Callable[[Indices, bool], Sight]
"""Numbers of scenes, and whether their previous moment is meant, to what there is to see."""
BATCH = 16
"""Moments at a time; after each, what is done is written down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureCache:
    """Maps of a store's moments; rows of `done` are scenes, columns the current and the previous moment."""

    maps: tuple[np.ndarray, ...]
    done: np.ndarray


def feature_key(encoder: PretrainedEncoder, store: Store) -> str:
    """A hash of all that a backbone's maps depend on: its name, its weights, the store."""
    digest = hashlib.sha256(f"{encoder.config.encoder} {store.key} {encoder.mean.tolist()} {encoder.std.tolist()}".encode())
    for name, tensor in encoder.backbone.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def opened_cache(encoder: PretrainedEncoder, store: Store) -> FeatureCache:
    """The cache of an encoder's maps beside a store, laid out anew if there is none."""
    folder = store.folder / f"features-{feature_key(encoder, store)[:16]}"
    if not folder.exists():
        # Whole or not at all, and whichever process was first.
        new = folder.with_name(f".{folder.name}-{os.getpid()}")
        new.mkdir()
        with torch.inference_mode():
            shapes = [tuple(values.shape[1:]) for values in encoder.raw(on_device(sight_of(store.features([0])), encoder.mean.device))]
        for index, shape in enumerate(shapes):
            new_array(new / f"map{index}.npy", (len(store), 2, *shape), np.float16).flush()
        np.save(new / "done.npy", np.zeros((len(store), 2), np.bool_))
        try:
            new.rename(folder)
        except OSError:
            shutil.rmtree(new)
            if not folder.exists():
                raise
    maps = sorted(folder.glob("map*.npy"))
    return FeatureCache(
        maps=tuple(np.load(path, mmap_mode="r+") for path in maps),
        done=np.load(folder / "done.npy", mmap_mode="r+"),
    )


def fill(cache: FeatureCache, encoder: PretrainedEncoder, store: Store, indices: Indices, previous: bool = False) -> None:
    """Computes what is missing of some scenes' maps, with a progress bar where that takes a while."""
    missing = np.unique(np.asarray(indices, dtype=np.int64))
    missing = missing[~cache.done[missing, int(previous)]]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=len(missing) <= BATCH) as bar:
        task = bar.add_task(f"features of {encoder.config.encoder}", total=len(missing))
        for start in range(0, len(missing), BATCH):
            rows = missing[start : start + BATCH]
            with torch.inference_mode():
                raw = encoder.raw(on_device(sight_of(store.features(rows, previous)), encoder.mean.device))
            for values, kept in zip(raw, cache.maps, strict=True):
                kept[rows, int(previous)] = values.half().cpu().numpy()
                kept.flush()
            cache.done[rows, int(previous)] = True
            cache.done.flush()
            bar.update(task, advance=len(rows))


def sights(policy: Policy, store: Store) -> Look:
    """What a policy has to see of a store's moments: their pictures, or the maps of a frozen backbone that are kept beside the store.

    Returns:
        A function of scenes and whether their previous moment is meant. With kept maps pictures are left out (0 pixels high).
    """
    encoder = None if policy.perception is None else policy.perception.encoder
    if not isinstance(encoder, PretrainedEncoder) or not encoder.config.frozen:
        return lambda indices, previous=False: sight_of(store.features(indices, previous))
    cache = opened_cache(encoder, store)

    def kept(indices: Indices, previous: bool = False) -> Sight:
        fill(cache, encoder, store, indices, previous)
        chosen, rig = np.asarray(indices, dtype=np.int64), store.rig(indices, previous)
        images = np.zeros((*rig.valid.shape, 0, 0, 3), np.uint8)
        bare = Features(images=images, rig=rig, ego_history=np.zeros((len(chosen), 4, 7)), command=np.zeros((len(chosen), 4)))
        return replace(sight_of(bare), raw=tuple(torch.from_numpy(kept[chosen, int(previous)]).float() for kept in cache.maps))

    return kept
