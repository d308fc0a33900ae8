"""Contacts with other road users: no at-fault collision (NC) and time to collision (TTC).

Source: autonomousvision/navsim at 0a380a9, pdm_planner/scoring/pdm_scorer.py (NC 363-420, TTC 492-580) and
pdm_scorer_utils.py.
"""

from typing import no_type_check

import numpy as np
from jaxtyping import Bool, Float
from numba import njit

from irlvla.geometry import boxes_touch, fill_box, frozen, segment_touches_box
from irlvla.score.road import OFF_ROAD, REAR_IN_INTERSECTION, SEVERAL_LANES
from irlvla.types import PreparedScene
from irlvla.vehicle import HEADING, INTERVAL, VX, VY, X, Y

_MOVING_TYPES = 3
_STOPPED_SPEED = 0.05
_TTC_STOPPED_SPEED = 0.005
_LOOKAHEAD, _LOOKAHEAD_STRIDE = 10, 3
_AHEAD, _BEHIND = np.deg2rad(30.0), np.deg2rad(150.0)


@no_type_check
@njit(cache=True, nogil=True)
def _bearing(state, x, y):
    """The angle between the ego's heading and the line from its rear axle to a point; NaN where they coincide."""
    off_x, off_y = x - state[X], y - state[Y]
    distance = np.sqrt(off_x * off_x + off_y * off_y)
    if distance == 0.0:
        return np.nan
    cosine = (np.cos(state[HEADING]) * off_x + np.sin(state[HEADING]) * off_y) / distance
    return np.arccos(min(max(cosine, -1.0), 1.0))


@no_type_check
@njit(cache=True, nogil=True)
def _at_fault(state, box, area, other, x, y, is_stopped):
    """Whether a contact with the box `other` (centre x, y) is the ego's fault."""
    if np.hypot(state[VX], state[VY]) <= _STOPPED_SPEED:
        return False
    if is_stopped:
        return True
    if _bearing(state, x, y) > _BEHIND:
        return False
    front = np.empty((2, 2))
    front[0], front[1] = box[0], box[3]
    if segment_touches_box(front, other):
        return True
    return area[SEVERAL_LANES] or area[OFF_ROAD]


@no_type_check
@njit(cache=True, nogil=True)
def _no_collision(states, points, areas, types, first_speeds, boxes, radii, others, valid, immune):
    """1, or 0.5 after an at-fault contact with a static object, or 0 after one with a road user."""
    score = 1.0
    immune[:] = False
    for step in range(len(states)):
        box = points[step, :4]
        center_x, center_y = points[step, 4]
        for i in range(len(types)):
            if not valid[step, i] or immune[i]:
                continue
            x, y = boxes[step, i, 0], boxes[step, i, 1]
            if abs(x - center_x) > radii[step, i] or abs(y - center_y) > radii[step, i]:
                continue
            if not boxes_touch(box, others[step, i]):
                continue
            is_stopped = types[i] >= _MOVING_TYPES or first_speeds[i] <= _STOPPED_SPEED
            if _at_fault(states[step], box, areas[step], others[step, i], x, y, is_stopped):
                score = min(score, 0.0 if types[i] < _MOVING_TYPES else 0.5)
            else:
                immune[i] = True
        if score == 0.0:
            return score
    return score


@no_type_check
@njit(cache=True, nogil=True)
def _time_to_collision(states, points, areas, boxes, radii, others, valid, immune):
    """0 if within 0.9 s of straight driving the ego meets an object that it should mind, else 1."""
    immune[:] = False
    moved = np.empty((4, 2))
    for step in range(len(states) - _LOOKAHEAD + 1):
        state, area = states[step], areas[step]
        speed = np.hypot(state[VX], state[VY])
        if speed < _TTC_STOPPED_SPEED:
            continue
        cos, sin = np.cos(state[HEADING]), np.sin(state[HEADING])
        for ahead in range(0, _LOOKAHEAD, _LOOKAHEAD_STRIDE):
            shift_x, shift_y = cos * speed * (ahead * INTERVAL), sin * speed * (ahead * INTERVAL)
            center_x, center_y = points[step, 4, 0] + shift_x, points[step, 4, 1] + shift_y
            then = step + ahead
            for i in range(valid.shape[1]):
                if not valid[then, i] or immune[i]:
                    continue
                x, y = boxes[then, i, 0], boxes[then, i, 1]
                if abs(x - center_x) > radii[then, i] or abs(y - center_y) > radii[then, i]:
                    continue
                for corner in range(4):
                    moved[corner, 0], moved[corner, 1] = points[step, corner, 0] + shift_x, points[step, corner, 1] + shift_y
                if not boxes_touch(moved, others[then, i]):
                    continue
                bearing = _bearing(state, x, y)
                unclear = area[SEVERAL_LANES] or area[OFF_ROAD] or area[REAR_IN_INTERSECTION]
                if bearing < _AHEAD or (unclear and not bearing > _BEHIND):
                    return 0.0
                immune[i] = True
    return 1.0


@no_type_check
@njit(cache=True, nogil=True)
def _fill_scores(states, points, areas, types, first_speeds, boxes, valid, scores):
    """Write NC and TTC (2, proposals)."""
    steps, count = valid.shape
    others, radii = np.empty((steps, count, 4, 2)), np.empty((steps, count))
    ego_x, ego_y = points[0, 0, 0, 0] - points[0, 0, 2, 0], points[0, 0, 0, 1] - points[0, 0, 2, 1]
    ego_radius = 0.5 * np.hypot(ego_x, ego_y)
    for step in range(steps):
        for i in range(count):
            if valid[step, i]:
                x, y, heading, length, width = boxes[step, i]
                fill_box(x, y, heading, length, width, others[step, i])
                radii[step, i] = ego_radius + 0.5 * np.hypot(length, width) + 1e-3
    immune = np.empty(count, dtype=np.bool_)
    for proposal in range(len(states)):
        state, point, area = states[proposal], points[proposal], areas[proposal]
        scores[0, proposal] = _no_collision(state, point, area, types, first_speeds, boxes, radii, others, valid, immune)
        scores[1, proposal] = _time_to_collision(state, point, area, boxes, radii, others, valid, immune)


def collision_scores(
    scene: PreparedScene,
    states: Float[np.ndarray, "proposals 41 11"],
    points: Float[np.ndarray, "proposals 41 6 2"],
    areas: Bool[np.ndarray, "proposals 41 5"],
) -> Float[np.ndarray, "2 proposals"]:
    """NC in {0, 0.5, 1} and TTC in {0, 1} of each proposal, from its states and `irlvla.score.road.ego_areas`."""
    scores = np.empty((2, len(states)))
    _fill_scores(
        states,
        points,
        areas,
        frozen(scene.object_types, np.int64),
        frozen(scene.object_first_speed, np.float64),
        frozen(scene.object_boxes, np.float64),
        frozen(scene.object_valid, np.bool_),
        scores,
    )
    return scores
