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
from irlvla.vehicle import HEADING, INTERVAL, LENGTH, VX, VY, WIDTH, X, Y

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
def _no_collision(proposal, states, points, areas, types, first_speeds, boxes, others, reach, near, count, immune):
    """1, or 0.5 after an at-fault contact with a static object, or 0 after one with a road user."""
    score = 1.0
    immune[:] = False
    for step in range(states.shape[1]):
        center_x, center_y = points[proposal, step, 4, 0], points[proposal, step, 4, 1]
        for place in range(count[step]):
            i = near[step, place]
            x, y = boxes[step, i, 0], boxes[step, i, 1]
            if abs(x - center_x) > reach[step, i] or abs(y - center_y) > reach[step, i] or immune[i]:
                continue
            box = points[proposal, step, :4]
            if not boxes_touch(box, others[step, i]):
                continue
            is_stopped = types[i] >= _MOVING_TYPES or first_speeds[i] <= _STOPPED_SPEED
            if _at_fault(states[proposal, step], box, areas[proposal, step], others[step, i], x, y, is_stopped):
                score = min(score, 0.0 if types[i] < _MOVING_TYPES else 0.5)
            else:
                immune[i] = True
        if score == 0.0:
            return score
    return score


@no_type_check
@njit(cache=True, nogil=True)
def _time_to_collision(proposal, states, points, areas, shifts, boxes, others, reach, near, count, immune):
    """0 if within 0.9 s of straight driving the ego meets an object that it should mind, else 1."""
    immune[:] = False
    moved = np.empty((4, 2))
    for step in range(shifts.shape[1]):
        if np.isnan(shifts[proposal, step, 0]):
            continue
        for ahead in range(0, _LOOKAHEAD, _LOOKAHEAD_STRIDE):
            shift_x, shift_y = shifts[proposal, step, 0] * (ahead * INTERVAL), shifts[proposal, step, 1] * (ahead * INTERVAL)
            center_x, center_y = points[proposal, step, 4, 0] + shift_x, points[proposal, step, 4, 1] + shift_y
            then = step + ahead
            for place in range(count[then]):
                i = near[then, place]
                x, y = boxes[then, i, 0], boxes[then, i, 1]
                if abs(x - center_x) > reach[then, i] or abs(y - center_y) > reach[then, i] or immune[i]:
                    continue
                for corner in range(4):
                    moved[corner, 0] = points[proposal, step, corner, 0] + shift_x
                    moved[corner, 1] = points[proposal, step, corner, 1] + shift_y
                if not boxes_touch(moved, others[then, i]):
                    continue
                bearing = _bearing(states[proposal, step], x, y)
                area = areas[proposal, step]
                unclear = area[SEVERAL_LANES] or area[OFF_ROAD] or area[REAR_IN_INTERSECTION]
                if bearing < _AHEAD or (unclear and not bearing > _BEHIND):
                    return 0.0
                immune[i] = True
    return 1.0


@no_type_check
@njit(cache=True, nogil=True)
def _fill_windows(states, points, shifts, windows):
    """Write the ego's velocity at each step (NaN where it stands), and per step the window of its centres.

    The window holds the centres at the step and those that TTC moves to it from earlier steps.
    """
    windows[:, :2], windows[:, 2:] = np.inf, -np.inf
    for proposal in range(len(states)):
        for step in range(states.shape[1]):
            x, y = points[proposal, step, 4, 0], points[proposal, step, 4, 1]
            windows[step, 0], windows[step, 1] = min(windows[step, 0], x), min(windows[step, 1], y)
            windows[step, 2], windows[step, 3] = max(windows[step, 2], x), max(windows[step, 3], y)
            if step >= shifts.shape[1]:
                continue
            speed = np.hypot(states[proposal, step, VX], states[proposal, step, VY])
            if speed < _TTC_STOPPED_SPEED:
                shifts[proposal, step] = np.nan
                continue
            heading = states[proposal, step, HEADING]
            shifts[proposal, step, 0], shifts[proposal, step, 1] = np.cos(heading) * speed, np.sin(heading) * speed
            for ahead in range(_LOOKAHEAD_STRIDE, _LOOKAHEAD, _LOOKAHEAD_STRIDE):
                then = step + ahead
                to_x = x + shifts[proposal, step, 0] * (ahead * INTERVAL)
                to_y = y + shifts[proposal, step, 1] * (ahead * INTERVAL)
                windows[then, 0], windows[then, 1] = min(windows[then, 0], to_x), min(windows[then, 1], to_y)
                windows[then, 2], windows[then, 3] = max(windows[then, 2], to_x), max(windows[then, 3], to_y)


@no_type_check
@njit(cache=True, nogil=True)
def _fill_scores(states, points, areas, types, first_speeds, boxes, valid, scores):
    """Write NC and TTC (2, proposals)."""
    steps, objects = valid.shape
    shifts, windows = np.empty((len(states), steps - _LOOKAHEAD + 1, 2)), np.empty((steps, 4))
    _fill_windows(states, points, shifts, windows)
    others, reach = np.empty((steps, objects, 4, 2)), np.empty((steps, objects))
    near, count = np.empty((steps, objects), dtype=np.int64), np.zeros(steps, dtype=np.int64)
    ego_radius = 0.5 * np.hypot(LENGTH, WIDTH)
    for step in range(steps):
        for i in range(objects):
            if not valid[step, i]:
                continue
            x, y, length, width = boxes[step, i, 0], boxes[step, i, 1], boxes[step, i, 3], boxes[step, i, 4]
            reach[step, i] = ego_radius + 0.5 * np.hypot(length, width) + 1e-3
            if x + reach[step, i] < windows[step, 0] or x - reach[step, i] > windows[step, 2]:
                continue
            if y + reach[step, i] < windows[step, 1] or y - reach[step, i] > windows[step, 3]:
                continue
            fill_box(x, y, boxes[step, i, 2], length, width, others[step, i])
            near[step, count[step]] = i
            count[step] += 1
    immune = np.empty(objects, dtype=np.bool_)
    for proposal in range(len(states)):
        scores[0, proposal] = _no_collision(proposal, states, points, areas, types, first_speeds, boxes, others, reach, near, count, immune)
        scores[1, proposal] = _time_to_collision(proposal, states, points, areas, shifts, boxes, others, reach, near, count, immune)


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
