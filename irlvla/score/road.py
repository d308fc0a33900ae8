"""Where the ego drives: lanes, drivable area, route, red lights and progress along the centerline.

Source: autonomousvision/navsim at 0a380a9, pdm_planner/scoring/pdm_scorer.py (areas at 310-361, DAC 422, DDC 431-474, EP
476-490, TLC 582-613, LK 615-654).
"""

from typing import no_type_check

import numpy as np
from jaxtyping import Bool, Float
from numba import njit

from irlvla.geometry import arc_length, box_touches_polygon, fill_bounds, fill_corners, frozen, nearest_on_segment
from irlvla.score.lookup import bit, cell_of, grid, held, strips
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
_REACH = 0.5 * np.hypot(LENGTH, WIDTH) + 1e-3
"""No part of the ego is further from its centre, m."""
_FOR_CORNERS, _FOR_CENTER, _FOR_REAR, _LANES, _DRIVABLE, _ON_ROUTE = range(6)
"""Rows of `_wanted`; intersections alone matter to the rear axle."""


@no_type_check
@njit(cache=True, nogil=True)
def _fill_points(state, points):
    """Write the four corners, the centre and the rear axle of the ego into `points` (6, 2)."""
    x, y, cos, sin = state[X], state[Y], np.cos(state[HEADING]), np.sin(state[HEADING])
    center_x, center_y = x + REAR_AXLE_TO_CENTER * cos, y + REAR_AXLE_TO_CENTER * sin
    fill_corners(center_x, center_y, cos, sin, LENGTH, WIDTH, points[:4])
    points[_CENTER, 0], points[_CENTER, 1] = center_x, center_y
    points[_REAR, 0], points[_REAR, 1] = x, y


@no_type_check
@njit(cache=True, nogil=True)
def _fill_all_points(states, points):
    """Write the ego points (proposals, 41, 6, 2); return the window that holds them."""
    low_x, low_y, high_x, high_y = np.inf, np.inf, -np.inf, -np.inf
    for proposal in range(len(states)):
        for step in range(states.shape[1]):
            point = points[proposal, step]
            _fill_points(states[proposal, step], point)
            for i in range(_CENTER):
                low_x, high_x = min(low_x, point[i, 0]), max(high_x, point[i, 0])
                low_y, high_y = min(low_y, point[i, 1]), max(high_y, point[i, 1])
    return np.array([low_x, low_y, high_x, high_y])


@no_type_check
@njit(cache=True, nogil=True)
def _wanted(places, layers, on_route, words):
    """The bits that matter to corners, centre and rear axle, and those of lanes, drivable areas and the route's lanes."""
    wanted = np.zeros((6, words), dtype=np.uint64)
    for number in range(len(places)):
        layer, word, mark = layers[places[number]], number // 64, bit(number)
        is_lane = layer == _LANE or layer == _LANE_CONNECTOR
        wanted[_FOR_CORNERS, word] |= mark
        wanted[_LANES if is_lane else _DRIVABLE, word] |= mark
        if is_lane and on_route[places[number]]:
            wanted[_ON_ROUTE, word] |= mark
            wanted[_FOR_CENTER, word] |= mark
        if layer == _INTERSECTION:
            wanted[_FOR_CENTER, word] |= mark
            wanted[_FOR_REAR, word] |= mark
    return wanted


@no_type_check
@njit(cache=True, nogil=True)
def _fill_areas(states, vertices, ring_start, polygon_start, layers, on_route, points, areas):
    """Write the ego points (proposals, 41, 6, 2) and areas (proposals, 41, 5)."""
    bounds = np.empty((len(polygon_start) - 1, 4))
    fill_bounds(vertices, ring_start, polygon_start, bounds)
    window = _fill_all_points(states, points)
    index = strips(vertices, ring_start, polygon_start, bounds, window)
    axes, frames, start, edges = index
    scale, columns, rows, places, inner, edged = grid(vertices, ring_start, polygon_start, bounds, index, window, len(states))
    words = inner.shape[1]
    wanted = _wanted(places, layers, on_route, words)
    steps = states.shape[1]
    drivable = np.empty(_CENTER, dtype=np.bool_)
    for proposal in range(len(states)):
        for step in range(steps):
            lanes_touched, lane_holds_all, on_route_lane, center_in, rear_in = 0, False, False, False, False
            drivable[:] = False
            for word in range(words):
                some, every = np.uint64(0), ~np.uint64(0)
                for i in range(_POINTS):
                    x, y = points[proposal, step, i, 0], points[proposal, step, i, 1]
                    cell, asked = cell_of(x, y, scale, columns, rows), wanted[max(i - _CENTER + 1, 0), word]
                    found = inner[cell, word] & asked
                    if edged[cell, word] & asked:
                        found |= held(x, y, edged[cell, word] & asked, word, places, bounds, axes, frames, start, edges)
                    if i < _CENTER:
                        some, every = some | found, every & found
                        drivable[i] = drivable[i] or found & wanted[_DRIVABLE, word] != 0
                    elif i == _CENTER:
                        on_route_lane = on_route_lane or found & wanted[_ON_ROUTE, word] != 0
                        center_in = center_in or found & wanted[_FOR_REAR, word] != 0
                    else:
                        rear_in = rear_in or found != 0
                some &= wanted[_LANES, word]
                lane_holds_all = lane_holds_all or every & wanted[_LANES, word] != 0
                while some:
                    some &= some - np.uint64(1)
                    lanes_touched += 1
            areas[proposal, step, SEVERAL_LANES] = lanes_touched > 1 and not lane_holds_all
            areas[proposal, step, OFF_ROAD] = not (drivable[0] and drivable[1] and drivable[2] and drivable[3])
            areas[proposal, step, OFF_ROUTE] = not on_route_lane
            areas[proposal, step, CENTER_IN_INTERSECTION] = center_in
            areas[proposal, step, REAR_IN_INTERSECTION] = rear_in


@no_type_check
@njit(cache=True, nogil=True)
def _driving_direction(proposal, points, areas):
    """1, 0.5 or 0 by the largest distance driven off the route (outside intersections) within 1 s."""
    largest = 0.0
    driven = np.zeros(points.shape[1])
    for step in range(1, len(driven)):
        if not areas[proposal, step, OFF_ROUTE] or areas[proposal, step, CENTER_IN_INTERSECTION]:
            continue
        off_x = points[proposal, step, _CENTER, 0] - points[proposal, step - 1, _CENTER, 0]
        off_y = points[proposal, step, _CENTER, 1] - points[proposal, step - 1, _CENTER, 1]
        driven[step] = np.sqrt(off_x * off_x + off_y * off_y)
        total = 0.0
        for k in range(max(0, step - _DIRECTION_STEPS), step + 1):
            total += driven[k]
        largest = max(largest, total)
    if largest < _DIRECTION_WARNING:
        return 1.0
    return 0.5 if largest < _DIRECTION_LIMIT else 0.0


@no_type_check
@njit(cache=True, nogil=True)
def _near_line(x, y, line, limit, guess):
    """A segment of a polyline within `limit` of a point (looking at `guess` and the next one first), or -1."""
    for i in range(guess, min(guess + 2, len(line) - 1)):
        square, _ = nearest_on_segment(x, y, line, i)
        if square <= limit * limit:
            return i
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
def _lane_keeping(proposal, points, areas, centerline):
    """0 if the centre is off the centerline for 2 s of steps outside intersections, else 1."""
    off, segment = 0, 0
    for step in range(points.shape[1]):
        if areas[proposal, step, CENTER_IN_INTERSECTION]:
            continue
        x, y = points[proposal, step, _CENTER, 0], points[proposal, step, _CENTER, 1]
        found = _near_line(x, y, centerline, _LANE_DISTANCE, segment)
        if found >= 0:
            off, segment = 0, found
            continue
        off += 1
        if off >= _LANE_STEPS:
            return 0.0
    return 1.0


@no_type_check
@njit(cache=True, nogil=True)
def _red_lights(proposal, points, vertices, ring_start, polygon_start, bounds, valid):
    """0 if the ego touches a lane connector while it is red, else 1."""
    for polygon in range(len(polygon_start) - 1):
        for step in range(points.shape[1]):
            x, y = points[proposal, step, _CENTER, 0], points[proposal, step, _CENTER, 1]
            if not valid[step, polygon] or x + _REACH < bounds[polygon, 0] or x - _REACH > bounds[polygon, 2]:
                continue
            if y + _REACH < bounds[polygon, 1] or y - _REACH > bounds[polygon, 3]:
                continue
            box = points[proposal, step, :4]
            if box_touches_polygon(box, vertices, ring_start, polygon_start[polygon], polygon_start[polygon + 1]):
                return 0.0
    return 1.0


@no_type_check
@njit(cache=True, nogil=True)
def _fill_scores(points, areas, centerline, vertices, ring_start, polygon_start, valid, scores):
    """Write DAC, DDC, TLC, LK and progress (5, proposals)."""
    bounds = np.empty((len(polygon_start) - 1, 4))
    fill_bounds(vertices, ring_start, polygon_start, bounds)
    last = points.shape[1] - 1
    begin, begin_x, begin_y = 0.0, np.nan, np.nan
    for proposal in range(len(points)):
        scores[0, proposal] = 1.0
        for step in range(points.shape[1]):
            if areas[proposal, step, OFF_ROAD]:
                scores[0, proposal] = 0.0
        scores[1, proposal] = _driving_direction(proposal, points, areas)
        scores[2, proposal] = _red_lights(proposal, points, vertices, ring_start, polygon_start, bounds, valid)
        scores[3, proposal] = _lane_keeping(proposal, points, areas, centerline)
        x, y = points[proposal, 0, _CENTER, 0], points[proposal, 0, _CENTER, 1]
        if x != begin_x or y != begin_y:
            begin, begin_x, begin_y = arc_length(x, y, centerline), x, y
        end = arc_length(points[proposal, last, _CENTER, 0], points[proposal, last, _CENTER, 1], centerline)
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
