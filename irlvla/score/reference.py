"""PDM-Closed: the privileged rule-based planner whose progress EP is measured against.

It drives along the centerline and two lines beside it at five speeds (IDM behind what stands or drives in its corridor), and
keeps the proposal that scores best against a constant-velocity forecast.

Source: autonomousvision/navsim at 0a380a9, pdm_planner/{abstract_pdm_closed_planner,proposal/*,observation/pdm_observation}.py.
"""

from dataclasses import dataclass, replace
from typing import no_type_check

import numpy as np
import shapely
from jaxtyping import Float, Int
from numba import njit

from irlvla.geometry import box_touches_polygon, boxes_touch, fill_box, frozen, nearest_on_segment
from irlvla.score.epdms import batch_scores, raw_scores
from irlvla.types import OBJECT_NAMES, STEPS, Polygons, PreparedScene
from irlvla.vehicle import LENGTH, REAR_AXLE_TO_CENTER, VX, WIDTH, simulated

POSES = 51
"""Poses of the plan: 0 .. 5 s at 10 Hz."""
LATERAL_OFFSETS = (0.0, -1.0, 1.0)
SPEED_SHARES = (0.2, 0.4, 0.6, 0.8, 1.0)
FALLBACK_SPEED = 15.0
"""Where the starting lane has no speed limit, m/s."""
CORRIDOR_TIME = 5.0
"""The corridor reaches as far as the speed limit leads in this time, s."""
FORECAST_RADIUS = 100.0
FORECAST_STRIDE = 2
"""Steps between two forecasts: 0.2 s."""
NEAREST = {"vehicle": 50, "pedestrian": 25, "bicycle": 10, "static": 50}

_MINIMUM_GAP, _HEADWAY, _ACCELERATION, _DECELERATION, _EXPONENT = 1.0, 1.5, 1.5, 3.0, 10
_FORECASTS = POSES // FORECAST_STRIDE + 1
_DOUBLET = 1e-6
"""Points of a path closer than this are one, m: where two lanes meet, a segment of 1e-11 m has no direction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Objects near the ego but not on it, moving on at their speed along (or against) their heading, every 0.2 s."""

    boxes: Float[np.ndarray, "objects 5"]
    velocities: Float[np.ndarray, "objects 2"]
    types: Int[np.ndarray, "objects"]


def reference_plan(
    scene: PreparedScene,
    boxes: Float[np.ndarray, "present 5"],
    velocities: Float[np.ndarray, "present 2"],
    types: Int[np.ndarray, "present"],
    speed_limit: float | None,
) -> Float[np.ndarray, "51 3"]:
    """PDM-Closed's plan: global rear-axle poses at 0.0 .. 5.0 s on its path, not yet simulated.

    Args:
        scene: A scene under construction: its ego state, map, route and centerline are used, its objects are not. Its red lights
            must be those of the corrected route.
        boxes: x, y, heading, length, width of the objects annotated at t0, global.
        velocities: Their velocities, global.
        types: Their types, indices into OBJECT_NAMES.
        speed_limit: That of the starting lane, m/s.
    """
    plans, scores = reference_proposals(scene, boxes, velocities, types, speed_limit)
    return plans[int(np.argmax(scores))]


def reference_proposals(
    scene: PreparedScene,
    boxes: Float[np.ndarray, "present 5"],
    velocities: Float[np.ndarray, "present 2"],
    types: Int[np.ndarray, "present"],
    speed_limit: float | None,
) -> tuple[Float[np.ndarray, "15 51 3"], Float[np.ndarray, "15"]]:
    """All proposals (path by path, slow to fast) and the score of each; arguments as in `reference_plan`."""
    forecast = _forecast(scene, boxes, velocities, types)
    leads = _red_leads(scene)
    limit = FALLBACK_SPEED if speed_limit is None else speed_limit
    plans = np.empty((len(LATERAL_OFFSETS), len(SPEED_SHARES), POSES, 3))
    for number, offset in enumerate(LATERAL_OFFSETS):
        path = _shifted(scene.centerline, offset)
        _fill_plans(
            frozen(scene.ego_state, np.float64),
            path,
            np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(path[:, :2], axis=0).T))]),
            forecast.boxes,
            forecast.velocities,
            forecast.types < OBJECT_NAMES.index("traffic_cone"),
            *leads,
            limit,
            np.array(SPEED_SHARES),
            plans[number],
        )
    plans = plans.reshape(-1, POSES, 3)
    states = simulated(scene.ego_state, plans[:, :STEPS])
    return plans, batch_scores(raw_scores(_forecast_scene(scene, forecast), states, with_history=False))


def _forecast(scene: PreparedScene, boxes: np.ndarray, velocities: np.ndarray, types: np.ndarray) -> Forecast:
    x, y, heading = scene.ego_state[:3]
    center = np.array([x + REAR_AXLE_TO_CENTER * np.cos(heading), y + REAR_AXLE_TO_CENTER * np.sin(heading)])
    distances = np.hypot(boxes[:, 0] - center[0], boxes[:, 1] - center[1])
    chosen: list[np.ndarray] = []
    static = types >= OBJECT_NAMES.index("traffic_cone")
    for name, most in NEAREST.items():
        kind = static if name == "static" else types == OBJECT_NAMES.index(name)
        near = np.flatnonzero(kind & (distances <= FORECAST_RADIUS))
        chosen.append(near[np.argsort(distances[near], kind="stable")][:most])
    places = np.concatenate(chosen)
    ego, other = np.empty((4, 2)), np.empty((4, 2))
    fill_box(center[0], center[1], heading, LENGTH, WIDTH, ego)
    apart = []
    for place in places:
        if distances[place] < 0.5 * (np.hypot(LENGTH, WIDTH) + np.hypot(*boxes[place, 3:])) + 1e-3:
            fill_box(*boxes[place], other)
            if boxes_touch(ego, other):
                continue
        apart.append(place)
    kept = np.array(apart, dtype=np.int64)
    return Forecast(
        boxes=np.ascontiguousarray(boxes[kept]), velocities=_along(boxes[kept], velocities[kept], static[kept]), types=types[kept]
    )


def _along(boxes: np.ndarray, velocities: np.ndarray, static: np.ndarray) -> np.ndarray:
    """Velocities turned onto the boxes' headings (reversing ones against them), zero for what cannot move."""
    turn = boxes[:, 2] - np.arctan2(velocities[:, 1], velocities[:, 0])
    is_forward = np.abs(np.arctan2(np.sin(turn), np.cos(turn))) < np.pi / 2
    speeds = np.where(static, 0.0, np.where(is_forward, 1.0, -1.0) * np.hypot(*velocities.T))
    return speeds[:, None] * np.column_stack([np.cos(boxes[:, 2]), np.sin(boxes[:, 2])])


def _forecast_scene(scene: PreparedScene, forecast: Forecast) -> PreparedScene:
    """The scene with the forecast in place of its objects and the lights frozen."""
    times = 0.1 * FORECAST_STRIDE * (np.arange(STEPS) // FORECAST_STRIDE)
    boxes = np.repeat(forecast.boxes[None], STEPS, axis=0)
    boxes[:, :, :2] += times[:, None, None] * forecast.velocities
    return replace(
        scene,
        object_types=forecast.types,
        object_first_speed=np.hypot(*forecast.velocities.T),
        object_boxes=boxes,
        object_valid=np.ones(boxes.shape[:2], bool),
        red_valid=np.repeat(scene.red_valid[:1], STEPS, axis=0),
    )


def _red_leads(scene: PreparedScene) -> tuple[Float[np.ndarray, "vertices 2"], Int[np.ndarray, "ends"], Float[np.ndarray, "reds 2"]]:
    """Outlines and centroids of the connectors that are red now and do not hold the whole ego: these stop the reference."""
    x, y, heading = scene.ego_state[:3]
    ego = np.empty((4, 2))
    fill_box(x + REAR_AXLE_TO_CENTER * np.cos(heading), y + REAR_AXLE_TO_CENTER * np.sin(heading), heading, LENGTH, WIDTH, ego)
    car, polygons = shapely.Polygon(ego), scene.red_polygons
    rings, centroids = [], []
    for number in np.flatnonzero(scene.red_valid[0]):
        outlines = _outlines(polygons, int(number))
        polygon = shapely.union_all([shapely.Polygon(outline) for outline in outlines])
        if not car.within(polygon):
            rings.append(outlines[0])
            centroids.append(shapely.get_coordinates(polygon.centroid)[0])
    ends = np.cumsum([0, *(len(ring) for ring in rings)]).astype(np.int64)
    return np.concatenate(rings) if rings else np.zeros((0, 2)), ends, np.array(centroids).reshape(-1, 2)


def _outlines(polygons: Polygons, number: int) -> list[np.ndarray]:
    first, last = polygons.polygon_start[number], polygons.polygon_start[number + 1]
    return [polygons.vertices[polygons.ring_start[ring] : polygons.ring_start[ring + 1]] for ring in range(first, last)]


def _shifted(line: Float[np.ndarray, "points 3"], offset: float) -> Float[np.ndarray, "points 3"]:
    """The line moved to its left by `offset` m, with continuous headings."""
    side = line[:, 2] + np.pi / 2
    return np.column_stack([line[:, 0] + np.cos(side) * offset, line[:, 1] + np.sin(side) * offset, np.unwrap(line[:, 2])])


@no_type_check
@njit(cache=True, nogil=True)
def _projected(x, y, path, progress):
    """How far along the path its point nearest to (x, y) lies, and the squared distance to it."""
    nearest, result = np.inf, 0.0
    for i in range(len(path) - 1):
        square, share = nearest_on_segment(x, y, path, i)
        if square < nearest:
            nearest, result = square, progress[i] + share * (progress[i + 1] - progress[i])
    return result, nearest


@no_type_check
@njit(cache=True, nogil=True)
def _fill_pose(way, path, progress, pose):
    """Write the pose `way` m along the path."""
    way = min(max(way, 1e-5), progress[-1])
    i = min(max(np.searchsorted(progress, way), 1), len(progress) - 1)
    share = (way - progress[i - 1]) / (progress[i] - progress[i - 1])
    for column in range(3):
        pose[column] = path[i - 1, column] + share * (path[i, column] - path[i - 1, column])


@no_type_check
@njit(cache=True, nogil=True)
def _gap(box, vertices, low, high):
    """Distance between a box and a polygon given by its outline `vertices[low:high]`, 0 where they touch."""
    ring_start = np.array([low, high])
    if box_touches_polygon(box, vertices, ring_start, 0, 1):
        return 0.0
    nearest = np.inf
    segment = np.empty((2, 2))
    for i in range(low, high):
        after = i + 1 if i + 1 < high else low
        segment[0], segment[1] = vertices[i], vertices[after]
        for corner in range(4):
            nearest = min(nearest, nearest_on_segment(box[corner, 0], box[corner, 1], segment, 0)[0])
    for corner in range(4):
        segment[0], segment[1] = box[corner], box[(corner + 1) % 4]
        for i in range(low, high):
            nearest = min(nearest, nearest_on_segment(vertices[i, 0], vertices[i, 1], segment, 0)[0])
    return np.sqrt(nearest)


@no_type_check
@njit(cache=True, nogil=True)
def _corridor(path, progress, start, end):
    """Where leads are looked for: the path's own points between two ways, without doublets; cut exactly if these are fewer than two."""
    start, end = min(max(start, 0.0), progress[-1]), min(max(end, 0.0), progress[-1])
    first, last = np.searchsorted(progress, start), np.searchsorted(progress, end, side="right")
    line, pose, count = np.empty((len(path) + 2, 2)), np.empty(3), 0
    is_cut = last - first < 2
    if is_cut:
        _fill_pose(start, path, progress, pose)
        line[0], count = pose[:2], 1
    for i in range(first, last):
        is_end = is_cut and not start < progress[i] < end
        if not is_end and (count == 0 or np.hypot(path[i, 0] - line[count - 1, 0], path[i, 1] - line[count - 1, 1]) > _DOUBLET):
            line[count] = path[i, :2]
            count += 1
    if is_cut and end > start:
        _fill_pose(end, path, progress, pose)
        line[count] = pose[:2]
        count += 1
    return line[:count]


@no_type_check
@njit(cache=True, nogil=True)
def _in_corridor(vertices, low, high, line):
    """Whether an outline comes within half the car's width of a line, square at both ends."""
    box = np.empty((4, 2))
    low_x, low_y, high_x, high_y = np.inf, np.inf, -np.inf, -np.inf
    for i in range(low, high):
        low_x, high_x = min(low_x, vertices[i, 0]), max(high_x, vertices[i, 0])
        low_y, high_y = min(low_y, vertices[i, 1]), max(high_y, vertices[i, 1])
    ring_start = np.array([low, high])
    reach = WIDTH
    last = len(line) - 2
    for i in range(last + 1):
        x, y, next_x, next_y = line[i, 0], line[i, 1], line[i + 1, 0], line[i + 1, 1]
        if min(x, next_x) > high_x + reach or max(x, next_x) < low_x - reach:
            continue
        if min(y, next_y) > high_y + reach or max(y, next_y) < low_y - reach:
            continue
        length = np.hypot(next_x - x, next_y - y)
        along_x, along_y = (next_x - x) / length, (next_y - y) / length
        tail = 0.5 * WIDTH if i == 0 else 0.0
        head = 0.5 * WIDTH if i == last else 0.0
        middle = 0.5 * (length + head - tail)
        fill_box(x + middle * along_x, y + middle * along_y, np.arctan2(along_y, along_x), length + tail + head, WIDTH, box)
        if box_touches_polygon(box, vertices, ring_start, 0, 1):
            return True
        for k in range(low, high):
            after = k + 1 if k + 1 < high else low
            if i > 0 and _point_to_edge(x, y, vertices[k], vertices[after]) <= 0.25 * WIDTH * WIDTH:
                return True
    return False


@no_type_check
@njit(cache=True, nogil=True)
def _point_to_edge(x, y, start, end):
    """Squared distance from a point to a segment."""
    along_x, along_y = end[0] - start[0], end[1] - start[1]
    square = along_x * along_x + along_y * along_y
    share = 0.0
    if square > 0.0:
        share = min(max(((x - start[0]) * along_x + (y - start[1]) * along_y) / square, 0.0), 1.0)
    return (x - start[0] - share * along_x) ** 2 + (y - start[1] - share * along_y) ** 2


@no_type_check
@njit(cache=True, nogil=True)
def _fill_plans(ego, path, progress, boxes, velocities, moves, red_vertices, red_ends, red_centroids, limit, shares, plans):
    """Write the proposals (speeds, 51, 3) along one path: IDM behind the nearest thing ahead in the corridor.

    The corridor runs from the ego to where the speed limit leads in 5 s. The lead is looked up every second step; before the first
    look it stands at the path's origin, so that the first step always brakes hard.
    """
    count, reds = len(boxes), len(red_centroids)
    start, _ = _projected(ego[0], ego[1], path, progress)
    line = _corridor(path, progress, start, start + CORRIDOR_TIME * limit)
    corners = np.empty((_FORECASTS, 4 * count, 2))
    inside = np.zeros((_FORECASTS, count), dtype=np.bool_)
    ways = np.zeros((_FORECASTS, count))
    radii = np.empty(count)
    for i in range(count):
        radii[i] = 0.5 * np.hypot(boxes[i, 3], boxes[i, 4]) + WIDTH
    for forecast in range(_FORECASTS):
        time = 0.1 * FORECAST_STRIDE * forecast
        for i in range(count):
            x, y = boxes[i, 0] + time * velocities[i, 0], boxes[i, 1] + time * velocities[i, 1]
            if forecast > 0 and not moves[i]:
                inside[forecast, i], ways[forecast, i] = inside[0, i], ways[0, i]
                corners[forecast, 4 * i : 4 * i + 4] = corners[0, 4 * i : 4 * i + 4]
                continue
            way, square = _projected(x, y, path, progress)
            if square > radii[i] * radii[i] or way < start - 1.0:
                continue
            fill_box(x, y, boxes[i, 2], boxes[i, 3], boxes[i, 4], corners[forecast, 4 * i : 4 * i + 4])
            ways[forecast, i] = way
            inside[forecast, i] = _in_corridor(corners[forecast], 4 * i, 4 * i + 4, line)
    red_inside, red_ways = np.zeros(reds, dtype=np.bool_), np.zeros(reds)
    for i in range(reds):
        red_ways[i], _ = _projected(red_centroids[i, 0], red_centroids[i, 1], path, progress)
        red_inside[i] = _in_corridor(red_vertices, red_ends[i], red_ends[i + 1], line)
    _drive(
        ego[VX],
        start,
        path,
        progress,
        boxes,
        velocities,
        corners,
        inside,
        ways,
        red_vertices,
        red_ends,
        red_inside,
        red_ways,
        shares * limit,
        plans,
    )


@no_type_check
@njit(cache=True, nogil=True)
def _drive(
    speed, start, path, progress, boxes, velocities, corners, inside, ways, red_vertices, red_ends, red_inside, red_ways, targets, plans
):
    """Write the poses of all speeds along one path.

    A lead's speed is written only when an object is ahead: where nothing is, or a red light, the speed of the lead of the
    next slower proposal stays in place. So does the rear length that is written only when nothing is ahead. Beyond 4 s each
    proposal is extended alone, without that leak. Nothing keeps a speed from falling below 0.
    """
    count, proposals = len(boxes), len(targets)
    way, speeds = np.full(proposals, start), np.full(proposals, speed)
    lead_way, lead_speed, lead_rear = np.zeros(proposals), np.zeros(proposals), np.zeros(proposals)
    pose, car = np.empty(3), np.empty((4, 2))
    for number in range(proposals):
        _fill_pose(start, path, progress, plans[number, 0])
    for step in range(1, POSES):
        leaked, leaked_rear = 0.0, 0.0
        for number in range(proposals):
            if step % FORECAST_STRIDE == 0:
                forecast = step // FORECAST_STRIDE
                _fill_pose(way[number], path, progress, pose)
                x, y = pose[0] + REAR_AXLE_TO_CENTER * np.cos(pose[2]), pose[1] + REAR_AXLE_TO_CENTER * np.sin(pose[2])
                fill_box(x, y, pose[2], LENGTH, WIDTH, car)
                nearest, lead = np.inf, -1
                for i in range(count):
                    if inside[forecast, i] and ways[forecast, i] > way[number]:
                        gap = _gap(car, corners[forecast], 4 * i, 4 * i + 4)
                        if gap < nearest:
                            nearest, lead = gap, i
                for i in range(len(red_inside)):
                    if red_inside[i] and red_ways[i] > way[number]:
                        gap = _gap(car, red_vertices, red_ends[i], red_ends[i + 1])
                        if gap < nearest:
                            nearest, lead = gap, count + i
                if step >= STEPS:
                    leaked, leaked_rear = 0.0, 0.0
                if 0 <= lead < count:
                    leaked = np.hypot(velocities[lead, 0], velocities[lead, 1]) * np.cos(boxes[lead, 2] - pose[2])
                if lead >= 0:
                    lead_way[number] = way[number] + nearest
                else:
                    lead_way[number], leaked_rear = progress[-1], 0.5 * LENGTH
                lead_speed[number], lead_rear[number] = leaked, leaked_rear
            speed = speeds[number]
            distance = max(lead_way[number] - way[number] - lead_rear[number], _MINIMUM_GAP)
            closing = speed * (speed - lead_speed[number]) / (2.0 * np.sqrt(_ACCELERATION * _DECELERATION))
            wish = _MINIMUM_GAP + speed * _HEADWAY + closing
            share = speed / targets[number] if targets[number] > 0.0 else np.inf
            change = _ACCELERATION * (1.0 - share**_EXPONENT - (wish / distance) ** 2)
            way[number] += 0.1 * speed
            speeds[number] = speed + 0.1 * min(max(change, -_DECELERATION), _ACCELERATION)
            _fill_pose(way[number], path, progress, plans[number, step])
