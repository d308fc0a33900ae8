"""Traffic that reacts to the ego: vehicles follow their lanes behind what is ahead by the Intelligent Driver Model (IDM).

Source: as in `irlvla.score.drivers`, and navsim/planning/simulation/observation/navsim_idm/navsim_idm_agent_manager.py, nuplan-devkit's
nuplan/planning/simulation/observation/idm/{idm_agent,idm_policy}.py and nuplan/planning/simulation/path.
"""

from typing import no_type_check

import numpy as np
from jaxtyping import Bool, Float
from numba import njit

from irlvla.geometry import boxes_touch, fill_box, frozen, principal
from irlvla.score.search_tree import first_nearest
from irlvla.score.shapes import (
    add_box,
    bounds_gap,
    fill_blocks,
    fill_strip,
    fill_whole,
    most_pieces,
    shapes_gap,
    shapes_touch,
)
from irlvla.types import STEPS, ReactiveTraffic
from irlvla.vehicle import HEADING, INTERVAL, LENGTH, VX, VY, WIDTH, X, Y

RADIUS = 100.0
"""A driver further from the ego is gone for good, m."""
_TIE = 1e-9
"""Distances that differ by less are those to an edge that two shapes share, m."""

_MINIMUM_GAP, _HEADWAY, _ACCELERATION, _DECELERATION, _EXPONENT = 1.0, 1.5, 1.0, 2.0, 4


@no_type_check
@njit(cache=True, nogil=True)
def _fill_pose(path, way, pose):
    """Write x, y, heading at a way along a path, clamped to its ends."""
    last = len(path) - 1
    way = min(max(way, path[0, 3]), path[last, 3])
    i = min(max(np.searchsorted(path[:, 3], way), 1), last)
    share = (way - path[i - 1, 3]) / (path[i, 3] - path[i - 1, 3])
    for column in range(3):
        pose[column] = path[i - 1, column] + share * (path[i, column] - path[i - 1, column])
    pose[2] = principal(pose[2])


@no_type_check
@njit(cache=True, nogil=True)
def _fill_part(path, start, end, line):
    """Write the points of a path between two ways, clamped to its ends; from its end on these are its last two. Returns how many."""
    last, pose = len(path) - 1, np.empty(3)
    start, end = min(max(start, path[0, 3]), path[last, 3]), min(max(end, path[0, 3]), path[last, 3])
    if start >= path[last, 3]:
        line[0], line[1] = path[last - 1, :2], path[last, :2]
        return 2
    _fill_pose(path, start, pose)
    line[0] = pose[:2]
    count, i = 1, np.searchsorted(path[:, 3], start, side="right")
    while i <= last and path[i, 3] < end:
        line[count] = path[i, :2]
        count += 1
        i += 1
    _fill_pose(path, end, pose)
    line[count] = pose[:2]
    return count + 1


@no_type_check
@njit(cache=True, nogil=True)
def _fill_rest(path, radius, rest):
    """Write the bounding box of the strip along the path from each of its points on."""
    low_x, low_y, high_x, high_y = np.inf, np.inf, -np.inf, -np.inf
    for i in range(len(path) - 1, -1, -1):
        low_x, high_x = min(low_x, path[i, 0] - radius), max(high_x, path[i, 0] + radius)
        low_y, high_y = min(low_y, path[i, 1] - radius), max(high_y, path[i, 1] + radius)
        rest[i, 0], rest[i, 1], rest[i, 2], rest[i, 3] = low_x, low_y, high_x, high_y


@no_type_check
@njit(cache=True, nogil=True)
def _fill_head(path, way, begins, starts, segments, count, line):
    """Write the first points of the rest of a path: those of the segment where it begins and of the next two.

    Later segments, whose pieces do not depend on where the rest begins, are those of the whole path.

    Returns:
        How many points; how many of their last pieces do not count; the place of the first piece of the whole path that does.
    """
    last = len(path) - 1
    if way >= path[last, 3]:
        return _fill_part(path, way, np.inf, line), 0, count
    pose = np.empty(3)
    _fill_pose(path, way, pose)
    line[0] = pose[:2]
    place = np.searchsorted(path[:, 3], max(way, path[0, 3]), side="right") - 1
    segment = np.searchsorted(begins[:segments], place, side="right") - 1
    points = 1
    for k in range(segment + 1, min(segment + 4, segments + 1)):
        line[points] = path[begins[k], :2] if k < segments else path[last, :2]
        points += 1
    if segment + 3 > segments:
        return points, 0, count
    return points, 1, starts[segment + 2]


@no_type_check
@njit(cache=True, nogil=True)
def _changed_speed(speed, target, distance, lead_speed):
    """The speed 0.1 s later of a driver that has so much room (m) up to something of a given speed."""
    closing = speed * (speed - lead_speed) / (2.0 * np.sqrt(_ACCELERATION * _DECELERATION))
    wish = _MINIMUM_GAP + speed * _HEADWAY + closing
    change = _ACCELERATION * (1.0 - (speed / target) ** _EXPONENT - (wish / max(distance, _MINIMUM_GAP)) ** 2)
    return max(speed + INTERVAL * min(max(change, -_DECELERATION), _ACCELERATION), 0.0)


@no_type_check
@njit(cache=True, nogil=True)
def _simulate(states, sizes, poses, ways, speeds, targets, path_start, points, moves, present):
    """Write where each driver is at steps 1..40 (40, drivers, 3), and whether it still takes part (40, drivers).

    One after the other drivers look at the strip of their own width along the rest of their path. What reaches into it is what
    they may follow: the ego, a box around its rear axle, and other drivers where they are at that moment, each with the strip
    that it will cover in the next 1.5 s. They follow the nearest of these to their own such shape; of several that overlap it
    the one that a search tree finds first. The end of the path stands like a vehicle where nothing else is in the way.
    """
    drivers = len(ways)
    ego = drivers
    most_points, most = 0, 1
    for i in range(drivers):
        path = points[path_start[i] : path_start[i + 1]]
        most_points, most = max(most_points, len(path)), max(most, most_pieces(path) + 4)
    pieces, bounds = np.empty((drivers + 1, most, 4, 2)), np.empty((drivers + 1, most, 4))
    counts, wholes = np.zeros(drivers + 1, dtype=np.int64), np.empty((drivers + 1, 4))
    rest, line = np.empty((len(points), 4)), np.empty((most_points + 2, 2))
    whole_pieces, whole_bounds, blocks = np.empty((drivers, most, 4, 2)), np.empty((drivers, most, 4)), np.empty((drivers, most, 4))
    whole_counts, segments = np.empty(drivers, dtype=np.int64), np.empty(drivers, dtype=np.int64)
    begins, starts = np.empty((drivers, most_points + 2), dtype=np.int64), np.empty((drivers, most_points + 2), dtype=np.int64)
    head_pieces, head_bounds, head_blocks = np.empty((most, 4, 2)), np.empty((most, 4)), np.empty((most, 4))
    some_begins, some_starts = np.empty(most_points + 2, dtype=np.int64), np.empty(most_points + 2, dtype=np.int64)
    box, here = np.empty((4, 2)), np.empty((drivers, 3))
    found, distances, found_bounds = np.empty(drivers + 1, dtype=np.int64), np.empty(drivers + 1), np.empty((drivers + 1, 4))
    alive = np.ones(drivers, dtype=np.bool_)
    for i in range(drivers):
        path = points[path_start[i] : path_start[i + 1]]
        _fill_rest(path, 0.5 * sizes[i, 1], rest[path_start[i] : path_start[i + 1]])
        fill_box(poses[i, 0], poses[i, 1], poses[i, 2], sizes[i, 0], sizes[i, 1], box)
        counts[i] = add_box(box, 0, pieces[i], bounds[i])
        wholes[i] = bounds[i, 0]
        whole_counts[i], segments[i] = fill_strip(path, 0.5 * sizes[i, 1], whole_pieces[i], whole_bounds[i], begins[i], starts[i])
        fill_blocks(whole_bounds[i], whole_counts[i], blocks[i])
        _fill_pose(path, ways[i], here[i])
    for step in range(moves.shape[0]):
        state = states[step]
        fill_box(state[X], state[Y], state[HEADING], LENGTH, WIDTH, box)
        counts[ego] = add_box(box, 0, pieces[ego], bounds[ego])
        wholes[ego] = bounds[ego, 0]
        for i in range(drivers):
            off_x, off_y = here[i, 0] - state[X], here[i, 1] - state[Y]
            alive[i] = alive[i] and np.sqrt(off_x * off_x + off_y * off_y) <= RADIUS
        for i in range(drivers):
            if not alive[i]:
                continue
            path, length, width = points[path_start[i] : path_start[i + 1]], sizes[i, 0], sizes[i, 1]
            end, number, head_count, first = path[len(path) - 1, 3], 0, -1, 0
            place = max(min(np.searchsorted(path[:, 3], ways[i], side="right"), len(path) - 1) - 1, 0)
            ahead = rest[path_start[i] + place]
            for other in range(drivers + 1):
                if other == i or (other < drivers and not alive[other]) or bounds_gap(ahead, wholes[other]) > 0.0:
                    continue
                if head_count < 0:
                    head, more, first = _fill_head(path, ways[i], begins[i], starts[i], segments[i], whole_counts[i], line)
                    head_count, _ = fill_strip(line[:head], 0.5 * width, head_pieces, head_bounds, some_begins, some_starts)
                    head_count -= more
                    fill_blocks(head_bounds, head_count, head_blocks)
                if shapes_touch(
                    head_pieces, head_bounds, head_blocks, 0, head_count, pieces[other], bounds[other], counts[other], wholes[other]
                ) or shapes_touch(
                    whole_pieces[i], whole_bounds[i], blocks[i], first, whole_counts[i],
                    pieces[other], bounds[other], counts[other], wholes[other],
                ):  # fmt: skip
                    found[number] = other
                    number += 1
            if number == 0:
                speed = _changed_speed(speeds[i], targets[i], end - ways[i] - 0.5 * length, 0.0)
            else:
                nearest, ties = np.inf, 0
                for k in range(number):
                    other = found[k]
                    found_bounds[k] = wholes[other]
                    distances[k] = shapes_gap(
                        pieces[i], bounds[i], counts[i], pieces[other], bounds[other], counts[other], wholes[other], nearest + _TIE
                    )
                    nearest = min(nearest, distances[k])
                for k in range(number):
                    if distances[k] <= nearest + _TIE:
                        distances[k] = nearest
                        ties += 1
                lead = np.argmin(distances[:number])
                if ties > 1:
                    lead = first_nearest(found_bounds, distances, number, wholes[i])
                lead = found[lead]
                if lead == ego:
                    lead_speed, turn = np.hypot(state[VX], state[VY]), state[HEADING] - here[i, 2]
                else:
                    lead_speed, turn = speeds[lead], here[lead, 2] - here[i, 2]
                speed = _changed_speed(speeds[i], targets[i], nearest, lead_speed * np.cos(turn))
            ways[i] += INTERVAL * speeds[i]
            speeds[i] = speed
            _fill_pose(path, ways[i], here[i])
            front = ways[i] + 0.5 * length + speed * _HEADWAY
            part = line[: _fill_part(path, ways[i] - 0.5 * length, front, line)]
            counts[i], _ = fill_strip(part, 0.5 * width, pieces[i], bounds[i], some_begins, some_starts)
            fill_box(here[i, 0], here[i, 1], here[i, 2], length, width, box)
            counts[i] = add_box(box, counts[i], pieces[i], bounds[i])
            fill_whole(bounds[i], counts[i], wholes[i])
        moves[step], present[step] = here, alive


@no_type_check
@njit(cache=True, nogil=True)
def _fill_parked(parked, drivers, boxes, valid):
    """Write the parked vehicles at steps 1..40 where no driver, and no parked one before it, touches them."""
    corners, reach = np.empty((len(drivers) + len(parked), 4, 2)), np.empty(len(drivers) + len(parked))
    middle, here = np.empty((len(reach), 2)), np.empty((4, 2))
    for step in range(1, len(boxes)):
        count = 0
        for i in range(len(drivers) + len(parked)):
            is_parked = i >= len(drivers)
            place = parked[i - len(drivers)] if is_parked else drivers[i]
            if not is_parked and not valid[step, place]:
                continue
            box = boxes[0, place] if is_parked else boxes[step, place]
            fill_box(box[0], box[1], box[2], box[3], box[4], here)
            radius, is_free = 0.5 * np.hypot(box[3], box[4]) + 1e-3, True
            for k in range(count if is_parked else 0):
                near = radius + reach[k]
                if abs(box[0] - middle[k, 0]) <= near and abs(box[1] - middle[k, 1]) <= near and boxes_touch(here, corners[k]):
                    is_free = False
                    break
            if is_free:
                corners[count], reach[count], middle[count, 0], middle[count, 1] = here, radius, box[0], box[1]
                count += 1
                if is_parked:
                    boxes[step, place], valid[step, place] = box, True


def reactive_objects(
    traffic: ReactiveTraffic, states: Float[np.ndarray, "41 11"]
) -> tuple[Float[np.ndarray, "41 objects 5"], Bool[np.ndarray, "41 objects"]]:
    """Where the objects are while an ego drives, and when they are there.

    Args:
        traffic: The scene's traffic.
        states: The ego's simulated states, global; the last of them is not seen by anyone.

    Returns:
        x, y, heading, length, width of each object's box at each step (m, rad, global), and whether it is there.
    """
    drivers = frozen(traffic.driver_objects, np.int64)
    boxes, valid = np.array(traffic.object_boxes, dtype=np.float64), np.array(traffic.object_valid, dtype=np.bool_)
    moves, present = np.empty((STEPS - 1, len(drivers), 3)), np.zeros((STEPS - 1, len(drivers)), dtype=np.bool_)
    # Near the origin, where corners are not rounded.
    origin = np.zeros(4)
    origin[:2] = states[0, :2]
    local = np.array(states, dtype=np.float64)
    local[:, :2] -= origin[:2]
    _simulate(
        local,
        frozen(boxes[0][drivers, 3:], np.float64),
        frozen(traffic.driver_poses - origin[:3], np.float64),
        np.array(traffic.driver_ways, dtype=np.float64),
        np.array(traffic.driver_speeds, dtype=np.float64),
        frozen(traffic.driver_targets, np.float64),
        frozen(traffic.path_start, np.int64),
        frozen(traffic.path_points - origin, np.float64),
        moves,
        present,
    )
    boxes[1:, drivers, :3] = moves + origin[:3]
    boxes[1:, drivers, 3:] = boxes[0, drivers, 3:]
    valid[1:, drivers] = present
    _fill_parked(frozen(traffic.parked_objects, np.int64), drivers, boxes, valid)
    return boxes, valid
