"""Which points lie in which polygons, fast; the answers are those of `irlvla.geometry.in_polygon`.

Every polygon is cut into strips across its longer side, so that a point meets only the edges of its own strip. Over all
polygons lies a grid of cells: a cell knows the polygons that hold it whole and those whose edges cross it, and a point asks
only the latter. Sets of polygons are bits of 64-bit words.
"""

from typing import no_type_check

import numpy as np
from numba import njit

STRIPS = 64
"""Strips a polygon."""
CELLS_A_TRAJECTORY, FEWEST_CELLS, MOST_CELLS = 64, 256, 8192
"""Cells of the grid: a finer one takes longer to make and pays only with many points."""
_THICKNESS = 1e-6
"""By how many cells an edge is thought wider when it is entered, so that rounding leaves out no cell."""
_WORD = 64
_DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)
_BIT_PLACES = np.zeros(_WORD, dtype=np.int64)
for _place_of_bit in range(_WORD):
    _BIT_PLACES[((0x03F79D71B4CB0A89 << _place_of_bit) % 2**64) >> 58] = _place_of_bit


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


@no_type_check
@njit(cache=True, nogil=True)
def bit(place):
    """The word in which only bit `place` % 64 is set."""
    return np.uint64(1) << np.uint64(place % _WORD)


@no_type_check
@njit(cache=True, nogil=True)
def _enter_edge(a_x, a_y, b_x, b_y, word, mark, edged, columns, rows):
    """Set a polygon's bit in every cell that one of its edges (in cell units) meets."""
    low_x, high_x = min(a_x, b_x) - _THICKNESS, max(a_x, b_x) + _THICKNESS
    low_y, high_y = min(a_y, b_y) - _THICKNESS, max(a_y, b_y) + _THICKNESS
    if high_x < 0.0 or low_x > columns or high_y < 0.0 or low_y > rows:
        return
    slope = (b_x - a_x) / (b_y - a_y) if abs(b_y - a_y) > _THICKNESS else 0.0
    for row in range(max(int(low_y), 0), min(int(high_y), rows - 1) + 1):
        first, last = low_x, high_x
        if slope != 0.0:
            one, other = a_x + slope * (row - a_y), a_x + slope * (row + 1 - a_y)
            slack = _THICKNESS * (1.0 + abs(slope))
            first, last = max(first, min(one, other) - slack), min(last, max(one, other) + slack)
        for column in range(min(max(int(first), 0), columns - 1), min(max(int(last), 0), columns - 1) + 1):
            edged[row * columns + column, word] |= mark


@no_type_check
@njit(cache=True, nogil=True)
def grid(vertices, ring_start, polygon_start, bounds, index, window, trajectories):
    """The cells of a window.

    Args:
        vertices, ring_start, polygon_start, bounds: The polygons and their bounding boxes.
        index: What `strips` returned for the same window.
        window: Low x, low y, high x, high y: no point outside will be asked for.
        trajectories: How many trajectories of points will be asked for.

    Returns:
        Low x, low y, columns per metre, rows per metre; columns and rows; the polygons that the bits stand for; per cell (row by
        row) the bits of the polygons that hold it whole and the bits of those whose edges cross it.
    """
    axes, frames, start, edges = index
    places = np.flatnonzero(axes >= 0)
    words = max((len(places) + _WORD - 1) // _WORD, 1)
    width, height = max(window[2] - window[0], 1e-3), max(window[3] - window[1], 1e-3)
    cells = min(max(trajectories * CELLS_A_TRAJECTORY, FEWEST_CELLS), MOST_CELLS)
    side = np.sqrt(width * height / cells)
    columns, rows = min(int(width / side) + 1, cells), min(int(height / side) + 1, cells)
    scale = np.array([window[0], window[1], columns / width, rows / height])
    inner, edged = np.zeros((columns * rows, words), dtype=np.uint64), np.zeros((columns * rows, words), dtype=np.uint64)
    for number in range(len(places)):
        polygon, word, mark = places[number], number // _WORD, bit(number)
        for ring in range(polygon_start[polygon], polygon_start[polygon + 1]):
            last = ring_start[ring + 1] - 1
            a_x, a_y = (vertices[last, 0] - scale[0]) * scale[2], (vertices[last, 1] - scale[1]) * scale[3]
            for i in range(ring_start[ring], ring_start[ring + 1]):
                b_x, b_y = (vertices[i, 0] - scale[0]) * scale[2], (vertices[i, 1] - scale[1]) * scale[3]
                _enter_edge(a_x, a_y, b_x, b_y, word, mark, edged, columns, rows)
                a_x, a_y = b_x, b_y
        bound = bounds[polygon]
        first_row, last_row = max(int((bound[1] - scale[1]) * scale[3]), 0), min(int((bound[3] - scale[1]) * scale[3]), rows - 1)
        first, last = max(int((bound[0] - scale[0]) * scale[2]), 0), min(int((bound[2] - scale[0]) * scale[2]), columns - 1)
        for row in range(first_row, last_row + 1):
            is_known, holds = False, False
            for column in range(first, last + 1):
                cell = row * columns + column
                if edged[cell, word] & mark:
                    is_known = False
                    continue
                if not is_known:
                    x, y = scale[0] + (column + 0.5) / scale[2], scale[1] + (row + 0.5) / scale[3]
                    is_known, holds = True, in_strips(x, y, polygon, axes, frames, start, edges)
                if holds:
                    inner[cell, word] |= mark
    return scale, columns, rows, places, inner, edged


@no_type_check
@njit(cache=True, nogil=True)
def cell_of(x, y, scale, columns, rows):
    """The cell of a grid that holds a point of its window."""
    column = min(max(int((x - scale[0]) * scale[2]), 0), columns - 1)
    return min(max(int((y - scale[1]) * scale[3]), 0), rows - 1) * columns + column


@no_type_check
@njit(cache=True, nogil=True)
def held(x, y, unclear, word, places, bounds, axes, frames, start, edges):
    """Those bits of the word `unclear` whose polygons hold a point; boundaries are outside."""
    found = np.uint64(0)
    while unclear:
        mark = unclear & (~unclear + np.uint64(1))
        unclear ^= mark
        polygon = places[word * _WORD + _BIT_PLACES[(mark * _DE_BRUIJN) >> np.uint64(58)]]
        if x < bounds[polygon, 0] or y < bounds[polygon, 1] or x > bounds[polygon, 2] or y > bounds[polygon, 3]:
            continue
        if in_strips(x, y, polygon, axes, frames, start, edges):
            found |= mark
    return found
