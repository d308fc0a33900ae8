"""NAVSIM's synthetic scenes on disk -> scenes: what follows a logged scene in the second stage.

A pickle holds four frames of history as a log does, in other words, and nuPlan's objects for the 4 s after them. A scene goes by its
`initial_token`, of 17 letters where those of logs have 16; by that length the devkit tells them apart. The file is named for its
`scene_token`, which in NAVSIM's files is another one.

Cameras are calibrated to what is called the lidar frame; how that lies in the ego frame is not in the file, nor in the devkit's
classes. In NAVSIM's data the two are one (see `irlvla.data.rig`), and so they are taken here. Pictures lie in the folder sensor_blobs
beside that of the pickles.

Source: autonomousvision/navsim at 0a380a9, navsim/common/dataclasses.py (612-731), navsim/common/dataloader.py (which token a scene
goes by), planning/scenario_builder/navsim_scenario.py.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from irlvla.data.frames import FARTHEST, FASTEST, Frame, frame, numbers, text
from irlvla.data.maps import Maps
from irlvla.data.pickles import BAD_PICKLE, Made, unpickled
from irlvla.data.tracks import CLASSES, items, tracked_objects, traffic_lights
from irlvla.files import short
from irlvla.types import HISTORY, POSES, Objects, Scene

FOLDER = "synthetic_scene_pickles"


_HEAD = 4096
"""Bytes in which a pickle says what scene it holds."""
_INITIAL_TOKEN = re.compile(rb"(?<!_)initial_token(?:\x94|q.|r.{4})(?:\x8c(.)|X(.{4}))", re.DOTALL)
"""The key and what comes before its value in a pickle: a memo of the key, then text of a length in 1 or 4 bytes."""


def synthetic_paths(logs: str | Path) -> dict[str, Path]:
    """Token -> pickle of all synthetic scenes below an OPENSCENE_DATA_ROOT (<any folder>/synthetic_scene_pickles/*.pkl).

    Raises:
        ValueError: There are none.
    """
    paths = {_token(path): path for path in sorted(Path(logs).glob(f"*/{FOLDER}/*.pkl"))}
    if not paths:
        raise ValueError(f"{logs} is no OPENSCENE_DATA_ROOT with synthetic scenes: nothing matches */{FOLDER}/*.pkl")
    return paths


def _token(path: Path) -> str:
    """The token that a scene goes by, as the head of its pickle says; the file's name where that cannot be told."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return path.stem  # whoever reads the scene reports it
    found = _INITIAL_TOKEN.search(head)
    if found is None:
        return path.stem  # also where the pickle refers to the scene_token, of which the name is made
    length = int.from_bytes(found[1] or found[2], "little")
    token = head[found.end() : found.end() + length].decode("ascii", "replace")
    return token if 0 < len(token) == length else path.stem


def synthetic_scene(path: str | Path, maps: Maps, cameras: bool = False) -> Scene:
    """The scene of a synthetic scene's pickle.

    What comes after the frames has no ego and lies in global coordinates: the ego pose of those moments is (0, 0, 0), in whose
    frame boxes are global ones. Traffic lights past the end are none, as in the devkit.

    Args:
        path: The pickle.
        maps: Map files, read as needed.
        cameras: Whether its cameras are wanted too; scoring does without them. Those without a picture are left out.

    Raises:
        ValueError: The file is missing, no pickle of such a scene, names a class that is not listed, holds frames without the
            values that they should have, or has no detections for all of the 4 s.
    """
    path = Path(path)
    try:
        values = unpickled(path.read_bytes(), CLASSES)
    except OSError as error:
        raise ValueError(f"synthetic scene {path} cannot be read: {error.strerror or error}") from error
    except BAD_PICKLE as error:
        raise ValueError(f"synthetic scene {path}: not a readable pickle ({type(error).__name__}: {str(error)[:200]})") from error
    try:
        return _scene(path, values, maps, cameras)
    except (ValueError, LookupError) as error:
        raise ValueError(f"synthetic scene {path} cannot be used: {error}") from error


def _scene(path: Path, values: Any, maps: Maps, cameras: bool) -> Scene:
    about = _mapping(values, "scene_metadata")
    if about.get("num_history_frames") != HISTORY:
        raise ValueError(f"it has {short(about.get('num_history_frames'))} frames of history, not {HISTORY}")
    given = items(values.get("frames"), "frames")
    if len(given) < HISTORY:
        raise ValueError(f"it has {len(given)} frames, fewer than {HISTORY}")
    blobs = path.parent.parent / "sensor_blobs"
    frames = [_frame(one, about, blobs, cameras) for one in given]
    now, token = frames[HISTORY - 1], text(about, "initial_token")
    names = [token if place == HISTORY - 1 else one.token for place, one in enumerate(frames)]
    later = max(0, HISTORY + POSES - len(frames))
    tracks = items(values.get("extended_detections_tracks") or [], "extended_detections_tracks")[:later]
    lights = items(values.get("extended_traffic_light_data") or [], "extended_traffic_light_data")[:later]
    if len(tracks) < later:
        raise ValueError(f"{len(frames) - HISTORY + len(tracks)} moments after the current one have objects, {POSES} are needed")
    for before, after in zip(frames[: HISTORY - 1], frames[1:HISTORY]):
        if not before.time_us < after.time_us:
            raise ValueError(f"frame {after.token} is at {after.time_us} us, not after {before.time_us} us")
    objects: list[Objects] = [one.objects for one in frames if one.objects is not None] + [tracked_objects(track) for track in tracks]
    known_lights = [one.traffic_lights for one in frames if one.traffic_lights is not None] + [traffic_lights(light) for light in lights]
    ends = np.array([one.time_us for one in frames] + [frames[-1].time_us + 500_000 * (step + 1) for step in range(later)], dtype=np.int64)
    nothing = np.zeros((later, 2))
    return Scene(
        token=token,
        log_name=now.log_name,
        map_name=now.map_name,
        frame_tokens=tuple(names) + tuple(f"{token}+{step + 1}" for step in range(later)),
        time_us=ends,
        ego_poses=np.concatenate([np.stack([one.ego_pose for one in frames]), np.zeros((later, 3))]),
        ego_velocities=np.concatenate([np.stack([one.velocity for one in frames]), nothing]),
        ego_accelerations=np.concatenate([np.stack([one.acceleration for one in frames]), nothing]),
        commands=np.concatenate([np.stack([one.command for one in frames]), np.zeros((later, 4), np.int64)]),
        roadblock_ids=now.roadblock_ids,
        objects=tuple(objects),
        traffic_lights=tuple(known_lights) + ((),) * (later - len(lights)),
        cameras=tuple(one.cameras for one in frames[:HISTORY]),
        previous_token=None,
        lane_map=maps[now.map_name],
    )


def _mapping(values: Any, key: str) -> dict:
    if not isinstance(values, dict) or not isinstance(values.get(key), dict):
        raise ValueError(f"{key} is {short(values.get(key)) if isinstance(values, dict) else 'missing'}, no mapping")
    return values[key]


def _frame(values: Any, about: dict, blobs: Path, cameras: bool) -> Frame:
    """A frame of a synthetic scene, in the words of a log's frame."""
    ego, marks = _mapping(values, "ego_status"), _mapping(values, "annotations")
    x, y, heading = numbers(ego, "ego_pose", (3,), FARTHEST)
    renamed = {
        "token": values.get("token"),
        "timestamp": values.get("timestamp"),
        "log_name": about.get("log_name"),
        "map_location": about.get("map_name"),
        "roadblock_ids": values.get("roadblock_ids"),
        "traffic_lights": values.get("traffic_lights"),
        "ego2global_translation": [x, y, 0.0],
        "ego2global_rotation": [1.0, 0.0, 0.0, 0.0],
        "ego_dynamic_state": [*numbers(ego, "ego_velocity", (2,), FASTEST), *numbers(ego, "ego_acceleration", (2,), FASTEST)],
        "driving_command": ego.get("driving_command"),
        "anns": {
            "gt_boxes": marks.get("boxes"),
            "gt_names": marks.get("names"),
            "gt_velocity_3d": marks.get("velocity_3d"),
            "track_tokens": marks.get("track_tokens"),
        },
        "cams": _cameras(values) if cameras else {},
    }
    found = frame(renamed, blobs)
    # The heading stands there as such; a rotation would give it back with other last digits.
    return Frame(**{name: getattr(found, name) for name in Frame.__slots__} | {"ego_pose": np.array([x, y, heading])})


def _cameras(values: dict) -> dict[str, Any]:
    """Those of a frame's cameras that have a picture; its path may stand there as text or as a path."""
    found = {}
    for name, camera in _mapping(values, "camera_dict").items():
        if not isinstance(camera, dict):
            raise ValueError(f"camera_dict holds {short(camera)} for {short(name)}, no mapping")
        if camera:
            path = camera.get("data_path")
            is_path = isinstance(path, Made) and all(isinstance(part, str) for part in path.arguments)
            found[name] = camera | {"data_path": "/".join(path.arguments) if is_path else path}
    return found
