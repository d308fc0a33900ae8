"""Parts of a picture painted over with what surrounds them, and places elsewhere for as much paint: interventions and their controls.

A region is top, bottom, left, right in pixels, the upper ends not included; zeros where there is nothing to cover.
"""

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

MARGIN = 1
"""Pixels around a thing that are covered too: where a picture was made smaller, its colours bleed so far."""
PIECES = (1, 2, 4, 8)
"""Upright pieces into which a region is cut where there is no room elsewhere for fewer."""


def region(
    places: Float[np.ndarray, "points 2"], is_ahead: Bool[np.ndarray, "points"], height: int, width: int, margin: int = MARGIN
) -> Int[np.ndarray, "4"]:
    """The rectangle of pixels that holds points of a thing, as far as it lies in the picture.

    Args:
        places: x right and y down as shares of the picture's width and height; those outside [0, 1] lie beyond its edges.
        is_ahead: which points lie ahead of the camera.
        height: of the picture, pixels.
        width: of the picture, pixels.
        margin: pixels around it that belong to it too.

    Example:
        >>> region(np.array([[0.25, 0.5], [0.5, 0.75]]), np.array([True, True]), 8, 16, margin=0).tolist()
        [4, 6, 4, 8]
    """
    if not is_ahead.any():
        return np.zeros(4, np.int64)
    low, high = places[is_ahead].min(axis=0), places[is_ahead].max(axis=0)
    if (high <= 0.0).any() or (low >= 1.0).any():
        return np.zeros(4, np.int64)
    size = np.array([width, height])
    first = np.maximum(np.floor(low * size) - margin, 0)
    last = np.minimum(np.ceil(high * size) + margin, size)
    return np.array([first[1], last[1], first[0], last[0]]).astype(np.int64)


def joined(regions: Int[np.ndarray, "regions 4"]) -> Int[np.ndarray, "fewer 4"]:
    """Regions of which none overlap: those that do are replaced by the rectangle around them, empty ones are left out."""
    found: list[np.ndarray] = []
    for new in regions[area(regions) > 0]:
        while any(_overlap(new, old) for old in found):
            touched = np.stack([new, *(old for old in found if _overlap(new, old))])
            found = [old for old in found if not _overlap(new, old)]
            new = np.array([touched[:, 0].min(), touched[:, 1].max(), touched[:, 2].min(), touched[:, 3].max()])
        found.append(new)
    return np.array(found, dtype=np.int64).reshape(-1, 4)


def area(regions: Int[np.ndarray, "regions 4"]) -> Int[np.ndarray, "regions"]:
    """Pixels of each region."""
    return (regions[:, 1] - regions[:, 0]) * (regions[:, 3] - regions[:, 2])


def filled(image: UInt8[np.ndarray, "height width 3"], regions: Int[np.ndarray, "regions 4"]) -> UInt8[np.ndarray, "height width 3"]:
    """A copy of a picture with each row of a region painted over, from the colour left of it gradually to the one right of it.

    Where the region reaches an edge of the picture, the other side's colour is taken; where it reaches both, the picture's mean.
    """
    image = image.copy()
    width = image.shape[1]
    for top, bottom, left, right in regions:
        ends = [image[top:bottom, column].astype(np.float64) if 0 <= column < width else None for column in (left - 1, right)]
        start, end = (ends[0] if ends[0] is not None else ends[1]), (ends[1] if ends[1] is not None else ends[0])
        if start is None or end is None:
            image[top:bottom, left:right] = np.rint(image.mean(axis=(0, 1)))
            continue
        share = (np.arange(1, right - left + 1) / (right - left + 1))[None, :, None]
        image[top:bottom, left:right] = np.rint(start[:, None] * (1 - share) + end[:, None] * share)
    return image


def elsewhere(
    regions: Int[np.ndarray, "regions 4"], height: int, width: int, random: np.random.Generator
) -> Int[np.ndarray, "pieces 4"] | None:
    """As many pixels at other places of the picture: regions moved, at about their height where there is room, touching none of the given.

    A region for which there is no room is cut into upright pieces.

    Args:
        regions: regions of which none overlap.
        height: of the picture, pixels.
        width: of the picture, pixels.
        random: source of chance.

    Returns:
        The other regions, which do not overlap either; None where there is no room for them.
    """
    taken = list(regions)
    for wanted in regions:
        moved = None
        for is_level in (True, False):
            for pieces in PIECES:
                moved = moved or _moved(wanted, pieces, taken, height, width, is_level, random)
        if moved is None:
            return None
        taken += moved
    return np.array(taken[len(regions) :], dtype=np.int64).reshape(-1, 4)


def _moved(
    wanted: np.ndarray, pieces: int, taken: list[np.ndarray], height: int, width: int, is_level: bool, random: np.random.Generator
) -> list[np.ndarray] | None:
    """Free places for the pieces of a region, None if there are not enough."""
    top, bottom, left, right = wanted
    if pieces > right - left:
        return None
    edges, tall, found = np.linspace(left, right, pieces + 1).astype(int), bottom - top, []
    for wide in np.diff(edges):
        tops, lefts = np.arange(height - tall + 1)[:, None], np.arange(width - wide + 1)[None]
        free = np.ones((tops.size, lefts.size), bool)
        for other in (*taken, *found):
            free &= (tops >= other[1]) | (tops + tall <= other[0]) | (lefts >= other[3]) | (lefts + wide <= other[2])
        if is_level:
            free &= np.abs(tops - top) <= max(2, tall // 4)
        places = np.flatnonzero(free)
        if not len(places):
            return None
        row, column = np.divmod(int(random.choice(places)), lefts.size)
        found.append(np.array([row, row + tall, column, column + wide]))
    return found


def _overlap(first: np.ndarray, second: np.ndarray) -> bool:
    return bool(first[0] < second[1] and second[0] < first[1] and first[2] < second[3] and second[2] < first[3])
