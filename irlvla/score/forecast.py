"""What the reference planner expects of the others: nearby objects going on as they do now, and the lights that are red now.

Source: autonomousvision/navsim at 0a380a9, pdm_planner/observation/{pdm_observation,pdm_object_manager}.py.
"""

from dataclasses import dataclass, replace

import numpy as np
import shapely
from jaxtyping import Bool, Float, Int

from irlvla.geometry import boxes_touch, fill_box
from irlvla.lanes import flat_polygons
from irlvla.score.route import NODE_CAPACITY
from irlvla.types import OBJECT_NAMES, STEPS, Polygons, PreparedScene
from irlvla.vehicle import LENGTH, REAR_AXLE_TO_CENTER, WIDTH

POSES = 51
"""Poses of the reference plan: 0 .. 5 s at 10 Hz."""
STRIDE = 2
"""Steps between two forecasts: 0.2 s."""
COUNT = POSES // STRIDE + 1
RADIUS = 100.0
NEAREST = {"static": 50, "vehicle": 50, "pedestrian": 25, "bicycle": 10}
_FIRST_STATIC = OBJECT_NAMES.index("traffic_cone")


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Objects near the ego, what cannot move first, moving on at their speed along (or against) their heading; red lights.

    Objects and lights are kept with those that the planner looks past: objects on the ego, lights that it is all within.
    """

    boxes: Float[np.ndarray, "objects 5"]
    velocities: Float[np.ndarray, "objects 2"]
    types: Int[np.ndarray, "objects"]
    is_apart: Bool[np.ndarray, "objects"]
    reds: np.ndarray
    is_ahead: Bool[np.ndarray, "reds"]


def forecast(
    scene: PreparedScene,
    boxes: Float[np.ndarray, "present 5"],
    velocities: Float[np.ndarray, "present 2"],
    types: Int[np.ndarray, "present"],
) -> Forecast:
    """The forecast from the objects annotated now and the scene's red lights.

    Raises:
        ValueError: The velocity of a nearby object that can move is unknown.
    """
    x, y, heading = scene.ego_state[:3]
    center = np.array([x + REAR_AXLE_TO_CENTER * np.cos(heading), y + REAR_AXLE_TO_CENTER * np.sin(heading)])
    distances = ((boxes[:, :2] - center) ** 2).sum(axis=1) ** 0.5
    static = types >= _FIRST_STATIC
    unknown = np.flatnonzero((distances <= RADIUS) & ~static & np.isnan(velocities).any(axis=1))
    if len(unknown):
        raise ValueError(f"a {OBJECT_NAMES[types[unknown[0]]]} {distances[unknown[0]]:.1f} m from the ego has no velocity")
    chosen: list[np.ndarray] = []
    for name, most in NEAREST.items():
        kind = static if name == "static" else types == OBJECT_NAMES.index(name)
        near = np.flatnonzero(kind & (distances <= RADIUS))
        chosen.append(near[np.argsort(distances[near], kind="stable")][:most])
    places = np.concatenate(chosen)
    ego, other = np.empty((4, 2)), np.empty((4, 2))
    fill_box(center[0], center[1], heading, LENGTH, WIDTH, ego)
    apart = np.ones(len(places), bool)
    for number, place in enumerate(places):
        if distances[place] < 0.5 * (np.hypot(LENGTH, WIDTH) + np.hypot(*boxes[place, 3:])) + 1e-3:
            fill_box(*boxes[place], other)
            apart[number] = not boxes_touch(ego, other)
    reds = np.array([_shape(scene.red_polygons, int(number)) for number in np.flatnonzero(scene.red_valid[0])], dtype=object)
    return Forecast(
        boxes=np.ascontiguousarray(boxes[places]),
        velocities=_along(boxes[places], velocities[places], static[places]),
        types=types[places],
        is_apart=apart,
        reds=reds,
        is_ahead=~shapely.within(shapely.Polygon(ego), reds).astype(bool).reshape(-1),
    )


def _along(boxes: np.ndarray, velocities: np.ndarray, static: np.ndarray) -> np.ndarray:
    """Velocities turned onto the boxes' headings (reversing ones against them), zero for what cannot move."""
    turn = boxes[:, 2] - np.arctan2(velocities[:, 1], velocities[:, 0])
    is_forward = np.abs(np.arctan2(np.sin(turn), np.cos(turn))) < np.pi / 2
    speeds = np.where(is_forward, 1.0, -1.0) * np.hypot(*velocities.T)
    directed = speeds[:, None] * np.column_stack([np.cos(boxes[:, 2]), np.sin(boxes[:, 2])])
    return np.where(static[:, None], 0.0, directed)


def _shape(polygons: Polygons, number: int) -> shapely.Geometry:
    """One of the polygons with its holes and parts."""
    rings = range(polygons.polygon_start[number], polygons.polygon_start[number + 1])
    outlines = [polygons.vertices[polygons.ring_start[ring] : polygons.ring_start[ring + 1]] for ring in rings]
    if len(outlines) == 1:
        return shapely.Polygon(outlines[0])
    return shapely.build_area(shapely.GeometryCollection([shapely.LinearRing(outline) for outline in outlines]))


def forecast_scene(scene: PreparedScene, found: Forecast) -> PreparedScene:
    """The scene with the forecast in place of its objects and the lights frozen."""
    kept = np.flatnonzero(found.is_apart)
    velocities = found.velocities[kept]
    times = 0.1 * STRIDE * (np.arange(STEPS) // STRIDE)
    boxes = np.repeat(found.boxes[kept][None], STEPS, axis=0)
    boxes[:, :, :2] += times[:, None, None] * velocities
    return replace(
        scene,
        object_types=found.types[kept],
        object_first_speed=np.hypot(*velocities.T),
        object_boxes=boxes,
        object_valid=np.ones(boxes.shape[:2], bool),
        red_valid=np.repeat(scene.red_valid[:1], STEPS, axis=0),
    )


def found_order(found: Forecast, number: int, corridor: shapely.Polygon, trees: dict[int, shapely.STRtree]) -> Int[np.ndarray, "kept"]:
    """In which order the devkit meets the objects and lights that count in a corridor; what is not in it comes last.

    Args:
        found: The forecast.
        number: Which of its times.
        corridor: Where leads are looked for.
        trees: The devkit's search trees of times asked for before; this one's is added.
    """
    if number not in trees:
        static = found.types >= _FIRST_STATIC
        corners = np.empty((len(found.boxes), 4, 2))
        for box, values in zip(corners, found.boxes):
            fill_box(*values, box)
        corners[~static] += 0.1 * STRIDE * number * found.velocities[~static, None]
        trees[number] = shapely.STRtree(np.concatenate([shapely.polygons(corners), found.reds]), NODE_CAPACITY)
    order = np.full(len(found.boxes) + len(found.reds), len(found.boxes) + len(found.reds))
    inside = trees[number].query(corridor, predicate="intersects")
    order[inside] = np.arange(len(inside))
    return order[np.r_[found.is_apart, found.is_ahead]]


def red_outlines(found: Forecast) -> tuple[Polygons, Float[np.ndarray, "reds 2"]]:
    """Outlines and centroids of the lights that count."""
    reds = found.reds[found.is_ahead]
    return flat_polygons(list(reds)), shapely.get_coordinates(shapely.centroid(reds)).reshape(-1, 2)
