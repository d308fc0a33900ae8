"""Scene -> what a policy may see at one moment, and what annotations can teach it beside the human's plan."""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import no_type_check

import numpy as np
from jaxtyping import Float, UInt8
from numba import njit
from PIL import Image

from irlvla.data.rig import camera_rig, joined_rigs, missing_rig, views_of
from irlvla.files import short
from irlvla.types import CAMERA_NAMES, HISTORY, LAYER_NAMES, Camera, Features, Polygons, PreparedScene, Rig, Scene

GRID_CELLS = 32
GRID_CELL = 2.0
GRID_ORIGIN = (-8.0, -32.0)
TARGET_NAMES = ("drivable", "route", "object", "red_light")
"""Channels of the bird's-eye grid: x from -8 to 56 m along rows, y from -32 to 32 m along columns, in the ego frame."""

LARGEST_PICTURE = 50_000_000
"""Pixels that a picture may have; NAVSIM's have 2 million."""

_BAD_PICTURE = (OSError, SyntaxError, ValueError, LookupError, TypeError, struct.error, EOFError, Image.DecompressionBombError)
"""What Pillow raises for damaged pictures."""
_DRIVABLE_LAYERS = tuple(LAYER_NAMES.index(name) for name in ("roadblock", "intersection", "carpark"))


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorConfig:
    """Which pictures a policy sees and how large. The front camera is seen twice: whole, and its middle half enlarged.

    With `missing_cameras` a camera without a picture (the log does not know it, or the file is not there) is seen as a black view
    that is not valid; else it is an error. `ground` is the height of the road in the ego frame of the logs' calibrations, m, see
    `irlvla.data.rig`.
    """

    cameras: tuple[str, ...] = ("CAM_F0", "CAM_L0", "CAM_R0")
    height: int = 96
    width: int = 176
    missing_cameras: bool = False
    ground: float = 0.0

    def __post_init__(self) -> None:
        unknown = sorted(set(self.cameras) - set(CAMERA_NAMES))
        if unknown:
            raise ValueError(f"unknown cameras [{', '.join(short(name) for name in unknown[:8])}]; known: {', '.join(CAMERA_NAMES)}")


def view_names(sensors: SensorConfig) -> tuple[str, ...]:
    """Names of the views in the order in which `Features.images` holds them, e.g. CAM_F0, CAM_F0_crop, CAM_L0, CAM_R0."""
    names: list[str] = []
    for camera in sensors.cameras:
        names += [camera, f"{camera}_crop"][: views_of(camera)]
    return tuple(names)


def features(scene: Scene, sensors: SensorConfig = SensorConfig()) -> Features:
    """What a policy may see at the scene's current moment.

    Args:
        scene: the scene; of its frames only history and present are looked at.
        sensors: cameras and picture size.

    Returns:
        Features of one moment (no batch axis).

    Raises:
        ValueError: a picture that `sensors` asks for is not in the log, not on disk, or cannot be read; or its camera is none.
    """
    images, rig = pictures(scene, sensors)
    return Features(images=images, rig=rig, ego_history=ego_history(scene), command=command(scene))


def ego_history(scene: Scene) -> Float[np.ndarray, "4 7"]:
    """x, y, heading in the current ego frame, then vx, vy, ax, ay in each frame's own ego frame, at -1.5 .. 0 s."""
    poses = poses_in_ego(scene.ego_poses[HISTORY - 1], scene.ego_poses[:HISTORY])
    return np.concatenate([poses, scene.ego_velocities[:HISTORY], scene.ego_accelerations[:HISTORY]], axis=1)


def command(scene: Scene) -> Float[np.ndarray, "4"]:
    """The driving command at the current frame, one-hot over left, straight, right, unknown."""
    return scene.commands[HISTORY - 1].astype(np.float64)


def human_poses(scene: Scene, poses: int = 8) -> Float[np.ndarray, "poses 3"]:
    """The logged future in the current ego frame: what imitation learns, what a policy must not see.

    Raises:
        ValueError: the scene has fewer future frames than poses are asked for.
    """
    future = scene.ego_poses[HISTORY : HISTORY + poses]
    if len(future) < poses:
        raise ValueError(f"scene {scene.token}: {len(future)} future frames, {poses} are needed")
    return poses_in_ego(scene.ego_poses[HISTORY - 1], future)


def poses_in_ego(ego: Float[np.ndarray, "3"], poses: Float[np.ndarray, "poses 3"]) -> Float[np.ndarray, "poses 3"]:
    """Global poses seen from the ego pose: x forward, y left, heading wrapped to (-pi, pi]."""
    difference = poses[:, :2] - ego[:2]
    cos, sin = np.cos(ego[2]), np.sin(ego[2])
    heading = np.pi - (np.pi - (poses[:, 2] - ego[2])) % (2 * np.pi)
    return np.stack([cos * difference[:, 0] + sin * difference[:, 1], cos * difference[:, 1] - sin * difference[:, 0], heading], axis=1)


def pictures(scene: Scene, sensors: SensorConfig) -> tuple[UInt8[np.ndarray, "views height width 3"], Rig]:
    """The current frame's pictures, resized, in the order of `view_names`, and the cameras that took them.

    Raises:
        ValueError: a picture is missing (unless `sensors` allows that) or cannot be read, or its camera is none; the scene is named.
    """
    by_name = {camera.name: camera for camera in scene.cameras[HISTORY - 1]} if scene.cameras else {}
    size = (sensors.width, sensors.height)
    views, rigs = [], []
    for name in sensors.cameras:
        camera = by_name.get(name)
        is_there = camera is not None and Path(camera.path).is_file()
        if not is_there and sensors.missing_cameras:
            views += [np.zeros((sensors.height, sensors.width, 3), dtype=np.uint8)] * views_of(name)
            rigs.append(missing_rig(name))
            continue
        if camera is None:
            raise ValueError(f"scene {scene.token}: the log has no picture of {name}, which the sensor config asks for")
        if not is_there:
            raise ValueError(f"scene {scene.token}: {camera.path} is missing, and the sensor config asks for {name}")
        of_camera, (width, height) = _views(scene.token, camera, size)
        views += of_camera
        try:
            rigs.append(camera_rig(camera, width, height, sensors.ground))
        except ValueError as error:
            raise ValueError(f"scene {scene.token}: {camera.path}: {error}") from error
    if not views:
        return np.zeros((0, sensors.height, sensors.width, 3), dtype=np.uint8), joined_rigs(())
    return np.stack(views), joined_rigs(rigs)


def resized_views(picture: Image.Image, camera: str, size: tuple[int, int]) -> list[np.ndarray]:
    """One camera's views: the whole picture, and for the front camera its middle half too.

    Args:
        picture: RGB, of any size.
        camera: one of CAMERA_NAMES.
        size: width and height of a view.
    """
    views = [np.asarray(picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=1.0))]
    if views_of(camera) > 1:
        width, height = picture.size
        box = (width / 4, height / 4, 3 * width / 4, 3 * height / 4)
        views.append(np.asarray(picture.resize(size, Image.Resampling.BILINEAR, box=box)))
    return views


def _views(token: str, camera: Camera, size: tuple[int, int]) -> tuple[list[np.ndarray], tuple[int, int]]:
    """A camera's views, and the width and height of its picture on disk."""
    try:
        # Of the formats that Pillow knows some run other programs.
        with Image.open(camera.path, formats=("JPEG", "PNG")) as picture:
            whole_size = picture.size
            if picture.width * picture.height > LARGEST_PICTURE:
                raise ValueError(f"it has {picture.width} x {picture.height} pixels")
            # JPEG can be decoded at 1/2, 1/4 or 1/8 of its size at little cost; never smaller than what is needed.
            least = (2 * size[0], 2 * size[1]) if views_of(camera.name) > 1 else size
            if picture.width >= 2 * least[0] and picture.height >= 2 * least[1]:
                picture.draft("RGB", least)
            whole = picture.convert("RGB")
    except _BAD_PICTURE as error:
        raise ValueError(f"scene {token}: {camera.path} is no readable picture: {error}") from error
    return resized_views(whole, camera.name, size), whole_size


def targets(scene: Scene, prepared: PreparedScene, frame: int = HISTORY - 1) -> UInt8[np.ndarray, "4 32 32"]:
    """Bird's-eye grids that annotations of one frame give: supervision for a policy's auxiliary heads.

    Args:
        scene: the scene, for the frame's pose and objects.
        prepared: the same scene prepared, for its map and lights.
        frame: which frame; lights are always those of the current one.

    Returns:
        0 or 1 at the cells' centres, channels as in TARGET_NAMES.

    Raises:
        ValueError: the scene has no annotations.
    """
    if scene.objects is None:
        raise ValueError(f"scene {scene.token} has no annotations (cameras only): targets need boxes, traffic lights, route and map")
    ego = np.ascontiguousarray(scene.ego_poses[frame], dtype=np.float64)
    grid = np.zeros((len(TARGET_NAMES), GRID_CELLS, GRID_CELLS), dtype=np.uint8)
    layers = np.asarray(prepared.map_layers)
    _fill(grid[0], ego, *_flat(prepared.map_polygons), np.isin(layers, _DRIVABLE_LAYERS))
    _fill(grid[1], ego, *_flat(prepared.map_polygons), np.asarray(prepared.map_on_route))
    _fill_boxes(grid[2], np.asarray(scene.objects[frame].boxes, dtype=np.float64))
    _fill(grid[3], ego, *_flat(prepared.red_polygons), np.asarray(prepared.red_valid[0]))
    return grid


def _flat(polygons: Polygons) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return polygons.vertices, polygons.ring_start, polygons.polygon_start


@no_type_check
@njit(cache=True, nogil=True)
def _fill(grid, ego, vertices, ring_start, polygon_start, chosen):
    """Sets the cells whose centre lies in a chosen polygon (even-odd rule, one pass over the edges for each row of cells)."""
    cells = grid.shape[0]
    cos, sin = np.cos(ego[2]), np.sin(ego[2])
    inside = np.zeros((cells, cells), dtype=np.bool_)
    for polygon in range(len(polygon_start) - 1):
        if not chosen[polygon]:
            continue
        first, last = ring_start[polygon_start[polygon]], ring_start[polygon_start[polygon + 1]]
        reached = False
        for vertex in range(first, last):
            if abs(vertices[vertex, 0] - ego[0]) < 200.0 and abs(vertices[vertex, 1] - ego[1]) < 200.0:
                reached = True
                break
        if not reached:
            continue
        inside[:] = False
        for ring in range(polygon_start[polygon], polygon_start[polygon + 1]):
            start, end = ring_start[ring], ring_start[ring + 1]
            for vertex in range(start, end):
                following = vertex + 1 if vertex + 1 < end else start
                from_x, from_y = vertices[vertex, 0] - ego[0], vertices[vertex, 1] - ego[1]
                to_x, to_y = vertices[following, 0] - ego[0], vertices[following, 1] - ego[1]
                # In units of cells; row and column r, c have their centre at r + 0.5, c + 0.5.
                row_a = (cos * from_x + sin * from_y - GRID_ORIGIN[0]) / GRID_CELL
                row_b = (cos * to_x + sin * to_y - GRID_ORIGIN[0]) / GRID_CELL
                column_a = (cos * from_y - sin * from_x - GRID_ORIGIN[1]) / GRID_CELL
                column_b = (cos * to_y - sin * to_x - GRID_ORIGIN[1]) / GRID_CELL
                low, high = min(row_a, row_b), max(row_a, row_b)
                for row in range(max(0, int(np.ceil(low - 0.5))), min(cells, int(np.ceil(high - 0.5)))):
                    crossing = column_a + (row + 0.5 - row_a) * (column_b - column_a) / (row_b - row_a)
                    for column in range(max(0, int(np.ceil(crossing - 0.5))), cells):
                        inside[row, column] = not inside[row, column]
        for row in range(cells):
            for column in range(cells):
                if inside[row, column]:
                    grid[row, column] = 1


@no_type_check
@njit(cache=True, nogil=True)
def _fill_boxes(grid, boxes):
    """Sets the cells that a box (in the ego frame) covers, sampled every half cell, so that small objects count too."""
    cells = grid.shape[0]
    for box in range(len(boxes)):
        x, y, length, width, heading = boxes[box, 0], boxes[box, 1], boxes[box, 3], boxes[box, 4], boxes[box, 6]
        cos, sin = np.cos(heading), np.sin(heading)
        along_steps = max(1, int(np.ceil(length / GRID_CELL * 2)))
        across_steps = max(1, int(np.ceil(width / GRID_CELL * 2)))
        for i in range(along_steps + 1):
            along = length * (i / along_steps - 0.5)
            for j in range(across_steps + 1):
                across = width * (j / across_steps - 0.5)
                row = int(np.floor((x + cos * along - sin * across - GRID_ORIGIN[0]) / GRID_CELL))
                column = int(np.floor((y + sin * along + cos * across - GRID_ORIGIN[1]) / GRID_CELL))
                if 0 <= row < cells and 0 <= column < cells:
                    grid[row, column] = 1
