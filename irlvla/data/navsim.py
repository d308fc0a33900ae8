"""NAVSIM's data on disk -> scenes: OpenScene log pickles, scene filters, calibrations.

Source: autonomousvision/navsim at 0a380a9, navsim/common/dataloader.py (windows) and navsim/common/dataclasses.py (frames).
"""

import glob
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Float

from irlvla.data.maps import ALIASES, Maps
from irlvla.types import CAMERA_NAMES, HISTORY, OBJECT_NAMES, Camera, Objects, Scene

FUTURE = 8
"""Future frames that scoring needs: 4 s at 2 Hz."""

_CORE = "numpy._core" if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else "numpy.core"
"""Where this NumPy keeps what pickles of NumPy 1 call numpy.core and those of NumPy 2 numpy._core."""
_ALLOWED = {
    ("builtins", name) for name in ("bytearray", "complex", "dict", "frozenset", "list", "range", "set", "slice", "tuple")
} | {
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    *((f"numpy.{core}.{module}", name) for core in ("core", "_core") for module, name in (
        ("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"),
    )),
}  # fmt: skip
_FRAME_KEYS = (
    "token", "timestamp", "log_name", "map_location", "roadblock_ids", "traffic_lights", "ego2global_translation",
    "ego2global_rotation", "ego_dynamic_state", "driving_command", "anns",
)  # fmt: skip
_BAD_PICKLE = (
    pickle.UnpicklingError, EOFError, AttributeError, ImportError, LookupError, TypeError, ValueError, ArithmeticError, MemoryError,
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
        if self.num_history_frames != HISTORY:
            raise ValueError(f"num_history_frames is {self.num_history_frames}; only {HISTORY} is supported")
        if self.num_future_frames < FUTURE:
            raise ValueError(f"num_future_frames is {self.num_future_frames}; scoring needs at least {FUTURE}")
        if self.frame_interval is not None and self.frame_interval < 1:
            raise ValueError(f"frame_interval is {self.frame_interval}; it must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One 2 Hz frame of a log, converted once and shared by all windows that hold it."""

    token: str
    time_us: int
    map_name: str
    roadblock_ids: tuple[str, ...]
    traffic_lights: tuple[tuple[str, bool], ...]
    ego_pose: Float[np.ndarray, "3"]
    velocity: Float[np.ndarray, "2"]
    acceleration: Float[np.ndarray, "2"]
    command: np.ndarray
    objects: Objects
    cameras: tuple[Camera, ...]


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"class {module}.{name} is not allowed in a log")
        return super().find_class(module.replace("numpy._core", _CORE).replace("numpy.core", _CORE), name)


def log_frames(path: str | Path) -> list[dict[str, Any]]:
    """The frames of a log as the pickle holds them; only NumPy arrays and plain Python types can come out.

    Raises:
        ValueError: The file is missing, truncated, no list of frames, or names a class that is not on the list of allowed ones.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            frames = _Unpickler(file).load()
    except FileNotFoundError as error:
        raise ValueError(f"log {path} does not exist") from error
    except OSError as error:
        raise ValueError(f"log {path} cannot be opened: {error}") from error
    except _BAD_PICKLE as error:
        raise ValueError(f"log {path}: not a readable pickle of frames ({type(error).__name__}: {error})") from error
    if not isinstance(frames, list) or not frames:
        raise ValueError(f"log {path}: holds no list of frames")
    for place, frame in enumerate(frames):
        missing = [key for key in _FRAME_KEYS if key not in frame] if isinstance(frame, dict) else list(_FRAME_KEYS)
        if missing:
            raise ValueError(f"log {path}: frame {place} lacks {', '.join(missing)}")
    return frames


def scene_filter(path: str | Path) -> SceneFilter:
    """Read one of NAVSIM's scene filter files (hydra's `_target_` and keys for synthetic scenes are passed over).

    Raises:
        ValueError: The file is missing, not yaml, or holds a token that yaml took for a number (quotes are missing).
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise ValueError(f"scene filter {path} does not exist") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"scene filter {path}: not yaml ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"scene filter {path}: holds no mapping")
    chosen: dict[str, Any] = {}
    for key in ("num_history_frames", "num_future_frames", "frame_interval", "has_route", "max_scenes"):
        if values.get(key) is not None or (key in values and key in ("frame_interval", "max_scenes")):
            chosen[key] = values[key]
    for key in ("log_names", "tokens"):
        if values.get(key) is not None:
            if not isinstance(values[key], list):
                raise ValueError(f"scene filter {path}: {key} is no list")
            wrong = [value for value in values[key] if not isinstance(value, str)]
            if wrong:
                raise ValueError(f"scene filter {path}: {key} holds {wrong[0]!r}, which yaml read as a number: put it in quotes")
            chosen[key] = tuple(values[key])
    try:
        return SceneFilter(**chosen)
    except (ValueError, TypeError) as error:
        raise ValueError(f"scene filter {path}: {error}") from error


def yaw(quaternion: Iterable[float]) -> float:
    """Heading of a rotation given as (w, x, y, z), rad.

    Source: pyquaternion's yaw_pitch_roll, which takes yaw first; it differs from the usual order when roll and pitch are not 0.
    """
    w, x, y, z = np.asarray(quaternion, dtype=np.float64) / np.linalg.norm(quaternion)
    return float(np.arctan2(2 * (w * z - x * y), 1 - 2 * (y * y + z * z)))


def rotation(quaternion: Iterable[float]) -> Float[np.ndarray, "3 3"]:
    """Rotation matrix of (w, x, y, z)."""
    w, x, y, z = np.asarray(quaternion, dtype=np.float64) / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _camera(name: str, values: dict[str, Any], blobs: Path, ego_from_lidar: np.ndarray) -> Camera:
    turn = np.asarray(values["sensor2lidar_rotation"], dtype=np.float64)
    return Camera(
        name=name.upper(),
        path=str(blobs / values["data_path"]),
        intrinsics=np.asarray(values["cam_intrinsic"], dtype=np.float64),
        distortion=np.resize(np.asarray(values["distortion"], dtype=np.float64), 5),
        rotation=turn if turn.shape == (3, 3) else rotation(turn),
        translation=np.asarray(values["sensor2lidar_translation"], dtype=np.float64),
        ego_from_lidar=ego_from_lidar,
    )


def _objects(annotations: dict[str, Any]) -> Objects:
    names = [str(name) for name in annotations["gt_names"]]
    unknown = sorted(set(names) - set(OBJECT_NAMES))
    if unknown:
        raise ValueError(f"unknown object type {unknown[0]!r}; known: {', '.join(OBJECT_NAMES)}")
    return Objects(
        track_tokens=tuple(str(token) for token in annotations["track_tokens"]),
        types=np.array([OBJECT_NAMES.index(name) for name in names], dtype=np.int64),
        boxes=_rows(annotations, "gt_boxes", 7),
        velocities=_rows(annotations, "gt_velocity_3d", 3),
    )


def _rows(annotations: dict[str, Any], key: str, columns: int) -> np.ndarray:
    """An array (n, columns) of finite float64; an empty one may have any shape."""
    values = np.asarray(annotations[key], dtype=np.float64)
    if values.size and (values.ndim != 2 or values.shape[1] != columns):
        raise ValueError(f"{key} has shape {values.shape}, not (n, {columns})")
    if not np.isfinite(values).all():
        raise ValueError(f"{key} holds values that are not finite")
    return values.reshape(-1, columns)


def _route(values: dict[str, Any]) -> tuple[str, ...]:
    blocks = values["roadblock_ids"]
    return () if blocks is None else tuple(str(block) for block in blocks)


def _frame(values: dict[str, Any], blobs: Path) -> Frame:
    dynamic = np.asarray(values["ego_dynamic_state"], dtype=np.float32).astype(np.float64)
    if dynamic.shape != (4,):
        raise ValueError(f"ego_dynamic_state has shape {dynamic.shape}, not (4,)")
    ego_from_lidar = np.eye(4)
    if "lidar2ego_rotation" in values:
        ego_from_lidar[:3, :3] = rotation(values["lidar2ego_rotation"])
        ego_from_lidar[:3, 3] = values["lidar2ego_translation"]
    cameras = {name.upper(): camera for name, camera in (values.get("cams") or {}).items()}
    x, y = (float(value) for value in values["ego2global_translation"][:2])
    return Frame(
        token=str(values["token"]),
        time_us=int(values["timestamp"]),
        map_name=ALIASES.get(str(values["map_location"]), str(values["map_location"])),
        roadblock_ids=_route(values),
        traffic_lights=tuple((str(connector), bool(is_red)) for connector, is_red in values["traffic_lights"]),
        ego_pose=np.array([x, y, yaw(values["ego2global_rotation"])]),
        velocity=dynamic[:2],
        acceleration=dynamic[2:4],
        command=np.asarray(values["driving_command"], dtype=np.int64).reshape(4),
        objects=_objects(values["anns"]),
        cameras=tuple(_camera(name, cameras[name], blobs, ego_from_lidar) for name in CAMERA_NAMES if name in cameras),
    )


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


def log_windows(path: str | Path, chosen: SceneFilter) -> list[int]:
    """Places in a log of the current frames of the windows that pass the filter."""
    return windows(log_frames(path), chosen)


def windows(frames: list[dict[str, Any]], chosen: SceneFilter) -> list[int]:
    """Places of the current frames of the windows that pass the filter, in a log's frames."""
    length = chosen.num_history_frames + chosen.num_future_frames
    wanted = None if chosen.tokens is None else set(chosen.tokens)
    places = []
    for start in range(0, len(frames) - length + 1, chosen.frame_interval or length):
        place = start + HISTORY - 1
        if chosen.has_route and not _route(frames[place]):
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
                known[place] = _frame(values[place], blobs)
            except (KeyError, ValueError, TypeError, IndexError) as error:
                raise ValueError(f"log {path}: frame {place} ({values[place].get('token')}) cannot be read: {error}") from error
    frames = [known[place] for place in places]
    now = frames[HISTORY - 1]
    return Scene(
        token=now.token,
        log_name=str(values[first]["log_name"]),
        map_name=now.map_name,
        frame_tokens=tuple(frame.token for frame in frames),
        time_us=np.array([frame.time_us for frame in frames], dtype=np.int64),
        ego_poses=np.stack([frame.ego_pose for frame in frames]),
        ego_velocities=np.stack([frame.velocity for frame in frames]),
        ego_accelerations=np.stack([frame.acceleration for frame in frames]),
        commands=np.stack([frame.command for frame in frames]),
        roadblock_ids=now.roadblock_ids,
        objects=tuple(frame.objects for frame in frames),
        traffic_lights=tuple(frame.traffic_lights for frame in frames),
        cameras=tuple(frame.cameras for frame in frames[:HISTORY]),
        previous_token=str(values[first + HISTORY - 2]["token"]) if first > 0 else None,
        lane_map=maps[now.map_name],
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
