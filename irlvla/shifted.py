"""Scenes of the embedded world whose ego is moved aside, along or turned, with pictures drawn again: a small data set of its own.

The world's sidecar knows all that its cameras saw, so they can be drawn from any pose. Each shifted scene is a log of its own in
OpenScene's format: the ego's past is moved rigidly, its future leads back smoothly to where the human drove. From there on it is a
split like any other. Logs of real cars cannot be drawn again.
"""

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from jaxtyping import Float
from PIL import Image

from irlvla import origin
from irlvla.data.features import SensorConfig
from irlvla.data.navsim import FUTURE, log_frames, log_paths
from irlvla.data.store import Indices, Store
from irlvla.files import json_mapping
from irlvla.prepare import PROCESSES, SOURCES, prepare
from irlvla.run import config_of, write_json
from irlvla.types import HISTORY
from irlvla.vehicle import LENGTH, REAR_AXLE_TO_CENTER, WIDTH
from irlvla.workers import work_off
from irlvla.world.camera import JPEG_QUALITY, Stage, camera_pose, mounting, picture, stage
from irlvla.world.export import write_log
from irlvla.world.scenery import Footage, load_footage, load_scenery

CODE = (*SOURCES, "shifted.py", "world")
SPLIT = "shifted"
RETURN_FRAMES = 6
"""After so many frames (3 s) the human of a shifted scene is back on the logged way."""
TRIES = 8
"""Shifts drawn for one that touches no one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftConfig:
    """How far an ego is moved at most: along and aside in m, turned in rad; only egos that are faster than `slowest` (m/s).

    Every so many-th (`every`) training step is taken on shifted scenes.
    """

    every: int = 3
    along: float = 2.0
    aside: float = 1.0
    turn: float = float(np.radians(8))
    slowest: float = 2.0


def shifted_store(store: Store, indices: Indices, folder: Path, config: ShiftConfig = ShiftConfig(), seed: int = 0) -> Store:
    """The store of shifted copies of some scenes, made where it is not there or stale, continued where it was interrupted.

    Args:
        store: scenes of the embedded world; it knows logs, maps, split and sensors.
        indices: which of them.
        folder: gets the shifted logs and pictures (`openscene`), their split and their store.
        config: how far egos are moved.
        seed: of the shifts.

    Returns:
        The opened store. Scenes whose ego is slow, or finds no place where it touches no one, are left out. A scene's log is
        named for the log and the token that it was made from, see `sources`.

    Raises:
        ValueError: the logs have no sidecar, so that nothing can be drawn again; or no scene can be shifted.
    """
    logs = Path(store.settings["logs"])
    if not (logs / "sidecar").is_dir():
        raise ValueError(
            f"{logs} has no sidecar, from which cameras could be drawn again: only the embedded world's egos can be shifted; "
            "leave shifted poses out of the candidates of real logs"
        )
    sensors = config_of(SensorConfig, store.settings["sensors"])
    wanted = [(store.log_names[index], store.tokens[index]) for index in indices]
    settings = [store.key, wanted, asdict(config), seed, origin.code_hash(CODE)]
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    about = folder / "shifted.json"
    if not about.exists() or json_mapping(about).get("key") != key:
        for name in ("openscene", "store"):
            shutil.rmtree(folder / name, ignore_errors=True)
        write_json(about, {"key": key, "complete": False})
    split = folder / f"{SPLIT}.yaml"
    if not json_mapping(about)["complete"]:
        tokens = write_shifted(logs, wanted, folder / "openscene", sensors, config, seed)
        if not tokens:
            raise ValueError(f"none of {len(wanted)} scenes can be shifted: egos are slower than {config.slowest} m/s, or hemmed in")
        _write_split(split, tokens)
        write_json(about, {"key": key, "complete": True})
    return prepare(folder / "openscene", Path(store.settings["maps"]), split, folder / "store", sensors)


def sources(store: Store) -> list[tuple[str, str]]:
    """Log name and scene token of what each scene of a shifted store was made from."""
    pairs = [name.rsplit("-", 1) for name in store.log_names]
    return [(log_name, token) for log_name, token in pairs]


def sound(store: Store) -> np.ndarray:
    """Scenes of a shifted store whose way back neither collides nor leaves the road: the human filter would hide either in labels."""
    return np.flatnonzero([not store.prepared(index).human_zero[:2].any() for index in range(len(store))])


def write_shifted(
    logs: Path,
    wanted: Sequence[tuple[str, str]],
    out: Path,
    sensors: SensorConfig,
    config: ShiftConfig,
    seed: int,
    processes: int = PROCESSES,
) -> dict[str, str]:
    """Writes a log and pictures for each scene that can be shifted; those that are there are kept.

    Args:
        logs: the embedded world's OPENSCENE_DATA_ROOT.
        wanted: log name and token of scenes.
        out: an OPENSCENE_DATA_ROOT for the shifted ones.
        sensors: whose cameras are drawn.
        config: how far egos are moved.
        seed: of the shifts.
        processes: logs are read and drawn by so many at once.

    Returns:
        Name of each written log -> token of its scene.
    """
    paths = log_paths(logs)
    tokens_of: dict[str, list[str]] = {}
    for log_name, token in sorted(wanted):
        tokens_of.setdefault(log_name, []).append(token)

    def write(log_name: str) -> None:
        _write_logs(logs, paths[log_name], tokens_of[log_name], out, sensors, config, seed)

    lost = work_off(list(tokens_of), write, processes, "shift egos (logs)")
    if lost:
        place, how = min(lost.items())
        raise ValueError(f"{out}: the process that shifted {list(tokens_of)[place]} {how}; what was finished is kept")
    names = [_name(log_name, token) for log_name, token in sorted(wanted)]
    return {name: _token(name, 0) for name in names if _log_path(out, name).exists()}


@functools.lru_cache(maxsize=1)
def _town(path: Path) -> Stage:
    """A town ready for drawing; the logs of one lie side by side in order of name."""
    return stage(load_scenery(path))


def _write_logs(logs: Path, path: Path, tokens: Sequence[str], out: Path, sensors: SensorConfig, config: ShiftConfig, seed: int) -> None:
    frames = log_frames(path)
    film = load_footage(logs / "sidecar" / f"{path.stem}.npz")
    places = {frame["token"]: place for place, frame in enumerate(frames)}
    for token in tokens:
        name = _name(path.stem, token)
        first = max(places[token] - HISTORY, 0)
        window = frames[first : places[token] + FUTURE + 1]
        if _log_path(out, name).exists():
            continue
        moved = shifted_frames(window, places[token] - first, name, config, _random(seed, token))
        if moved is not None:
            _draw(out / "sensor_blobs" / SPLIT, window, moved, film, _town(logs / "sidecar" / f"{film.town}.npz"), sensors)
            beside = _log_path(out, name).with_suffix(".part")
            write_log(beside, moved)
            os.replace(beside, _log_path(out, name))


def _name(log_name: str, token: str) -> str:
    return f"{log_name}-{token}"


def _log_path(out: Path, name: str) -> Path:
    return out / "navsim_logs" / SPLIT / f"{name}.pkl"


def _token(name: str, place: int) -> str:
    """The token of a shifted log's frame so many places after the moment that was shifted."""
    return hashlib.blake2b(f"{name}/{place}".encode(), digest_size=8).hexdigest()


def shifted_frames(
    frames: Sequence[Mapping[str, Any]], now: int, name: str, config: ShiftConfig, random: np.random.Generator
) -> list[dict[str, Any]] | None:
    """Frames of a log around one moment with the ego shifted there, None if it is slow or touches someone wherever it is put.

    Args:
        frames: as in the log's pickle.
        now: place of the moment among them.
        name: of the new log.
        config: how far.
        random: source of chance.
    """
    if np.hypot(*frames[now]["ego_dynamic_state"][:2]) < config.slowest:
        return None
    limits = np.array([config.along, config.aside, config.turn])
    before = np.array([logged_pose(frame) for frame in frames])
    for _ in range(TRIES):
        after = shifted_poses(before, now, random.uniform(-limits, limits))
        rows = enumerate(zip(frames, before, after, strict=True))
        moved = [_moved(*row, name) | {"token": _token(name, place - now), "frame_idx": place} for place, row in rows]
        if not touches(moved[now]["anns"]["gt_boxes"]):
            tokens = [None, *(frame["token"] for frame in moved), None]
            return [frame | {"sample_prev": tokens[place], "sample_next": tokens[place + 2]} for place, frame in enumerate(moved)]
    return None


def shifted_poses(poses: Float[np.ndarray, "frames 3"], now: int, shift: Float[np.ndarray, "3"]) -> Float[np.ndarray, "frames 3"]:
    """Ego poses of a log with the one at `now` moved by `shift` (along, aside, turned; in its own frame).

    What was before moves along rigidly; afterwards the shift fades within RETURN_FRAMES, each pose in its own frame.
    """
    places = np.arange(len(poses)) - now
    share = np.where(places < RETURN_FRAMES, 0.5 + 0.5 * np.cos(np.pi * np.clip(places / RETURN_FRAMES, 0, 1)), 0.0)
    moved = composed(poses, share[:, None] * shift)
    heading = shift[2]
    start, target = poses[now], moved[now]
    cosine, sine = np.cos(heading), np.sin(heading)
    offset = poses[:now, :2] - start[:2]
    moved[:now, 0] = target[0] + cosine * offset[:, 0] - sine * offset[:, 1]
    moved[:now, 1] = target[1] + sine * offset[:, 0] + cosine * offset[:, 1]
    moved[:now, 2] = poses[:now, 2] + heading
    return moved


def composed(poses: Float[np.ndarray, "poses 3"], shifts: Float[np.ndarray, "poses 3"]) -> Float[np.ndarray, "poses 3"]:
    """Poses moved by shifts in their own frames."""
    cosine, sine = np.cos(poses[:, 2]), np.sin(poses[:, 2])
    x = poses[:, 0] + cosine * shifts[:, 0] - sine * shifts[:, 1]
    y = poses[:, 1] + sine * shifts[:, 0] + cosine * shifts[:, 1]
    return np.column_stack([x, y, poses[:, 2] + shifts[:, 2]])


def logged_pose(frame: Mapping[str, Any]) -> Float[np.ndarray, "3"]:
    """x, y, heading of the ego in a frame of the embedded world, whose cars neither pitch nor roll; global."""
    w, _, _, z = frame["ego2global_rotation"]
    return np.array([*frame["ego2global_translation"][:2], 2 * np.arctan2(z, w)])


def _moved(frame: Mapping[str, Any], before: np.ndarray, after: np.ndarray, name: str) -> dict[str, Any]:
    """A frame seen from another ego pose: everything in the world stays where it was."""
    height = float(frame["ego2global_translation"][2])
    boxes, velocities = seen_from(frame, before, after)
    global_from_ego = np.eye(4)
    global_from_ego[:2, :2] = [[np.cos(after[2]), -np.sin(after[2])], [np.sin(after[2]), np.cos(after[2])]]
    global_from_ego[:3, 3] = (*after[:2], height)
    return _plain(frame) | {
        "log_name": name,
        "ego2global_translation": np.array((*after[:2], height)),
        "ego2global_rotation": np.array((np.cos(after[2] / 2), 0.0, 0.0, np.sin(after[2] / 2))),
        "ego2global": global_from_ego,
        "lidar2global": global_from_ego @ np.asarray(frame["lidar2ego"]),
        "cams": {
            camera: {**_plain(values), "data_path": f"{name}/{camera}/{frame['token']}.jpg"} for camera, values in frame["cams"].items()
        },
        "anns": {**_plain(frame["anns"]), "gt_boxes": boxes.astype(np.float32), "gt_velocity_3d": velocities.astype(np.float32)},
    }


def _plain(value: Any) -> Any:
    """A value of a frame with plain arrays: the class in which our reader gives them is none that a log may hold."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    return np.array(value) if isinstance(value, np.ndarray) else value


def seen_from(
    frame: Mapping[str, Any], before: Float[np.ndarray, "3"], after: Float[np.ndarray, "3"]
) -> tuple[Float[np.ndarray, "objects 7"], Float[np.ndarray, "objects 3"]]:
    """Boxes and velocities of a frame's objects in the frame of another ego pose: in the world they stay where they were."""
    boxes = np.array(frame["anns"]["gt_boxes"], dtype=np.float64).reshape(-1, 7)
    velocities = np.array(frame["anns"]["gt_velocity_3d"], dtype=np.float64).reshape(-1, 3)
    cosine, sine = np.cos(before[2]), np.sin(before[2])
    offset = boxes[:, :2] @ np.array([[cosine, sine], [-sine, cosine]]) + before[:2] - after[:2]
    cosine, sine = np.cos(after[2]), np.sin(after[2])
    boxes[:, :2] = offset @ np.array([[cosine, -sine], [sine, cosine]])
    turn = before[2] - after[2]
    boxes[:, 6] += turn
    cosine, sine = np.cos(turn), np.sin(turn)
    velocities[:, :2] = velocities[:, :2] @ np.array([[cosine, sine], [-sine, cosine]])
    return boxes, velocities


def touches(boxes: np.ndarray) -> bool:
    """Whether the ego touches any box (in its frame)."""
    ego = shapely.box(REAR_AXLE_TO_CENTER - LENGTH / 2, -WIDTH / 2, REAR_AXLE_TO_CENTER + LENGTH / 2, WIDTH / 2)
    return any(_outline(box).intersects(ego) for box in boxes.astype(np.float64))


def _outline(box: np.ndarray) -> shapely.Polygon:
    x, y, _, length, width, _, heading = box
    along, aside = 0.5 * length * np.array([np.cos(heading), np.sin(heading)]), 0.5 * width * np.array([-np.sin(heading), np.cos(heading)])
    return shapely.Polygon([np.array([x, y]) + i * along + j * aside for i, j in ((1, 1), (-1, 1), (-1, -1), (1, -1))])


def _draw(
    blobs: Path, frames: Sequence[Mapping[str, Any]], moved: Sequence[Mapping[str, Any]], film: Footage, town: Stage, sensors: SensorConfig
) -> None:
    """Writes the pictures of those frames that the footage knows: the moment and the one before it."""
    moments = dict(zip(film.tokens, film.moments, strict=True))
    for old, new in zip(frames, moved, strict=True):
        if old["token"] not in moments:
            continue
        for name in sensors.cameras:
            rig = mounting(name)
            pose = camera_pose(logged_pose(new), rig)
            image = picture(town, moments[old["token"]], pose, rig.intrinsics, rig.width, rig.height, film.look)
            path = blobs / new["cams"][name]["data_path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path, quality=JPEG_QUALITY)


def _random(seed: int, token: str) -> np.random.Generator:
    return np.random.default_rng([seed, int(hashlib.blake2b(token.encode(), digest_size=8).hexdigest(), 16)])


def _write_split(path: Path, tokens: Mapping[str, str]) -> None:
    lines = [f"num_history_frames: {HISTORY}", f"num_future_frames: {FUTURE}", "frame_interval: 1", "has_route: true", "max_scenes: null"]
    lines += ["log_names:", *(f"- '{name}'" for name in tokens), "tokens:", *(f"- '{token}'" for token in tokens.values())]
    path.write_text("\n".join(lines) + "\n")
