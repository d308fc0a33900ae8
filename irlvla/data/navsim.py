"""NAVSIM's data on disk -> scenes: OpenScene log pickles, scene filters, calibrations.

Source: autonomousvision/navsim at 0a380a9, navsim/common/dataloader.py (windows) and navsim/common/dataclasses.py (frames).
"""

import glob
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from irlvla.data.frames import Frame, frame, is_camera_only, route, text
from irlvla.data.maps import Maps
from irlvla.data.pickles import BAD_PICKLE, unpickled
from irlvla.files import short
from irlvla.types import HISTORY, Scene

FUTURE = 8
"""Future frames that scoring needs: 4 s at 2 Hz."""
LONGEST_GAP = 60_000_000
"""Between two frames of a scene's history, us: states are interpolated in between."""

_FRAME_KEYS = (
    "token", "timestamp", "log_name", "map_location", "roadblock_ids", "traffic_lights", "ego2global_translation",
    "ego2global_rotation", "ego_dynamic_state", "driving_command", "anns",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneFilter:
    """Which windows of which logs are scenes. Keys are those of NAVSIM's scene filter files; None means no restriction."""

    num_history_frames: int = HISTORY
    num_future_frames: int = 10
    frame_interval: int | None = 1
    has_route: bool = True
    max_scenes: int | None = None
    log_names: tuple[str, ...] | None = None
    tokens: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("num_history_frames", "num_future_frames", "frame_interval", "max_scenes"):
            value = getattr(self, name)
            if not (value is None and name in ("frame_interval", "max_scenes")) and (isinstance(value, bool) or not isinstance(value, int)):
                raise ValueError(f"{name} is {short(value)}, no whole number")
        if not isinstance(self.has_route, bool):
            raise ValueError(f"has_route is {short(self.has_route)}, neither true nor false")
        if self.num_history_frames != HISTORY:
            raise ValueError(f"num_history_frames is {short(self.num_history_frames)}; only {HISTORY} is supported")
        if self.num_future_frames < FUTURE:
            raise ValueError(f"num_future_frames is {short(self.num_future_frames)}; scoring needs at least {FUTURE}")
        if self.frame_interval is not None and self.frame_interval < 1:
            raise ValueError(f"frame_interval is {short(self.frame_interval)}; it must be at least 1")


class _Loader(yaml.SafeLoader):
    """YAML without `<<`, which can be nested to write a file's mappings out for ever."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        merged = [key for key, _ in node.value if key.tag == "tag:yaml.org,2002:merge"]
        if merged:
            raise yaml.constructor.ConstructorError(None, None, "merged mappings (<<) are not read", merged[0].start_mark)


_BAD_YAML = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, ArithmeticError, RecursionError)
"""What damaged yaml can raise: dates, numbers and tags are converted without checks."""


def log_frames(path: str | Path) -> list[dict[str, Any]]:
    """The frames of a log as the pickle holds them; only NumPy arrays and plain Python types can come out.

    Raises:
        ValueError: The file is missing, truncated, no list of frames, names a class that is not on the list of allowed ones, or two of
            its frames have one token.
    """
    path = Path(path)
    try:
        frames = unpickled(path.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"log {path} does not exist") from error
    except OSError as error:
        raise ValueError(f"log {path} cannot be opened: {error}") from error
    except BAD_PICKLE as error:
        raise ValueError(f"log {path}: not a readable pickle of frames ({type(error).__name__}: {str(error)[:200]})") from error
    if not isinstance(frames, list) or not frames:
        raise ValueError(f"log {path}: holds no list of frames")
    places: dict[str, int] = {}
    for place, values in enumerate(frames):
        missing = [key for key in _FRAME_KEYS if key not in values] if isinstance(values, dict) else list(_FRAME_KEYS)
        if missing:
            raise ValueError(f"log {path}: frame {place} lacks {', '.join(missing)}")
        try:
            token, _ = text(values, "token"), route(values)
        except ValueError as error:
            raise ValueError(f"log {path}: frame {place} cannot be read: {error}") from error
        if token in places:
            raise ValueError(f"log {path}: the frames {places[token]} and {place} have one token, {token}")
        places[token] = place
    return frames


def scene_filter(path: str | Path) -> SceneFilter:
    """Read one of NAVSIM's scene filter files (hydra's `_target_` and keys for synthetic scenes are passed over).

    Raises:
        ValueError: The file is missing, not yaml, or holds a token that yaml took for a number (quotes are missing).
    """
    return filter_in(filter_values(path), path)


def filter_values(path: str | Path) -> dict[Any, Any]:
    """What a yaml file of NAVSIM's configuration holds; the same errors as `scene_filter`."""
    path = Path(path)
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506
    except FileNotFoundError as error:
        raise ValueError(f"scene filter {path} does not exist") from error
    except OSError as error:
        raise ValueError(f"scene filter {path} cannot be read: {error}") from error
    except _BAD_YAML as error:
        raise ValueError(f"scene filter {path}: not yaml ({str(error)[:200]})") from error
    if not isinstance(values, dict):
        raise ValueError(f"scene filter {path}: holds no mapping")
    return values


def filter_in(values: dict[Any, Any], path: str | Path) -> SceneFilter:
    """The scene filter in a mapping that was read from a file; the same errors as `scene_filter`."""
    chosen: dict[str, Any] = {}
    for key in ("num_history_frames", "num_future_frames", "frame_interval", "has_route", "max_scenes"):
        if values.get(key) is not None or (key in values and key in ("frame_interval", "max_scenes")):
            chosen[key] = values[key]
    for key in ("log_names", "tokens"):
        if values.get(key) is not None:
            chosen[key] = texts(values[key], key, path)
    try:
        return SceneFilter(**chosen)
    except (ValueError, TypeError) as error:
        raise ValueError(f"scene filter {path}: {error}") from error


def texts(value: Any, key: str, path: str | Path) -> tuple[str, ...]:
    """The tokens or names in a list of a scene filter file.

    Raises:
        ValueError: It is no list, or holds a token that yaml took for a number.
    """
    if not isinstance(value, list):
        raise ValueError(f"scene filter {path}: {key} is no list")
    wrong = [one for one in value if not isinstance(one, str)]
    if wrong:
        raise ValueError(f"scene filter {path}: {key} holds {short(wrong[0])}, which yaml read as a number: put it in quotes")
    return tuple(value)


def log_paths(logs: str | Path, split: str | None = None) -> dict[str, Path]:
    """Log name -> pickle below navsim_logs of an OPENSCENE_DATA_ROOT, sorted by name.

    Args:
        logs: The OPENSCENE_DATA_ROOT.
        split: Only this folder below navsim_logs; else all of them (a log of the same name may lie in several, such as mini and
            trainval; the last folder by name counts).

    Raises:
        ValueError: No navsim_logs folder there, or no pickle in it.
    """
    root = Path(logs) / "navsim_logs"
    paths = {path.stem: path for path in sorted(root.glob(f"{glob.escape(split) if split else '*'}/*.pkl"))}
    if not paths and split is not None and root.is_dir():
        raise ValueError(f"split {split!r}: no logs in {root / split}")
    if not paths:
        raise ValueError(f"{logs} is no OPENSCENE_DATA_ROOT with logs: nothing matches {root}/*/*.pkl")
    return dict(sorted(paths.items()))


def _chosen_paths(logs: str | Path, split: str | None, log_names: Iterable[str] | None) -> list[Path]:
    """Pickles of the named logs (all without names), of one folder if `split` is given."""
    known = log_paths(logs, split)
    if log_names is None:
        return list(known.values())
    absent = sorted(set(log_names) - set(known))
    if absent:
        raise ValueError(f"{len(absent)} logs of the filter are not below {logs}, the first is {absent[0]}")
    return [known[name] for name in sorted(set(log_names))]


def windows(frames: list[dict[str, Any]], chosen: SceneFilter) -> list[int]:
    """Places of the current frames of the windows that pass the filter, in a log's frames.

    Frames without annotations have no route: they pass a filter that asks for one if it names their tokens.
    """
    length = chosen.num_history_frames + chosen.num_future_frames
    wanted = None if chosen.tokens is None else set(chosen.tokens)
    places = []
    for start in range(0, len(frames) - length + 1, chosen.frame_interval or length):
        place = start + HISTORY - 1
        if chosen.has_route and not route(frames[place]) and (wanted is None or not is_camera_only(frames[place])):
            continue
        if wanted is None or str(frames[place]["token"]) in wanted:
            places.append(place)
    return places


def log_scenes(path: str | Path, maps: Maps, chosen: SceneFilter, logs: str | Path) -> list[Scene]:
    """The scenes of one log that pass the filter, in order of time.

    Args:
        path: The log's pickle, below `logs`.
        maps: Map files, read as needed.
        chosen: The filter.
        logs: The OPENSCENE_DATA_ROOT, for the paths of pictures.
    """
    path = Path(path)
    values = log_frames(path)
    blobs = Path(logs) / "sensor_blobs" / path.parent.name
    known: dict[int, Frame] = {}
    result = []
    for place in windows(values, chosen):
        first = place - HISTORY + 1
        result.append(_scene(path, values, known, blobs, first, chosen.num_future_frames, maps))
    return result


def _scene(path: Path, values: list, known: dict[int, Frame], blobs: Path, first: int, future: int, maps: Maps) -> Scene:
    places = range(first, min(first + HISTORY + future, len(values)))
    for place in places:
        if place not in known:
            try:
                known[place] = frame(values[place], blobs)
            except ValueError as error:
                raise ValueError(f"log {path}: frame {place} ({values[place]['token']}) cannot be read: {error}") from error
    frames = [known[place] for place in places]
    for place, before, after in zip(places, frames, frames[1:]):
        if before.log_name != after.log_name:
            raise ValueError(f"log {path}: frame {place + 1} ({after.token}) is of log {after.log_name!r}, not {before.log_name!r}")
        if place - first >= HISTORY - 1:
            continue  # frames to come count as 0.5 s apart, whatever their stamps say
        if before.time_us >= after.time_us:
            raise ValueError(f"log {path}: frame {place + 1} ({after.token}) is at {after.time_us} us, not after {before.time_us} us")
        if after.time_us - before.time_us > LONGEST_GAP:
            raise ValueError(
                f"log {path}: frame {place + 1} ({after.token}) is {(after.time_us - before.time_us) / 1e6} s after the one before"
            )
    now = frames[HISTORY - 1]
    # One frame of the window without annotations, and the scene has none: it could not be prepared anyway.
    objects = tuple(frame.objects for frame in frames if frame.objects is not None)
    lights = tuple(frame.traffic_lights for frame in frames if frame.traffic_lights is not None)
    is_annotated = len(objects) == len(frames)
    return Scene(
        token=now.token,
        log_name=now.log_name,
        map_name=now.map_name if is_annotated else "",
        frame_tokens=tuple(frame.token for frame in frames),
        time_us=np.array([frame.time_us for frame in frames], dtype=np.int64),
        ego_poses=np.stack([frame.ego_pose for frame in frames]),
        ego_velocities=np.stack([frame.velocity for frame in frames]),
        ego_accelerations=np.stack([frame.acceleration for frame in frames]),
        commands=np.stack([frame.command for frame in frames]),
        roadblock_ids=now.roadblock_ids if is_annotated else (),
        objects=objects if is_annotated else None,
        traffic_lights=lights if is_annotated else None,
        cameras=tuple(frame.cameras for frame in frames[:HISTORY]),
        previous_token=str(values[first + HISTORY - 2]["token"]) if first > 0 else None,
        lane_map=maps[now.map_name] if is_annotated else None,
    )


def log_moments(path: str | Path, maps: Maps, chosen: SceneFilter, logs: str | Path) -> list[tuple[Scene, Scene | None]]:
    """Each scene of a log with the scene 0.5 s before it, None where the log begins too late for its history."""
    path = Path(path)
    values = log_frames(path)
    blobs = Path(logs) / "sensor_blobs" / path.parent.name
    known: dict[int, Frame] = {}
    moments = []
    for place in windows(values, chosen):
        first, future = place - HISTORY + 1, chosen.num_future_frames
        now = _scene(path, values, known, blobs, first, future, maps)
        moments.append((now, _scene(path, values, known, blobs, first - 1, future, maps) if first > 0 else None))
    return moments


def scenes_or_reasons(
    path: str | Path, maps: Maps, chosen: SceneFilter, logs: str | Path, previous: bool = False
) -> Iterator[tuple[str, tuple[Scene, Scene | None] | str]]:
    """Token of each scene of a log that passes the filter, with the scene, or with the reason why it cannot be read.

    One damaged frame fails the windows that hold it and no others.

    Args:
        path: The log's pickle, below `logs`.
        maps: Map files, read as needed.
        chosen: The filter.
        logs: The OPENSCENE_DATA_ROOT, for the paths of pictures.
        previous: Whether the scene 0.5 s before comes with it, as in `log_moments`; else that is None.

    Raises:
        ValueError: The log as a whole cannot be read.
    """
    path = Path(path)
    values = log_frames(path)
    blobs = Path(logs) / "sensor_blobs" / path.parent.name
    known: dict[int, Frame] = {}

    def moment(first: int) -> tuple[Scene, Scene | None] | str:
        try:
            now = _scene(path, values, known, blobs, first, chosen.num_future_frames, maps)
            before = _scene(path, values, known, blobs, first - 1, chosen.num_future_frames, maps) if previous and first > 0 else None
        except ValueError as error:
            return str(error)
        return now, before

    return ((str(values[place]["token"]), moment(place - HISTORY + 1)) for place in windows(values, chosen))


def scenes(logs: str | Path, maps: str | Path, chosen: SceneFilter | str | Path, split: str | None = None) -> Iterator[Scene]:
    """All scenes of a filter, log by log in order of name.

    Args:
        logs: An OPENSCENE_DATA_ROOT.
        maps: A NUPLAN_MAPS_ROOT.
        chosen: A filter, or the path of a scene filter file.
        split: Only logs of this folder below navsim_logs.

    Raises:
        ValueError: A file that cannot be read, a log that is not there, no scene at all, or (after the last scene) tokens of the
            filter that are in no log.
    """
    chosen = chosen if isinstance(chosen, SceneFilter) else scene_filter(chosen)
    cities, count, found = Maps(maps), 0, set[str]()
    for path in _chosen_paths(logs, split, chosen.log_names):
        for scene in log_scenes(path, cities, chosen, logs):
            if chosen.max_scenes is not None and count >= chosen.max_scenes:
                return
            count += 1
            found.add(scene.token)
            yield scene
    if not count:
        raise ValueError(f"no scene below {logs} passes the filter: the split is empty")
    absent = sorted(set(chosen.tokens or ()) - found)
    if absent and chosen.max_scenes is None:
        raise ValueError(f"{len(absent)} of {len(set(chosen.tokens or ()))} tokens are in no log below {logs}, the first is {absent[0]}")


def scenes_of_tokens(logs: str | Path, maps: str | Path, split: str | Path, tokens: Iterable[str] | None = None) -> list[Scene]:
    """The scenes of the tokens, in their order; without tokens all of the split in order of log and time.

    Args:
        logs: An OPENSCENE_DATA_ROOT.
        maps: A NUPLAN_MAPS_ROOT.
        split: A folder below navsim_logs, or the path of a scene filter file.
        tokens: Scene tokens. With 8 frames after them they are found in a folder too, and without a route (which only
            preparing them then complains about).

    Raises:
        ValueError: As `scenes`.
    """
    is_file = str(split).endswith((".yaml", ".yml"))
    wanted = None if tokens is None else list(tokens)
    chosen = scene_filter(split) if is_file else SceneFilter()
    if wanted is not None:
        future = chosen.num_future_frames if is_file else FUTURE
        chosen = replace(chosen, tokens=tuple(wanted), max_scenes=None, num_future_frames=future, has_route=False)
    found = {scene.token: scene for scene in scenes(logs, maps, chosen, None if is_file else str(split))}
    return list(found.values()) if wanted is None else [found[token] for token in wanted]
