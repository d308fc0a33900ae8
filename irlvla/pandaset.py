"""A PandaSet sequence written as OpenScene logs that hold cameras only: real pictures through the same reader as everything else.

A sequence has 80 frames at 10 Hz; NAVSIM's logs have 2 Hz. Each of the five phases (frames 0, 5, 10 .. and 1, 6, 11 ..) becomes a log.

PandaSet (Hesai and Scale AI, https://pandaset.org, arXiv 2112.12610) is licensed CC BY 4.0 with terms of its own.
"""

import os
import shutil
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from irlvla.data.frames import ANNOTATION_KEYS, rotation
from irlvla.data.navsim import FUTURE
from irlvla.files import json_mapping, json_value, short
from irlvla.lanes import driving_command
from irlvla.types import HISTORY
from irlvla.world.export import write_log

CAMERAS = {
    "front_camera": "CAM_F0",
    "front_left_camera": "CAM_L0",
    "left_camera": "CAM_L1",
    "front_right_camera": "CAM_R0",
    "right_camera": "CAM_R1",
    "back_camera": "CAM_B0",
}
"""PandaSet's cameras -> those of NAVSIM's that look the same way. The front camera, the first, is the clock and carries the rig."""
PHASES = 5
"""Frames of a sequence between two of a log: 10 Hz to 2 Hz."""
EGO_FROM_FRONT = np.array(
    ((0.004324, 0.003347, 0.999985, 0.856), (-0.999813, -0.018808, 0.004386, 0.0), (0.018822, -0.999818, 0.003265, 2.14))
)
"""The front camera's points in the ego frame: x forward, y left, z up from the ground, origin below the middle of the rear axle, m.

Measured on sequence 002: its LiDAR poses, whose y axis looks forward, have their origin 0.856 m behind the front camera and 1.81 m
below it, 0.33 m above the ground (the lower ends of the annotated vehicles in the lanes beside): a wheel hub's place. The LiDAR itself hangs
0.04 m behind the front camera (the devkit's static_extrinsic_calibration.yaml), so that it is 0.81 m ahead of this origin; py123d, after figure 3a
of the paper, puts it 0.84 m ahead of the rear axle. The axes are those of the LiDAR poses: in 002 the car moves along them to 0.1 degrees.
"""
WINDOW = 0.7
"""Velocity and acceleration are read off a parabola through the poses of so many seconds up to now, s: they know nothing of the future."""
STRAYING = 0.1
"""The car moves along its heading, give or take this, rad, where it is faster than MOVING."""
MOVING = 2.0
SPACING = 0.5
"""Between two points of the driven path that the command looks at, m: a standing car's path has no direction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drive:
    """One sequence: times (s) and ego poses at the front camera's pictures, and each camera's pictures and mounting by PandaSet's name."""

    name: str
    times: Float[np.ndarray, "frames"]
    global_from_ego: Float[np.ndarray, "frames 4 4"]
    pictures: dict[str, tuple[Path, ...]]
    intrinsics: dict[str, Float[np.ndarray, "3 3"]]
    ego_from_camera: dict[str, Float[np.ndarray, "4 4"]]


def write_pandaset(sequence: Path, out: Path, split: str = "pandaset") -> list[str]:
    """Writes a sequence as logs and linked pictures; what is there of the same names is replaced.

    Args:
        sequence: PandaSet's folder of one sequence; of it `camera` is read.
        out: an OPENSCENE_DATA_ROOT, new or with other logs.
        split: the folder below its navsim_logs and sensor_blobs.

    Returns:
        The logs' names, one a phase.

    Raises:
        ValueError: a file is missing or damaged, or the sequence is too short for a scene.
    """
    found = drive(sequence)
    velocities, accelerations = motion(found.times, found.global_from_ego)
    commands = [driving_command(*seen) for seen in _ways(found.global_from_ego)]
    names = []
    for phase in range(PHASES):
        name = f"{found.name}-{phase}"
        blobs = out / "sensor_blobs" / split / name
        shutil.rmtree(blobs, ignore_errors=True)
        frames = []
        for index, number in enumerate(range(phase, len(found.times), PHASES)):
            frame = _frame(found, name, index, number, len(found.times))
            frame["ego_dynamic_state"] = [*velocities[number].tolist(), *accelerations[number].tolist()]
            frame["driving_command"] = commands[number]
            for camera, place in frame["cams"].items():
                source = found.pictures[camera_of(camera)][number]
                _link(source, out / "sensor_blobs" / split / place["data_path"])
            frames.append(frame)
        write_log(out / "navsim_logs" / split / f"{name}.pkl", frames)
        names.append(name)
    return names


def drive(sequence: Path) -> Drive:
    """Reads a sequence.

    Args:
        sequence: PandaSet's folder of it.

    Raises:
        ValueError: as `write_pandaset`; or the car does not move along its heading, so that the poses are not what they are taken for.
    """
    times, poses, pictures, intrinsics = {}, {}, {}, {}
    for camera in CAMERAS:
        folder = sequence / "camera" / camera
        times[camera] = _times(folder / "timestamps.json")
        poses[camera] = _poses(folder / "poses.json")
        intrinsics[camera] = _intrinsics(folder / "intrinsics.json")
        pictures[camera] = tuple(folder / f"{number:02d}.jpg" for number in range(len(times[camera])))
        missing = [path for path in pictures[camera] if not path.is_file()]
        if missing:
            raise ValueError(f"{missing[0]} is missing: timestamps.json names {len(times[camera])} pictures")
        if not len(times[camera]) == len(poses[camera]) == len(times["front_camera"]):
            raise ValueError(
                f"{folder}: {len(times[camera])} times and {len(poses[camera])} poses, the front camera has {len(times['front_camera'])} times"
            )
    front, least = poses["front_camera"], PHASES * (HISTORY + FUTURE - 1) + 1
    if len(front) < least:
        raise ValueError(f"{sequence}: {len(front)} frames, a scene needs {least}")
    ego_from_front = np.vstack([EGO_FROM_FRONT, (0, 0, 0, 1)])
    global_from_ego = front @ np.linalg.inv(ego_from_front)
    _check_course(sequence, times["front_camera"], global_from_ego)
    mounted = {
        camera: ego_from_front @ mounting(times["front_camera"], front, times[camera], poses[camera])
        if camera != "front_camera"
        else ego_from_front
        for camera in CAMERAS
    }
    return Drive(
        name=sequence.resolve().name,
        times=times["front_camera"],
        global_from_ego=global_from_ego,
        pictures=pictures,
        intrinsics=intrinsics,
        ego_from_camera=mounted,
    )


def mounting(
    front_times: Float[np.ndarray, "frames"],
    front: Float[np.ndarray, "frames 4 4"],
    times: Float[np.ndarray, "frames"],
    poses: Float[np.ndarray, "frames 4 4"],
) -> Float[np.ndarray, "4 4"]:
    """A camera's points in the front camera's frame, the mean over a sequence.

    The cameras fire one after the other, within 0.1 s: the front camera's pose is interpolated at the other's times.

    Args:
        front_times: of the front camera's pictures, s.
        front: its points -> global.
        times: of the other camera's pictures, s.
        poses: its points -> global.
    """
    inside = (times >= front_times[0]) & (times <= front_times[-1])
    place = np.interp(times[inside], front_times, np.arange(len(front_times)))
    first = np.minimum(place.astype(np.int64), len(front) - 2)
    share = (place - first)[:, None, None]
    between = (1 - share) * front[first] + share * front[first + 1]
    between[:, :3, :3] = _rotation(between[:, :3, :3])
    mean = (np.linalg.inv(between) @ poses[inside]).mean(axis=0)
    mean[:3, :3] = _rotation(mean[:3, :3])
    return mean


def motion(
    times: Float[np.ndarray, "frames"], global_from_ego: Float[np.ndarray, "frames 4 4"]
) -> tuple[Float[np.ndarray, "frames 2"], Float[np.ndarray, "frames 2"]]:
    """Velocity and acceleration in each frame's ego frame, from the poses up to that frame.

    Acceleration is the mean over the window, as late as a filter's. A sequence's first frames, which have no WINDOW behind them, share its
    first one: they are at most history of a scene.

    Args:
        times: s.
        global_from_ego: ego poses.
    """
    found = []
    for number, now in enumerate(times):
        last = max(number, int(np.searchsorted(times, times[0] + WINDOW, side="right")) - 1)
        chosen = slice(int(np.searchsorted(times, times[last] - WINDOW - 1e-6)), last + 1)
        along = times[chosen] - now
        parabola = np.linalg.lstsq(
            np.stack([np.ones_like(along), along, along**2 / 2], axis=1), global_from_ego[chosen, :3, 3], rcond=None
        )[0]
        found.append(parabola[1:] @ global_from_ego[number, :3, :2])
    return np.array([pair[0] for pair in found]), np.array([pair[1] for pair in found])


def frame_token(log_name: str, number: int) -> str:
    """The token of a sequence's frame in one of its logs."""
    return _hex(log_name, number)


def camera_of(name: str) -> str:
    """PandaSet's name of one of NAVSIM's cameras."""
    return next(camera for camera, known in CAMERAS.items() if known == name)


def _ways(global_from_ego: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """For every frame the driven path, prolonged straight on at both ends, and the pose: what the command's rule looks at.

    The path stands in for the route that a log with a map has: it knows where the car will turn, as a navigator does, and nothing else.
    """
    poses = np.column_stack([global_from_ego[:, :2, 3], np.arctan2(global_from_ego[:, 1, 0], global_from_ego[:, 0, 0])])
    kept = [0]
    for number in range(1, len(poses)):
        if np.hypot(*(poses[number, :2] - poses[kept[-1], :2])) >= SPACING:
            kept.append(number)
    steps = np.arange(1, 61)[:, None] * SPACING
    first, last = poses[0], poses[-1]
    back = first[:2] - steps[::-1] * np.array([np.cos(first[2]), np.sin(first[2])])
    on = poses[kept[-1], :2] + steps * np.array([np.cos(last[2]), np.sin(last[2])])
    way = np.concatenate([back, poses[kept, :2], on])
    return [(way, pose) for pose in poses]


def _frame(found: Drive, name: str, index: int, number: int, count: int) -> dict[str, Any]:
    """A frame of a log without its motion and command; LiDAR frame and ego frame are one, since there is no LiDAR."""
    pose = found.global_from_ego[number]
    token = frame_token(name, number)
    mounted = {
        CAMERAS[camera]: {
            "data_path": f"{name}/{CAMERAS[camera]}/{token}.jpg",
            "sensor2lidar_rotation": found.ego_from_camera[camera][:3, :3],
            "sensor2lidar_translation": found.ego_from_camera[camera][:3, 3],
            "cam_intrinsic": found.intrinsics[camera],
            "distortion": np.zeros(5),
        }
        for camera in CAMERAS
    }
    return {
        "token": token,
        "frame_idx": index,
        "timestamp": round(1e6 * found.times[number]),
        "log_name": name,
        "log_token": _hex(name, "log"),
        "scene_name": f"{name}-0000",
        "scene_token": _hex(name, "scene"),
        "vehicle_name": "pandaset",
        "lidar2ego_translation": np.zeros(3),
        "lidar2ego_rotation": np.array((1.0, 0.0, 0.0, 0.0)),
        "lidar2ego": np.eye(4),
        "lidar2global": pose,
        "ego2global_translation": pose[:3, 3],
        "ego2global_rotation": _quaternion(pose[:3, :3]),
        "ego2global": pose,
        "sample_prev": frame_token(name, number - PHASES) if number >= PHASES else None,
        "sample_next": frame_token(name, number + PHASES) if number + PHASES < count else None,
        "cams": mounted,
    } | dict.fromkeys(ANNOTATION_KEYS)


def _check_course(sequence: Path, times: np.ndarray, global_from_ego: np.ndarray) -> None:
    velocity = np.gradient(global_from_ego[:, :3, 3], times, axis=0)
    ahead, left = (np.einsum("fi,fi->f", velocity, global_from_ego[:, :3, axis]) for axis in (0, 1))
    fast = np.hypot(ahead, left) > MOVING
    off = np.arctan2(left, ahead)
    # The middle of the drive, not its worst frame: a bend swings the tail, and poses are noisy.
    if fast.any() and abs(np.median(off[fast])) > STRAYING:
        raise ValueError(
            f"{sequence}: the car moves {np.degrees(np.median(off[fast])):.1f} degrees off its heading, at most {np.degrees(STRAYING):.1f} make sense"
        )


def _times(path: Path) -> np.ndarray:
    values = json_value(path)
    if not isinstance(values, list) or not all(isinstance(value, float | int) and abs(value) < 1e12 for value in values):
        raise ValueError(f"{path}: holds {short(values)}, no list of times in seconds")
    times = np.array(values, dtype=np.float64)
    if not (np.diff(times) > 0).all():
        raise ValueError(f"{path}: time {int(np.argmin(np.diff(times) > 0)) + 1} is not after the one before")
    return times


def _poses(path: Path) -> np.ndarray:
    """Poses as matrices: points of the sensor -> global."""
    values = json_value(path)
    poses = np.tile(np.eye(4), (len(values) if isinstance(values, list) else 0, 1, 1))
    for number, pose in enumerate(values if isinstance(values, list) else [None]):
        try:
            place = np.array([float(pose["position"][axis]) for axis in "xyz"])
            turn = np.array([float(pose["heading"][axis]) for axis in "wxyz"])
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"{path}: pose {number} has no position x y z and heading w x y z") from error
        if not np.isfinite([*place, *turn]).all() or np.linalg.norm(turn) < 0.1:
            raise ValueError(f"{path}: pose {number} is {place}, {turn}, which is no pose")
        poses[number, :3, :3], poses[number, :3, 3] = rotation(turn), place
    return poses


def _intrinsics(path: Path) -> np.ndarray:
    values = json_mapping(path)
    wrong = [name for name in ("fx", "fy", "cx", "cy") if not isinstance(values.get(name), float | int) or not 0 < values[name] < 1e6]
    if wrong:
        raise ValueError(f"{path}: {wrong[0]} is {short(values.get(wrong[0]))}, no number of pixels")
    return np.array(((values["fx"], 0.0, values["cx"]), (0.0, values["fy"], values["cy"]), (0.0, 0.0, 1.0)))


def _rotation(matrices: np.ndarray) -> np.ndarray:
    """The rotations nearest to some matrices."""
    left, _, right = np.linalg.svd(matrices)
    return left @ right


def _quaternion(matrix: np.ndarray) -> np.ndarray:
    """(w, x, y, z) of the rotation of a car that stands on its wheels."""
    w = np.sqrt(max(1.0 + np.trace(matrix), 1e-12)) / 2
    if w > 0.1:
        return np.array((w, *(np.array((matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1])) / (4 * w))))
    # Half a turn about the vertical, nearly: z is the largest.
    z = np.sqrt(1.0 - matrix[0, 0] - matrix[1, 1] + matrix[2, 2]) / 2
    return np.array((matrix[1, 0] - matrix[0, 1], matrix[0, 2] + matrix[2, 0], matrix[1, 2] + matrix[2, 1], 4 * z * z)) / (4 * z)


def _link(source: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), place)
    except OSError:
        shutil.copy2(source, place)


def _hex(*parts: object) -> str:
    return blake2b("/".join(str(part) for part in parts).encode(), digest_size=8).hexdigest()
