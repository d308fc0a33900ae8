"""How far polylines lie from each other."""

from typing import no_type_check

import numpy as np
from jaxtyping import Bool, Float
from numba import njit

SAMPLES = 100
"""Points along a line by which chamfer distances are measured."""


def chamfer_distances(
    found: Float[np.ndarray, "scenes queries 10 2"],
    wanted: Float[np.ndarray, "scenes targets 10 2"],
    present: Bool[np.ndarray, "scenes targets"],
    limit: float,
) -> Float[np.ndarray, "scenes queries targets"]:
    """Chamfer distances (m) of polylines: the mean of both mean distances from one's points to the other's nearest.

    Args:
        found: polylines of 10 points.
        wanted: the same of others; what they hold where nothing is present does not matter.
        present: which of them there are.
        limit: distances above it need not be exact: they may be inf, as they are for absent lines.
    """
    distances = np.full((*found.shape[:2], wanted.shape[1]), np.inf)
    _fill_chamfers(*(np.ascontiguousarray(lines, dtype=np.float64) for lines in (found, wanted)), np.asarray(present), limit, distances)
    return distances


@no_type_check
@njit(cache=True, nogil=True)
def _fill_samples(line, samples):
    """Points evenly spaced along a polyline, its ends included."""
    total = 0.0
    for i in range(len(line) - 1):
        total += np.hypot(line[i + 1, 0] - line[i, 0], line[i + 1, 1] - line[i, 1])
    segment, start, count = 0, 0.0, len(samples)
    length = np.hypot(line[1, 0] - line[0, 0], line[1, 1] - line[0, 1])
    for k in range(count):
        along = total * k / (count - 1)
        while along > start + length and segment < len(line) - 2:
            start += length
            segment += 1
            length = np.hypot(line[segment + 1, 0] - line[segment, 0], line[segment + 1, 1] - line[segment, 1])
        share = min((along - start) / length, 1.0) if length > 0.0 else 0.0
        samples[k, 0] = line[segment, 0] + share * (line[segment + 1, 0] - line[segment, 0])
        samples[k, 1] = line[segment, 1] + share * (line[segment + 1, 1] - line[segment, 1])


@no_type_check
@njit(cache=True, nogil=True)
def _off(place_x, place_y, points):
    """Distance from a place to the box around points: no mean distance to the points' nearest is less."""
    low_x, low_y, high_x, high_y = np.inf, np.inf, -np.inf, -np.inf
    for k in range(len(points)):
        low_x, high_x = min(low_x, points[k, 0]), max(high_x, points[k, 0])
        low_y, high_y = min(low_y, points[k, 1]), max(high_y, points[k, 1])
    return np.hypot(max(low_x - place_x, place_x - high_x, 0.0), max(low_y - place_y, place_y - high_y, 0.0))


@no_type_check
@njit(cache=True, nogil=True)
def _chamfer(first, second, nearest):
    """Chamfer distance of two sets of points; `nearest` is room for one number for each point of the second."""
    nearest[:] = np.inf
    there = 0.0
    for i in range(len(first)):
        least = np.inf
        for j in range(len(second)):
            x, y = first[i, 0] - second[j, 0], first[i, 1] - second[j, 1]
            square = x * x + y * y
            least = min(least, square)
            nearest[j] = min(nearest[j], square)
        there += np.sqrt(least)
    return 0.5 * (there / len(first) + np.sqrt(nearest).mean())


@no_type_check
@njit(cache=True, nogil=True)
def _fill_chamfers(found, wanted, present, limit, distances):
    mine, theirs = np.empty((found.shape[1], SAMPLES, 2)), np.empty((SAMPLES, 2))
    centres, nearest = np.empty((found.shape[1], 2)), np.empty(SAMPLES)
    for scene in range(len(found)):
        for query in range(found.shape[1]):
            _fill_samples(found[scene, query], mine[query])
            centres[query, 0], centres[query, 1] = mine[query, :, 0].mean(), mine[query, :, 1].mean()
        for target in range(wanted.shape[1]):
            if not present[scene, target]:
                continue
            _fill_samples(wanted[scene, target], theirs)
            x, y = theirs[:, 0].mean(), theirs[:, 1].mean()
            for query in range(found.shape[1]):
                least = 0.5 * (_off(centres[query, 0], centres[query, 1], theirs) + _off(x, y, mine[query]))
                if least <= limit:
                    distances[scene, query, target] = _chamfer(mine[query], theirs, nearest)
