"""Are the logs, maps and pictures of a data set's splits all there, and do the splits keep apart?"""

import multiprocessing
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from pathlib import Path

from rich.console import Console
from rich.progress import track

from irlvla.data import maps as map_files
from irlvla.data import navsim
from irlvla.data.frames import Frame, frame
from irlvla.machine import Finding
from irlvla.types import HISTORY

CITIES = ("sg-one-north", "us-ma-boston", "us-nv-las-vegas-strip", "us-pa-pittsburgh-hazelwood")
"""nuPlan's; without a split to tell which are needed, all of them are."""
ALL_LOGS = ""
"""Stands for the split of someone who names none: every window of every log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What to look for, and how closely."""

    logs: Path | None
    """An OPENSCENE_DATA_ROOT."""
    maps: Path | None
    """A NUPLAN_MAPS_ROOT."""
    splits: tuple[str, ...] = ()
    """Scene filter files, or names of folders below navsim_logs."""
    cameras: tuple[str, ...] = ("CAM_F0", "CAM_L0", "CAM_R0")
    """Cameras whose pictures must be there."""
    picture_frames: int = 2
    """Of how many frames of a scene, the current one and those before it: this package's policies use two, one for EC."""
    quick: bool = False
    """Without opening a log or a map."""
    processes: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.picture_frames <= HISTORY:
            raise ValueError(f"pictures of {self.picture_frames} frames are asked for; a scene has 1 to {HISTORY} up to now")
        if self.processes < 1:
            raise ValueError(f"{self.processes} processes are asked for; at least 1 is needed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one log gives one split."""

    scenes: tuple[str, ...] = ()
    """Tokens of its windows that pass the filter."""
    unusable: tuple[str, ...] = ()
    """Tokens of the filter that are frames of the log but no window: too near its ends, or without a route."""
    routes: frozenset[tuple[str, str]] = frozenset()
    """(city, roadblock) on the scenes' routes."""
    cities: frozenset[str] = frozenset()
    bare: int = 0
    """Scenes without annotations."""
    pictures: int = 0
    """Pictures that its scenes need."""
    unnamed: int = 0
    """Of them those that the log does not name."""
    absent: tuple[str, ...] = ()
    """Paths of those that are not on disk, or empty there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What opening a log (or a city's map) told."""

    name: str
    complaint: str = ""
    shares: tuple[Share, ...] = ()
    roadblocks: frozenset[str] = frozenset()


@lru_cache(maxsize=4)
def chosen_scenes(splits: tuple[str, ...], logs: Path | None) -> tuple[navsim.SceneFilter | str, ...]:
    """The filter of each split, or what is wrong with it; kept, so that forked processes need not read the files again."""
    found: list[navsim.SceneFilter | str] = []
    for split in splits:
        try:
            if split == ALL_LOGS:
                found.append(navsim.SceneFilter())
            elif split.endswith((".yaml", ".yml")) or logs is None:
                found.append(navsim.scene_filter(split))
            else:
                found.append(navsim.SceneFilter(log_names=tuple(navsim.log_paths(logs, split))))
        except (ValueError, OSError) as error:
            found.append(str(error))
    return tuple(found)


def inventory(look: Look) -> list[Finding]:
    """Everything that can be said about the files, split by split."""
    title = {split: _title(split, look.splits) for split in look.splits}
    chosen = dict(zip(look.splits, chosen_scenes(look.splits, look.logs), strict=True))
    found = [Finding(name=title[split], level="BAD", seen=value) for split, value in chosen.items() if isinstance(value, str)]
    filters = {split: value for split, value in chosen.items() if not isinstance(value, str)}
    paths: dict[str, Path] = {}
    folders: dict[str, set[str]] = {}
    if look.logs is not None:
        try:
            paths = navsim.log_paths(look.logs)
            folders = _folders(look.logs)
            found += _log_findings(look.logs, paths, folders)
        except (ValueError, OSError) as error:
            found.append(Finding(name=f"logs {look.logs}", level="BAD", seen=str(error)))
    if paths:
        found += [_expected_logs(title[split], value, paths) for split, value in filters.items()]
    readings: list[Reading] = []
    read = dict(filters) if look.splits else {ALL_LOGS: navsim.SceneFilter()}
    look = replace(look, splits=tuple(read))
    if not look.quick:
        wanted = sorted({name for value in read.values() for name in value.log_names or paths} & set(paths))
        readings = _readings(look, [paths[name] for name in wanted])
        for place, (split, value) in enumerate(read.items()):
            if paths:
                found += _split_findings(title.get(split, "all logs"), place, value, readings, look, is_strict=split != ALL_LOGS)
    found += _overlaps(title, filters, readings, folders)
    if look.maps is not None:
        found += _map_findings(look, readings, has_split=bool(filters))
    return found


def _title(split: str, splits: Sequence[str]) -> str:
    stems = [Path(other).stem for other in splits]
    return f"split {Path(split).stem if stems.count(Path(split).stem) == 1 else split}"


def _folders(logs: Path) -> dict[str, set[str]]:
    """Folder below navsim_logs -> names of its logs."""
    root = logs / "navsim_logs"
    return {folder.name: {path.stem for path in folder.glob("*.pkl")} for folder in sorted(root.iterdir()) if folder.is_dir()}


def _log_findings(logs: Path, paths: dict[str, Path], folders: dict[str, set[str]]) -> list[Finding]:
    empty = tuple(str(path) for path in paths.values() if path.stat().st_size == 0)
    told = ", ".join(f"{len(names)} in {folder}" for folder, names in folders.items())
    seen = f"{len(paths)} logs ({told})" + (f", {len(empty)} of them empty files" if empty else "")
    found = [Finding(name=f"logs {logs}", level="BAD" if empty else "ok", seen=seen, missing=empty)]
    homes = {name: [folder for folder, names in folders.items() if name in names] for name in paths}
    twice = {name: own for name, own in homes.items() if len(own) > 1}
    mixed = any(any("train" in folder for folder in own) and any("test" in folder for folder in own) for own in twice.values())
    if twice:
        seen = f"{len(twice)} log names lie in more than one folder" + (", some for training and for testing" if mixed else "")
        missing = tuple(f"{name}: {', '.join(own)}" for name, own in twice.items())
        found.append(Finding(name="logs in several folders", level="BAD" if mixed else "note", seen=seen, missing=missing))
    return found


def _expected_logs(title: str, chosen: navsim.SceneFilter, paths: dict[str, Path]) -> Finding:
    names = sorted(set(chosen.log_names or paths))
    missing = tuple(name for name in names if name not in paths)
    return _counted(
        f"{title}: logs", len(names), missing, "logs are there" if chosen.log_names else "logs are there (the filter names none)"
    )


def _counted(name: str, expected: int, missing: Iterable[str], what: str, unlisted: int = 0, note: bool = False) -> Finding:
    missing = tuple(missing)
    found = expected - len(missing) - unlisted
    level = "ok" if found == expected else "note" if note else "BAD"
    return Finding(name=name, level=level, seen=f"{found} of {expected} {what}", expected=expected, found=found, missing=missing)


def _readings(look: Look, paths: Sequence[Path]) -> list[Reading]:
    """What all logs and all maps that are there tell, read by several processes."""
    chosen_scenes(look.splits, look.logs)
    jobs = [(_log_reading, (look, path)) for path in paths]
    if look.maps is not None:
        jobs += [(_map_reading, (look.maps, city)) for city in CITIES if not _map_complaint(look.maps, city)]
    title, bar = "opening logs and maps", {"total": len(jobs), "transient": True, "console": Console(stderr=True)}
    if look.processes == 1 or len(jobs) < 2:
        return list(track((work(*arguments) for work, arguments in jobs), title, **bar))
    with ProcessPoolExecutor(look.processes, mp_context=multiprocessing.get_context("fork")) as pool:
        waiting = [pool.submit(work, *arguments) for work, arguments in jobs]
        try:
            return [future.result() for future in track(as_completed(waiting), title, **bar)]
        except BrokenProcessPool as error:
            raise ValueError("a process that opened logs was killed (memory?); with one process it is seen at which log") from error


def _map_reading(maps: Path, city: str) -> Reading:
    try:
        return Reading(name=f"map {city}", roadblocks=frozenset(map_files.city_map(maps, city).roadblocks))
    except (ValueError, OSError) as error:
        return Reading(name=f"map {city}", complaint=str(error))


def _log_reading(look: Look, path: Path) -> Reading:
    """All that a log gives, read as the reader does it: one frame that it refuses makes the log unreadable."""
    try:
        values = navsim.log_frames(path)
        chosen = [one for one in chosen_scenes(look.splits, look.logs) if not isinstance(one, str)]
        known: dict[int, Frame] = {}
        return Reading(name=path.stem, shares=tuple(_share(look, path, values, known, one) for one in chosen))
    except ValueError as error:
        return Reading(name=path.stem, complaint=str(error))


def _share(look: Look, path: Path, values: list, known: dict[int, Frame], chosen: navsim.SceneFilter) -> Share:
    if chosen.log_names is not None and path.stem not in chosen.log_names:
        return Share()
    tokens = [str(frame["token"]) for frame in values]
    places = navsim.windows(values, chosen)
    blobs = Path(look.logs) / "sensor_blobs" / path.parent.name
    for place in sorted({place + step for place in places for step in range(1 - HISTORY, chosen.num_future_frames + 1)} - set(known)):
        try:
            known[place] = frame(values[place], blobs)
        except ValueError as error:
            raise ValueError(f"log {path}: frame {place} ({tokens[place]}) cannot be read: {error}") from error
    named, unnamed = set(), 0
    for place in sorted({place - back for place in places for back in range(look.picture_frames)}):
        pictures = {camera.name: camera.path for camera in known[place].cameras}
        named |= {pictures[camera] for camera in look.cameras if camera in pictures}
        unnamed += len(set(look.cameras) - set(pictures))
    scenes = tuple(tokens[place] for place in places)
    return Share(
        scenes=scenes,
        unusable=tuple(sorted((set(chosen.tokens or ()) & set(tokens)) - set(scenes))),
        routes=frozenset((known[place].map_name, block) for place in places for block in known[place].roadblock_ids),
        cities=frozenset(known[place].map_name for place in places if known[place].objects is not None),
        bare=sum(known[place].objects is None for place in places),
        pictures=len(named) + unnamed,
        unnamed=unnamed,
        absent=tuple(sorted(picture for picture in named if not _is_there(Path(picture)))),
    )


def _is_there(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def _split_findings(
    title: str, place: int, chosen: navsim.SceneFilter, readings: Sequence[Reading], look: Look, is_strict: bool
) -> list[Finding]:
    mine = [one for one in readings if not one.name.startswith("map ") and (chosen.log_names is None or one.name in chosen.log_names)]
    broken = tuple(one.complaint for one in mine if one.complaint)
    found = [_counted(f"{title}: opened logs", len(mine), sorted(broken), "logs can be read")]
    shares = [one.shares[place] for one in mine if one.shares]
    scenes = {token for share in shares for token in share.scenes}
    if chosen.tokens is None:
        seen = f"{len(scenes)} windows pass the filter"
        found.append(Finding(name=f"{title}: scenes", level="ok" if scenes else "BAD", seen=seen, found=len(scenes)))
    else:
        tokens = set(chosen.tokens)
        unusable = {token for share in shares for token in share.unusable} - scenes
        rows = sorted(tokens - scenes - unusable)
        rows += [f"{token} (in a log, but too near its ends or without a route)" for token in sorted(unusable)]
        found.append(_counted(f"{title}: scenes", len(tokens), rows, "scenes are in the logs"))
        if len(tokens) < len(chosen.tokens):
            seen = f"{len(chosen.tokens) - len(tokens)} tokens stand twice in the file"
            found.append(Finding(name=f"{title}: doublets", level="note", seen=seen))
    bare = sum(share.bare for share in shares)
    if bare:
        seen = f"{bare} of {len(scenes)} scenes have none (cameras only): fit for training, not for scoring"
        found.append(Finding(name=f"{title}: annotations", level="note", seen=seen))
    if look.cameras and scenes:
        found.append(_picture_finding(title, shares, len(scenes), look, is_strict))
    return found


def _picture_finding(title: str, shares: Sequence[Share], scenes: int, look: Look, is_strict: bool) -> Finding:
    expected, unnamed = sum(share.pictures for share in shares), sum(share.unnamed for share in shares)
    absent = sorted(path for share in shares for path in share.absent)
    frames = "the current frame" if look.picture_frames == 1 else f"{look.picture_frames} frames"
    what = f"pictures are there ({scenes} scenes, {frames} of each, {len(look.cameras)} cameras; shared ones count once)"
    if unnamed == expected:
        return Finding(
            name=f"{title}: pictures", level="note", seen="the logs name none: fit for scoring, not for training", expected=expected
        )
    if unnamed:
        what += f"; the logs do not name {unnamed}"
    if len(absent) + unnamed == expected and is_strict:
        what += "; scoring needs none: --cameras none"
    return _counted(f"{title}: pictures", expected, absent, what, unlisted=unnamed, note=not is_strict)


def _overlaps(
    title: dict[str, str], filters: dict[str, navsim.SceneFilter], readings: Sequence[Reading], folders: dict[str, set[str]]
) -> list[Finding]:
    """Splits against each other, and training splits against folders of test logs."""
    logs: dict[str, set[str]] = {}
    tokens: dict[str, set[str]] = {}
    for place, (split, chosen) in enumerate(filters.items()):
        used = {one.name: one.shares[place] for one in readings if one.shares and one.shares[place].scenes}
        logs[split] = set(chosen.log_names or ()) or set(used)
        tokens[split] = set(chosen.tokens or ()) or {token for share in used.values() for token in share.scenes}
    found = []
    for first, second in combinations(filters, 2):
        name = f"{title[first]} and {title[second]}"
        if not (logs[first] and logs[second]):
            found.append(Finding(name=f"{name}: logs", level="note", seen="a filter names no logs: compared only when logs are opened"))
        else:
            found.append(_apart(f"{name}: logs", logs[first] & logs[second], "logs"))
        found.append(_apart(f"{name}: scenes", tokens[first] & tokens[second], "scenes"))
    training, testing = ([split for split in filters if word in Path(split).stem] for word in ("train", "test"))
    testing = [split for split in testing if split not in training]
    for split in training:
        others = set().union(*(logs[other] for other in testing), *(names for folder, names in folders.items() if "test" in folder))
        if others:
            found.append(_apart(f"{title[split]} and test logs (splits and folders called test)", logs[split] & others, "logs"))
    return found


def _apart(name: str, shared: set[str], what: str) -> Finding:
    seen = f"share {len(shared)} {what}" if shared else f"share no {what}"
    return Finding(name=name, level="BAD" if shared else "ok", seen=seen, expected=0, found=len(shared), missing=tuple(sorted(shared)))


def _map_complaint(maps: Path, city: str) -> str:
    try:
        map_files.map_path(maps, city)
    except (ValueError, OSError) as error:
        return str(error).removeprefix(f"map {city}: ")
    return ""


def _map_findings(look: Look, readings: Sequence[Reading], has_split: bool) -> list[Finding]:
    """Each city's map; those that no scene of the splits needs may be missing."""
    shares = [share for one in readings for share in one.shares]
    needed = set().union(*(share.cities for share in shares)) if has_split else set()
    found, opened = [], {one.name: one for one in readings}
    for city in sorted({*CITIES, *needed}):
        complaint, reading = _map_complaint(look.maps, city), opened.get(f"map {city}")
        complaint = complaint or (reading.complaint if reading else "")
        idle = bool(needed) and city not in needed
        seen = complaint or str(map_files.map_path(look.maps, city))
        level = "ok" if not complaint else "note" if idle else "BAD"
        if reading and not complaint:
            seen += f", {len(reading.roadblocks)} roadblocks"
        found.append(Finding(name=f"map {city}", level=level, seen=seen + (" (no scene of the splits needs it)" if idle else "")))
    routes = set().union(*(share.routes for share in shares)) if shares else set()
    known = {(name.removeprefix("map "), block) for name, one in opened.items() for block in one.roadblocks}
    readable = {city for city, _ in known}
    routes = {(city, block) for city, block in routes if city in readable}
    if routes:
        strange = tuple(f"{city}: roadblock {block}" for city, block in sorted(routes - known))
        found.append(_counted("routes", len(routes), strange, "roadblocks of the routes are in the maps", note=not has_split))
    return found
