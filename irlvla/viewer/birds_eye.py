"""A scene from above: map, road users, lights and plans, ego in the middle looking up."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw

from irlvla.types import LAYER_NAMES, Polygons, PreparedScene

SCALE = 12.0
"""Pixels a metre, before the picture is halved (which smooths its edges)."""
AHEAD, BEHIND, ASIDE = 62.0, 14.0, 34.0
FRONT, REAR, HALF_WIDTH = 4.049, 1.127, 1.1485

GROUND = (226, 230, 221)
DRIVABLE = (196, 199, 203)
LANE_EDGE = (240, 240, 236)
ROUTE = (178, 190, 212)
RED_LIGHT = (222, 48, 48, 110)
CENTERLINE = (120, 134, 170)
EGO = (30, 30, 30)
OBJECTS = {0: (92, 104, 122), 1: (214, 122, 0), 2: (150, 96, 30)}
STATIC = (150, 120, 90)
PLANS = {"human": (20, 20, 20), "imitation": (225, 110, 10), "ppo": (20, 95, 215)}
"""Colours of the plans; the page's legend uses them too."""

_LAYERS = {name: LAYER_NAMES.index(name) for name in LAYER_NAMES}


def birds_eye(scene: PreparedScene, plans: Mapping[str, Float[np.ndarray, "poses 3"]]) -> Image.Image:
    """A picture of a prepared scene at t0 with plans drawn over it.

    Args:
        scene: the prepared scene; objects are drawn at 0 s, and faintly at 2 and 4 s.
        plans: name (a key of PLANS) -> poses in the ego frame.

    Returns:
        An RGB picture, x forward up, y left to the left.
    """
    size = (int(2 * ASIDE * SCALE), int((AHEAD + BEHIND) * SCALE))
    image = Image.new("RGB", size, GROUND)
    draw = ImageDraw.Draw(image, "RGBA")
    layers = np.asarray(scene.map_layers)
    rings = _rings(scene.map_polygons)
    for name in ("carpark", "roadblock", "intersection"):
        for index in np.flatnonzero(layers == _LAYERS[name]):
            for ring in rings[index]:
                draw.polygon(_pixels(scene, ring), fill=DRIVABLE)
    lanes = [index for index, layer in enumerate(layers) if layer in (_LAYERS["lane"], _LAYERS["lane_connector"])]
    for index in lanes:
        if scene.map_on_route[index]:
            draw.polygon(_pixels(scene, rings[index][0]), fill=ROUTE)
    for index in lanes:
        if layers[index] == _LAYERS["lane"]:
            draw.polygon(_pixels(scene, rings[index][0]), outline=LANE_EDGE, width=2)
    for index, red in enumerate(_rings(scene.red_polygons)):
        if scene.red_valid[0, index]:
            draw.polygon(_pixels(scene, red[0]), fill=RED_LIGHT)
    draw.line(_pixels(scene, scene.centerline[:, :2]), fill=CENTERLINE, width=2)
    for step, alpha in ((40, 45), (20, 80), (0, 255)):
        for index in np.flatnonzero(scene.object_valid[step]):
            colour = OBJECTS.get(int(scene.object_types[index]), STATIC)
            x, y, heading, length, width = scene.object_boxes[step, index]
            draw.polygon(_pixels(scene, _box(x, y, heading, length / 2, length / 2, width / 2)), fill=(*colour, alpha))
    x, y, heading = scene.ego_state[:3]
    draw.polygon(_pixels(scene, _box(x, y, heading, FRONT, REAR, HALF_WIDTH)), outline=EGO, width=4)
    for name, poses in plans.items():
        points = _screen(np.concatenate([np.zeros((1, 2)), poses[:, :2]]))
        draw.line(points, fill=PLANS[name], width=7, joint="curve")
        for point in points[1:]:
            draw.ellipse([point[0] - 8, point[1] - 8, point[0] + 8, point[1] + 8], fill=PLANS[name])
    return image.resize((size[0] // 2, size[1] // 2), Image.Resampling.LANCZOS)


def _rings(polygons: Polygons) -> list[list[np.ndarray]]:
    starts = polygons.ring_start
    return [
        [
            polygons.vertices[starts[ring] : starts[ring + 1]]
            for ring in range(polygons.polygon_start[index], polygons.polygon_start[index + 1])
        ]
        for index in range(len(polygons))
    ]


def _box(x: float, y: float, heading: float, front: float, rear: float, half_width: float) -> np.ndarray:
    corners = np.array([[front, half_width], [-rear, half_width], [-rear, -half_width], [front, -half_width]])
    cos, sin = np.cos(heading), np.sin(heading)
    return corners @ np.array([[cos, sin], [-sin, cos]]) + (x, y)


def _pixels(scene: PreparedScene, points: np.ndarray) -> list[tuple[float, float]]:
    x, y, heading = scene.ego_state[:3]
    cos, sin = np.cos(heading), np.sin(heading)
    return _screen((points - (x, y)) @ np.array([[cos, -sin], [sin, cos]]))


def _screen(in_ego: np.ndarray) -> list[tuple[float, float]]:
    return list(map(tuple, np.stack([(ASIDE - in_ego[:, 1]) * SCALE, (AHEAD - in_ego[:, 0]) * SCALE], axis=1).tolist()))
