"""Logs -> store: every scene of a split prepared for scoring and training, in parallel, and again only when something changed."""

import hashlib
import json
import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from irlvla.data import features as feature
from irlvla.data import navsim, store
from irlvla.data.features import SensorConfig
from irlvla.data.store import Moment, Prepared, Store
from irlvla.score.prepared import prepared as prepared_scene
from irlvla.types import HISTORY, Scene

LOGS_A_SHARD = 8
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
    split: Path,
    folder: Path,
    sensors: SensorConfig = SensorConfig(),
    cities: navsim.Maps | None = None,
    processes: int = PROCESSES,
) -> Store:
    """The store of a split: as it is if nothing changed, continued if it was interrupted, built anew if it is stale.

    Args:
        logs: an OPENSCENE_DATA_ROOT.
        maps: a NUPLAN_MAPS_ROOT.
        split: one of NAVSIM's scene filter files.
        folder: where the store lies or shall lie.
        sensors: cameras and picture size.
        cities: map files read before, to be shared by several calls.
        processes: scenes are prepared by so many at once.

    Returns:
        The opened store; `failed` names scenes (and logs) that could not be prepared, and why.

    Raises:
        ValueError: an input is missing or of the wrong kind, the split is empty, or no scene at all could be prepared.
    """
    chosen = navsim.scene_filter(split)
    paths = _paths(logs, chosen)
    settings = {"logs": str(logs), "maps": str(maps), "split": str(split), "sensors": asdict(sensors)}
    key = _key(logs, maps, split, sensors, paths)
    header = store.read_header(folder)
    if header is None or header["key"] != key or header["format"] != store.FORMAT or not header["complete"]:
        tokens = _tokens(paths, chosen)
        if not tokens:
            raise ValueError(f"{split}: no scene passes the filter, the split is empty")
        cities = _all_cities(maps) if cities is None else cities
        work = _Work(
            folder=folder,
            logs=logs,
            maps=cities,
            chosen=replace(chosen, tokens=tuple(tokens), max_scenes=None),
            sensors=sensors,
            rows={token: row for row, token in enumerate(tokens)},
        )
        shards = [_Shard(number=number, paths=tuple(group)) for number, group in enumerate(_groups(paths, LOGS_A_SHARD))]
        if header is None or header["key"] != key or header["format"] != store.FORMAT:
            reason = "" if header is None else f" (the store in {folder} is stale)"
            size = store.size_of(len(tokens), sensors, _record_size(work, paths))
            print(f"{split.stem}: {len(tokens)} scenes of {len(paths)} logs, {size / 1e6:.0f} MB into {folder}{reason}", flush=True)
            store.create(folder, key, settings, tokens, len(shards), sensors)
        _fill(work, [shard for shard in shards if not store.done(folder, shard.number)], split.stem, processes)
        store.finish(folder)
    opened = Store(folder)
    if not len(opened):
        reason = next(iter(opened.failed.values()), "the split is empty")
        raise ValueError(f"{split}: none of {len(opened.failed)} scenes could be prepared; the first failed with: {reason}")
    return opened


def prepared_with_moments(now: Scene, previous: Scene | None, sensors: SensorConfig) -> Prepared:
    """All that a store keeps of one scene.

    Args:
        now: the scene.
        previous: the window one frame (0.5 s) earlier, None where the log has none.
        sensors: cameras and picture size.

    Raises:
        ValueError: a picture is missing, or the scene cannot be prepared for scoring.
    """
    scene = prepared_scene(now)
    moment = Moment(features=feature.features(now, sensors), human=feature.human_poses(now), targets=feature.targets(now, scene))
    earlier = None
    if previous is not None:
        targets = feature.targets(now, scene, frame=HISTORY - 2)
        earlier = Moment(features=feature.features(previous, sensors), human=feature.human_poses(previous), targets=targets)
    first = {camera.name: camera.path for camera in now.cameras[HISTORY - 1]} if now.cameras else {}
    return Prepared(prepared=scene, now=moment, previous=earlier, picture=first[sensors.cameras[0]] if sensors.cameras else "")


def print_failures(opened: Store) -> None:
    """Names every scene of a store that failed."""
    for token, reason in sorted(opened.failed.items()):
        print(f"failed: {token}: {reason}")


def _paths(logs: Path, chosen: navsim.SceneFilter) -> list[Path]:
    known = navsim.log_paths(logs)
    if chosen.log_names is None:
        return list(known.values())
    absent = sorted(set(chosen.log_names) - set(known))
    if absent:
        raise ValueError(f"{len(absent)} of {len(set(chosen.log_names))} logs of the split are not below {logs}, the first is {absent[0]}")
    return [known[name] for name in sorted(set(chosen.log_names))]


def _tokens(paths: Sequence[Path], chosen: navsim.SceneFilter) -> list[str]:
    """Rows of the store: the filter's tokens, or without any those of all windows, sorted."""
    if chosen.tokens is not None:
        return sorted(set(chosen.tokens))[: chosen.max_scenes]
    tokens: list[str] = []
    for path in paths:
        frames = navsim.log_frames(path)
        tokens += [str(frames[place]["token"]) for place in navsim.windows(frames, chosen)]
        if chosen.max_scenes is not None and len(tokens) >= chosen.max_scenes:
            break
    return sorted(tokens[: chosen.max_scenes])


def _groups(paths: Sequence[Path], size: int) -> Iterator[Sequence[Path]]:
    return (paths[start : start + size] for start in range(0, len(paths), size))


def _all_cities(maps: Path) -> navsim.Maps:
    """Map files that are there, read before workers fork; one that is not is missed by the scenes that need it."""
    cities = navsim.Maps(maps)
    index = maps / "nuplan-maps-v1.0.json"
    listed = json.loads(index.read_text()) if index.is_file() else {}
    for name, about in sorted(listed.items()):
        if isinstance(about, dict) and (maps / name / str(about.get("version")) / "map.gpkg").is_file():
            cities[name]
    return cities


def _record_size(work: _Work, paths: Sequence[Path]) -> int:
    """Bytes of one packed scene: the mean over the first log that can be read (which also compiles the kernels before workers fork)."""
    for path in paths:
        try:
            sizes = [len(store.packed(prepared_scene(now))[0]) for now, _ in navsim.log_moments(path, work.maps, work.chosen, work.logs)]
        except ValueError:
            continue  # the worker that comes to this log reports it
        if sizes:
            return sum(sizes) // len(sizes)
    return 0


def _fill(work: _Work, shards: Sequence[_Shard], title: str, processes: int) -> None:
    """Writes shards in forked processes, which inherit the maps and the compiled kernels."""
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_write, args=(work, shards[place::processes]), daemon=True) for place in range(processes)]
    for worker in workers:
        worker.start()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task(f"prepare {title} (shards)", total=len(shards))
        for worker in workers:
            while worker.is_alive():
                worker.join(0.3)
                bar.update(task, completed=sum(store.done(work.folder, shard.number) for shard in shards))
    codes = [worker.exitcode for worker in workers if worker.exitcode]
    if codes:
        raise ValueError(f"{work.folder}: a worker stopped with exit code {codes[0]}; what it had finished is kept")


def _write(work: _Work, shards: Sequence[_Shard]) -> None:
    for shard in shards:
        store.write_shard(work.folder, shard.number, _scenes(work, shard))


def _scenes(work: _Work, shard: _Shard) -> Iterator[tuple[int | str, Prepared | str]]:
    """Rows of a shard with their scenes, or why they failed; a log that cannot be read goes by its name."""
    for path in shard.paths:
        try:
            moments = navsim.log_moments(path, work.maps, work.chosen, work.logs)
        except ValueError as error:
            yield f"log {path.stem}", str(error)
            continue
        for now, previous in moments:
            try:
                yield work.rows[now.token], prepared_with_moments(now, previous, work.sensors)
            except ValueError as error:
                yield work.rows[now.token], str(error)


def _key(logs: Path, maps: Path, split: Path, sensors: SensorConfig, paths: Sequence[Path]) -> str:
    """Hash of everything that a store's content depends on: settings, split, sizes and times of input files, our own code."""
    digest = hashlib.sha256(json.dumps([store.FORMAT, asdict(sensors)], sort_keys=True).encode())
    digest.update(split.read_bytes())
    package = Path(__file__).resolve().parent
    for name in SOURCES:
        for source in sorted((package / name).rglob("*.py")) if (package / name).is_dir() else [package / name]:
            digest.update(source.read_bytes())
    inputs: list[Any] = []
    for path in [*paths, *sorted(maps.rglob("map.gpkg")), maps / "nuplan-maps-v1.0.json"]:
        if path.exists():
            status = path.stat()
            inputs.append((path.name, status.st_size, status.st_mtime_ns))
    for path in paths:
        for camera in sensors.cameras:
            folder = logs / "sensor_blobs" / path.parent.name / path.stem / camera
            inputs.append(folder.stat().st_mtime_ns if folder.exists() else None)
    digest.update(json.dumps(inputs).encode())
    return digest.hexdigest()
