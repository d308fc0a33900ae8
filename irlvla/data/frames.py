"""One frame of a log as its pickle holds it -> checked arrays and names.

Every value is checked before it is converted: a list in a pickle can hold itself, or far more numbers than its file has bytes.

Source: autonomousvision/navsim at 0a380a9, navsim/common/dataclasses.py (frames).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from irlvla.data.maps import ALIASES
from irlvla.files import short
from irlvla.types import CAMERA_NAMES, OBJECT_NAMES, Camera, Objects

FARTHEST = 1e8
"""No coordinate of a projection is larger, m."""
FASTEST = 1e4
"""No speed or acceleration is larger, m/s and m/s2."""
LARGEST = 1e3
"""No box is longer or wider, m."""
ANNOTATION_KEYS = ("anns", "traffic_lights", "roadblock_ids", "map_location")
"""What is None in a frame of a log that holds cameras only; all of them are there, and none of them has a value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One 2 Hz frame of a log, converted once and shared by all windows that hold it.

    Without annotations it has no lights and objects (None), an empty map name and no roadblocks.
    """

    token: str
    log_name: str
    time_us: int
    map_name: str
    roadblock_ids: tuple[str, ...]
    traffic_lights: tuple[tuple[str, bool], ...] | None
    ego_pose: Float[np.ndarray, "3"]
    velocity: Float[np.ndarray, "2"]
    acceleration: Float[np.ndarray, "2"]
    command: np.ndarray
    objects: Objects | None
    cameras: tuple[Camera, ...]


def frame(values: dict, blobs: Path) -> Frame:
    """A frame of a log.

    Args:
        values: The frame as the pickle holds it.
        blobs: Folder below which its pictures lie.

    Raises:
        ValueError: A value is missing or is none that a frame can have; the message names its key.
    """
    dynamic = numbers(values, "ego_dynamic_state", (4,), FASTEST).astype(np.float32).astype(np.float64)
    ego_from_lidar = np.eye(4)
    if "lidar2ego_rotation" in values:
        ego_from_lidar[:3, :3] = _turn(values, "lidar2ego_rotation")
        ego_from_lidar[:3, 3] = numbers(values, "lidar2ego_translation", (3,), FARTHEST)
    is_annotated = not is_camera_only(values)
    place = text(values, "map_location") if is_annotated else ""
    x, y = numbers(values, "ego2global_translation", (3,), FARTHEST)[:2]
    command = numbers(values, "driving_command", (4,), 1.0)
    if not np.isin(command, (0, 1)).all():
        raise ValueError(f"driving_command is {command}, not one-hot")
    cameras = _named(values, "cams")
    return Frame(
        token=text(values, "token"),
        log_name=text(values, "log_name"),
        time_us=_time(values),
        map_name=ALIASES.get(place, place),
        roadblock_ids=route(values),
        traffic_lights=_lights(values) if is_annotated else None,
        ego_pose=np.array([x, y, yaw(_quaternion(values, "ego2global_rotation"))]),
        velocity=dynamic[:2],
        acceleration=dynamic[2:4],
        command=command.astype(np.int64),
        objects=_objects(_mapping(values, "anns")) if is_annotated else None,
        cameras=tuple(_camera(name, _mapping(cameras, name), blobs, ego_from_lidar) for name in CAMERA_NAMES if name in cameras),
    )


def is_camera_only(values: dict) -> bool:
    """Whether a frame says that it has no annotations: every one of ANNOTATION_KEYS is there and None.

    A frame that lacks a key, or has None for some of them only, is a damaged one.
    """
    return all(key in values and values[key] is None for key in ANNOTATION_KEYS)


def route(values: dict) -> tuple[str, ...]:
    """Ids of the roadblocks of a frame's route."""
    blocks = _value(values, "roadblock_ids")
    return () if blocks is None else tuple(_id("roadblock_ids", block) for block in _items("roadblock_ids", blocks))


def text(values: dict, key: str) -> str:
    """A name or token of a frame."""
    value = _value(values, key)
    if not isinstance(value, str) or not 0 < len(value) <= 256 or not value.isprintable():
        raise ValueError(f"{key} is {short(value)}, no name")
    return str(value)


def numbers(values: dict, key: str, shape: tuple[int, ...], largest: float, may_be_unknown: bool = False) -> np.ndarray:
    """Numbers of a frame as float64, from an array or lists.

    Args:
        values: What holds them.
        key: Their name there.
        shape: Their shape; -1 in the first place for any number of rows, none of them in whatever shape included.
        largest: The largest absolute value that makes sense.
        may_be_unknown: Whether NaN may stand among them.
    """
    value = _value(values, key)
    if isinstance(value, list | tuple):
        array = _listed(key, value, shape[1:])
    elif isinstance(value, np.ndarray) and value.dtype.kind in "biufO":
        try:
            array = np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{key} holds something else than numbers ({error})") from error
    else:
        raise ValueError(f"{key} is {short(value)}, no numbers")
    if array.shape != shape:
        if shape[0] == -1 and not array.size:
            return np.zeros((0, *shape[1:]))
        if array.ndim != len(shape) or any(wanted not in (-1, length) for wanted, length in zip(shape, array.shape)):
            raise ValueError(f"{key} has shape {array.shape}, not {shape}".replace("-1", "n"))
    sizes = np.abs(np.nan_to_num(array, nan=0.0, posinf=np.inf, neginf=np.inf) if may_be_unknown else array)
    # A largest value that is NaN is not within the limit either.
    if sizes.size and not sizes.max() <= largest:
        if not np.isfinite(sizes).all():
            raise ValueError(f"{key} holds values that are not finite")
        raise ValueError(f"{key} holds {array.flat[sizes.argmax()]}, more than {largest}")
    return array


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


def _value(values: dict, key: str) -> Any:
    if key not in values:
        raise ValueError(f"{key} is missing")
    return values[key]


def _listed(key: str, value: list | tuple, row: tuple[int, ...]) -> np.ndarray:
    """Numbers in a list, or in rows of a length; nothing is looked into more deeply than that."""
    flat: list[Any] = []
    for some in value if row else (value,):
        some = some.tolist() if isinstance(some, np.ndarray) and some.shape == row else some
        if not isinstance(some, list | tuple) or (row and len(some) != row[0]):
            raise ValueError(f"{key} holds {short(some)} among its rows, not {row[0]} numbers")
        flat += some
    for item in flat:
        if not isinstance(item, int | float | np.number) or (isinstance(item, int) and item.bit_length() > 1000):
            raise ValueError(f"{key} holds {short(item)} among its numbers")
    return np.array(flat, dtype=np.float64).reshape(-1, *row)


def _mapping(values: dict, key: str) -> dict:
    value = _value(values, key)
    if not isinstance(value, dict):
        raise ValueError(f"{key} is {short(value)}, no mapping")
    return value


def _named(values: dict, key: str) -> dict[str, Any]:
    """A mapping from cameras, whose names may be in lower case; none is an empty one."""
    cameras = {} if values.get(key) is None else _mapping(values, key)
    wrong = [name for name in cameras if not isinstance(name, str)]
    if wrong:
        raise ValueError(f"{key} holds {short(wrong[0])}, no name of a camera")
    return {name.upper(): camera for name, camera in cameras.items()}


def _items(key: str, value: Any) -> list[Any]:
    """The items of a list, tuple or array of one axis."""
    if not isinstance(value, list | tuple) and not (isinstance(value, np.ndarray) and (value.ndim == 1 or value.size == 0)):
        raise ValueError(f"{key} is {short(value)}, no list")
    return value.ravel().tolist() if isinstance(value, np.ndarray) else list(value)


def _id(key: str, value: Any) -> str:
    if type(value) is str and len(value) <= 256:
        return value
    if isinstance(value, bool) or not isinstance(value, str | int | np.integer) or (isinstance(value, int) and value.bit_length() > 64):
        raise ValueError(f"{key} holds {short(value)}, no id")
    if isinstance(value, str) and len(value) > 256:
        raise ValueError(f"{key} holds an id of {len(value)} letters")
    return str(value)


def _time(values: dict) -> int:
    value = _value(values, "timestamp")
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer) or not 0 <= value < 2**60:
        raise ValueError(f"timestamp is {short(value)}, no time in microseconds")
    return int(value)


def _lights(values: dict) -> tuple[tuple[str, bool], ...]:
    value = _value(values, "traffic_lights")
    if not isinstance(value, list | tuple):
        raise ValueError(f"traffic_lights is {short(value)}, no list")
    lights = []
    for light in value:
        if not isinstance(light, list | tuple) or len(light) != 2 or not isinstance(light[1], bool | int | np.bool_):
            raise ValueError(f"traffic_lights holds {short(light)}, not pairs of a lane connector and whether it is red")
        lights.append((_id("traffic_lights", light[0]), bool(light[1])))
    return tuple(lights)


def _quaternion(values: dict, key: str) -> np.ndarray:
    turn = numbers(values, key, (4,), 2.0)
    if np.linalg.norm(turn) < 0.1:
        raise ValueError(f"{key} is {turn}, no rotation")
    return turn


def _turn(values: dict, key: str) -> np.ndarray:
    """A rotation matrix from a matrix or a quaternion."""
    value = _value(values, key)
    is_matrix = (isinstance(value, np.ndarray) and value.ndim == 2) or (isinstance(value, list | tuple) and len(value) == 3)
    return numbers(values, key, (3, 3), 2.0) if is_matrix else rotation(_quaternion(values, key))


def _camera(name: str, values: dict, blobs: Path, ego_from_lidar: np.ndarray) -> Camera:
    path = text(values, "data_path")
    if path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"data_path is {short(path)}, which is not below the sensor blobs")
    distortion = numbers(values, "distortion", (-1,), FARTHEST)
    return Camera(
        name=name,
        path=f"{blobs}/{path}",
        intrinsics=numbers(values, "cam_intrinsic", (3, 3), FARTHEST),
        distortion=distortion if len(distortion) == 5 else np.resize(distortion, 5),
        rotation=_turn(values, "sensor2lidar_rotation"),
        translation=numbers(values, "sensor2lidar_translation", (3,), FARTHEST),
        ego_from_lidar=ego_from_lidar,
    )


def _objects(annotations: dict) -> Objects:
    names, tokens = (_items(key, _value(annotations, key)) for key in ("gt_names", "track_tokens"))
    unknown = [name for name in names if not isinstance(name, str) or name not in OBJECT_NAMES]
    if unknown:
        raise ValueError(f"unknown object type {short(unknown[0])}; known: {', '.join(OBJECT_NAMES)}")
    boxes = numbers(annotations, "gt_boxes", (-1, 7), FARTHEST)
    wrong = np.flatnonzero((boxes[:, 3:5] < 0).any(axis=1) | (boxes[:, 3:5] > LARGEST).any(axis=1))
    if len(wrong):
        raise ValueError(f"gt_boxes holds a box of {boxes[wrong[0], 3]} m x {boxes[wrong[0], 4]} m, row {wrong[0]}")
    velocities = numbers(annotations, "gt_velocity_3d", (-1, 3), FASTEST, may_be_unknown=True)
    if not len(tokens) == len(names) == len(boxes) == len(velocities):
        raise ValueError(f"objects: {len(tokens)} tokens, {len(names)} types, {len(boxes)} boxes, {len(velocities)} velocities")
    return Objects(
        track_tokens=tuple(_id("track_tokens", token) for token in tokens),
        types=np.array([OBJECT_NAMES.index(name) for name in names], dtype=np.int64),
        boxes=boxes,
        velocities=velocities,
    )
