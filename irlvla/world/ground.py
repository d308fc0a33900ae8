"""A town's ground as a picture seen from above, in several resolutions: the camera looks its colours up instead of drawing polygons.

Each cell keeps how much of it is asphalt, pavement, white and yellow paint (the rest is grass), so that one picture serves
every light, and coarser levels are plain averages: far markings fade instead of flickering.
"""

import itertools
from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from jaxtyping import Float, Int, UInt8
from numba import njit

from irlvla.world.scenery import Scenery

CELL = 0.125
LEVELS = 6
_CLASS_SHARES = np.array([[0, 0, 0, 0], [255, 0, 0, 0], [0, 255, 0, 0], [0, 120, 135, 0], [0, 0, 255, 0], [0, 0, 0, 255], [0, 110, 0, 0]])
"""Shares (of 255) of asphalt, pavement, white and yellow paint in each class of GROUND_NAMES."""


def _mixtures() -> tuple[UInt8[np.ndarray, "quads"], UInt8[np.ndarray, "mixtures 4"]]:
    """For each way to give four quarters of a cell a class the number of its mixture, and the shares of each mixture."""
    kinds = len(_CLASS_SHARES)
    quads = np.array(list(itertools.product(range(kinds), repeat=4)))
    mixtures, numbers = np.unique(np.sort(quads, axis=1), axis=0, return_inverse=True)
    return numbers.ravel().astype(np.uint8), np.round(_CLASS_SHARES[mixtures].mean(1)).astype(np.uint8)


_MIXTURE_OF, SHARES = _mixtures()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """The ground in cells; cell (row, column) 0, 0 lies at `origin` (global). Level k has `shapes[k]` rows and columns of side CELL * 2**k.

    Level 0 is `mixtures`: the row of SHARES for each cell, whose four quarters were painted apart. The others are shares (of
    255) of asphalt, pavement, white, yellow in `cells`, level k from `starts[k]` on.
    """

    origin: Float[np.ndarray, "2"]
    mixtures: UInt8[np.ndarray, "rows columns"]
    cells: UInt8[np.ndarray, "cells 4"]
    starts: Int[np.ndarray, "levels"]
    shapes: Int[np.ndarray, "levels 2"]


def ground(scenery: Scenery) -> Ground:
    """The ground of a town, painted polygon by polygon. Beyond it all is grass."""
    polygons = scenery.ground
    extent = polygons.vertices.max(0) if len(polygons.vertices) else np.zeros(2)
    block = 1 << (LEVELS - 1)
    columns, rows = (int(np.ceil((side + 4.0) / CELL / block)) * block for side in extent)
    quarters = np.zeros((2 * rows, 2 * columns), np.uint8)
    _paint(quarters, polygons.vertices / (CELL / 2), polygons.ring_start, polygons.polygon_start, scenery.ground_classes)
    mixtures = np.empty((rows, columns), np.uint8)
    _mix(quarters, len(_CLASS_SHARES), _MIXTURE_OF, mixtures)
    shapes = np.array([(rows >> level, columns >> level) for level in range(LEVELS)])
    starts = np.concatenate([[0, 0], np.cumsum(shapes[1:].prod(1))])
    cells = np.empty((int(starts[-1]), 4), np.uint8)
    _halve_mixtures(mixtures, SHARES, cells[: starts[2]].reshape(*shapes[1], 4))
    for level in range(2, LEVELS):
        finer = cells[starts[level - 1] : starts[level]].reshape(*shapes[level - 1], 4)
        _halve(finer, cells[starts[level] : starts[level + 1]].reshape(*shapes[level], 4))
    return Ground(origin=scenery.origin.astype(float), mixtures=mixtures, cells=cells, starts=starts[:-1], shapes=shapes)


@no_type_check
@njit(cache=True, nogil=True)
def _paint(classes, vertices, ring_start, polygon_start, polygon_classes):
    rows, columns = classes.shape
    for polygon in range(len(polygon_start) - 1):
        first, last = ring_start[polygon_start[polygon]], ring_start[polygon_start[polygon + 1]]
        if last == first:
            continue
        low, high = vertices[first, 1], vertices[first, 1]
        for i in range(first, last):
            low, high = min(low, vertices[i, 1]), max(high, vertices[i, 1])
        row_low, row_high = max(0, int(np.ceil(low - 0.5))), min(rows - 1, int(np.floor(high - 0.5)))
        if row_high < row_low:
            continue
        crossing_rows, crossings = _crossings(vertices, ring_start, polygon_start[polygon], polygon_start[polygon + 1], row_low, row_high)
        start = 0
        while start < len(crossing_rows):
            end = start
            while end < len(crossing_rows) and crossing_rows[end] == crossing_rows[start]:
                end += 1
            for i in range(start + 1, end):
                value, j = crossings[i], i
                while j > start and crossings[j - 1] > value:
                    crossings[j] = crossings[j - 1]
                    j -= 1
                crossings[j] = value
            for pair in range(start, end - 1, 2):
                left = max(0, int(np.ceil(crossings[pair] - 0.5)))
                right = min(columns, int(np.ceil(crossings[pair + 1] - 0.5)))
                for column in range(left, right):
                    classes[crossing_rows[start], column] = polygon_classes[polygon]
            start = end


@no_type_check
@njit(cache=True, nogil=True)
def _crossings(vertices, ring_start, ring_low, ring_high, row_low, row_high):
    """Rows and x of all crossings of edges with row centres, sorted by row (a counting sort)."""
    counts = np.zeros(row_high - row_low + 2, np.int64)
    for sweep in range(2):
        if sweep == 1:
            for row in range(1, len(counts)):
                counts[row] += counts[row - 1]
            total = counts[-1]
            rows, xs = np.empty(total, np.int64), np.empty(total)
            place = counts.copy()
        for ring in range(ring_low, ring_high):
            start, end = ring_start[ring], ring_start[ring + 1]
            j = end - 1
            for i in range(start, end):
                y0, y1 = min(vertices[i, 1], vertices[j, 1]), max(vertices[i, 1], vertices[j, 1])
                # Row centres y with y0 <= y < y1: the half-open rule counts each vertex once.
                row = max(row_low, int(np.ceil(y0 - 0.5)))
                while row <= row_high and row + 0.5 < y1:
                    if sweep == 0:
                        counts[row - row_low + 1] += 1
                    else:
                        share = (row + 0.5 - vertices[i, 1]) / (vertices[j, 1] - vertices[i, 1])
                        at = place[row - row_low]
                        rows[at], xs[at] = row, vertices[i, 0] + share * (vertices[j, 0] - vertices[i, 0])
                        place[row - row_low] += 1
                    row += 1
                j = i
    return rows, xs


@no_type_check
@njit(cache=True, nogil=True)
def _halve(finer, coarser):
    for row in range(coarser.shape[0]):
        for column in range(coarser.shape[1]):
            for share in range(4):
                total = np.int32(finer[2 * row, 2 * column, share]) + finer[2 * row + 1, 2 * column, share]
                total += np.int32(finer[2 * row, 2 * column + 1, share]) + finer[2 * row + 1, 2 * column + 1, share]
                coarser[row, column, share] = (total + 2) >> 2


@no_type_check
@njit(cache=True, nogil=True)
def _halve_mixtures(finer, shares, coarser):
    for row in range(coarser.shape[0]):
        for column in range(coarser.shape[1]):
            a, b = finer[2 * row, 2 * column], finer[2 * row + 1, 2 * column]
            c, d = finer[2 * row, 2 * column + 1], finer[2 * row + 1, 2 * column + 1]
            for share in range(4):
                total = np.int32(shares[a, share]) + shares[b, share] + shares[c, share] + shares[d, share]
                coarser[row, column, share] = (total + 2) >> 2


@no_type_check
@njit(cache=True, nogil=True)
def _mix(quarters, kinds, mixture_of, mixtures):
    for row in range(mixtures.shape[0]):
        for column in range(mixtures.shape[1]):
            a, b = np.int64(quarters[2 * row, 2 * column]), np.int64(quarters[2 * row + 1, 2 * column])
            c, d = np.int64(quarters[2 * row, 2 * column + 1]), np.int64(quarters[2 * row + 1, 2 * column + 1])
            mixtures[row, column] = mixture_of[((a * kinds + b) * kinds + c) * kinds + d]
