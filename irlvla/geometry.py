"""Poses, boxes, polylines and polygons: small kernels on plain arrays that the score's kernels are made of.

Boxes are (4, 2) corner arrays in the order front left, rear left, rear right, front right.
"""

from typing import Any, no_type_check

import numpy as np
from numba import njit

_NO_SIDE = 1e-6
"""A box's side shorter than this has no direction, m: far from the origin its corners are rounded to 1e-9 m."""


def frozen(values: Any, dtype: type) -> np.ndarray:
    """A read-only contiguous view (or copy) of `values`.

    numba compiles a kernel once more for read-only arrays; with everything read-only at the door, arrays in memory and
    memory-mapped ones meet the same compiled kernel.
    """
    view = np.ascontiguousarray(values, dtype=dtype).view()
    view.flags.writeable = False
    return view


@no_type_check
@njit(cache=True, nogil=True)
def wrapped(angle):
    """The angle brought to [-pi, pi]."""
    if -np.pi <= angle <= np.pi:
        return angle
    return np.arctan2(np.sin(angle), np.cos(angle))


@no_type_check
@njit(cache=True, nogil=True)
def principal(angle):
    """The angle brought to [-pi, pi) by a modulo, with its rounding; nuPlan does so where it interpolates and moves."""
    turned = angle + np.pi
    if not 0.0 <= turned < 2.0 * np.pi:
        turned %= 2.0 * np.pi
    return turned - np.pi


@no_type_check
@njit(cache=True, nogil=True)
def fill_box(x, y, heading, length, width, box):
    """Write the corners of the box with the given centre and heading into `box` (4, 2)."""
    fill_corners(x, y, np.cos(heading), np.sin(heading), length, width, box)


@no_type_check
@njit(cache=True, nogil=True)
def fill_corners(x, y, cos, sin, length, width, box):
    """As `fill_box`, from the cosine and sine of the heading."""
    along_x, along_y = 0.5 * length * cos, 0.5 * length * sin
    across_x, across_y = -0.5 * width * sin, 0.5 * width * cos
    box[0, 0], box[0, 1] = x + along_x + across_x, y + along_y + across_y
    box[1, 0], box[1, 1] = x - along_x + across_x, y - along_y + across_y
    box[2, 0], box[2, 1] = x - along_x - across_x, y - along_y - across_y
    box[3, 0], box[3, 1] = x + along_x - across_x, y + along_y - across_y


@no_type_check
@njit(cache=True, nogil=True)
def _separated(first, second, axis_x, axis_y):
    """Whether the projections of two point sets on an axis leave a gap."""
    first_low, first_high = np.inf, -np.inf
    for i in range(len(first)):
        value = (first[i, 0] - second[0, 0]) * axis_x + (first[i, 1] - second[0, 1]) * axis_y
        first_low, first_high = min(first_low, value), max(first_high, value)
    second_low, second_high = np.inf, -np.inf
    for i in range(len(second)):
        value = (second[i, 0] - second[0, 0]) * axis_x + (second[i, 1] - second[0, 1]) * axis_y
        second_low, second_high = min(second_low, value), max(second_high, value)
    return first_high < second_low or second_high < first_low


@no_type_check
@njit(cache=True, nogil=True)
def _axis(box, side):
    """Along the box (side 0) or across it (side 1); of a box without length or width the other side tells."""
    x, y = box[side + 1, 0] - box[side, 0], box[side + 1, 1] - box[side, 1]
    if x * x + y * y < _NO_SIDE * _NO_SIDE:
        x, y = box[1 - side, 1] - box[2 - side, 1], box[2 - side, 0] - box[1 - side, 0]
    return x, y


@no_type_check
@njit(cache=True, nogil=True)
def boxes_touch(first, second):
    """Whether two boxes share a point; touching counts. Boxes may be lines or points."""
    for box in (first, second):
        for side in range(2):
            axis_x, axis_y = _axis(box, side)
            if _separated(first, second, axis_x, axis_y):
                return False
    return True


@no_type_check
@njit(cache=True, nogil=True)
def segment_touches_box(ends, box):
    """Whether the segment `ends` (2, 2) shares a point with a box; touching counts."""
    for side in range(2):
        axis_x, axis_y = _axis(box, side)
        if _separated(ends, box, axis_x, axis_y):
            return False
    return not _separated(ends, box, ends[0, 1] - ends[1, 1], ends[1, 0] - ends[0, 0])


@no_type_check
@njit(cache=True, nogil=True)
def _side(a_x, a_y, b_x, b_y, x, y):
    return (b_x - a_x) * (y - a_y) - (b_y - a_y) * (x - a_x)


@no_type_check
@njit(cache=True, nogil=True)
def segments_touch(a_x, a_y, b_x, b_y, c_x, c_y, d_x, d_y):
    """Whether the segments a-b and c-d share a point; touching and overlapping count."""
    if max(a_x, b_x) < min(c_x, d_x) or max(c_x, d_x) < min(a_x, b_x):
        return False
    if max(a_y, b_y) < min(c_y, d_y) or max(c_y, d_y) < min(a_y, b_y):
        return False
    if _side(a_x, a_y, b_x, b_y, c_x, c_y) * _side(a_x, a_y, b_x, b_y, d_x, d_y) > 0:
        return False
    return _side(c_x, c_y, d_x, d_y, a_x, a_y) * _side(c_x, c_y, d_x, d_y, b_x, b_y) <= 0


@no_type_check
@njit(cache=True, nogil=True)
def in_polygon(x, y, vertices, ring_start, first_ring, last_ring):
    """Whether a point lies inside the rings `first_ring..last_ring - 1` by the even-odd rule; their boundary is outside."""
    inside = False
    for ring in range(first_ring, last_ring):
        low, high = ring_start[ring], ring_start[ring + 1]
        previous = high - 1
        for i in range(low, high):
            a_y, b_y = vertices[previous, 1], vertices[i, 1]
            if (a_y > y) != (b_y > y):
                side = _side(vertices[previous, 0], a_y, vertices[i, 0], b_y, x, y)
                if side == 0.0:
                    return False
                if (side > 0.0) == (b_y > a_y):
                    inside = not inside
            elif a_y == y and b_y == y:
                a_x, b_x = vertices[previous, 0], vertices[i, 0]
                if min(a_x, b_x) <= x <= max(a_x, b_x):
                    return False
            elif b_y == y and vertices[i, 0] == x:
                return False
            previous = i
    return inside


@no_type_check
@njit(cache=True, nogil=True)
def in_box(x, y, box):
    """Whether a point lies inside a box or on its boundary."""
    for side in range(2):
        origin = box[side + 1]
        axis_x, axis_y = box[side, 0] - origin[0], box[side, 1] - origin[1]
        value = (x - origin[0]) * axis_x + (y - origin[1]) * axis_y
        if value < 0.0 or value > axis_x * axis_x + axis_y * axis_y:
            return False
    return True


@no_type_check
@njit(cache=True, nogil=True)
def box_touches_polygon(box, vertices, ring_start, first_ring, last_ring):
    """Whether a box shares a point with a polygon; touching counts."""
    for ring in range(first_ring, last_ring):
        low, high = ring_start[ring], ring_start[ring + 1]
        previous = high - 1
        for i in range(low, high):
            if in_box(vertices[i, 0], vertices[i, 1], box):
                return True
            for side in range(4):
                end = (side + 1) % 4
                if segments_touch(
                    vertices[previous, 0], vertices[previous, 1], vertices[i, 0], vertices[i, 1],
                    box[side, 0], box[side, 1], box[end, 0], box[end, 1],
                ):  # fmt: skip
                    return True
            previous = i
    return in_polygon(box[0, 0], box[0, 1], vertices, ring_start, first_ring, last_ring)


@no_type_check
@njit(cache=True, nogil=True)
def fill_bounds(vertices, ring_start, polygon_start, bounds):
    """Write the bounding boxes (low x, low y, high x, high y) of polygons into `bounds` (polygons, 4)."""
    for polygon in range(len(polygon_start) - 1):
        low, high = ring_start[polygon_start[polygon]], ring_start[polygon_start[polygon + 1]]
        bounds[polygon, 0], bounds[polygon, 1], bounds[polygon, 2], bounds[polygon, 3] = np.inf, np.inf, -np.inf, -np.inf
        for i in range(low, high):
            bounds[polygon, 0] = min(bounds[polygon, 0], vertices[i, 0])
            bounds[polygon, 1] = min(bounds[polygon, 1], vertices[i, 1])
            bounds[polygon, 2] = max(bounds[polygon, 2], vertices[i, 0])
            bounds[polygon, 3] = max(bounds[polygon, 3], vertices[i, 1])


@no_type_check
@njit(cache=True, nogil=True)
def nearest_on_segment(x, y, line, i):
    """Squared distance from a point to segment i of a polyline, and where its nearest point lies on it (0..1)."""
    along_x, along_y = line[i + 1, 0] - line[i, 0], line[i + 1, 1] - line[i, 1]
    off_x, off_y = x - line[i, 0], y - line[i, 1]
    square = along_x * along_x + along_y * along_y
    share = 0.0
    if square > 0.0:
        share = min(max((off_x * along_x + off_y * along_y) / square, 0.0), 1.0)
    off_x, off_y = off_x - share * along_x, off_y - share * along_y
    return off_x * off_x + off_y * off_y, share


@no_type_check
@njit(cache=True, nogil=True)
def arc_length(x, y, line):
    """How far along a polyline the point nearest to (x, y) lies, clamped to its ends; the first of equals."""
    nearest, result, travelled = np.inf, 0.0, 0.0
    for i in range(len(line) - 1):
        square, share = nearest_on_segment(x, y, line, i)
        length = np.hypot(line[i + 1, 0] - line[i, 0], line[i + 1, 1] - line[i, 1])
        if square < nearest:
            nearest, result = square, travelled + share * length
        travelled += length
    return result
