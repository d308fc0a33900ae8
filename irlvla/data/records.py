"""A prepared scene as one record of bytes, and back: what a store keeps in `prepared-*.bin`."""

from typing import Any

import numpy as np

from irlvla.types import Polygons, PreparedScene

_FIELDS = {
    "time_us": (np.int64, 0),
    "ego_state": (np.float64, 1),
    "past_time_us": (np.int64, 1),
    "past_states": (np.float64, 2),
    "previous_time_us": (np.int64, 0),
    "previous_state": (np.float64, 1),
    "object_types": (np.int64, 1),
    "object_first_speed": (np.float64, 1),
    "object_boxes": (np.float64, 3),
    "object_valid": (np.bool_, 2),
    "red_polygons.vertices": (np.float64, 2),
    "red_polygons.ring_start": (np.int64, 1),
    "red_polygons.polygon_start": (np.int64, 1),
    "red_valid": (np.bool_, 2),
    "map_polygons.vertices": (np.float64, 2),
    "map_polygons.ring_start": (np.int64, 1),
    "map_polygons.polygon_start": (np.int64, 1),
    "map_layers": (np.int64, 1),
    "map_on_route": (np.bool_, 1),
    "centerline": (np.float64, 2),
    "reference_poses": (np.float64, 2),
    "human_poses": (np.float64, 2),
    "reference_progress": (np.float64, 0),
    "reference_multiplier": (np.float64, 0),
    "human_zero": (np.bool_, 1),
}
"""Arrays of a PreparedScene in the order of a record, with their type and number of axes."""

SHAPE_LENGTH = sum(axes for _, axes in _FIELDS.values())
"""Sizes that belong to a record."""


def packed(scene: PreparedScene) -> tuple[bytes, np.ndarray]:
    """A prepared scene's record (arrays one after the other, each from a multiple of 8 bytes on) and all their sizes."""
    pieces, shape = [], []
    for name, (kind, axes) in _FIELDS.items():
        values = scene
        for part in name.split("."):
            values = getattr(values, part)
        values = np.ascontiguousarray(values, dtype=kind).reshape(() if axes == 0 else np.shape(values))
        piece = values.tobytes()
        pieces += [piece, b"\0" * (-len(piece) % 8)]
        shape += values.shape
    return b"".join(pieces), np.array(shape, dtype=np.int64)


def unpacked(record: np.ndarray, shape: np.ndarray, token: str, log_name: str, map_name: str) -> PreparedScene:
    """The scene of a record and its sizes, in views of the record."""
    values: dict[str, Any] = {}
    polygons: dict[str, dict[str, np.ndarray]] = {}
    position = axis = 0
    sizes = shape.tolist()
    for name, (kind, axes) in _FIELDS.items():
        dimensions = sizes[axis : axis + axes]
        axis += axes
        length = int(np.prod(dimensions)) * np.dtype(kind).itemsize
        array = record[position : position + length].view(kind).reshape(dimensions)
        position += length + (-length % 8)
        whole, _, part = name.partition(".")
        if part:
            polygons.setdefault(whole, {})[part] = array
        else:
            values[name] = array if axes else array.item()
    values |= {name: Polygons(**parts) for name, parts in polygons.items()}
    return PreparedScene(token=token, log_name=log_name, map_name=map_name, **values)
