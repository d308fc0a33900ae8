"""A city's lanes as a graph, and what else a car may drive on there."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from jaxtyping import Float, Int

from irlvla.types import COMMAND_NAMES, LAYER_NAMES, LINE_NAMES, Polygons

COMMAND_DISTANCE = 20.0
"""Where along the route the driving command looks, m."""
COMMAND_OFFSET = 2.0
"""How far aside the route must lie there to be a turn, m."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lane:
    """A lane or, inside a junction, a lane connector. Ids of lanes and connectors never coincide within a city."""

    id: str
    is_connector: bool
    roadblock_id: str
    speed_limit: float | None
    polygon: shapely.Geometry
    baseline: Float[np.ndarray, "points 3"]
    """x, y, heading of the centre line, global; a point's heading leads to the next point. Empty, like the polygon, in a broken map."""
    incoming: tuple[str, ...]
    outgoing: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Roadblock:
    """A roadblock (lanes side by side) or a roadblock connector (all lane connectors between two roadblocks)."""

    id: str
    is_connector: bool
    polygon: shapely.Geometry
    lane_ids: tuple[str, ...]
    incoming: tuple[str, ...]
    outgoing: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Areas:
    """The polygons of a city that the score distinguishes: flat arrays in one order, indexed by their bounds."""

    ids: tuple[str, ...]
    layers: Int[np.ndarray, "areas"]
    bounds: Float[np.ndarray, "areas 4"]
    """min x, min y, max x, max y."""
    geometries: tuple[shapely.Geometry, ...]
    polygons: Polygons


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DrawnLines:
    """What one sees of a city's map, as lines: flat arrays in one order, indexed by place. Nothing that is scored depends on them."""

    vertices: Float[np.ndarray, "vertices 2"]
    line_start: Int[np.ndarray, "lines_and_end"]
    """Line i has the vertices line_start[i] .. line_start[i + 1] - 1; the outline of a crosswalk does not repeat its first."""
    kinds: Int[np.ndarray, "lines"]
    """Indices into LINE_NAMES."""
    index: shapely.STRtree
    """Finds lines by their bounds."""
    lacking: tuple[str, ...]
    """Why layers of the map file that would have been drawn were not."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LaneMap:
    """One city: lanes and roadblocks by id, polygons and lines by place."""

    name: str
    lanes: dict[str, Lane]
    roadblocks: dict[str, Roadblock]
    areas: Areas
    area_index: dict[tuple[int, str], int]
    """(layer, id) -> place in `areas`."""
    block_ids: tuple[str, ...]
    block_bounds: Float[np.ndarray, "blocks 4"]
    """Bounds of all roadblocks and roadblock connectors, in the order of `block_ids`."""
    drawn: DrawnLines


def near(bounds: Float[np.ndarray, "areas 4"], x: float, y: float, radius: float) -> Int[np.ndarray, "found"]:
    """Places of the bounds that meet the square of half width `radius` (m) around a point, in order."""
    low_x, low_y, high_x, high_y = bounds.T
    return np.flatnonzero((low_x <= x + radius) & (high_x >= x - radius) & (low_y <= y + radius) & (high_y >= y - radius))


def flat_polygons(geometries: list[shapely.Geometry] | tuple[shapely.Geometry, ...]) -> Polygons:
    """Shapely polygons and multi-polygons as flat arrays."""
    parts, owners = shapely.get_parts(np.asarray(geometries, dtype=object), return_index=True)
    rings, part_of_ring = shapely.get_rings(parts, return_index=True)
    points, ring_of_point = shapely.get_coordinates(rings, return_index=True)
    last = np.r_[ring_of_point[1:] != ring_of_point[:-1], True] if len(points) else np.zeros(0, bool)
    points, ring_of_point = points[~last], ring_of_point[~last]
    sizes = np.bincount(ring_of_point, minlength=len(rings))
    rings_of = np.bincount(owners[part_of_ring], minlength=len(geometries)) if len(rings) else np.zeros(len(geometries), int)
    return Polygons(
        vertices=np.ascontiguousarray(points.reshape(-1, 2)),
        ring_start=np.r_[0, np.cumsum(sizes)].astype(np.int64),
        polygon_start=np.r_[0, np.cumsum(rings_of)].astype(np.int64),
    )


def selected_polygons(polygons: Polygons, places: Int[np.ndarray, "chosen"]) -> Polygons:
    """Some of the polygons, in the order given."""
    first, last = polygons.polygon_start[places], polygons.polygon_start[places + 1]
    rings = _ranges(first, last)
    points = _ranges(polygons.ring_start[rings], polygons.ring_start[rings + 1])
    return Polygons(
        vertices=polygons.vertices[points],
        ring_start=np.r_[0, np.cumsum(polygons.ring_start[rings + 1] - polygons.ring_start[rings])].astype(np.int64),
        polygon_start=np.r_[0, np.cumsum(last - first)].astype(np.int64),
    )


def _ranges(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """first[0] .. last[0] - 1, first[1] .. last[1] - 1, ... as one array."""
    sizes = last - first
    if sizes.sum() == 0:
        return np.zeros(0, np.int64)
    starts = np.repeat(first - np.r_[0, np.cumsum(sizes)[:-1]], sizes)
    return starts + np.arange(sizes.sum())


def lane_map(
    name: str, lanes: list[Lane], roadblocks: list[Roadblock], intersections: list, carparks: list, drawn: DrawnLines | None = None
) -> LaneMap:
    """A city from its parts; `intersections` and `carparks` are (id, polygon) pairs. Without `drawn` lanes are all that is seen.

    Raises:
        ValueError: Two lanes (or connectors) or two roadblocks (or connectors) share an id.
    """
    for kind, entries in (("lanes", lanes), ("roadblocks", roadblocks)):
        twice = [fid for fid, times in Counter(entry.id for entry in entries).items() if times > 1]
        if twice:
            raise ValueError(f"map {name}: two {kind} or their connectors have the id {twice[0]}")
    layers = {layer: LAYER_NAMES.index(layer) for layer in LAYER_NAMES}
    rows = [(lane.id, layers["lane_connector" if lane.is_connector else "lane"], lane.polygon) for lane in lanes]
    rows += [(block.id, layers["roadblock"], block.polygon) for block in roadblocks if not block.is_connector]
    rows += [(fid, layers["intersection"], polygon) for fid, polygon in intersections]
    rows += [(fid, layers["carpark"], polygon) for fid, polygon in carparks]
    ids, kinds, geometries = (tuple(column) for column in zip(*rows)) if rows else ((), (), ())
    areas = Areas(
        ids=ids,
        layers=np.array(kinds, dtype=np.int64),
        bounds=shapely.bounds(np.asarray(geometries, dtype=object)).reshape(-1, 4),
        geometries=geometries,
        polygons=flat_polygons(geometries),
    )
    return LaneMap(
        name=name,
        lanes={lane.id: lane for lane in lanes},
        roadblocks={block.id: block for block in roadblocks},
        areas=areas,
        area_index={(layer, fid): place for place, (fid, layer, _) in enumerate(rows)},
        block_ids=tuple(block.id for block in roadblocks),
        block_bounds=shapely.bounds(np.asarray([block.polygon for block in roadblocks], dtype=object)).reshape(-1, 4),
        drawn=drawn_lines(lanes) if drawn is None else drawn,
    )


def drawn_lines(
    lanes: Sequence[Lane],
    boundaries: Sequence[shapely.Geometry] | np.ndarray | None = None,
    crosswalks: Sequence[shapely.Geometry] | np.ndarray = (),
    stops: Sequence[shapely.Geometry] | np.ndarray = (),
    lacking: Sequence[str] = (),
) -> DrawnLines:
    """Lines that show a city: lane centres with the traffic, lanes' edges, outlines of crosswalks, stop lines.

    Args:
        lanes: lanes and lane connectors; their baselines are the centres.
        boundaries: lines between and beside lanes; None takes the long edges of the lanes' polygons (not of connectors).
        crosswalks: polygons.
        stops: polygons before which a car stops; the stop line is the middle line of the rectangle around one, along its longer side.
        lacking: why layers of the map file are missing here.
    """
    edges = _lane_edges(lanes) if boundaries is None else [_coordinates(part) for part in shapely.get_parts(_array(boundaries))]
    rings = [_coordinates(part.exterior)[:-1] for part in shapely.get_parts(_array(crosswalks))]
    lines = {
        "centre": [lane.baseline[:, :2] for lane in lanes],
        "boundary": edges,
        "crossing": [ring for ring in rings if len(ring) > 2],
        "stop": [_middle_line(part) for part in shapely.oriented_envelope(shapely.get_parts(_array(stops)))],
    }
    rows = [(kind, points) for kind, name in enumerate(LINE_NAMES) for points in lines[name] if len(points) > 1]
    vertices = np.concatenate([np.zeros((0, 2)), *(points for _, points in rows)])
    line_start = np.r_[0, np.cumsum([len(points) for _, points in rows])].astype(np.int64)
    lows, highs = (limit.reduceat(vertices, line_start[:-1]) if rows else vertices for limit in (np.minimum, np.maximum))
    return DrawnLines(
        vertices=vertices,
        line_start=line_start,
        kinds=np.array([kind for kind, _ in rows], dtype=np.int64),
        index=shapely.STRtree(shapely.box(*lows.T, *highs.T)),
        lacking=tuple(lacking),
    )


def _array(geometries: Sequence[shapely.Geometry] | np.ndarray) -> np.ndarray:
    return np.array(geometries, dtype=object)


def _coordinates(geometry: shapely.Geometry) -> np.ndarray:
    return shapely.get_coordinates(geometry)


def _lane_edges(lanes: Sequence[Lane]) -> list[np.ndarray]:
    """The edges of lanes' polygons that run along the lane, in one piece each; the short ones across it are left out."""
    edges = []
    for lane in lanes:
        for part in shapely.get_parts(lane.polygon) if not lane.is_connector and len(lane.baseline) else ():
            ring = _coordinates(part.exterior)
            step, middle = np.diff(ring, axis=0), (ring[:-1] + ring[1:]) / 2
            heading = lane.baseline[np.hypot(*(middle[:, None] - lane.baseline[:, :2]).transpose(2, 0, 1)).argmin(1), 2]
            along = np.abs(step[:, 0] * np.cos(heading) + step[:, 1] * np.sin(heading)) > np.sqrt(0.5) * np.hypot(*step.T)
            if along.all() or not along.any():
                edges += [ring] if along.any() else []
                continue
            # Seen from a segment that is left out on, the runs of those that stay are the edges.
            order = (np.arange(len(step)) + np.flatnonzero(~along)[0]) % len(step)
            breaks = np.flatnonzero(np.diff(along[order].astype(int))) + 1
            edges += [ring[np.r_[run, run[-1] + 1]] for run in np.split(order, breaks) if along[run[0]]]
    return edges


def _middle_line(rectangle: shapely.Geometry) -> np.ndarray:
    """The middle line of a rectangle along its longer side; a line stays as it is."""
    corners = _coordinates(rectangle)
    if len(corners) != 5:
        return corners
    sides = np.hypot(*np.diff(corners[:3], axis=0).T)
    first = 0 if sides[0] < sides[1] else 1
    return np.array([corners[first] + corners[first + 1], corners[first + 2] + corners[(first + 3) % 4]]) / 2


def baseline(points: Float[np.ndarray, "points 2"]) -> Float[np.ndarray, "points 3"]:
    """A polyline with headings: each point's heading leads to the next point, the last repeats the one before it."""
    step = np.diff(points, axis=0)
    headings = np.arctan2(step[:, 1], step[:, 0])
    return np.column_stack([points, np.r_[headings, headings[-1:]]])


def driving_command(line: Float[np.ndarray, "points 2"], pose: Float[np.ndarray, "3"]) -> Int[np.ndarray, "4"]:
    """The command by the devkit's rule: where the route's centre line lies 20 m ahead, seen from its own pose beside the ego.

    Args:
        line: Centre line of the route's lanes, m.
        pose: x, y, heading of the ego in the same frame.

    Returns:
        One-hot over COMMAND_NAMES: left or right from 2 m aside on, unknown without a line of at least 3 points.
    """
    command = np.zeros(len(COMMAND_NAMES), int)
    if len(line) < 3:
        command[COMMAND_NAMES.index("unknown")] = 1
        return command
    along = np.r_[0.0, np.cumsum(np.hypot(*np.diff(line, axis=0).T))]
    nearest = int(np.argmin(np.hypot(*(line - pose[:2]).T)))
    ahead = along[nearest] + COMMAND_DISTANCE
    x, y = np.interp(ahead, along, line[:, 0]), np.interp(ahead, along, line[:, 1])
    low, high = max(nearest - 1, 0), min(nearest + 1, len(line) - 1)
    dx, dy = line[high] - line[low]
    side = (dx * (y - line[nearest, 1]) - dy * (x - line[nearest, 0])) / max(np.hypot(dx, dy), 1e-9)
    name = "left" if side >= COMMAND_OFFSET else "right" if side <= -COMMAND_OFFSET else "straight"
    command[COMMAND_NAMES.index(name)] = 1
    return command
