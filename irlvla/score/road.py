"""Where the ego drives: lanes, drivable area, route, red lights and progress along the centerline.

Source: autonomousvision/navsim at 0a380a9, pdm_planner/scoring/pdm_scorer.py (areas at 310-361, DAC 422, DDC 431-474, EP
476-490, TLC 582-613, LK 615-654).
"""

from typing import no_type_check

import numpy as np
from jaxtyping import Bool, Float
from numba import njit

from irlvla.geometry import arc_length, box_touches_polygon, fill_bounds, fill_box, frozen, nearest_on_segment
from irlvla.score.lookup import in_strips, strips
from irlvla.types import LAYER_NAMES, STEPS, PreparedScene
from irlvla.vehicle import HEADING, LENGTH, REAR_AXLE_TO_CENTER, WIDTH, X, Y

SEVERAL_LANES, OFF_ROAD, OFF_ROUTE, CENTER_IN_INTERSECTION, REAR_IN_INTERSECTION = range(5)
"""Columns of the ego areas."""

_LANE, _LANE_CONNECTOR, _ROADBLOCK, _INTERSECTION, _CARPARK = range(len(LAYER_NAMES))
_DIRECTION_STEPS = 10
_DIRECTION_WARNING, _DIRECTION_LIMIT = 2.0, 6.0
_LANE_DISTANCE, _LANE_STEPS = 0.5, 20
_CENTER, _REAR, _POINTS = 4, 5, 6
"""Places among the ego's points, after the four corners."""


@no_type_check
@njit(cache=True, nogil=True)
def _fill_points(state, points):
    """Write the four corners, the centre and the rear axle of the ego into `points` (6, 2)."""
    x, y, heading = state[X], state[Y], state[HEADING]
    center_x, center_y = x + REAR_AXLE_TO_CENTER * np.cos(heading), y + REAR_AXLE_TO_CENTER * np.sin(heading)
    fill_box(center_x, center_y, heading, LENGTH, WIDTH, points[:4])
    points[_CENTER, 0], points[_CENTER, 1] = center_x, center_y
    points[_REAR, 0], points[_REAR, 1] = x, y


@no_type_check
@njit(cache=True, nogil=True)
def _fill_step(points, polygon, is_lane, is_intersection, counts, index, drivable, route, areas):
    """Note for one step which of the ego's points a polygon holds; return how many corners a lane holds."""
    axes, frames, start, edges, bounds = index
    bound = bounds[polygon]
    held = 0
    for i in range(_POINTS):
        if i == _CENTER and not is_intersection and not counts:
            continue
        if i == _REAR and not is_intersection:
            continue
        if not is_lane and i < _CENTER and drivable[i]:
            continue
        x, y = points[i, 0], points[i, 1]
        if x < bound[0] or y < bound[1] or x > bound[2] or y > bound[3]:
            continue
        if not in_strips(x, y, polygon, axes, frames, start, edges):
            continue
        if i == _REAR:
            areas[REAR_IN_INTERSECTION] = True
        elif i == _CENTER and is_lane:
            route[0] = True
        elif i == _CENTER:
            areas[CENTER_IN_INTERSECTION] = True
        elif is_lane:
            held += 1
        else:
            drivable[i] = True
    return held


@no_type_check
@njit(cache=True, nogil=True)
def _fill_areas(states, vertices, ring_start, polygon_start, layers, on_route, points, areas):
    """Write the ego points (proposals, 41, 6, 2) and areas (proposals, 41, 5)."""
    proposals, steps = states.shape[0], states.shape[1]
    bounds = np.empty((len(polygon_start) - 1, 4))
    fill_bounds(vertices, ring_start, polygon_start, bounds)
    boxes = np.empty((proposals, steps, 4))
    window = np.array([np.inf, np.inf, -np.inf, -np.inf])
    for proposal in range(proposals):
        for step in range(steps):
            point, box = points[proposal, step], boxes[proposal, step]
            _fill_points(states[proposal, step], point)
            box[0], box[1], box[2], box[3] = point[0, 0], point[0, 1], point[0, 0], point[0, 1]
            for i in range(1, _CENTER):
                box[0], box[1] = min(box[0], point[i, 0]), min(box[1], point[i, 1])
                box[2], box[3] = max(box[2], point[i, 0]), max(box[3], point[i, 1])
            window[0], window[1] = min(window[0], box[0]), min(window[1], box[1])
            window[2], window[3] = max(window[2], box[2]), max(window[3], box[3])
    axes, frames, start, edges = strips(vertices, ring_start, polygon_start, bounds, window)
    index = (axes, frames, start, edges, bounds)
    lanes_touched, lane_holds_all = np.empty(steps, dtype=np.int64), np.empty(steps, dtype=np.bool_)
    drivable, route = np.empty((steps, 4), dtype=np.bool_), np.empty((steps, 1), dtype=np.bool_)
    for proposal in range(proposals):
        lanes_touched[:], lane_holds_all[:], drivable[:], route[:] = 0, False, False, False
        for polygon in range(len(layers)):
            if axes[polygon] < 0:
                continue
            layer, bound = layers[polygon], bounds[polygon]
            is_lane = layer == _LANE or layer == _LANE_CONNECTOR
            for step in range(steps):
                box = boxes[proposal, step]
                if bound[0] > box[2] or bound[1] > box[3] or bound[2] < box[0] or bound[3] < box[1]:
                    continue
                held = _fill_step(
                    points[proposal, step], polygon, is_lane, layer == _INTERSECTION, is_lane and on_route[polygon],
                    index, drivable[step], route[step], areas[proposal, step],
                )  # fmt: skip
                if held > 0:
                    lanes_touched[step] += 1
                    lane_holds_all[step] = lane_holds_all[step] or held == 4
        for step in range(steps):
            areas[proposal, step, SEVERAL_LANES] = lanes_touched[step] > 1 and not lane_holds_all[step]
            areas[proposal, step, OFF_ROAD] = not drivable[step].all()
            areas[proposal, step, OFF_ROUTE] = not route[step, 0]


@no_type_check
@njit(cache=True, nogil=True)
def _driving_direction(points, areas):
    """1, 0.5 or 0 by the largest distance driven off the route (outside intersections) within 1 s."""
    steps = len(points)
    largest = 0.0
    driven = np.zeros(steps)
    for step in range(1, steps):
        if areas[step, OFF_ROUTE] and not areas[step, CENTER_IN_INTERSECTION]:
            off_x = points[step, _CENTER, 0] - points[step - 1, _CENTER, 0]
            off_y = points[step, _CENTER, 1] - points[step - 1, _CENTER, 1]
            driven[step] = np.sqrt(off_x * off_x + off_y * off_y)
        largest = max(largest, driven[max(0, step - _DIRECTION_STEPS) : step + 1].sum())
    if largest < _DIRECTION_WARNING:
        return 1.0
    return 0.5 if largest < _DIRECTION_LIMIT else 0.0


@no_type_check
@njit(cache=True, nogil=True)
def _near_line(x, y, line, limit, guess):
    """A segment of a polyline within `limit` of a point (looking at `guess` first), or -1."""
    square, _ = nearest_on_segment(x, y, line, guess)
    if square <= limit * limit:
        return guess
    for i in range(len(line) - 1):
        if min(line[i, 0], line[i + 1, 0]) - limit > x or max(line[i, 0], line[i + 1, 0]) + limit < x:
            continue
        if min(line[i, 1], line[i + 1, 1]) - limit > y or max(line[i, 1], line[i + 1, 1]) + limit < y:
            continue
        square, _ = nearest_on_segment(x, y, line, i)
        if square <= limit * limit:
            return i
    return -1


@no_type_check
@njit(cache=True, nogil=True)
def _lane_keeping(points, areas, centerline):
    """0 if the centre is off the centerline for 2 s of steps outside intersections, else 1."""
    off, segment = 0, 0
    for step in range(len(points)):
        if areas[step, CENTER_IN_INTERSECTION]:
            continue
        found = _near_line(points[step, _CENTER, 0], points[step, _CENTER, 1], centerline, _LANE_DISTANCE, segment)
        if found >= 0:
            off, segment = 0, found
            continue
        off += 1
        if off >= _LANE_STEPS:
            return 0.0
    return 1.0


@no_type_check
@njit(cache=True, nogil=True)
def _red_lights(points, vertices, ring_start, polygon_start, bounds, valid):
    """0 if the ego touches a lane connector while it is red, else 1."""
    for polygon in range(len(polygon_start) - 1):
        bound = bounds[polygon]
        for step in range(len(points)):
            if not valid[step, polygon]:
                continue
            box = points[step, :4]
            if box[:, 0].max() < bound[0] or box[:, 0].min() > bound[2]:
                continue
            if box[:, 1].max() < bound[1] or box[:, 1].min() > bound[3]:
                continue
            if box_touches_polygon(box, vertices, ring_start, polygon_start[polygon], polygon_start[polygon + 1]):
                return 0.0
    return 1.0


@no_type_check
@njit(cache=True, nogil=True)
def _fill_scores(points, areas, centerline, vertices, ring_start, polygon_start, valid, scores):
    """Write DAC, DDC, TLC, LK and progress (5, proposals)."""
    bounds = np.empty((len(polygon_start) - 1, 4))
    fill_bounds(vertices, ring_start, polygon_start, bounds)
    begin, begin_x, begin_y = 0.0, np.nan, np.nan
    for proposal in range(len(points)):
        scores[0, proposal] = 0.0 if areas[proposal, :, OFF_ROAD].any() else 1.0
        scores[1, proposal] = _driving_direction(points[proposal], areas[proposal])
        scores[2, proposal] = _red_lights(points[proposal], vertices, ring_start, polygon_start, bounds, valid)
        scores[3, proposal] = _lane_keeping(points[proposal], areas[proposal], centerline)
        x, y = points[proposal, 0, _CENTER]
        if x != begin_x or y != begin_y:
            begin, begin_x, begin_y = arc_length(x, y, centerline), x, y
        end = arc_length(points[proposal, -1, _CENTER, 0], points[proposal, -1, _CENTER, 1], centerline)
        scores[4, proposal] = max(end - begin, 0.0)


def ego_areas(
    scene: PreparedScene, states: Float[np.ndarray, "proposals 41 11"]
) -> tuple[Float[np.ndarray, "proposals 41 6 2"], Bool[np.ndarray, "proposals 41 5"]]:
    """Where each simulated ego is at each step.

    Several lanes: more than one lane (connector) holds a corner and none holds all four. Off road: a corner lies in no
    roadblock, intersection or car park. Off route: the centre lies in no lane of the corrected route. Boundaries do not
    belong to a polygon.

    Returns:
        The ego's points (front left, rear left, rear right, front right, centre, rear axle; global m), and the areas:
        several lanes, off road, off route, centre in an intersection, rear axle in an intersection.
    """
    points = np.empty((len(states), STEPS, _POINTS, 2))
    areas = np.zeros((len(states), STEPS, 5), dtype=np.bool_)
    polygons = scene.map_polygons
    _fill_areas(
        states,
        frozen(polygons.vertices, np.float64),
        frozen(polygons.ring_start, np.int64),
        frozen(polygons.polygon_start, np.int64),
        frozen(scene.map_layers, np.int64),
        frozen(scene.map_on_route, np.bool_),
        points,
        areas,
    )
    return points, areas


def road_scores(
    scene: PreparedScene, points: Float[np.ndarray, "proposals 41 6 2"], areas: Bool[np.ndarray, "proposals 41 5"]
) -> Float[np.ndarray, "5 proposals"]:
    """DAC, DDC, TLC, LK (each in [0, 1]) and progress along the centerline (m, >= 0) of each proposal."""
    scores = np.empty((5, len(points)))
    polygons = scene.red_polygons
    _fill_scores(
        points,
        areas,
        frozen(scene.centerline, np.float64),
        frozen(polygons.vertices, np.float64),
        frozen(polygons.ring_start, np.int64),
        frozen(polygons.polygon_start, np.int64),
        frozen(scene.red_valid, np.bool_),
        scores,
    )
    return scores
