"""A file of trajectories -> the table of their scores: over processes, resumable, from logs and maps or from a store."""

import hashlib
import json
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from irlvla import origin
from irlvla.data.metric_cache import metric_cache_paths
from irlvla.data.navsim import FUTURE, Maps, SceneFilter, log_paths, scenes_of_tokens, scenes_or_reasons
from irlvla.data.store import Store
from irlvla.definitions import EPDMS, Traffic, check_traffic, human_filter
from irlvla.metric_caches import metric_cache_scene
from irlvla.prepare import SOURCES, all_cities, is_filter_file, scene_filter_of, scene_store, stamps
from irlvla.score.drivers import with_reactive_traffic
from irlvla.score.epdms import sub_scores
from irlvla.score.prepared import prepared
from irlvla.score_parts import COLUMNS, folder_of, part_done, parts_folder, read_parts, write_part, write_table
from irlvla.score_summary import summary, write_summary
from irlvla.trajectory_file import opened, tokens_in, tokens_of
from irlvla.types import PreparedScene, Scene
from irlvla.workers import work_off

__all__ = ["COLUMNS", "prepared_scenes", "score_split", "tokens_of"]

CODE = (*SOURCES, "definitions.py", "metric_caches.py", "score_parts.py", "score_table.py", "trajectory_file.py")
"""Code whose change makes finished parts of a table stale."""
SCENES_A_PART = 64
BYTES_A_PART = 8_000_000
"""Scenes of a store, and bytes of their trajectories, that are scored as one part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """What is scored in one go: a log, some scenes of a store, or some metric caches."""

    number: int
    log: Path | None = None
    indices: tuple[int, ...] = ()
    caches: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inputs:
    """All parts of a table, where their scenes come from, and what is known to fail beforehand."""

    parts: tuple[_Part, ...]
    tokens: Mapping[str, int]
    failures: Mapping[str, str]
    absent: str
    stamp: Any
    about: Mapping[str, Any]
    logs: Path | None = None
    maps: Maps | None = None
    store: Store | None = None


def prepared_scenes(
    logs: Path | None, maps: Path | None, split: str | Path | None, tokens: Sequence[str] | None = None, store: Path | None = None
) -> list[PreparedScene]:
    """The scenes of the tokens (without tokens: of the whole split), ready to score; see `irlvla.load_scenes`."""
    if store is None:
        if logs is None or maps is None:
            raise ValueError("scenes come from logs and maps, or from a store: pass both, or store")
        return [_with_all_traffic(scene) for scene in scenes_of_tokens(logs, maps, "test" if split is None else split, tokens)]
    found = scene_store(store, logs, maps, split, processes=origin.cores())
    if tokens is None:
        return [found.prepared(index) for index in range(len(found))]
    place = {token: index for index, token in enumerate(found.tokens)}
    absent = [token for token in tokens if token not in place]
    if absent:
        reason = found.failed.get(absent[0], f"it is not in the store {store}")
        raise ValueError(f"{len(absent)} of {len(tokens)} scenes cannot be loaded, the first is {absent[0]}: {reason}")
    return [found.prepared(place[token]) for token in tokens]


def _with_all_traffic(scene: Scene) -> PreparedScene:
    return with_reactive_traffic(scene, prepared(scene))


def score_split(
    logs: str | Path | None,
    maps: str | Path | None,
    split: str | Path | None,
    trajectories: str | Path,
    out: str | Path,
    processes: int | None = None,
    definition: str = EPDMS,
    store: str | Path | None = None,
    metric_cache: str | Path | None = None,
    traffic: Traffic = "log_replay",
    cluster: str | None = None,
) -> dict[str, Any]:
    """Scores all plans of a file, and writes the table and, beside it, its summary as JSON.

    While it works, finished parts lie in the folder `<out>.parts`; killed and called again, it goes on from there.

    Args:
        logs: An OPENSCENE_DATA_ROOT; None if a store is there.
        maps: A NUPLAN_MAPS_ROOT; None if a store is there.
        split: A folder below navsim_logs, or the path of a scene filter file; test if None.
        trajectories: npz with <token>_poses (N, 8, 3), <token>_poses_10hz (M, 40, 3) and optionally the plans made one frame
            earlier, <token>_prev_poses and <token>_prev_poses_10hz; rear axle, ego frame, m and rad, t = 0 excluded.
        out: The CSV to write, with `COLUMNS`: sub-scores and EPDMS in [0, 1], ADE and FDE in m; rows in the order of the file.
        processes: How many work at once; as many as there are cores, or CPUs in the cluster, if None.
        definition: A key of `irlvla.definitions.DEFINITIONS`.
        store: A folder of prepared scenes, made there if it is not there or stale.
        metric_cache: A folder of the devkit's metric caches: scenes come from there; maps count for traffic that reacts only.
        traffic: How other road users move, a key of `irlvla.definitions.TRAFFIC`; stores have none that reacts.
        cluster: Address of a Ray cluster that scores, or "local", see `irlvla.cluster`; a store is still made by this machine's processes.

    Returns:
        What the summary file holds, see `irlvla.score_summary.summary`. Its `failed` says what could not be scored (scene
        token or log -> reason); scenes that failed have no rows.

    Raises:
        ValueError: The definition or the traffic is unknown, or neither store nor caches hold that traffic; the trajectories, the
            split, the maps, the store as a whole or the cluster cannot be used; or another process is writing the same table.
    """
    start = time.perf_counter()
    human_filter(definition)
    check_traffic(traffic)
    if traffic != "log_replay" and store is not None:
        raise ValueError(f"{store}: stores hold no traffic that reacts; score from logs and maps")
    if traffic != "log_replay" and metric_cache is not None and maps is None:
        raise ValueError(f"{metric_cache}: metric caches hold no lanes; for traffic that reacts pass maps as well")
    trajectories, out = Path(trajectories), Path(out)
    if out.suffix == ".json":
        raise ValueError(f"{out}: the table is a CSV, its summary is the JSON file beside it")
    here = origin.cores() if processes is None else processes
    with opened(trajectories) as archive:
        tokens = tokens_in(archive)
        if not tokens:
            raise ValueError(f"trajectories {trajectories}: no array is called <token>_poses or <token>_poses_10hz")
        if metric_cache is not None:
            if split is not None or store is not None:
                raise ValueError("scenes come from metric caches, or from a split or store: not from both")
            inputs = _from_caches(Path(metric_cache), tokens, None if traffic == "log_replay" or maps is None else Path(maps))
        elif store is None:
            if logs is None or maps is None:
                raise ValueError("scenes come from logs and maps, or from a store: pass both, or store")
            inputs = _from_logs(Path(logs), Path(maps), "test" if split is None else split, tokens)
        else:
            inputs = _from_store(
                scene_store(Path(store), None if logs is None else Path(logs), None if maps is None else Path(maps), split, here),
                tokens,
            )
        ready = time.perf_counter()
        with parts_folder(out, _key(inputs, trajectories, definition, traffic)) as folder:
            missing = [part for part in inputs.parts if not part_done(folder, part.number)]
            if len(missing) < len(inputs.parts):
                print(f"{folder}: {len(inputs.parts) - len(missing)} of {len(inputs.parts)} parts were finished before", flush=True)
            _warm(inputs, missing, traffic)
            plans = archive if cluster is None else trajectories
            work = partial(_score, inputs=inputs, folder=folder, plans=plans, definition=definition, traffic=traffic)
            lost = work_off(missing, work, processes, "score", already=len(inputs.parts) - len(missing), cluster=cluster)
            lost = {place: how for place, how in lost.items() if not part_done(folder, missing[place].number)}
            scenes, failures = read_parts(folder, len(inputs.parts))
            for place, how in lost.items():
                failures |= dict.fromkeys(_names(missing[place], inputs), f"the process that scored it {how}")
            failures = {**inputs.failures, **failures}
            failures |= {token: inputs.absent for token in tokens if token not in scenes and token not in failures}
            scored = [scenes[token] for token in tokens if token in scenes]
            found = summary(definition, scored, failures) | {"traffic": traffic, "trajectories_file": str(trajectories)}
            found |= {**inputs.about, "processes": here if cluster is None else processes, "cluster": cluster}
            found |= {"seconds": time.perf_counter() - start, "seconds_scenes": ready - start}
            write_table(out, folder, scored)
            write_summary(out.with_suffix(".json"), folder, found)
        if not lost:
            shutil.rmtree(folder_of(out))
    return found


def _from_logs(logs: Path, maps: Path, split: str | Path, tokens: Mapping[str, int]) -> _Inputs:
    if not maps.is_dir():
        raise ValueError(f"maps: {maps} is no folder")
    chosen = scene_filter_of(split)
    known = log_paths(logs, None if is_filter_file(split) else str(split))
    names = set(known) if chosen.log_names is None else set(chosen.log_names)
    paths = [path for name, path in known.items() if name in names]
    if not paths:
        raise ValueError(f"split {split}: none of its {len(names)} logs is below {logs / 'navsim_logs'}")
    absent = f"in no readable log of {split} with 3 frames before and {FUTURE} after it"
    if len(paths) < len(names):
        absent += f"; {len(names) - len(paths)} of {len(names)} logs of the split are not below {logs / 'navsim_logs'}"
    return _Inputs(
        parts=tuple(_Part(number=number, log=path) for number, path in enumerate(paths)),
        tokens=tokens,
        failures={},
        absent=absent,
        stamp=[str(split), stamps(maps, paths)],
        about={
            "split": str(split),
            "scenes_without_trajectories": None if chosen.tokens is None else len(set(chosen.tokens) - set(tokens)),
            "store": None,
            "data": str(logs),
            "maps": str(maps),
        },
        logs=logs,
        maps=all_cities(maps) if len(paths) > 1 else Maps(maps),
    )


def _from_store(store: Store, tokens: Mapping[str, int]) -> _Inputs:
    wanted = [index for index, token in enumerate(store.tokens) if token in tokens]
    # Scenes of one log lie side by side in the store's files.
    wanted.sort(key=lambda index: store.log_names[index])
    parts, some, size = [], list[int](), 0
    for index in wanted:
        some.append(index)
        size += tokens[store.tokens[index]]
        if len(some) == SCENES_A_PART or size > BYTES_A_PART or index == wanted[-1]:
            parts.append(_Part(number=len(parts), indices=tuple(some)))
            some, size = [], 0
    return _Inputs(
        parts=tuple(parts),
        tokens=tokens,
        failures={token: reason for token, reason in store.failed.items() if token in tokens},
        absent=f"not in the store {store.folder}, which holds the split {store.settings.get('split')}",
        stamp=store.key,
        about={
            "split": store.settings.get("split"),
            "scenes_without_trajectories": len(store) - len(wanted),
            "store": str(store.folder),
            "data": store.settings.get("logs"),
            "maps": store.settings.get("maps"),
        },
        store=store,
    )


def _from_caches(folder: Path, tokens: Mapping[str, int], maps: Path | None) -> _Inputs:
    known = metric_cache_paths(folder)
    paths = [path for token, path in known.items() if token in tokens]
    firsts = range(0, len(paths), SCENES_A_PART)
    return _Inputs(
        parts=tuple(_Part(number=number, caches=tuple(paths[first : first + SCENES_A_PART])) for number, first in enumerate(firsts)),
        tokens=tokens,
        failures={},
        absent=f"no metric cache of it is below {folder}",
        stamp=[[path.parent.name for path in paths], stamps(folder if maps is None else maps, paths)],
        about={
            "split": None,
            "scenes_without_trajectories": len(known) - len(paths),
            "store": None,
            "data": str(folder),
            "maps": None if maps is None else str(maps),
        },
        maps=None if maps is None else all_cities(maps),
    )


def _key(inputs: _Inputs, trajectories: Path, definition: str, traffic: str) -> str:
    """Hash of everything that finished parts depend on."""
    digest = hashlib.sha256(json.dumps([definition, traffic, inputs.stamp, origin.code_hash(CODE)]).encode())
    with trajectories.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


def _scenes(part: _Part, inputs: _Inputs, traffic: Traffic) -> Iterator[tuple[str, PreparedScene | str]]:
    """Scenes of a part ready to score, or why they cannot be; a log that cannot be read goes by its path."""
    if part.caches:
        for path in part.caches:
            yield path.parent.name, _or_reason(partial(metric_cache_scene, maps=inputs.maps), path)
        return
    if inputs.store is not None:
        for index in part.indices:
            yield inputs.store.tokens[index], _or_reason(inputs.store.prepared, index)
        return
    chosen = SceneFilter(num_future_frames=FUTURE, has_route=False, tokens=tuple(inputs.tokens))
    try:
        scenes = scenes_or_reasons(part.log, inputs.maps, chosen, inputs.logs)
    except ValueError as error:
        yield str(part.log), str(error)
        return
    for token, moment in scenes:
        yield (
            token,
            moment if isinstance(moment, str) else _or_reason(prepared if traffic == "log_replay" else _with_all_traffic, moment[0]),
        )


def _or_reason(source: Callable[[Any], PreparedScene], of: Any) -> PreparedScene | str:
    try:
        return source(of)
    except ValueError as error:
        return str(error)


def _names(part: _Part, inputs: _Inputs) -> list[str]:
    """By what names a part is listed that failed as a whole."""
    if part.caches:
        return [path.parent.name for path in part.caches]
    return [str(part.log)] if inputs.store is None else [inputs.store.tokens[index] for index in part.indices]


def _score(part: _Part, inputs: _Inputs, folder: Path, plans: zipfile.ZipFile | Path, definition: str, traffic: Traffic) -> None:
    with opened(plans) if isinstance(plans, Path) else nullcontext(plans) as archive:
        write_part(folder, part.number, _scenes(part, inputs, traffic), archive, definition, traffic)


def _warm(inputs: _Inputs, parts: Sequence[_Part], traffic: Traffic) -> None:
    """Loads or compiles all kernels by one scene, so that worker processes inherit them."""
    for part in parts:
        for _, scene in _scenes(part, inputs, traffic):
            if not isinstance(scene, str):
                sub_scores(scene, scene.human_poses[None], scene.human_poses[None])
                return
