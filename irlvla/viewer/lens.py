"""Through a camera's lens: where things of the ego frame appear in its picture, and the ground as all cameras together see it."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, UInt8

from irlvla.types import Camera

NEAREST = 0.3
"""Points less than this in front of a camera are not shown, m."""
WIDEST = 4.0
"""No lens shows what is this many times as far aside as ahead."""


def ego_from_camera(camera: Camera) -> Float[np.ndarray, "4 4"]:
    """Camera points (x right, y down, z forward) -> ego frame."""
    lidar_from_camera = np.eye(4)
    lidar_from_camera[:3, :3], lidar_from_camera[:3, 3] = camera.rotation, camera.translation
    return camera.ego_from_lidar @ lidar_from_camera


def pixels(points: Float[np.ndarray, "*points 3"], camera: Camera) -> tuple[Float[np.ndarray, "*points 2"], Bool[np.ndarray, "*points"]]:
    """Where points appear in a camera's picture.

    Args:
        points: in the ego frame, m, z up from the ground.
        camera: one camera of a scene.

    Returns:
        Column and row of each point in pixels of the picture on disk (which may lie outside it), and whether the lens shows it at all:
        what is behind the camera, or so far aside that the distortion's polynomial folds back, is not.

    Source: OpenCV's camera model (calib3d), distortion k1 k2 p1 p2 k3.
    """
    camera_from_ego = np.linalg.inv(ego_from_camera(camera))
    seen = points @ camera_from_ego[:3, :3].T + camera_from_ego[:3, 3]
    depth = np.maximum(seen[..., 2], NEAREST)
    x, y = seen[..., 0] / depth, seen[..., 1] / depth
    k1, k2, p1, p2, k3 = camera.distortion
    square = x**2 + y**2
    shown = (seen[..., 2] > NEAREST) & (square < unfolded(camera.distortion) ** 2)
    radial = 1 + square * (k1 + square * (k2 + square * k3))
    bent_x = x * radial + 2 * p1 * x * y + p2 * (square + 2 * x**2)
    bent_y = y * radial + 2 * p2 * x * y + p1 * (square + 2 * y**2)
    matrix = camera.intrinsics
    place = np.stack([matrix[0, 0] * bent_x + matrix[0, 1] * bent_y + matrix[0, 2], matrix[1, 1] * bent_y + matrix[1, 2]], axis=-1)
    return place, shown


def unfolded(distortion: Float[np.ndarray, "5"]) -> float:
    """The tangent of the angle from the axis up to which a lens' radial distortion grows, at most WIDEST."""
    k1, k2, _, _, k3 = distortion
    tangent = np.linspace(0.0, WIDEST, 801)
    square = tangent**2
    falling = np.flatnonzero(1 + square * (3 * k1 + square * (5 * k2 + square * 7 * k3)) <= 0)
    return float(tangent[falling[0]]) if len(falling) else WIDEST


def ground(
    cameras: Mapping[str, tuple[Camera, UInt8[np.ndarray, "_ _ 3"]]],
    ahead: float,
    behind: float,
    aside: float,
    scale: float,
    road: float = 0.0,
) -> tuple[UInt8[np.ndarray, "rows columns 3"], Float[np.ndarray, "rows columns"]]:
    """The ground from above, put together from the pictures as if all that they show were flat.

    Args:
        cameras: camera and RGB picture by name.
        ahead: how far the picture reaches forward, m.
        behind: and backward.
        aside: and to either side.
        scale: pixels a metre.
        road: its height in the ego frame, m.

    Returns:
        The picture (x forward up, y left to the left; black where no camera looks), and how sharply each pixel is known: the
        camera's pixels a metre across the line of sight, 0 where no camera looks.
    """
    rows, columns = round((ahead + behind) * scale), round(2 * aside * scale)
    x = ahead - (np.arange(rows) + 0.5) / scale
    y = aside - (np.arange(columns) + 0.5) / scale
    points = np.stack([*np.meshgrid(x, y, indexing="ij"), np.full((rows, columns), road)], axis=-1)
    total, weights, sharpest = np.zeros((rows, columns, 3)), np.zeros((rows, columns)), np.zeros((rows, columns))
    for camera, picture in cameras.values():
        place, shown = pixels(points, camera)
        height, width = picture.shape[:2]
        inside = shown & (place >= 0).all(-1) & (place[..., 0] <= width - 1) & (place[..., 1] <= height - 1)
        if not inside.any():
            continue
        away = np.linalg.norm(points[inside] - ego_from_camera(camera)[:3, 3], axis=-1)
        sharpness = camera.intrinsics[0, 0] / away
        # Seams vanish where a picture counts less towards its own edge.
        edge = np.minimum(place[inside] + 1, np.array([width, height]) - place[inside]) / np.array([width, height])
        weight = sharpness**2 * np.minimum(edge.min(-1) * 8, 1.0)
        total[inside] += weight[:, None] * _looked_up(picture, place[inside])
        weights[inside] += weight
        sharpest[inside] = np.maximum(sharpest[inside], sharpness)
    return (total / np.maximum(weights, 1e-12)[..., None]).round().astype(np.uint8), sharpest


def _looked_up(picture: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Colours at (column, row) places inside a picture, bilinear."""
    first = np.minimum(np.floor(place).astype(np.int64), np.array(picture.shape[1::-1]) - 2).clip(0)
    share = place - first
    column, row = first.T
    top = picture[row, column] * (1 - share[:, :1]) + picture[row, column + 1] * share[:, :1]
    bottom = picture[row + 1, column] * (1 - share[:, :1]) + picture[row + 1, column + 1] * share[:, :1]
    return top * (1 - share[:, 1:]) + bottom * share[:, 1:]
