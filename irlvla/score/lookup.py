"""Which points lie in which polygons, fast: every polygon is cut into strips across its longer side, and a point meets
only the edges of its own strip. The answers are those of `irlvla.geometry.in_polygon`.
"""

from typing import no_type_check

import numpy as np
from numba import njit

STRIPS = 64
"""Strips a polygon."""


@no_type_check
@njit(cache=True, nogil=True)
def _place(value, low, scale):
    return min(max(int((value - low) * scale), 0), STRIPS - 1)


@no_type_check
@njit(cache=True, nogil=True)
def strips(vertices, ring_start, polygon_start, bounds, window):
    """The edges of the polygons that meet a window, sorted into strips.

    Args:
        vertices, ring_start, polygon_start: The polygons.
        bounds: Their bounding boxes, see `irlvla.geometry.fill_bounds`.
        window: Low x, low y, high x, high y: no point outside will be asked for.

    Returns:
        Per polygon the axis that is cut (0: x, 1: y; -1: outside the window), its strips' origin and strips per metre; the
        start of each strip's edges; the edges: along and across coordinate of both ends.
    """
    polygons = len(polygon_start) - 1
    axes, frames = np.full(polygons, -1), np.zeros((polygons, 2))
    start = np.zeros(polygons * STRIPS + 1, dtype=np.int64)
    edges = np.empty((0, 4))
    for is_second_pass in (False, True):
        for polygon in range(polygons):
            bound = bounds[polygon]
            low_x, high_x = max(bound[0], window[0]), min(bound[2], window[2])
            low_y, high_y = max(bound[1], window[1]), min(bound[3], window[3])
            if low_x > high_x or low_y > high_y:
                continue
            axis = 0 if high_x - low_x >= high_y - low_y else 1
            low, high = (low_x, high_x) if axis == 0 else (low_y, high_y)
            scale = STRIPS / max(high - low, 1e-6)
            axes[polygon], frames[polygon, 0], frames[polygon, 1] = axis, low, scale
            for ring in range(polygon_start[polygon], polygon_start[polygon + 1]):
                previous = ring_start[ring + 1] - 1
                for i in range(ring_start[ring], ring_start[ring + 1]):
                    a, b = vertices[previous, axis], vertices[i, axis]
                    if max(a, b) >= low and min(a, b) <= high:
                        first, last = _place(min(a, b), low, scale), _place(max(a, b), low, scale)
                        for strip in range(polygon * STRIPS + first, polygon * STRIPS + last + 1):
                            if is_second_pass:
                                place = start[strip]
                                edges[place, 0], edges[place, 1] = a, vertices[previous, 1 - axis]
                                edges[place, 2], edges[place, 3] = b, vertices[i, 1 - axis]
                                start[strip] += 1
                            else:
                                start[strip + 1] += 1
                    previous = i
        if not is_second_pass:
            for strip in range(polygons * STRIPS):
                start[strip + 1] += start[strip]
            edges = np.empty((start[-1], 4))
    for strip in range(polygons * STRIPS, 0, -1):
        start[strip] = start[strip - 1]
    start[0] = 0
    return axes, frames, start, edges


@no_type_check
@njit(cache=True, nogil=True)
def in_strips(x, y, polygon, axes, frames, start, edges):
    """Whether a point of the window lies inside a polygon that meets the window; boundaries are outside."""
    along, across = (x, y) if axes[polygon] == 0 else (y, x)
    strip = polygon * STRIPS + _place(along, frames[polygon, 0], frames[polygon, 1])
    inside = False
    for i in range(start[strip], start[strip + 1]):
        a, b = edges[i, 0], edges[i, 2]
        if (a > along) != (b > along):
            side = (b - a) * (across - edges[i, 1]) - (edges[i, 3] - edges[i, 1]) * (along - a)
            if side == 0.0:
                return False
            if (side > 0.0) == (b > a):
                inside = not inside
        elif a == along and b == along:
            if min(edges[i, 1], edges[i, 3]) <= across <= max(edges[i, 1], edges[i, 3]):
                return False
        elif b == along and edges[i, 3] == across:
            return False
    return inside
