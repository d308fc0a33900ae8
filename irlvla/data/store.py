"""Scenes prepared once for fast training: memory-mapped arrays of two moments, and packed prepared scenes.

A store is a folder. `store.json` says what it was made from (its key) and which scenes it holds; the `.npy` files have one row
a scene; `prepared-*.bin` hold one record a scene. It is written in shards of rows by `irlvla.prepare`, each marked when done,
and is opened only when all of them are.
"""

import json
import shutil
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from numpy.lib.format import open_memmap

from irlvla.data.arrays import array_header
from irlvla.data.features import GRID_CELLS, TARGET_NAMES, SensorConfig, view_names
from irlvla.files import json_mapping, short
from irlvla.types import HISTORY, POSES, Features, Polygons, PreparedScene

Indices = Sequence[int] | Int[np.ndarray, "indices"]

FORMAT = 2
"""Raised when files of an older store can no longer be read."""

_FIELDS = {
    "time_us": (np.int64, 0),
    "ego_state": (np.float64, 1),
    "past_time_us": (np.int64, 1),
    "past_states": (np.float64, 2),
    "previous_time_us": (np.int64, 0),
    "previous_state": (np.float64, 1),
    "object_types": (np.int64, 1),
    "object_first_speed": (np.float64, 1),
    "object_boxes": (np.float64, 3),
    "object_valid": (np.bool_, 2),
    "red_polygons.vertices": (np.float64, 2),
    "red_polygons.ring_start": (np.int64, 1),
    "red_polygons.polygon_start": (np.int64, 1),
    "red_valid": (np.bool_, 2),
    "map_polygons.vertices": (np.float64, 2),
    "map_polygons.ring_start": (np.int64, 1),
    "map_polygons.polygon_start": (np.int64, 1),
    "map_layers": (np.int64, 1),
    "map_on_route": (np.bool_, 1),
    "centerline": (np.float64, 2),
    "reference_poses": (np.float64, 2),
    "human_poses": (np.float64, 2),
    "reference_progress": (np.float64, 0),
    "reference_multiplier": (np.float64, 0),
    "human_zero": (np.bool_, 1),
}
"""Arrays of a PreparedScene in the order of a record, with their type and number of axes."""

_HEADER = {
    "format": int, "key": str, "complete": bool, "settings": dict, "shards": int, "failed": dict, "tokens": list, "scenes": dict,
}  # fmt: skip
_SHAPE_LENGTH = sum(axes for _, axes in _FIELDS.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What a scene's current or previous moment gives a learner; no targets without annotations."""

    features: Features
    human: Float[np.ndarray, "8 3"]
    targets: UInt8[np.ndarray, "4 32 32"] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """All that a store keeps of one scene. `picture` is the path of its first camera's picture, empty without cameras."""

    log_name: str
    prepared: PreparedScene | None
    """None without annotations."""
    now: Moment
    previous: Moment | None
    picture: str


class Store:
    """A complete store, opened for reading; scenes are numbered in the order of `tokens`."""

    def __init__(self, folder: Path | str) -> None:
        """Opens the store in `folder`.

        Raises:
            ValueError: the folder is no store, is half written, or was written in another format.
        """
        self.folder = Path(folder)
        header = read_header(self.folder)
        if header is None:
            raise ValueError(f"{self.folder} is no store: store.json is missing or damaged")
        if header["format"] != FORMAT:
            raise ValueError(f"{self.folder} was written in format {header['format']}, this version reads {FORMAT}: prepare it again")
        if not header["complete"]:
            raise ValueError(f"{self.folder} is half written: prepare it again, what is done is kept")
        # The folder, not the class, holds the state: an opened store never changes.
        self.key: str = header["key"]
        self.settings: dict[str, Any] = header["settings"]
        self.failed: dict[str, str] = header["failed"]
        rows = np.array([row for row, token in enumerate(header["tokens"]) if token not in self.failed], dtype=np.int64)
        self.tokens: tuple[str, ...] = tuple(header["tokens"][row] for row in rows)
        about = [_about(self.folder, header["scenes"], token) for token in self.tokens]
        self.log_names: tuple[str, ...] = tuple(scene["log_name"] for scene in about)
        self.pictures: tuple[str, ...] = tuple(scene["picture"] for scene in about)
        self._map_names = tuple(scene["map_name"] for scene in about)
        self.annotated: Bool[np.ndarray, "scenes"] = np.array([scene.get("annotated", True) for scene in about], dtype=bool)
        self._rows = rows
        shapes = _shapes(len(header["tokens"]), 0, SensorConfig())
        self._arrays = {name: _opened(self.folder / f"{name}.npy", shape, kind) for name, (shape, kind) in shapes.items()}
        if self._arrays["images"].shape != self._arrays["previous_images"].shape:
            raise ValueError(f"{self.folder}: images.npy and previous_images.npy differ in shape")
        self.has_previous: Bool[np.ndarray, "scenes"] = np.array(self._arrays["has_previous"].view(np.uint8))[rows] != 0

    def __len__(self) -> int:
        return len(self.tokens)

    def features(self, indices: Indices, previous: bool = False) -> Features:
        """What a policy may see in some scenes, with a leading batch axis.

        Args:
            indices: numbers of scenes.
            previous: the moment 0.5 s earlier instead of the current one.

        Raises:
            ValueError: a scene has no previous moment.
        """
        rows, moment = self._rows_of(indices, previous)
        images = self._arrays["previous_images" if previous else "images"][rows]
        try:
            return Features(
                images=images, ego_history=self._arrays["ego_history"][rows, moment], command=self._arrays["command"][rows, moment]
            )
        except ValueError as error:
            raise ValueError(f"{self.folder} is damaged, prepare it again: {error}") from error

    def histories(self, indices: Indices, previous: bool = False) -> Float[np.ndarray, "batch 4 7"]:
        """Ego histories alone, without touching the pictures.

        Raises:
            ValueError: a scene has no previous moment, or a number is not finite.
        """
        rows, moment = self._rows_of(indices, previous)
        values = self._arrays["ego_history"][rows, moment]
        if not np.isfinite(values).all():
            raise ValueError(f"{self.folder} is damaged, prepare it again: ego_history.npy holds a number that is not finite")
        return values

    def commands(self, indices: Indices, previous: bool = False) -> Float[np.ndarray, "batch 4"]:
        """Driving commands alone, one-hot, without touching the pictures."""
        rows, moment = self._rows_of(indices, previous)
        return self._arrays["command"][rows, moment]

    def human(self, indices: Indices, previous: bool = False) -> Float[np.ndarray, "batch 8 3"]:
        """Logged futures in the ego frame of their own moment."""
        rows, moment = self._rows_of(indices, previous)
        return self._arrays["human"][rows, moment]

    def targets(self, indices: Indices, previous: bool = False) -> UInt8[np.ndarray, "batch 4 32 32"]:
        """Bird's-eye grids of 0 and 1, see `irlvla.data.features.targets`.

        Raises:
            ValueError: a scene has no annotations, or no previous moment.
        """
        self._check_annotated(indices)
        rows, moment = self._rows_of(indices, previous)
        return self._arrays["targets"][rows, moment]

    def prepared(self, index: int) -> PreparedScene:
        """One scene ready to score, in arrays of its own.

        Raises:
            ValueError: the scene has no annotations, or its record is not what was written.
        """
        self._check_annotated([index])
        row, token = self._rows[index], self.tokens[index]
        shard, start, end, check = self._arrays["record"][row].tolist()
        shape = np.array(self._arrays["record_shape"][row])
        path = self.folder / f"prepared-{shard:04d}.bin"
        is_inside = 0 <= start <= end and path.is_file() and end <= path.stat().st_size
        # Read, not mapped: the pages of a map would stay in the process's memory, scene after scene.
        record = np.fromfile(path, dtype=np.uint8, offset=start, count=end - start) if is_inside else np.zeros(0, np.uint8)
        if _check(record, shape) != check:
            raise ValueError(f"scene {token}: {path} or record.npy is missing or damaged, prepare the store again")
        return _unpacked(record, shape, token, self.log_names[index], self._map_names[index])

    def _check_annotated(self, indices: Indices) -> None:
        bare = [index for index in np.asarray(indices, dtype=np.int64) if not self.annotated[index]]
        if bare:
            name = f"scene {self.tokens[bare[0]]} of log {self.log_names[bare[0]]}"
            raise ValueError(f"{name} has no annotations (cameras only): boxes, traffic lights, route and map are missing")

    def _rows_of(self, indices: Indices, previous: bool) -> tuple[np.ndarray, int]:
        indices = np.asarray(indices, dtype=np.int64)
        if previous and not self.has_previous[indices].all():
            lacking = indices[~self.has_previous[indices]][0]
            raise ValueError(f"scene {self.tokens[lacking]} has no previous moment: its log starts too late")
        return self._rows[indices], int(previous)


def read_header(folder: Path | str) -> dict[str, Any] | None:
    """What `store.json` says, or None where there is no readable one."""
    path = Path(folder) / "store.json"
    if not path.exists():
        return None
    try:
        header = json_mapping(path)
    except ValueError:
        return None
    is_whole = all(isinstance(header.get(name), kind) for name, kind in _HEADER.items()) and 0 <= header["shards"] <= 100_000
    strings = [*header["tokens"], *header["failed"].values(), *header["scenes"]] if is_whole else [None]
    return header if all(isinstance(value, str) for value in strings) else None


def _about(folder: Path, scenes: dict[str, Any], token: str) -> dict[str, Any]:
    """Log, map and picture of a scene that did not fail; `annotated` is False if it has no annotations, else not there."""
    about = scenes.get(token)
    is_whole = isinstance(about, dict) and all(isinstance(about.get(name), str) for name in ("log_name", "map_name", "picture"))
    if not is_whole or not isinstance(about.get("annotated", True), bool):
        raise ValueError(f"{folder}: store.json says nothing of scene {short(token)}")
    return about


def _opened(path: Path, shape: tuple[int, ...], kind: type) -> np.ndarray:
    """A memory map of an array that has to have a type and shape (of pictures only the number and the colours)."""
    try:
        with path.open("rb") as file:
            header = array_header(file)
        size = path.stat().st_size - header.start
        is_right = header.shape == shape or (len(shape) == 5 == len(header.shape) and header.shape[::4] == shape[::4])
        if header.dtype != kind or not is_right or header.order != "C" or header.size != size:
            raise ValueError(f"it has the shape {header.shape} of {header.dtype} in {size} bytes, not {shape} of {np.dtype(kind)}")
        if not size:
            return np.zeros(header.shape, kind)
        return np.memmap(path, dtype=kind, mode="r", offset=header.start, shape=header.shape)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be used: {error}") from error


def _check(record: np.ndarray | bytes, shape: np.ndarray) -> int:
    """A sum by which a changed record is known."""
    return zlib.crc32(shape.tobytes(), zlib.crc32(record))


def create(folder: Path, key: str, settings: dict[str, Any], tokens: Sequence[str], shards: int, sensors: SensorConfig) -> None:
    """Lays out an empty store of the right size; whatever store was in the folder is removed. Killed meanwhile, it can be done again.

    Raises:
        ValueError: the folder holds something that is not a store.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / "store.json").exists():
        raise ValueError(f"{folder} is not empty and no store: refusing to overwrite it")
    place = folder.resolve()
    new, old = (place.with_name(f".{place.name}.{word}") for word in ("new", "old"))
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    new.mkdir(parents=True)
    header = {"format": FORMAT, "key": key, "complete": False, "settings": settings, "shards": shards, "failed": {}}
    header |= {"tokens": list(tokens), "scenes": {}}
    _write_json(new / "store.json", header)
    for name, (shape, kind) in _shapes(len(tokens), len(view_names(sensors)), sensors).items():
        open_memmap(new / f"{name}.npy", mode="w+", dtype=kind, shape=shape).flush()
    if place.exists():
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def size_of(scenes: int, sensors: SensorConfig, record: int) -> int:
    """Bytes that a store of so many scenes takes, given one scene's packed size."""
    shapes = _shapes(scenes, len(view_names(sensors)), sensors).values()
    return scenes * record + sum(int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in shapes)


def done(folder: Path, shard: int) -> bool:
    """Whether a shard was written to its end."""
    return (folder / f"shard-{shard:04d}.json").exists()


def write_shard(folder: Path, shard: int, scenes: Iterable[tuple[int | str, Prepared | str]]) -> None:
    """Writes some rows, one scene at a time, and marks the shard as done.

    Args:
        folder: a store laid out by `create`.
        shard: its number.
        scenes: row of the store and its scene, or what failed (a row, or the name of something larger) and why.
    """
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r+") for name in _shapes(0, 0, SensorConfig())}
    failed, written, position = {}, {}, 0
    with (folder / f"prepared-{shard:04d}.bin").open("wb") as stream:
        for row, scene in scenes:
            if isinstance(scene, str):
                failed[row] = scene
                continue
            written[row] = {"log_name": scene.log_name, "map_name": "", "picture": scene.picture}
            if scene.prepared is None:
                written[row]["annotated"] = False
            else:
                record, shape = packed(scene.prepared)
                stream.write(record)
                arrays["record"][row] = shard, position, position + len(record), _check(record, shape)
                arrays["record_shape"][row] = shape
                position += len(record)
                written[row]["map_name"] = scene.prepared.map_name
            arrays["has_previous"][row] = scene.previous is not None
            for index, moment in enumerate((scene.now, scene.previous)):
                if moment is None:
                    continue
                arrays["previous_images" if index else "images"][row] = moment.features.images
                arrays["ego_history"][row, index] = moment.features.ego_history
                arrays["command"][row, index] = moment.features.command
                arrays["human"][row, index] = moment.human
                if moment.targets is not None:
                    arrays["targets"][row, index] = moment.targets
    for array in arrays.values():
        array.flush()
    _write_json(folder / f"shard-{shard:04d}.json", {"failed": failed, "scenes": written})


def finish(folder: Path) -> None:
    """Declares a store complete whose shards are all done: gathers what was written and what failed.

    Raises:
        ValueError: a shard is missing.
    """
    header = read_header(folder)
    if header is None:
        raise ValueError(f"{folder} is no store: store.json is missing")
    failed = dict.fromkeys(header["tokens"], "the token is in none of the logs")
    scenes = {}
    for shard in range(header["shards"]):
        if not done(folder, shard):
            raise ValueError(f"{folder}: shard {shard} of {header['shards']} is missing")
        values = json_mapping(folder / f"shard-{shard:04d}.json")
        failed |= {header["tokens"][int(row)] if row.isdigit() else row: reason for row, reason in values["failed"].items()}
        scenes |= {header["tokens"][int(row)]: about for row, about in values["scenes"].items()}
    failed = {token: reason for token, reason in failed.items() if token not in scenes}
    _write_json(folder / "store.json", header | {"failed": failed, "scenes": scenes, "complete": True})


def packed(scene: PreparedScene) -> tuple[bytes, np.ndarray]:
    """A prepared scene's record (arrays one after the other, each from a multiple of 8 bytes on) and all their sizes."""
    pieces, shape = [], []
    for name, (kind, axes) in _FIELDS.items():
        values = scene
        for part in name.split("."):
            values = getattr(values, part)
        values = np.ascontiguousarray(values, dtype=kind).reshape(() if axes == 0 else np.shape(values))
        piece = values.tobytes()
        pieces += [piece, b"\0" * (-len(piece) % 8)]
        shape += values.shape
    return b"".join(pieces), np.array(shape, dtype=np.int64)


def _unpacked(record: np.ndarray, shape: np.ndarray, token: str, log_name: str, map_name: str) -> PreparedScene:
    values: dict[str, Any] = {}
    polygons: dict[str, dict[str, np.ndarray]] = {}
    position = axis = 0
    sizes = shape.tolist()
    for name, (kind, axes) in _FIELDS.items():
        dimensions = sizes[axis : axis + axes]
        axis += axes
        length = int(np.prod(dimensions)) * np.dtype(kind).itemsize
        array = record[position : position + length].view(kind).reshape(dimensions)
        position += length + (-length % 8)
        whole, _, part = name.partition(".")
        if part:
            polygons.setdefault(whole, {})[part] = array
        else:
            values[name] = array if axes else array.item()
    values |= {name: Polygons(**parts) for name, parts in polygons.items()}
    return PreparedScene(token=token, log_name=log_name, map_name=map_name, **values)


def _shapes(scenes: int, views: int, sensors: SensorConfig) -> dict[str, tuple[tuple[int, ...], type]]:
    images = (scenes, views, sensors.height, sensors.width, 3)
    return {
        "images": (images, np.uint8),
        "previous_images": (images, np.uint8),
        "ego_history": ((scenes, 2, HISTORY, 7), np.float64),
        "command": ((scenes, 2, 4), np.float64),
        "human": ((scenes, 2, POSES, 3), np.float64),
        "targets": ((scenes, 2, len(TARGET_NAMES), GRID_CELLS, GRID_CELLS), np.uint8),
        "has_previous": ((scenes,), np.bool_),
        "record": ((scenes, 4), np.int64),
        "record_shape": ((scenes, _SHAPE_LENGTH), np.int64),
    }


def _write_json(path: Path, values: dict[str, Any]) -> None:
    beside = path.with_name(f".{path.name}")
    beside.write_text(json.dumps(values))
    beside.rename(path)
