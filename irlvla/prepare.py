"""Logs -> store: every scene of a split prepared for scoring and training, in parallel, and again only when something changed."""

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from irlvla import origin
from irlvla.data import features as feature
from irlvla.data import navsim, store
from irlvla.data.elements import elements
from irlvla.data.facts import facts
from irlvla.data.features import SensorConfig
from irlvla.data.records import packed
from irlvla.data.store import Moment, Prepared, Store
from irlvla.files import held, json_mapping
from irlvla.score.prepared import prepared as prepared_scene
from irlvla.types import HISTORY, Scene
from irlvla.workers import work_off

LOGS_A_SHARD = 8
"""At most; fewer where that would make fewer shards than `SHARDS`."""
SHARDS = 32
PROCESSES = 2
SOURCES = ("types.py", "geometry.py", "vehicle.py", "lanes.py", "data", "score")
"""Code whose change makes a store stale, below the package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shard:
    number: int
    paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What every worker needs; inherited through fork, so that maps are read once."""

    folder: Path
    logs: Path
    maps: navsim.Maps
    chosen: navsim.SceneFilter
    sensors: SensorConfig
    rows: dict[str, int]


def prepare(
    logs: Path,
    maps: Path,
    split: Path | str,
    folder: Path,
    sensors: SensorConfig = SensorConfig(),
    cities: navsim.Maps | None = None,
    processes: int = PROCESSES,
) -> Store:
    """The store of a split: as it is if nothing changed, continued if it was interrupted, built anew if it is stale.

    Args:
        logs: an OPENSCENE_DATA_ROOT.
        maps: a NUPLAN_MAPS_ROOT.
        split: one of NAVSIM's scene filter files, or a folder below navsim_logs: all its frames with 3 frames before and 8 after.
        folder: where the store lies or shall lie.
        sensors: cameras and picture size.
        cities: map files read before, to be shared by several calls.
        processes: scenes are prepared by so many at once.

    Returns:
        The opened store; `failed` names scenes (and logs) that could not be prepared, and why.

    Raises:
        ValueError: an input is missing or of the wrong kind, the split is empty, no scene at all could be prepared, or another process
            is making the store.
    """
    chosen = scene_filter_of(split)
    paths = paths_of(logs, split, chosen)
    settings = {"logs": str(logs), "maps": str(maps), "split": str(split), "sensors": asdict(sensors), "code": origin.code_hash(SOURCES)}
    key = _key(logs, maps, split, sensors, paths)
    if is_stale(store.read_header(folder), key):
        with held(folder):
            header = store.read_header(folder)
            tokens = _tokens(paths, chosen, processes)
            if not tokens:
                raise ValueError(f"{split}: no scene passes the filter, the split is empty")
            cities = all_cities(maps) if cities is None else cities
            for city in cities:
                for reason in city.drawn.lacking:
                    print(f"{reason}: moments lack these lines", flush=True)
            work = _Work(
                folder=folder,
                logs=logs,
                maps=cities,
                chosen=replace(chosen, tokens=tuple(tokens), max_scenes=None),
                sensors=sensors,
                rows={token: row for row, token in enumerate(tokens)},
            )
            shards = [_Shard(number=number, paths=tuple(group)) for number, group in enumerate(_groups(paths))]
            if header is None or header["key"] != key or header["format"] != store.FORMAT:
                reason = "" if header is None else f" (the store in {folder} is stale)"
                size = store.size_of(len(tokens), sensors, _record_size(work, paths))
                print(
                    f"{Path(split).stem}: {len(tokens)} scenes of {len(paths)} logs, {size / 1e6:.0f} MB into {folder}{reason}", flush=True
                )
                store.create(folder, key, settings, tokens, len(shards), sensors)
            _fill(work, shards, Path(split).stem, processes)
            store.finish(folder)
    opened = Store(folder)
    if not opened.annotated.all():
        bare = len(opened) - int(opened.annotated.sum())
        print(f"{Path(split).stem}: {bare} of {len(opened)} scenes have no annotations (cameras only)", flush=True)
    if not len(opened):
        reason = next(iter(opened.failed.values()), "the split is empty")
        raise ValueError(f"{split}: none of {len(opened.failed)} scenes could be prepared; the first failed with: {reason}")
    return opened


def is_stale(header: dict[str, Any] | None, key: str) -> bool:
    """Whether a store has to be made or continued."""
    return header is None or header["key"] != key or header["format"] != store.FORMAT or not header["complete"]


def scene_store(
    folder: Path, logs: Path | None = None, maps: Path | None = None, split: Path | str | None = None, processes: int = PROCESSES
) -> Store:
    """A store without pictures, all that scoring needs: built or continued from logs and maps, opened as it is without them.

    Args:
        folder: where the store lies or shall lie.
        logs: an OPENSCENE_DATA_ROOT; None if the store is there.
        maps: a NUPLAN_MAPS_ROOT; None if the store is there.
        split: see `prepare`; without it that of the store, or else test.
        processes: scenes are prepared by so many at once.

    Raises:
        ValueError: as `prepare`; the store holds a split of another name; or it was made by other code, and logs or maps are not given.
    """
    header = store.read_header(folder)
    held = None if header is None else header["settings"].get("split")
    if held is not None and not isinstance(held, str):
        raise ValueError(f"{folder}: store.json names no split")
    if held is not None and split is not None and Path(held).name != Path(split).name:
        raise ValueError(f"{folder} holds the split {held}, not {split}: keep each split in a folder of its own")
    if logs is not None and maps is not None:
        return prepare(logs, maps, split or held or "test", folder, SensorConfig(cameras=()), processes=processes)
    opened = Store(folder)
    if opened.settings.get("code") != origin.code_hash(SOURCES):
        raise ValueError(f"{folder} was prepared by another version of irlvla: pass logs and maps to prepare it again")
    return opened


def prepared_with_moments(now: Scene, previous: Scene | None, sensors: SensorConfig) -> Prepared:
    """All that a store keeps of one scene; of one without annotations pictures, cameras, ego status and the human's plan.

    Args:
        now: the scene.
        previous: the window one frame (0.5 s) earlier, None where the log has none.
        sensors: cameras and picture size.

    Raises:
        ValueError: a picture is missing, or the scene cannot be prepared for scoring.
    """
    scene = None if now.objects is None else prepared_scene(now)

    def moment(seen: Scene, frame: int) -> Moment:
        return Moment(
            features=feature.features(seen, sensors),
            human=feature.human_poses(seen),
            targets=None if scene is None else feature.targets(now, scene, frame),
            elements=None if scene is None else elements(now, frame),
            facts=None if scene is None else facts(now, scene, frame),
        )

    earlier = None if previous is None else moment(previous, HISTORY - 2)
    paths = {camera.name: camera.path for camera in now.cameras[HISTORY - 1]} if now.cameras else {}
    picture = next((paths[name] for name in sensors.cameras if name in paths and Path(paths[name]).is_file()), "")
    return Prepared(log_name=now.log_name, prepared=scene, now=moment(now, HISTORY - 1), previous=earlier, picture=picture)


def print_failures(opened: Store) -> None:
    """Names every scene of a store that failed."""
    for token, reason in sorted(opened.failed.items()):
        print(f"failed: {token}: {reason}")


def scene_filter_of(split: Path | str) -> navsim.SceneFilter:
    """The filter of a split: that of the file, or all that can be scored of a folder below navsim_logs."""
    if is_filter_file(split):
        return navsim.scene_filter(split)
    return navsim.SceneFilter(num_future_frames=navsim.FUTURE, has_route=False)


def is_filter_file(split: Path | str) -> bool:
    """Whether a split is named by a scene filter file, not by a folder below navsim_logs."""
    return str(split).endswith((".yaml", ".yml"))


def paths_of(logs: Path, split: Path | str, chosen: navsim.SceneFilter) -> list[Path]:
    """The logs of a split, sorted by name.

    Raises:
        ValueError: there are none, or one that the filter names is missing.
    """
    known = navsim.log_paths(logs, None if is_filter_file(split) else str(split))
    if chosen.log_names is None:
        return list(known.values())
    absent = sorted(set(chosen.log_names) - set(known))
    if absent:
        raise ValueError(f"{len(absent)} of {len(set(chosen.log_names))} logs of the split are not below {logs}, the first is {absent[0]}")
    return [known[name] for name in sorted(set(chosen.log_names))]


def _tokens(paths: Sequence[Path], chosen: navsim.SceneFilter, processes: int) -> list[str]:
    """Rows of the store: the filter's tokens, or without any those of all windows, sorted."""
    if chosen.tokens is not None:
        return sorted(set(chosen.tokens))[: chosen.max_scenes]
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / f"{number}.json" for number in range(len(paths))]

        def look(number: int) -> None:
            try:
                frames = navsim.log_frames(paths[number])
            except ValueError:
                frames = []  # the worker that prepares this log reports it
            places[number].write_text(json.dumps([str(frames[place]["token"]) for place in navsim.windows(frames, chosen)]))

        lost = work_off(range(len(paths)), look, processes, "look for scenes (logs)")
        if lost:
            raise ValueError(f"{paths[min(lost)]}: the process that read it {lost[min(lost)]}")
        tokens = [token for place in places for token in json.loads(place.read_text())]
    return sorted(set(tokens[: chosen.max_scenes]))


def _groups(paths: Sequence[Path]) -> list[Sequence[Path]]:
    size = max(1, min(LOGS_A_SHARD, len(paths) // SHARDS))
    return [paths[start : start + size] for start in range(0, len(paths), size)]


def all_cities(maps: Path) -> navsim.Maps:
    """All maps that can be read, read before workers fork; one that cannot is reported by the scenes that need it."""
    cities = navsim.Maps(maps)
    try:
        names = sorted(json_mapping(maps / "nuplan-maps-v1.0.json"))
    except ValueError:
        return cities
    for name in names:
        try:
            cities[name]
        except ValueError:
            continue
    return cities


def _record_size(work: _Work, paths: Sequence[Path]) -> int:
    """Bytes of one packed scene: the mean over the first log that can be read (which also compiles the kernels before workers fork)."""
    for path in paths:
        try:
            sizes = [len(packed(prepared_scene(now))[0]) for now, _ in navsim.log_moments(path, work.maps, work.chosen, work.logs)]
        except ValueError:
            continue  # the worker that comes to this log reports it
        if sizes:
            return sum(sizes) // len(sizes)
    return 0


def _fill(work: _Work, shards: Sequence[_Shard], title: str, processes: int) -> None:
    """Writes what is missing of the shards in processes that inherit the maps and the compiled kernels."""
    missing = [shard for shard in shards if not store.done(work.folder, shard.number)]

    def write(shard: _Shard) -> None:
        store.write_shard(work.folder, shard.number, _scenes(work, shard))

    lost = work_off(missing, write, processes, f"prepare {title} (shards)", already=len(shards) - len(missing))
    if lost:
        place, how = min(lost.items())
        names = ", ".join(path.name for path in missing[place].paths)
        raise ValueError(f"{work.folder}: the process that prepared {names} {how}; what was finished is kept")


def _scenes(work: _Work, shard: _Shard) -> Iterator[tuple[int | str, Prepared | str]]:
    """Rows of a shard with their scenes, or why they failed; a log that cannot be read goes by its name."""
    for path in shard.paths:
        try:
            moments = navsim.scenes_or_reasons(path, work.maps, work.chosen, work.logs, previous=True)
        except ValueError as error:
            yield f"log {path.stem}", str(error)
            continue
        for token, moment in moments:
            try:
                yield work.rows[token], moment if isinstance(moment, str) else prepared_with_moments(*moment, work.sensors)
            except ValueError as error:
                yield work.rows[token], str(error)


def _key(logs: Path, maps: Path, split: Path | str, sensors: SensorConfig, paths: Sequence[Path]) -> str:
    """Hash of everything that a store's content depends on: settings, split, sizes and times of input files, our own code."""
    digest = hashlib.sha256(json.dumps([store.FORMAT, asdict(sensors), len(_groups(paths))], sort_keys=True).encode())
    digest.update(Path(split).read_bytes() if is_filter_file(split) else str(split).encode())
    digest.update(origin.code_hash(SOURCES).encode())
    inputs: list[Any] = stamps(maps, paths)
    for path in paths:
        for camera in sensors.cameras:
            folder = logs / "sensor_blobs" / path.parent.name / path.stem / camera
            inputs.append(folder.stat().st_mtime_ns if folder.exists() else None)
    digest.update(json.dumps(inputs).encode())
    return digest.hexdigest()


def stamps(maps: Path, paths: Sequence[Path]) -> list[tuple[str, int, int]]:
    """Names, sizes and times of change of logs and map files, by which changed inputs are noticed."""
    files = [*paths, *sorted(maps.rglob("map.gpkg")), maps / "nuplan-maps-v1.0.json"]
    return [(path.name, status.st_size, status.st_mtime_ns) for path in files if path.exists() for status in [path.stat()]]
