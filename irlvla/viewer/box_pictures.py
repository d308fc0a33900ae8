"""Boxes drawn into camera pictures: whether a log's calibration is right is seen at once."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw

from irlvla.types import Camera
from irlvla.viewer.lens import pixels

STANDING, MOVING = (255, 140, 30), (60, 230, 130)
GAP = 6
FARTHEST = 60.0
"""Boxes farther away are not drawn, m."""
EDGES = ((0, 1), (1, 3), (3, 2), (2, 0), (4, 5), (5, 7), (7, 6), (6, 4), (0, 4), (1, 5), (2, 6), (3, 7))
"""Between the corners in the order of `corners`."""


def box_sheet(
    cameras: Sequence[Camera], boxes: Float[np.ndarray, "boxes 7"], moving: Bool[np.ndarray, "boxes"], columns: int = 3, width: int = 1500
) -> Image.Image:
    """All cameras' pictures with boxes in them; the front of a box has a cross.

    Args:
        cameras: of one moment, with pictures on disk, in the order in which they are shown.
        boxes: x, y, z of the middle, length, width, height, heading in the ego frame, as in `irlvla.types.Objects`.
        moving: which of them are drawn as moving.
        columns: pictures side by side.
        width: of the sheet in pixels.

    Raises:
        ValueError: there is no camera.
    """
    if not cameras:
        raise ValueError("no camera to draw boxes into")
    cell = (width - GAP * (columns - 1)) // columns
    views = [_view(camera, boxes, moving, cell) for camera in cameras]
    tall = max(view.height for view in views) + GAP
    paper = Image.new("RGB", (width, -(-len(views) // columns) * tall - GAP))
    for place, view in enumerate(views):
        paper.paste(view, (place % columns * (cell + GAP), place // columns * tall))
    return paper


def corners(boxes: Float[np.ndarray, "boxes 7"]) -> Float[np.ndarray, "boxes 8 3"]:
    """Corners of boxes: rear, then front; of each right bottom, right top, left bottom, left top."""
    ends = np.array([(x, y, z) for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    own = ends * boxes[:, None, 3:6]
    cos, sin = np.cos(boxes[:, 6:]), np.sin(boxes[:, 6:])
    turned = np.stack([cos * own[..., 0] - sin * own[..., 1], sin * own[..., 0] + cos * own[..., 1], own[..., 2]], axis=-1)
    return turned + boxes[:, None, :3]


def _view(camera: Camera, boxes: np.ndarray, moving: np.ndarray, width: int) -> Image.Image:
    with Image.open(camera.path, formats=("JPEG", "PNG")) as picture:
        scale = width / picture.width
        image = picture.convert("RGB").resize((width, round(picture.height * scale)), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(image)
    near = np.hypot(boxes[:, 0], boxes[:, 1]) < FARTHEST
    places, shown = pixels(corners(boxes[near]), camera)
    for place, seen, moves in zip(places * scale, shown, moving[near]):
        if not seen.all() or (place.max(0) < 0).any() or (place.min(0) > image.size).any():
            continue
        for first, second in (*EDGES, (4, 7), (5, 6)):
            draw.line([tuple(place[first]), tuple(place[second])], fill=MOVING if moves else STANDING)
    return image
