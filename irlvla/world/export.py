"""Drives of simulated vehicles written as OpenScene logs: the frames, and the footage from which the camera can draw them."""

import hashlib
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from irlvla.lanes import driving_command
from irlvla.types import CAMERA_NAMES, OBJECT_NAMES
from irlvla.world.camera import EGO_FROM_LIDAR, mounting
from irlvla.world.look import look
from irlvla.world.motion import FRAME_STEPS, MARGIN, Crowd, Ego, ego_motion, route_places
from irlvla.world.route import lanes_ahead
from irlvla.world.scenery import LIGHT_NAMES, Footage, Moment
from irlvla.world.town import Lane, Town
from irlvla.world.traffic import TIME_STEP, WARM_UP, Track, signal_letters

FRAME_TIME_US = 500_000
SIGHT = 75.0
"""Annotated objects lie within this distance of the ego, m."""
FOOTAGE_SIGHT = 130.0
LIGHT_SIGHT = 120.0
CLEARING = 7.0
"""After a junction the light stays open for the ego until its front is this far beyond, m."""
BLOCKS_BEYOND = 3
"""Roadblocks of the route beyond the end of a log."""
FIRST_TIME_US = 1_622_500_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Drive:
    """One log to be: an ego's frames `first` .. `last` (of the run, both included)."""

    log_name: str
    track: int
    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """All that one simulated run gives."""

    town: Town
    name: str
    seed: int
    number: int
    """Sets the run's place in time."""
    tracks: tuple[Track, ...]
    crowd: Crowd


def _hex(*parts: object) -> str:
    return hashlib.blake2b("/".join(str(part) for part in parts).encode(), digest_size=8).hexdigest()


def frame_token(run: Run, drive: Drive, frame: int) -> str:
    """The token of a frame of a log: 16 hex digits that depend on seed, log and frame alone."""
    return _hex(run.seed, drive.log_name, frame)


def drives(run: Run, length: int, shortest: int) -> list[Drive]:
    """Logs that a run can give: the tracks of vehicles of the ego's size, cut into pieces of `length` frames."""
    found = []
    for number, track in enumerate(run.tracks):
        if not track.may_be_ego:
            continue
        first = -(-(track.first + MARGIN) // FRAME_STEPS)
        end = (track.first + len(track.x) - MARGIN) // FRAME_STEPS
        for start in range(first, end - shortest + 1, length):
            last = min(start + length, end) - 1
            if last - start + 1 >= shortest:
                log_name = f"{run.town.name}.{run.name}_veh-{number:03d}_{start:05d}_{last:05d}"
                found.append(Drive(log_name=log_name, track=number, first=start, last=last))
    return found


def _rows(track: Track, drive: Drive) -> np.ndarray:
    return np.arange(drive.first, drive.last + 1) * FRAME_STEPS - track.first


def _open_connectors(track: Track, town: Town, step: int, way: np.ndarray) -> set[int]:
    """Connectors between the roadblocks of a junction that the ego is in, or has just left."""
    earlier = int(np.searchsorted(way, way[step] - CLEARING))
    pairs = set()
    for name in dict.fromkeys(track.lanes[earlier : step + 1].tolist()):
        pairs |= {town.connectors[connector].block for connector in town.connector_numbers.get(name, ())}
    return pairs


def _route(track: Track, town: Town, places: np.ndarray, rows: np.ndarray) -> list[int]:
    """Roadblocks of a log's whole route, from the one before its start to some beyond its end, cut before a repetition."""
    first, last = max(int(places[rows[0]]) - 1, 0), int(places[rows[-1]])
    blocks: list[int] = []
    for block in track.route[first : last + 1 + BLOCKS_BEYOND]:
        if block in blocks:
            break
        blocks.append(block)
    return blocks


def _roadblock_ids(town: Town, blocks: list[int]) -> list[str]:
    links = {(link.before, link.after): link.fid for link in town.block_connectors}
    ids = [str(town.blocks[blocks[0]].fid)]
    for before, after in zip(blocks[:-1], blocks[1:], strict=True):
        ids += [str(links[before, after]), str(town.blocks[after].fid)]
    return ids


def _annotations(run: Run, drive: Drive, frame: int, pose: np.ndarray, tokens: list[str], serial: int) -> dict[str, object]:
    crowd = run.crowd
    rows = np.arange(crowd.starts[frame], crowd.starts[frame + 1])
    offset = crowd.boxes[rows, :2] - pose[:2]
    rows = rows[(np.abs(offset) < SIGHT).all(1) & (np.hypot(*offset.T) < SIGHT) & (crowd.owners[rows] != drive.track)]
    boxes = crowd.boxes[rows]
    cosine, sine = np.cos(pose[2]), np.sin(pose[2])
    x, y = (boxes[:, :2] - pose[:2]).T
    heading = boxes[:, 2] - pose[2]
    placed = np.column_stack((cosine * x + sine * y, cosine * y - sine * x, boxes[:, 5] / 2, boxes[:, 3:6], heading))
    velocity = np.column_stack((crowd.speeds[rows] * np.cos(heading), crowd.speeds[rows] * np.sin(heading), np.zeros(len(rows))))
    owners = crowd.owners[rows]
    return {
        "gt_boxes": placed.astype(np.float32),
        "gt_names": np.array(OBJECT_NAMES)[crowd.kinds[owners]] if len(rows) else np.zeros(0, "<U14"),
        "gt_velocity_3d": velocity.astype(np.float32),
        "instance_tokens": [f"{(serial + number) * 0x9E3779B97F4A7C15 % 2**64:016x}" for number in range(len(rows))],
        "track_tokens": [tokens[owner] for owner in owners],
    }


def _lights(lit: list[Lane], starts: np.ndarray, letters: list[str], pose: np.ndarray, open_pairs: set[int]) -> list[tuple[int, bool]]:
    near = np.flatnonzero(np.hypot(*(starts - pose[:2]).T) < LIGHT_SIGHT)
    links = [lit[number] for number in near]
    return [(link.fid, letters[link.signal][link.link] in "ru" and link.block not in open_pairs) for link in links]


def _cameras(log_name: str, token: str, mountings: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, object]]:
    return {name: {"data_path": f"{log_name}/{name}/{token}.jpg", **mountings[name]} for name in CAMERA_NAMES}


def _mountings() -> dict[str, dict[str, np.ndarray]]:
    rig = {}
    for name in CAMERA_NAMES:
        camera = mounting(name)
        rig[name] = {
            "sensor2lidar_rotation": camera.rotation,
            "sensor2lidar_translation": camera.translation,
            "cam_intrinsic": camera.intrinsics,
            "distortion": np.zeros(5),
        }
    return rig


def _matrix(x: float, y: float, z: float, heading: float) -> np.ndarray:
    cosine, sine = np.cos(heading), np.sin(heading)
    return np.array([[cosine, -sine, 0, x], [sine, cosine, 0, y], [0, 0, 1, z], [0, 0, 0, 1.0]])


def log_frames(run: Run, drive: Drive) -> list[dict[str, object]]:
    """The frames of one log with all fields of OpenScene's pickles, 2 Hz."""
    town, track = run.town, run.tracks[drive.track]
    ego, rows = ego_motion(track), _rows(track, drive)
    places = route_places(track, town)
    way = np.concatenate(([0.0], np.cumsum(np.hypot(np.diff(track.x), np.diff(track.y)))))
    blocks = _route(track, town, places, rows)
    roadblock_ids = _roadblock_ids(town, blocks)
    jitter = np.random.default_rng([run.seed, int(_hex(drive.log_name)[:8], 16)]).integers(0, 301, len(rows))
    start_us = FIRST_TIME_US + run.number * 3_600_000_000
    tokens = [_hex(run.seed, town.name, run.name, name) for name in run.crowd.names]
    rig = _mountings()
    names = {key: _hex(run.seed, drive.log_name, key) for key in ("log", "scene", "instance")}
    serial = int(names["instance"], 16)
    lidar2ego = _matrix(*EGO_FROM_LIDAR, 0.0)
    lit = [link for link in town.connectors if link.signal >= 0]
    starts = np.array([link.line[0] for link in lit]).reshape(-1, 2)
    frames: list[dict[str, object]] = []
    ids = [frame_token(run, drive, frame) for frame in range(drive.first - 1, drive.last + 2)]
    for index, row in enumerate(rows):
        frame = drive.first + index
        token = ids[index + 1]
        local = np.array((ego.x[row], ego.y[row], ego.heading[row]))
        x, y, heading = *(local[:2] + town.origin), float((local[2] + np.pi) % (2 * np.pi) - np.pi)
        ego2global = _matrix(x, y, 0.0, heading)
        letters = signal_letters(town.signals, WARM_UP + frame * FRAME_STEPS * TIME_STEP)
        centerline = lanes_ahead(town, track, places, blocks, int(row), way)
        annotations = _annotations(run, drive, frame, local, tokens, serial)
        serial += len(annotations["track_tokens"])
        rotation = np.array((np.cos(heading / 2), 0.0, 0.0, np.sin(heading / 2)))
        speed, acceleration = float(ego.speed[row]), float(ego.acceleration[row])
        turning = float(np.gradient(ego.heading[row - 1 : row + 2])[1] / TIME_STEP)
        frames.append(
            {
                "token": token,
                "frame_idx": index,
                "timestamp": int(start_us + frame * FRAME_TIME_US + jitter[index]),
                "log_name": drive.log_name,
                "log_token": names["log"],
                "scene_name": f"{drive.log_name}-0000",
                "scene_token": names["scene"],
                "map_location": town.city,
                "roadblock_ids": roadblock_ids,
                "vehicle_name": f"veh-{drive.track:03d}",
                "can_bus": np.array((x, y, 0.0, *rotation, acceleration, 0.0, 0.0, 0.0, 0.0, turning, speed, 0.0, 0.0, 0.0, 0.0)),
                "lidar_path": f"{drive.log_name}/MergedPointCloud/{token}.pcd",
                "lidar2ego_translation": np.array(EGO_FROM_LIDAR),
                "lidar2ego_rotation": np.array((1.0, 0.0, 0.0, 0.0)),
                "ego2global_translation": np.array((x, y, 0.0)),
                "ego2global_rotation": rotation,
                "ego2global": ego2global,
                "lidar2ego": lidar2ego,
                "lidar2global": ego2global @ lidar2ego,
                "ego_dynamic_state": [speed, 0.0, acceleration, 0.0],
                "traffic_lights": _lights(lit, starts, letters, local, _open_connectors(track, town, int(row), way)),
                "driving_command": driving_command(centerline, local),
                "sample_prev": ids[index] if index else None,
                "sample_next": ids[index + 2] if index + 1 < len(rows) else None,
                "cams": _cameras(drive.log_name, token, rig),
                "anns": annotations,
            }
        )
    return frames


def write_log(path: Path, frames: list[dict[str, object]]) -> None:
    """Write a log's pickle so that NumPy 1 and 2 alike can read it (NumPy 2 names its modules anew)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = pickle.dumps(frames, protocol=3)
    path.write_bytes(data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))


def footage(run: Run, drive: Drive, frames: Sequence[int], pole_systems: Sequence[tuple[int, int]]) -> Footage:
    """What the camera needs of some frames of a log.

    Args:
        run: The run.
        drive: The log.
        frames: Frames of the run.
        pole_systems: For each group of poles its light system and one of its links.

    Returns:
        Footage with the moving things within sight, global.
    """
    track = run.tracks[drive.track]
    ego = ego_motion(track)
    crowd, town = run.crowd, run.town
    moments = []
    for frame in frames:
        row = frame * FRAME_STEPS - track.first
        place = np.array((ego.x[row], ego.y[row]))
        rows = np.arange(crowd.starts[frame], crowd.starts[frame + 1])
        near = np.hypot(*(crowd.boxes[rows, :2] - place).T) < FOOTAGE_SIGHT
        rows = rows[near & (crowd.owners[rows] != drive.track)]
        boxes = crowd.boxes[rows].copy()
        boxes[:, :2] += town.origin
        letters = signal_letters(town.signals, WARM_UP + frame * FRAME_STEPS * TIME_STEP)
        moments.append(
            Moment(
                types=crowd.kinds[crowd.owners[rows]],
                boxes=boxes,
                seeds=np.array(
                    [int(_hex(run.seed, town.name, run.name, crowd.names[owner])[:7], 16) for owner in crowd.owners[rows]], dtype=np.int64
                ),
                braking=crowd.braking[rows],
                lights=np.array([_lamp(letters[signal][link]) for signal, link in pole_systems], dtype=np.int64),
            )
        )
    seed = int(_hex(run.seed, drive.log_name)[:8], 16)
    return Footage(
        town=town.name, look=look(seed), tokens=tuple(frame_token(run, drive, frame) for frame in frames), moments=tuple(moments)
    )


def _lamp(letter: str) -> int:
    return LIGHT_NAMES.index("red" if letter in "ru" else "yellow" if letter in "yY" else "green" if letter in "gG" else "off")


def ego_pose(run: Run, drive: Drive, frame: int, ego: Ego) -> np.ndarray:
    """x, y, heading of the ego's rear axle at a frame, global."""
    row = frame * FRAME_STEPS - run.tracks[drive.track].first
    return np.array((*(np.array((ego.x[row], ego.y[row])) + run.town.origin), ego.heading[row]))
