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

from irlvla.data.arrays import mapped_array, new_array
from irlvla.data.elements import no_elements
from irlvla.data.facts import FACT_NAMES, Facts, facts_row
from irlvla.data.features import GRID_CELLS, TARGET_NAMES, SensorConfig, view_names
from irlvla.data.records import SHAPE_LENGTH, packed, unpacked
from irlvla.files import json_mapping, named, replaced, short
from irlvla.types import ELEMENTS, HISTORY, LINE_POINTS, POSES, Elements, Features, PreparedScene, Rig

Indices = Sequence[int] | Int[np.ndarray, "indices"]

FORMAT = 4
"""Raised when files of an older store can no longer be read."""

_RIG_FIELDS = ("intrinsics", "distortion", "ego_from_camera", "valid")
_ELEMENT_FIELDS = ("boxes", "classes", "lines", "kinds")
_HEADER = {
    "format": int, "key": str, "complete": bool, "settings": dict, "shards": int, "failed": dict, "tokens": list, "scenes": dict,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What a scene's current or previous moment gives a learner; no targets, elements and facts without annotations."""

    features: Features
    human: Float[np.ndarray, "8 3"]
    targets: UInt8[np.ndarray, "4 32 32"] | None
    elements: Elements | None
    facts: Facts | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """All that a store keeps of one scene. `picture` is the path of its first camera's picture that is there, or empty."""

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
        # The pictures say how many views of what size there are, all other shapes follow.
        images = mapped_array(self.folder / "images.npy", (len(header["tokens"]), None, None, None, 3), np.uint8)
        _, views, height, width, _ = images.shape
        shapes = _shapes(len(header["tokens"]), views, height, width)
        self._arrays = {name: mapped_array(self.folder / f"{name}.npy", shape, kind) for name, (shape, kind) in shapes.items()}
        self.has_previous: Bool[np.ndarray, "scenes"] = np.array(self._arrays["has_previous"].view(np.uint8))[rows] != 0

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process maps the files itself.
        return Store, (self.folder,)

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
                images=images,
                rig=self._rig(rows, moment),
                ego_history=self._arrays["ego_history"][rows, moment],
                command=self._arrays["command"][rows, moment],
            )
        except ValueError as error:
            raise ValueError(f"{self.folder} is damaged, prepare it again: {error}") from error

    def rig(self, indices: Indices, previous: bool = False) -> Rig:
        """The cameras behind the pictures alone, without touching these.

        Raises:
            ValueError: a scene has no previous moment, or a number is not finite.
        """
        rows, moment = self._rows_of(indices, previous)
        try:
            return self._rig(rows, moment)
        except ValueError as error:
            raise ValueError(f"{self.folder} is damaged, prepare it again: {error}") from error

    def _rig(self, rows: np.ndarray, moment: int) -> Rig:
        values = {name: self._arrays[name][rows, moment] for name in _RIG_FIELDS}
        return Rig(**values | {"valid": values["valid"].view(np.uint8) != 0})

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

    def elements(self, indices: Indices, previous: bool = False) -> Elements:
        """Boxes and lines around the ego, see `irlvla.data.elements.elements`.

        Raises:
            ValueError: a scene has no annotations, or no previous moment.
        """
        self._check_annotated(indices)
        rows, moment = self._rows_of(indices, previous)
        try:
            return Elements(**{name: self._arrays[name][rows, moment] for name in _ELEMENT_FIELDS})
        except ValueError as error:
            raise ValueError(f"{self.folder} is damaged, prepare it again: {error}") from error

    def facts(self, indices: Indices, previous: bool = False) -> Int[np.ndarray, "batch facts"]:
        """What the log says in words, columns as in `irlvla.data.facts.FACT_NAMES`; -1 for scenes without annotations.

        Raises:
            ValueError: a scene has no previous moment.
        """
        rows, moment = self._rows_of(indices, previous)
        values = self._arrays["facts"][rows, moment]
        if not ((values >= -1) & (values < [len(names) for names in FACT_NAMES.values()])).all():
            raise ValueError(f"{self.folder} is damaged, prepare it again: facts.npy holds a value that has no name")
        return values

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
        return unpacked(record, shape, token, self.log_names[index], self._map_names[index])

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
    for name, (shape, kind) in _shapes(len(tokens), len(view_names(sensors)), sensors.height, sensors.width).items():
        new_array(new / f"{name}.npy", shape, kind).flush()
    if place.exists():
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def size_of(scenes: int, sensors: SensorConfig, record: int) -> int:
    """Bytes that a store of so many scenes takes, given one scene's packed size."""
    shapes = _shapes(scenes, len(view_names(sensors)), sensors.height, sensors.width).values()
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
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r+") for name in _shapes(0, 0, 0, 0)}
    failed, written, position = {}, {}, 0
    path = folder / f"prepared-{shard:04d}.bin"
    with named(path), path.open("wb") as stream:
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
                for name in _RIG_FIELDS:
                    arrays[name][row, index] = getattr(moment.features.rig, name)
                arrays["ego_history"][row, index] = moment.features.ego_history
                arrays["command"][row, index] = moment.features.command
                arrays["human"][row, index] = moment.human
                if moment.targets is not None:
                    arrays["targets"][row, index] = moment.targets
                for name in _ELEMENT_FIELDS:
                    arrays[name][row, index] = getattr(no_elements() if moment.elements is None else moment.elements, name)
                arrays["facts"][row, index] = facts_row(moment.facts)
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


def _shapes(scenes: int, views: int, height: int, width: int) -> dict[str, tuple[tuple[int, ...], type]]:
    images = (scenes, views, height, width, 3)
    return {
        "images": (images, np.uint8),
        "previous_images": (images, np.uint8),
        "intrinsics": ((scenes, 2, views, 4), np.float32),
        "distortion": ((scenes, 2, views, 5), np.float32),
        "ego_from_camera": ((scenes, 2, views, 3, 4), np.float32),
        "valid": ((scenes, 2, views), np.bool_),
        "ego_history": ((scenes, 2, HISTORY, 7), np.float64),
        "command": ((scenes, 2, 4), np.float64),
        "human": ((scenes, 2, POSES, 3), np.float64),
        "targets": ((scenes, 2, len(TARGET_NAMES), GRID_CELLS, GRID_CELLS), np.uint8),
        "boxes": ((scenes, 2, ELEMENTS, 7), np.float32),
        "classes": ((scenes, 2, ELEMENTS), np.int8),
        "lines": ((scenes, 2, ELEMENTS, LINE_POINTS, 2), np.float32),
        "kinds": ((scenes, 2, ELEMENTS), np.int8),
        "facts": ((scenes, 2, len(FACT_NAMES)), np.int8),
        "has_previous": ((scenes,), np.bool_),
        "record": ((scenes, 4), np.int64),
        "record_shape": ((scenes, SHAPE_LENGTH), np.int64),
    }


def _write_json(path: Path, values: dict[str, Any]) -> None:
    with replaced(path) as beside:
        beside.write_text(json.dumps(values))
