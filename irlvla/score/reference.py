"""PDM-Closed: the privileged rule-based planner whose progress EP is measured against.

It drives along the centerline and two lines beside it at five speeds (IDM behind what stands or drives in its corridor), and
keeps the proposal that scores best against a constant-velocity forecast.

Source: autonomousvision/navsim at 0a380a9, pdm_planner/{abstract_pdm_closed_planner,proposal/*,observation/pdm_observation}.py.
"""

from typing import no_type_check

import numpy as np
import shapely
from jaxtyping import Float, Int
from numba import njit

from irlvla.geometry import fill_box, frozen, in_box, in_polygon, nearest_on_segment, segments_touch
from irlvla.lanes import flat_polygons
from irlvla.score.epdms import batch_scores, raw_scores
from irlvla.score.forecast import COUNT, POSES, STRIDE, forecast, forecast_scene, found_order, red_outlines
from irlvla.types import OBJECT_NAMES, STEPS, PreparedScene
from irlvla.vehicle import LENGTH, REAR_AXLE_TO_CENTER, VX, WIDTH, simulated

LATERAL_OFFSETS = (0.0, -1.0, 1.0)
SPEED_SHARES = (0.2, 0.4, 0.6, 0.8, 1.0)
FALLBACK_SPEED = 15.0
"""Where the starting lane has no speed limit, m/s."""
_ARC = 16
"""Chords of a quarter circle in the corridor's corners."""

_MINIMUM_GAP, _HEADWAY, _ACCELERATION, _DECELERATION, _EXPONENT = 1.0, 1.5, 1.5, 3.0, 10


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
    found = forecast(scene, boxes, velocities, types)
    kept = np.flatnonzero(found.is_apart)
    others = found.boxes[kept], found.velocities[kept], found.types[kept] < OBJECT_NAMES.index("traffic_cone")
    reds, red_centroids = red_outlines(found)
    red_rings = reds.vertices, reds.ring_start, reds.polygon_start
    limit = FALLBACK_SPEED if speed_limit is None else speed_limit
    targets = np.array(SPEED_SHARES) * limit
    ego, trees = frozen(scene.ego_state, np.float64), dict[int, shapely.STRtree]()
    plans = np.empty((len(LATERAL_OFFSETS), len(SPEED_SHARES), POSES, 3))
    for number, offset in enumerate(LATERAL_OFFSETS):
        path = _shifted(scene.centerline, offset)
        step = np.diff(path[:, :2], axis=0)
        progress = np.r_[0.0, np.cumsum(np.sqrt(step[:, 0] * step[:, 0] + step[:, 1] * step[:, 1]))]
        start = _projected(ego[0], ego[1], path, progress)
        line = _corridor_line(path, progress, start, start + abs(limit) * (POSES - 1) * 0.1)
        corridor = _corridor(line)
        outline = flat_polygons([corridor])
        leads = _leads(path, progress, line, outline.vertices, outline.ring_start, *others)
        red_ways = np.array([_projected(x, y, path, progress) for x, y in red_centroids], dtype=np.float64)
        red_inside = shapely.intersects(corridor, found.reds[found.is_ahead]).astype(bool).reshape(-1)
        drive = (ego[VX], start, path, progress, *others[:2], *leads, *red_rings, red_inside, red_ways, targets, plans[number])
        order, wanted = np.zeros((COUNT, len(kept) + len(red_ways)), np.int64), np.zeros(COUNT, np.bool_)
        ordered = wanted.copy()
        while _drive(*drive, order, wanted) and (wanted & ~ordered).any():
            for place in np.flatnonzero(wanted & ~ordered):
                order[place] = found_order(found, int(place), corridor, trees)
            ordered = wanted.copy()
    plans = plans.reshape(-1, POSES, 3)
    states = simulated(scene.ego_state, plans[:, :STEPS])
    return plans, batch_scores(raw_scores(forecast_scene(scene, found), states, with_history=False))


def _shifted(line: Float[np.ndarray, "points 3"], offset: float) -> Float[np.ndarray, "points 3"]:
    """The line moved to its left by `offset` m, with continuous headings."""
    side = line[:, 2] + np.pi / 2
    return np.column_stack([line[:, 0] + np.cos(side) * offset, line[:, 1] + np.sin(side) * offset, np.unwrap(line[:, 2])])


@no_type_check
@njit(cache=True, nogil=True)
def _projected(x, y, path, progress):
    """How far along the path its point nearest to (x, y) lies; exactly a vertex's progress where that is the nearest point."""
    nearest, result = np.inf, 0.0
    for i in range(len(path) - 1):
        square, share = nearest_on_segment(x, y, path, i)
        if square < nearest:
            nearest = square
            result = progress[i + 1] if share == 1.0 else progress[i] + share * (progress[i + 1] - progress[i])
    return result


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
def _touches(box, vertices, ring_start, first, last):
    """Whether a box shares a point with the polygon of the rings `first..last - 1`; touching counts."""
    low_x, high_x = min(box[0, 0], box[1, 0], box[2, 0], box[3, 0]), max(box[0, 0], box[1, 0], box[2, 0], box[3, 0])
    low_y, high_y = min(box[0, 1], box[1, 1], box[2, 1], box[3, 1]), max(box[0, 1], box[1, 1], box[2, 1], box[3, 1])
    for ring in range(first, last):
        before = vertices[ring_start[ring + 1] - 1]
        for i in range(ring_start[ring], ring_start[ring + 1]):
            after = vertices[i]
            is_near_x = (before[0] <= high_x or after[0] <= high_x) and (before[0] >= low_x or after[0] >= low_x)
            if is_near_x and (before[1] <= high_y or after[1] <= high_y) and (before[1] >= low_y or after[1] >= low_y):
                if in_box(after[0], after[1], box):
                    return True
                for side in range(4):
                    one, two = box[side], box[(side + 1) % 4]
                    if segments_touch(before[0], before[1], after[0], after[1], one[0], one[1], two[0], two[1]):
                        return True
            before = after
    return in_polygon(box[0, 0], box[0, 1], vertices, ring_start, first, last)


@no_type_check
@njit(cache=True, nogil=True)
def _gap(box, vertices, ring_start, first, last):
    """Distance between a box and the polygon of the rings `first..last - 1`, 0 where they touch."""
    if _touches(box, vertices, ring_start, first, last):
        return 0.0
    nearest = np.inf
    segment = np.empty((2, 2))
    for ring in range(first, last):
        segment[0] = vertices[ring_start[ring + 1] - 1]
        for i in range(ring_start[ring], ring_start[ring + 1]):
            segment[1] = vertices[i]
            for corner in range(4):
                nearest = min(nearest, nearest_on_segment(box[corner, 0], box[corner, 1], segment, 0)[0])
            segment[0] = segment[1]
    for corner in range(4):
        segment[0], segment[1] = box[corner], box[(corner + 1) % 4]
        for i in range(ring_start[first], ring_start[last]):
            nearest = min(nearest, nearest_on_segment(vertices[i, 0], vertices[i, 1], segment, 0)[0])
    return np.sqrt(nearest)


@no_type_check
@njit(cache=True, nogil=True)
def _corridor_line(path, progress, start, end):
    """The path's own points between two ways along it; cut exactly if these are fewer than two."""
    start, end = min(max(start, 0.0), progress[-1]), min(max(end, 0.0), progress[-1])
    first, last = np.searchsorted(progress, start), np.searchsorted(progress, end, side="right")
    if last - first >= 2:
        return path[first:last, :2].copy()
    line, pose, count = np.empty((3, 2)), np.empty(3), 1
    _fill_pose(start, path, progress, pose)
    line[0] = pose[:2]
    for i in range(first, last):
        if start < progress[i] < end:
            line[count] = path[i, :2]
            count += 1
    if end > start:
        _fill_pose(end, path, progress, pose)
        line[count] = pose[:2]
        count += 1
    return line[:count]


def _corridor(line: Float[np.ndarray, "points 2"]) -> shapely.Polygon:
    """Where leads are looked for: the width of the car along a line, square at both ends, simplified as GEOS does it."""
    way = shapely.LineString(line) if len(line) > 1 else shapely.Point(line[0])
    return way.buffer(0.5 * WIDTH, quad_segs=_ARC, cap_style="square")


@no_type_check
@njit(cache=True, nogil=True)
def _leads(path, progress, line, vertices, ring_start, boxes, velocities, moves):
    """Corners of the objects at each forecast, whether they reach into the corridor, and how far along the path their centres lie."""
    count, rings = len(boxes), len(ring_start) - 1
    corners = np.empty((COUNT, 4 * count, 2))
    inside = np.zeros((COUNT, count), dtype=np.bool_)
    ways = np.zeros((COUNT, count))
    low_x, high_x = vertices[:, 0].min(), vertices[:, 0].max()
    low_y, high_y = vertices[:, 1].min(), vertices[:, 1].max()
    for i in range(count):
        reach = 0.5 * np.hypot(boxes[i, 3], boxes[i, 4])
        for number in range(COUNT):
            here = corners[number, 4 * i : 4 * i + 4]
            if number > 0 and not moves[i]:
                inside[number, i], ways[number, i] = inside[0, i], ways[0, i]
                here[:] = corners[0, 4 * i : 4 * i + 4]
                continue
            time = 0.1 * STRIDE * number
            x, y = boxes[i, 0] + time * velocities[i, 0], boxes[i, 1] + time * velocities[i, 1]
            if x + reach < low_x or x - reach > high_x or y + reach < low_y or y - reach > high_y:
                continue
            square = (x - line[0, 0]) ** 2 + (y - line[0, 1]) ** 2
            for k in range(len(line) - 1):
                square = min(square, nearest_on_segment(x, y, line, k)[0])
            if square > (reach + WIDTH) ** 2:
                continue
            fill_box(x, y, boxes[i, 2], boxes[i, 3], boxes[i, 4], here)
            if _touches(here, vertices, ring_start, 0, rings):
                inside[number, i], ways[number, i] = True, _projected(x, y, path, progress)
    return corners, inside, ways


@no_type_check
@njit(cache=True, nogil=True)
def _differ(i, k, boxes, velocities, heading):
    """Whether it matters which of two leads is followed: lights are all the same, objects are if they have the same speed ahead."""
    count = len(boxes)
    if i >= count or k >= count:
        return i < count or k < count
    one = np.hypot(velocities[i, 0], velocities[i, 1]) * np.cos(boxes[i, 2] - heading)
    return one != np.hypot(velocities[k, 0], velocities[k, 1]) * np.cos(boxes[k, 2] - heading)


@no_type_check
@njit(cache=True, nogil=True)
def _drive(
    speed, start, path, progress, boxes, velocities, corners, inside, ways,
    red_vertices, red_rings, red_polygons, red_inside, red_ways, targets, plans, order, wanted,
):  # fmt: skip
    """Write the poses of all speeds along one path; returns whether `order` had to decide somewhere.

    Of leads that are equally near (both on the ego, as a rule) the lower `order` counts; forecasts where that matters become `wanted`.

    A lead's speed is written only when an object is ahead: where nothing is, or a red light, the speed of the lead of the
    next slower proposal stays in place. So does the rear length that is written only when nothing is ahead. Beyond 4 s each
    proposal is extended alone, without that leak. Nothing keeps a speed from falling below 0. Before the first look the lead stands
    at the path's origin, so that the first step always brakes hard.
    """
    count, proposals, was_tied = len(boxes), len(targets), False
    rings = 4 * np.arange(count + 1)
    way, speeds = np.full(proposals, start), np.full(proposals, speed)
    lead_way, lead_speed, lead_rear = np.zeros(proposals), np.zeros(proposals), np.zeros(proposals)
    pose, car = np.empty(3), np.empty((4, 2))
    for number in range(proposals):
        _fill_pose(start, path, progress, plans[number, 0])
    for step in range(1, POSES):
        leaked, leaked_rear = 0.0, 0.0
        for number in range(proposals):
            if step % STRIDE == 0:
                place = step // STRIDE
                _fill_pose(way[number], path, progress, pose)
                x, y = pose[0] + REAR_AXLE_TO_CENTER * np.cos(pose[2]), pose[1] + REAR_AXLE_TO_CENTER * np.sin(pose[2])
                fill_box(x, y, pose[2], LENGTH, WIDTH, car)
                nearest, lead, is_open = np.inf, -1, False
                for i in range(count + len(red_inside)):
                    k = i - count
                    if k < 0:
                        if not inside[place, i] or ways[place, i] <= way[number]:
                            continue
                        gap = _gap(car, corners[place], rings, i, i + 1)
                    else:
                        if not red_inside[k] or red_ways[k] <= way[number]:
                            continue
                        gap = _gap(car, red_vertices, red_rings, red_polygons[k], red_polygons[k + 1])
                    if gap < nearest:
                        nearest, lead, is_open = gap, i, False
                    elif gap == nearest:
                        is_open = is_open or _differ(i, lead, boxes, velocities, pose[2])
                        if order[place, i] < order[place, lead]:
                            lead = i
                if is_open:
                    was_tied, wanted[place] = True, True
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
    return was_tied
