"""Scene -> boxes and lines around a moment: what detection and map tokens learn to tell from pictures."""

from typing import no_type_check

import numpy as np
import shapely
from jaxtyping import Float, Int
from numba import njit

from irlvla.data.features import GRID_CELL, GRID_CELLS, GRID_ORIGIN
from irlvla.lanes import DrawnLines
from irlvla.types import ELEMENTS, HISTORY, LINE_NAMES, LINE_POINTS, Elements, Objects, Scene

LONGEST = 30.0
"""A lane's centre or edge is cut into equal pieces of at most this length, m, so that LINE_POINTS describe each well."""
SHORTEST = 1.0
"""What the edge of the area leaves of a line is passed over if it is shorter, m."""
SHARES = {"centre": 12, "boundary": 12, "crossing": 4, "stop": 4}
"""How the places of lines are shared out where more are around than there are places."""
TWIN = 0.5
"""Of two lines of one kind that are nowhere farther apart the second is left out, m: lanes side by side share an edge."""

_AREA = np.array([*GRID_ORIGIN, *(np.array(GRID_ORIGIN) + GRID_CELL * GRID_CELLS)])
_CORNERS = _AREA[[[0, 1], [2, 1], [2, 3], [0, 3]]]
_MOST_PIECES = 1024
_CROSSING, _CENTRE = LINE_NAMES.index("crossing"), LINE_NAMES.index("centre")


def elements(scene: Scene, frame: int = HISTORY - 1) -> Elements:
    """The nearest boxes and lines around the ego at one frame, in its frame, within the area of the bird's-eye grid.

    Boxes are the annotated objects whose centre lies in the area, the nearest first; a velocity that is not known counts as 0. Lines
    are the map's (`irlvla.lanes.drawn_lines`), clipped to the area:

    - centre: of lanes and of connectors in junctions, running with the traffic, in pieces of at most LONGEST;
    - boundary: edges of lanes, in pieces of at most LONGEST;
    - crossing: the outline of a crosswalk, counter-clockwise, from the corner nearest to the ego around to there again (other corners fall
      between two points and are cut, by up to 2 m);
    - stop: a stop line.

    Edges and stop lines have no direction: they start at the end nearer to the ego. Where there are more lines than ELEMENTS, each kind
    keeps its nearest, and the places go to kinds by SHARES; what a kind does not need is left to the others. The nearest line is the
    first.

    Args:
        scene: the scene, with annotations.
        frame: which frame.

    Raises:
        ValueError: the scene has no annotations.
    """
    if scene.objects is None:
        raise ValueError(f"scene {scene.token} has no annotations (cameras only): elements need boxes and map")
    boxes, classes = nearest_boxes(scene.objects[frame])
    lines, kinds = nearest_lines(scene.lane_map.drawn, scene.ego_poses[frame])
    return Elements(boxes=boxes, classes=classes, lines=lines, kinds=kinds)


def no_elements() -> Elements:
    """Elements of a moment of which nothing is known."""
    return Elements(
        boxes=np.full((ELEMENTS, 7), np.nan, np.float32),
        classes=np.full(ELEMENTS, -1, np.int8),
        lines=np.full((ELEMENTS, LINE_POINTS, 2), np.nan, np.float32),
        kinds=np.full(ELEMENTS, -1, np.int8),
    )


def nearest_boxes(objects: Objects) -> tuple[Float[np.ndarray, "32 7"], Int[np.ndarray, "32"]]:
    """Boxes of `Elements` and their classes, from the objects of a frame."""
    centre = objects.boxes[:, :2]
    distance = (centre**2).sum(axis=1)
    inside = np.flatnonzero(((centre >= _AREA[:2]) & (centre < _AREA[2:])).all(axis=1))
    kept = inside[np.argsort(distance[inside], kind="stable")[:ELEMENTS]]
    boxes, classes = np.full((ELEMENTS, 7), np.nan, np.float32), np.full(ELEMENTS, -1, np.int8)
    x, y, _, length, width, _, heading = objects.boxes[kept].T
    heading = np.pi - (np.pi - heading) % (2 * np.pi)
    boxes[: len(kept), :5] = np.stack([x, y, length, width, heading], axis=1)
    velocities = objects.velocities[kept, :2]
    boxes[: len(kept), 5:] = np.where(np.isnan(velocities), 0.0, velocities)
    classes[: len(kept)] = objects.types[kept]
    return boxes, classes


def nearest_lines(drawn: DrawnLines, ego: Float[np.ndarray, "3"]) -> tuple[Float[np.ndarray, "32 10 2"], Int[np.ndarray, "32"]]:
    """Lines of `Elements` and their kinds, from the lines of a city and the ego's pose there."""
    cos, sin = np.cos(ego[2]), np.sin(ego[2])
    corners = _CORNERS @ np.array([[cos, sin], [-sin, cos]]) + ego[:2]
    around = drawn.index.query(shapely.box(*corners.min(axis=0), *corners.max(axis=0)))
    pieces, piece_kinds = np.empty((_MOST_PIECES, LINE_POINTS, 2)), np.empty(_MOST_PIECES, np.int64)
    pose = np.ascontiguousarray(ego, dtype=np.float64)
    count = _fill_pieces(drawn.vertices, drawn.line_start, drawn.kinds, np.sort(around), pose, _AREA, LONGEST, pieces, piece_kinds)
    pieces, piece_kinds = pieces[:count], piece_kinds[:count]
    distance = (pieces**2).sum(axis=2).min(axis=1)
    order = np.argsort(distance, kind="stable")
    kept = order[_apart(pieces[order], piece_kinds[order])]
    turn = np.empty(len(kept))
    for kind, name in enumerate(LINE_NAMES):
        of_kind = np.flatnonzero(piece_kinds[kept] == kind)
        turn[of_kind] = np.arange(len(of_kind)) / SHARES[name]
    kept = kept[np.sort(np.argsort(turn, kind="stable")[:ELEMENTS])]
    lines, kinds = np.full((ELEMENTS, LINE_POINTS, 2), np.nan, np.float32), np.full(ELEMENTS, -1, np.int8)
    lines[: len(kept)], kinds[: len(kept)] = pieces[kept], piece_kinds[kept]
    return lines, kinds


@no_type_check
@njit(cache=True, nogil=True)
def _fill_pieces(vertices, line_start, kinds, chosen, ego, area, longest, pieces, piece_kinds):
    """Writes the chosen lines, seen from the ego, clipped and cut; returns how many pieces there are (no more than fit)."""
    cos, sin = np.cos(ego[2]), np.sin(ego[2])
    count = 0
    for line in chosen:
        first, last = line_start[line], line_start[line + 1]
        points = np.empty((last - first, 2))
        for i in range(last - first):
            x, y = vertices[first + i, 0] - ego[0], vertices[first + i, 1] - ego[1]
            points[i, 0], points[i, 1] = cos * x + sin * y, cos * y - sin * x
        if kinds[line] == _CROSSING:
            ring = _clipped_ring(points, area)
            count += _cut(_closed(ring), kinds[line], np.inf, pieces[count:], piece_kinds[count:])
            continue
        run, length = np.empty((last - first + 1, 2)), 0
        for i in range(len(points) - 1):
            enter, leave = _inside(points[i], points[i + 1], area)
            if enter < leave:
                if length == 0:
                    run[0] = points[i] + enter * (points[i + 1] - points[i])
                    length = 1
                run[length] = points[i] + leave * (points[i + 1] - points[i])
                length += 1
            if length > 0 and (not enter < leave or leave < 1.0 or i == len(points) - 2):
                count += _cut(run[:length], kinds[line], longest, pieces[count:], piece_kinds[count:])
                length = 0
    return count


@no_type_check
@njit(cache=True, nogil=True)
def _inside(start, end, area):
    """From which to which share of its length a segment is inside the area; nowhere if the first is not less than the second."""
    enter, leave = 0.0, 1.0
    for axis in range(2):
        step = end[axis] - start[axis]
        for side in range(2):
            room = area[axis] - start[axis] if side == 0 else start[axis] - area[2 + axis]
            change = step if side == 0 else -step
            # Inside is where change * share >= room.
            if change > 0.0:
                enter = max(enter, room / change)
            elif change < 0.0:
                leave = min(leave, room / change)
            elif room > 0.0:
                return 1.0, 0.0
    return enter, leave


@no_type_check
@njit(cache=True, nogil=True)
def _clipped_ring(ring, area):
    """What of a polygon's outline bounds its part inside the area (Sutherland and Hodgman's clipping, side by side)."""
    for side in range(4):
        axis = side % 2
        sign = 1.0 if side < 2 else -1.0
        limit = sign * area[side]
        kept, count = np.empty((2 * len(ring), 2)), 0
        for i in range(len(ring)):
            here, there = ring[i], ring[(i + 1) % len(ring)]
            from_here, from_there = sign * here[axis] - limit, sign * there[axis] - limit
            if from_here >= 0.0:
                kept[count] = here
                count += 1
            if (from_here >= 0.0) != (from_there >= 0.0):
                kept[count] = here + from_here / (from_here - from_there) * (there - here)
                count += 1
        ring = kept[:count].copy()
    return ring


@no_type_check
@njit(cache=True, nogil=True)
def _closed(ring):
    """A ring counter-clockwise, from its vertex nearest to the origin on, with that repeated at its end."""
    count, area, nearest = len(ring), 0.0, 0
    for i in range(count):
        following = (i + 1) % count
        area += ring[i, 0] * ring[following, 1] - ring[i, 1] * ring[following, 0]
        if np.hypot(ring[i, 0], ring[i, 1]) < np.hypot(ring[nearest, 0], ring[nearest, 1]):
            nearest = i
    result = np.empty((count + 1 if count else 0, 2))
    for i in range(len(result)):
        result[i] = ring[(nearest + i if area > 0.0 else nearest - i) % count]
    return result


@no_type_check
@njit(cache=True, nogil=True)
def _cut(points, kind, longest, pieces, piece_kinds):
    """Writes a line in equal pieces of evenly spaced points; returns how many there are."""
    along = np.zeros(len(points))
    for i in range(1, len(points)):
        along[i] = along[i - 1] + np.hypot(points[i, 0] - points[i - 1, 0], points[i, 1] - points[i - 1, 1])
    if len(points) < 2 or along[-1] < SHORTEST:
        return 0
    count = min(max(int(np.ceil(along[-1] / longest)), 1), len(pieces))
    size = pieces.shape[1]
    segment = 0
    for piece in range(count):
        for point in range(size):
            wanted = along[-1] * (piece + point / (size - 1)) / count
            while segment < len(points) - 2 and along[segment + 1] < wanted:
                segment += 1
            length = along[segment + 1] - along[segment]
            share = min(max((wanted - along[segment]) / length, 0.0), 1.0) if length > 0.0 else 0.0
            for axis in range(2):
                pieces[piece, point, axis] = points[segment, axis] + share * (points[segment + 1, axis] - points[segment, axis])
        ends = pieces[piece]
        is_backward = np.hypot(ends[0, 0], ends[0, 1]) > np.hypot(ends[-1, 0], ends[-1, 1])
        if is_backward and kind != _CENTRE and kind != _CROSSING:
            pieces[piece] = ends[::-1].copy()
        piece_kinds[piece] = kind
    return count


@no_type_check
@njit(cache=True, nogil=True)
def _apart(pieces, kinds):
    """Which pieces to keep so that no two of one kind lie on each other, whichever way they run; the first one stays."""
    kept = np.ones(len(pieces), dtype=np.bool_)
    size = pieces.shape[1]
    for i in range(len(pieces)):
        for j in range(i):
            if not kept[j] or kinds[i] != kinds[j] or kinds[i] == _CENTRE:
                continue
            same, turned = True, True
            for k in range(size):
                x, y = pieces[i, k, 0], pieces[i, k, 1]
                same = same and np.hypot(x - pieces[j, k, 0], y - pieces[j, k, 1]) <= TWIN
                turned = turned and np.hypot(x - pieces[j, size - 1 - k, 0], y - pieces[j, size - 1 - k, 1]) <= TWIN
                if not same and not turned:
                    break
            if same or turned:
                kept[i] = False
                break
    return kept
