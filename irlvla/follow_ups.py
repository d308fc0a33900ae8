"""What may follow a logged scene of the embedded world, as NAVSIM's synthetic scenes: the second stage of its two-stage benchmark.

Behind a scene (and the one 0.5 s before it) stand pairs of synthetic scenes that begin when its 4 s are over, with egos around where
the human was then: farther along or aside, turned, faster or slower. All else is as the log has it at that time. The pictures are
drawn again from where the ego is now.

Source: the idea is that of pseudo-simulation, Cao et al. 2025 (arXiv 2506.04218); how far egos are spread is ours.
"""

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from irlvla.data.features import poses_in_ego
from irlvla.data.maps import Maps
from irlvla.data.navsim import FUTURE, log_frames, log_paths
from irlvla.data.synthetic import FOLDER as PICKLES
from irlvla.data.synthetic import synthetic_scene
from irlvla.files import json_value
from irlvla.score.prepared import prepared
from irlvla.shifted import composed, logged_pose, seen_from, touches
from irlvla.types import CAMERA_NAMES, HISTORY, SYNTHETIC_TOKEN_LENGTH, StagePair
from irlvla.workers import work_off
from irlvla.world.camera import EGO_FROM_LIDAR, JPEG_QUALITY, Stage, camera_pose, mounting, picture, stage
from irlvla.world.scenery import Footage, load_footage, load_scenery
from irlvla.world.synthetic import detections, traffic_lights, write_scene

FOLDER = "two_stage"
"""Below the OPENSCENE_DATA_ROOT; has synthetic_scene_pickles and sensor_blobs, and in `entries` which scenes belong together."""
SPLIT = "two_stage"
FRAMES_NEEDED = 2 * FUTURE
"""So many frames come after a scene that others can follow: its own 4 s, and theirs."""
DRAWN_FRAMES = (FUTURE - 1, FUTURE)
"""So many frames after a scene, its followers and those of the scene before it begin: of these the cameras need footage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowUpConfig:
    """How far from the human's place and speed, at most, followers begin: m, m, rad, and a share of the speed.

    That is for egos that drive `whole` m in the scene's 4 s or more; others are moved by as much less, but at least a fifth of it.
    A follower that cannot begin there (it touches someone, or PDM-Closed would fail from there) is drawn again up to `tries` times.
    """

    along: float = 4.0
    aside: float = 1.0
    turn: float = float(np.radians(5))
    speed: float = 0.2
    whole: float = 20.0
    tries: int = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What every worker needs; inherited through fork."""

    logs: Path
    maps: Maps
    paths: Mapping[str, Path]
    followed: Mapping[str, str]
    count: int
    cameras: tuple[str, ...]
    seed: int
    config: FollowUpConfig


def write_follow_ups(
    folder: Path,
    followed: Mapping[str, str],
    count: int,
    cameras: Sequence[str],
    seed: int,
    processes: int,
    config: FollowUpConfig = FollowUpConfig(),
    maps: Maps | None = None,
) -> tuple[StagePair, ...]:
    """Writes synthetic scenes behind scenes of the embedded world, and their split; what is there of them is kept.

    Args:
        folder: the world, with openscene (logs, and in sidecar what its cameras saw) and maps. Gets openscene/two_stage,
            splits/two_stage.yaml and splits/scene_filter/two_stage.yaml.
        followed: log name -> token of its scene that others shall follow, with `FRAMES_NEEDED` frames after it, 4 before it, and
            footage of the moments that `DRAWN_FRAMES` says.
        count: pairs behind each of them, at most.
        cameras: which of CAMERA_NAMES are drawn.
        seed: same seed, same bytes.
        processes: logs at once.
        config: how far from the human's followers begin.
        maps: map files read before; else those in the folder are read as needed.

    Returns:
        Which scenes belong together, in order of log name. A scene that nothing can follow is left out.

    Raises:
        ValueError: a log is not there or a scene cannot be followed; a process died; or nothing follows any scene.
    """
    logs = folder / "openscene"
    maps = Maps(folder / "maps") if maps is None else maps
    names = sorted(followed)
    work = _Work(
        logs=logs,
        maps=maps,
        paths=log_paths(logs),
        followed=followed,
        count=count,
        cameras=tuple(cameras),
        seed=seed,
        config=config,
    )
    missing = [name for name in names if not _about(logs, name).exists()]
    lost = work_off(missing, functools.partial(_write_entry, work), processes, "follow scenes (logs)", already=len(names) - len(missing))
    if lost:
        place, how = min(lost.items())
        raise ValueError(f"{folder}: the process that followed {missing[place]} {how}; what was finished is kept")
    shutil.rmtree(logs / FOLDER / "tried", ignore_errors=True)
    entries = {name: entry for name in names if (entry := json_value(_about(logs, name)))[2]}
    if not entries:
        raise ValueError(f"{folder}: nothing can follow any of {len(names)} scenes")
    parts = sorted({work.paths[name].parent.name for name in entries})
    if len(parts) != 1:
        raise ValueError(f"{folder}: logs of {len(parts)} folders, {', '.join(parts)}, cannot be in one split")
    _write_split(folder / "splits", entries, parts[0])
    return tuple(StagePair(now=now, previous=before, follow_ups=tuple(map(tuple, pairs))) for now, before, pairs in entries.values())


def follow_up_poses(poses: Float[np.ndarray, "frames 3"], shift: Float[np.ndarray, "3"], pace: float) -> Float[np.ndarray, "frames 3"]:
    """Ego poses of a log with the last one moved by `shift` (along, aside, turned; in its own frame), driven at another pace.

    The way there keeps its shape but for its size: at each moment the ego is `pace` times as fast as it was, and turns as fast.

    Example:
        >>> follow_up_poses(np.array([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]]), np.array([1.0, 0.5, 0.0]), 0.5).tolist()
        [[2.0, 0.5, 0.0], [3.0, 0.5, 0.0]]
    """
    way = poses_in_ego(poses[-1], poses) * (pace, pace, 1.0)
    target = composed(poses[-1:], shift[None])
    moved = composed(np.repeat(target, len(poses), axis=0), way)
    moved[:, 2] = np.pi - (np.pi - moved[:, 2]) % (2 * np.pi)
    return moved


@functools.lru_cache(maxsize=1)
def _town(path: Path) -> Stage:
    """A town ready for drawing; the logs of one lie side by side in order of name."""
    return stage(load_scenery(path))


def _about(logs: Path, name: str) -> Path:
    return logs / FOLDER / "entries" / f"{name}.json"


def _token(*parts: object) -> str:
    return hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=9).hexdigest()[:SYNTHETIC_TOKEN_LENGTH]


def _write_entry(work: _Work, name: str) -> None:
    """Writes all that follows one log's scene; the entry itself comes last."""
    frames = log_frames(work.paths[name])
    token = work.followed[name]
    now = next((place for place, frame in enumerate(frames) if frame["token"] == token), -1)
    if now < HISTORY or now + FRAMES_NEEDED >= len(frames):
        raise ValueError(
            f"log {name}: scene {token} is frame {now} of {len(frames)}; {HISTORY} before and {FRAMES_NEEDED} after it are needed"
        )
    film = load_footage(work.logs / "sidecar" / f"{name}.npz")
    random = np.random.default_rng([work.seed, int(token[:15], 16)])
    pairs = [pair for number in range(work.count) if (pair := _pair(work, name, frames, now, film, number, random)) is not None]
    path = _about(work.logs, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps([token, frames[now - 1]["token"], pairs]))
    os.replace(beside, path)


def _pair(
    work: _Work,
    name: str,
    frames: Sequence[Mapping[str, Any]],
    now: int,
    film: Footage,
    number: int,
    random: np.random.Generator,
) -> tuple[str, str] | None:
    """Tokens of a synthetic scene that follows frame `now`, and of the one that follows the frame before; None if none can be found."""
    config, end = work.config, now + FUTURE
    logged = np.stack([logged_pose(frame) for frame in frames[now : end + 1]])
    way = float(np.hypot(*np.diff(logged[:, :2], axis=0).T).sum())
    limits = np.array([config.along, config.aside, config.turn, config.speed]) * np.clip(way / config.whole, 0.2, 1.0)
    tokens = (_token(frames[now]["token"], number, work.seed), _token(frames[now - 1]["token"], number, work.seed))
    for attempt in range(config.tries):
        # The first one begins where the human was.
        draw = random.uniform(-limits, limits) if number or attempt else np.zeros(4)
        poses = follow_up_poses(logged[-HISTORY - 1 :], draw[:3], 1.0 + draw[3])
        if any(touches(seen_from(frames[place], logged_pose(frames[place]), poses[place - end - 1])[0]) for place in (end - 1, end)):
            continue
        tried = []
        for token, last, first in zip(tokens, (end, end - 1), (now, now - 1), strict=True):
            own = poses[1:] if last == end else poses[:-1]
            values = _scene(frames, last, first, own, 1.0 + draw[3], token, work.cameras)
            tried.append(work.logs / FOLDER / "tried" / f"{token}.pkl")
            write_scene(tried[-1], values)
        if not all(_is_drivable(path, work.maps) for path in tried):
            continue
        for path, last, pose in zip(tried, (end, end - 1), (poses[-1], poses[-2]), strict=True):
            _draw(work, name, path.stem, pose, frames[last]["token"], film)
            place = work.logs / FOLDER / PICKLES / path.name
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, place)
        return tokens
    return None


def _is_drivable(path: Path, maps: Maps) -> bool:
    """Whether PDM-Closed breaks no rule that would count for nothing else: no plan could do well where not even it does."""
    return prepared(synthetic_scene(path, maps)).reference_multiplier > 0.0


def _scene(
    frames: Sequence[Mapping[str, Any]],
    last: int,
    first: int,
    poses: Float[np.ndarray, "4 3"],
    pace: float,
    token: str,
    cameras: Sequence[str],
) -> dict[str, Any]:
    """A synthetic scene's values: four frames up to the log's `last`, seen from other poses, then what the log has in the 4 s after them.

    Args:
        frames: the log's.
        last: the scene's current frame among them.
        first: the logged scene that it follows.
        poses: of the ego in the four frames.
        pace: its speed as a share of the logged one.
        token: of the scene.
        cameras: whose pictures of the current frame there are.
    """
    now, later = frames[last], frames[last + 1 : last + 1 + FUTURE]
    history = frames[last - HISTORY + 1 : last + 1]
    ids = [_token(token, place) for place in range(HISTORY - 1)] + [token]
    rows = zip(history, poses, ids, strict=True)
    return {
        "scene_metadata": {
            "log_name": str(now["log_name"]),
            "scene_token": token,
            "map_name": str(now["map_location"]),
            "initial_token": token,
            "num_history_frames": HISTORY,
            "num_future_frames": 0,
            "corresponding_original_scene": str(now["token"]),
            "corresponding_original_initial_token": str(frames[first]["token"]),
        },
        "frames": [_frame(frame, pose, pace, own, cameras if own == token else ()) for frame, pose, own in rows],
        "extended_traffic_light_data": [traffic_lights(int(frame["timestamp"]), frame["traffic_lights"]) for frame in later],
        "extended_detections_tracks": [_detections(frame) for frame in later],
    }


def _detections(frame: Mapping[str, Any]) -> Any:
    """A frame's road users in global coordinates."""
    boxes, velocities = seen_from(frame, logged_pose(frame), np.zeros(3))
    marks = frame["anns"]
    names = [str(name) for name in np.asarray(marks["gt_names"])]
    return detections(int(frame["timestamp"]), names, boxes, velocities[:, :2], marks["track_tokens"], marks["instance_tokens"])


def _frame(frame: Mapping[str, Any], pose: Float[np.ndarray, "3"], pace: float, token: str, cameras: Sequence[str]) -> dict[str, Any]:
    """A frame as a synthetic scene holds it, its ego at another pose and pace."""
    boxes, velocities = seen_from(frame, logged_pose(frame), pose)
    motion = pace * np.asarray(frame["ego_dynamic_state"], dtype=np.float64)
    marks = frame["anns"]
    return {
        "token": token,
        "timestamp": int(frame["timestamp"]),
        "roadblock_ids": [str(block) for block in frame["roadblock_ids"]],
        "traffic_lights": [(int(connector), bool(is_red)) for connector, is_red in frame["traffic_lights"]],
        "annotations": {
            "boxes": boxes,
            "names": np.array([str(name) for name in marks["gt_names"]], dtype="<U14"),
            "velocity_3d": velocities,
            "instance_tokens": list(marks["instance_tokens"]),
            "track_tokens": list(marks["track_tokens"]),
        },
        "ego_status": {
            "ego_pose": np.array(pose, dtype=np.float64),
            "ego_velocity": motion[:2].astype(np.float32),
            "ego_acceleration": motion[2:].astype(np.float32),
            "driving_command": np.array(frame["driving_command"], dtype=np.int64),
            "in_global_frame": True,
        },
        "lidar_path": None,
        "camera_dict": {name.lower(): _camera(str(frame["log_name"]), name, token) if name in cameras else {} for name in CAMERA_NAMES},
    }


def _camera(log_name: str, name: str, token: str) -> dict[str, Any]:
    """One camera. A synthetic scene has no way between lidar and ego: as in NAVSIM's files, "lidar" is the ego frame here."""
    rig = mounting(name)
    return {
        "data_path": _data_path(log_name, name, token),
        "sensor2lidar_rotation": rig.rotation,
        "sensor2lidar_translation": rig.translation + np.array(EGO_FROM_LIDAR),
        "cam_intrinsic": rig.intrinsics,
        "distortion": np.zeros(5),
    }


def _data_path(log_name: str, camera: str, token: str) -> str:
    return f"{log_name}/{camera}/{token}.jpg"


def _draw(work: _Work, name: str, token: str, pose: Float[np.ndarray, "3"], frame_token: str, film: Footage) -> None:
    """Writes a synthetic scene's pictures of its current moment, which is that of a logged frame."""
    if not work.cameras:
        return
    if frame_token not in film.tokens:
        raise ValueError(f"log {name}: the sidecar has no footage of frame {frame_token}, so that nothing can follow there")
    moment = film.moments[film.tokens.index(frame_token)]
    town = _town(work.logs / "sidecar" / f"{film.town}.npz")
    for camera in work.cameras:
        rig = mounting(camera)
        image = picture(town, moment, camera_pose(pose, rig), rig.intrinsics, rig.width, rig.height, film.look)
        path = work.logs / FOLDER / "sensor_blobs" / _data_path(name, camera, token)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, quality=JPEG_QUALITY)


def _write_split(splits: Path, entries: Mapping[str, Any], part: str) -> None:
    """Writes the split as the devkit's configuration has them: which scenes belong together, and in another file the scene filter.

    Strings are quoted: 412e01... unquoted is a number to OmegaConf.
    """
    tokens = [token for now, before, _ in entries.values() for token in (now, before)]
    synthetic = [token for _, _, pairs in entries.values() for pair in pairs for token in pair]
    lines = ["_target_: navsim.common.dataclasses.SceneFilter", "_convert_: 'all'", f"num_history_frames: {HISTORY}"]
    lines += [f"num_future_frames: {FUTURE}", "frame_interval: 1", "has_route: true", "max_scenes: null", "include_synthetic_scenes: true"]
    for key, values in (("log_names", entries), ("tokens", tokens), ("synthetic_scene_tokens", synthetic)):
        lines += [f"{key}:", *(f"- '{value}'" for value in values)]
    lines += ["reactive_synthetic_initial_tokens:", *(f"- '{token}'" for token in synthetic)]
    (splits / "scene_filter").mkdir(parents=True, exist_ok=True)
    (splits / "scene_filter" / f"{SPLIT}.yaml").write_text("\n".join(lines) + "\n")
    mapping = [f"- {json.dumps(entry)}" for entry in entries.values()]
    lines = ["defaults:", f"- scene_filter: {SPLIT}", f"data_split: {part}", "reactive_all_mapping:", *mapping]
    beside = splits / f".{SPLIT}.yaml"
    beside.write_text("\n".join(lines) + "\n")
    os.replace(beside, splits / f"{SPLIT}.yaml")
