"""Streets as simple shapes -> a town's `Scenery`: painted ground, kerbs, and buildings and trees where there is room."""

from collections.abc import Sequence

import numpy as np
import shapely
from jaxtyping import Float, Int

from irlvla.types import Polygons
from irlvla.world.scenery import GROUND_NAMES, Scenery

MARKING_KINDS = ("dashed", "solid", "yellow", "kerb")
LINE_WIDTH = 0.18
DASH, GAP = 3.0, 5.0
STOP_LINE_WIDTH = 0.5
STRIPE, STRIPE_GAP = 0.5, 0.6
KERB_WIDTH = 0.3
MARGIN = 130.0
"""Grass, buildings and trees reach this far beyond the outermost street, m."""

Ring = Float[np.ndarray, "_ 2"]


def scenery(
    *,
    name: str,
    lanes: Sequence[Ring],
    junctions: Sequence[Ring],
    markings: Sequence[tuple[str, Ring]],
    crossings: Float[np.ndarray, "crossings 5"],
    sidewalks: Sequence[Ring],
    stop_lines: Float[np.ndarray, "lines 2 2"],
    poles: Float[np.ndarray, "poles 4"],
    pole_groups: Int[np.ndarray, "poles"],
    seed: int,
) -> Scenery:
    """A town's scenery from its streets; buildings and trees are placed by the seed.

    Args:
        name: The town's name, the same in its logs' footage.
        lanes: Polygon of each lane, global m. Everything that cars drive on.
        junctions: Polygon of each junction.
        markings: Kind (of MARKING_KINDS) and polyline of each painted line between or beside lanes.
        crossings: x, y of both ends of each zebra crossing (where people walk), and its width.
        sidewalks: Polygon of each pavement.
        stop_lines: Both ends of each stop line.
        poles: Traffic light poles as in `Scenery`, but global; see `signal_poles`.
        pole_groups: The group of each pole.
        seed: Chooses buildings and trees.

    Raises:
        ValueError: A marking's kind is not known.
    """
    for kind, _ in markings:
        if kind not in MARKING_KINDS:
            raise ValueError(f"town {name}: unknown kind of marking {kind!r}; known: {', '.join(MARKING_KINDS)}")
    road = _union([*lanes, *junctions])
    origin = np.floor(np.array(road.bounds[:2])) - MARGIN
    walk = shapely.difference(_union(sidewalks), road)
    kerb = shapely.difference(road.buffer(KERB_WIDTH, quad_segs=2), road.buffer(0))
    dashed = [line for kind, line in markings if kind == "dashed"]
    layers = [
        ("pavement", [walk]),
        ("kerb", [kerb]),
        ("asphalt", [road]),
        ("white", _strips([piece for line in dashed for piece in _dashes(line)], LINE_WIDTH)),
        ("white", _strips([line for kind, line in markings if kind == "solid"], LINE_WIDTH)),
        ("yellow", _strips([line for kind, line in markings if kind == "yellow"], LINE_WIDTH + 0.05)),
        ("kerb", _strips([line for kind, line in markings if kind == "kerb"], KERB_WIDTH)),
        ("asphalt", _strips([row[:4].reshape(2, 2) for row in crossings], crossings[:, 4] if len(crossings) else 1.0)),
        ("white", _stripes(crossings)),
        ("white", _strips(list(stop_lines), STOP_LINE_WIDTH)),
    ]
    shapes = [(layer, part) for layer, parts in layers for shape in parts for part in shapely.get_parts(shape) if part.area > 1e-3]
    shapes = [(layer, part) for layer, part in shapes if part.geom_type == "Polygon"]
    random = np.random.default_rng([seed, 41])
    buildings = _buildings(shapely.union(road, walk), random)
    trees = _trees(road, walk, buildings, random)
    buildings[:, :2] -= origin
    trees[:, :2] -= origin
    return Scenery(
        name=name,
        origin=origin,
        ground=_polygons([part for _, part in shapes], origin),
        ground_classes=np.array([GROUND_NAMES.index(layer) for layer, _ in shapes], dtype=np.int64),
        buildings=buildings,
        building_seeds=random.integers(0, 1 << 30, len(buildings)),
        trees=trees,
        poles=np.column_stack([poles[:, :2] - origin, poles[:, 2:]]).astype(float),
        pole_groups=np.asarray(pole_groups, dtype=np.int64),
    )


def signal_poles(
    roads: Sequence[Ring], approaches: Float[np.ndarray, "approaches 5"]
) -> tuple[Float[np.ndarray, "poles 4"], Int[np.ndarray, "poles"]]:
    """Two traffic light poles for each approach, one beside its stop line and one with a mast arm behind the junction, where there is room.

    Args:
        roads: Everything that cars drive on: no pole stands there.
        approaches: x, y of the middle of the approach's stop line (over all its lanes), driving direction there, width of
            the approach, and the distance from the stop line across the junction.

    Returns:
        The poles for `scenery` (global), and for each pole the index of its approach, to be used or mapped as its group.
    """
    road = _union(roads)
    shapely.prepare(road)
    rows, groups = [], []
    for index, (x, y, heading, width, depth) in enumerate(approaches):
        forward, right = np.array([np.cos(heading), np.sin(heading)]), np.array([np.sin(heading), -np.cos(heading)])
        back = float(np.arctan2(-forward[1], -forward[0]))
        for alongs, arm in (((0.3, 1.5, 3.0), False), (depth + np.array((1.5, 3.0, 5.0, 8.0, -3.0, -6.0)), True)):
            aside = width / 2 + 1.0 + 0.25 * np.arange(30)
            aside = np.concatenate([aside, -aside]) if arm else aside
            alongs = np.asarray(alongs)
            places = np.array([x, y]) + right * aside[:, None] + forward * alongs[:, None, None]
            clear = shapely.distance(road, shapely.points(places)) > 0.5
            if clear.any():
                # As close to the driver's view as the road allows, rather on the right.
                cost = np.abs(aside) + 2.0 * (aside < 0) + 0.4 * np.abs(alongs - alongs[0])[:, None]
                along, first = np.unravel_index(int(np.argmin(np.where(clear, cost, np.inf))), clear.shape)
                reach = float(np.clip(aside[first] - 0.25 * width, -8.0, 8.0)) if arm else 0.0
                rows.append([*places[along, first], back, reach])
                groups.append(index)
    return np.array(rows, float).reshape(-1, 4), np.array(groups, dtype=np.int64)


def _union(rings: Sequence[Ring]) -> shapely.Geometry:
    shapes = [shapely.Polygon(ring).buffer(0.02, quad_segs=1) for ring in rings if len(ring) >= 3]
    return shapely.union_all(shapes) if shapes else shapely.Polygon()


def _strips(lines: Sequence[Ring], widths: float | np.ndarray) -> list[shapely.Geometry]:
    lines = [line for line in lines if len(line) >= 2]
    if not lines:
        return []
    return list(shapely.buffer([shapely.LineString(line) for line in lines], np.asarray(widths) / 2, cap_style="flat", quad_segs=2))


def _dashes(line: Ring) -> list[Ring]:
    path = shapely.LineString(line)
    pieces = []
    for start in np.arange(GAP / 2, path.length - DASH / 2, DASH + GAP):
        inner = np.linspace(start, min(start + DASH, path.length), 4)
        pieces.append(shapely.get_coordinates(shapely.line_interpolate_point(path, inner)))
    return pieces


def _stripes(crossings: Float[np.ndarray, "crossings 5"]) -> list[shapely.Geometry]:
    """The white stripes of zebra crossings: each lies along the traffic, across the way that people walk."""
    lines, widths = [], []
    for x0, y0, x1, y1, width in crossings:
        start, end = np.array([x0, y0]), np.array([x1, y1])
        length = float(np.linalg.norm(end - start))
        if length < STRIPE:
            continue
        along = (end - start) / length
        across = np.array([-along[1], along[0]]) * width / 2
        for offset in np.arange(0.3 + STRIPE / 2, length - STRIPE / 2, STRIPE + STRIPE_GAP):
            middle = start + along * offset
            lines.append(np.array([middle - across, middle + across]))
            widths.append(STRIPE)
    return _strips(lines, np.array(widths)) if lines else []


def _polygons(shapes: Sequence[shapely.Geometry], origin: Float[np.ndarray, "2"]) -> Polygons:
    rings, polygon_start = [], [0]
    for shape in shapes:
        rings += [np.asarray(ring.coords)[:-1] - origin for ring in (shape.exterior, *shape.interiors)]
        polygon_start.append(len(rings))
    return Polygons(
        vertices=np.concatenate([*rings, np.zeros((0, 2))]),
        ring_start=np.cumsum([0] + [len(ring) for ring in rings]),
        polygon_start=np.array(polygon_start),
    )


def _buildings(built: shapely.Geometry, random: np.random.Generator) -> Float[np.ndarray, "buildings 6"]:
    """Buildings in rows along the streets, with gaps, none of them on a street or in another building."""
    setback = random.uniform(4.0, 9.0)
    storeys = random.uniform(2.0, 6.0)
    gap = random.uniform(3.0, 14.0)
    shapely.prepare(built)
    outline = built.buffer(setback, quad_segs=3).simplify(0.5)
    rows, rectangles = [], []
    grid: dict[tuple[int, int], list[int]] = {}
    for part in shapely.get_parts(outline):
        for ring in (part.exterior, *part.interiors):
            ring = shapely.LineString(ring.coords)
            inside = random.uniform(0, 10.0)
            while inside < ring.length:
                length, depth = random.uniform(9, 26), random.uniform(9, 15)
                ends = shapely.get_coordinates(shapely.line_interpolate_point(ring, [inside, min(inside + length, ring.length)]))
                inside += length + random.exponential(gap) + 1.0
                heading = float(np.arctan2(*(ends[1] - ends[0])[::-1]))
                left = np.array([-np.sin(heading), np.cos(heading)])
                height = 3.2 * max(1.0, np.round(random.normal(storeys, 1.5))) + 0.6
                if np.hypot(*(ends[1] - ends[0])) < 0.8 * length:
                    continue
                for side in (1.0, -1.0):
                    middle = ends.mean(0) + side * left * (depth / 2 + 0.3)
                    rectangle = _rectangle(middle, heading, length, depth)
                    near = [other for key in _cells(middle) for other in grid.get(key, [])]
                    if built.distance(rectangle) > 0.7 * setback and not any(rectangles[other].intersects(rectangle) for other in near):
                        for key in _cells(middle)[4:5]:
                            grid.setdefault(key, []).append(len(rectangles))
                        rectangles.append(rectangle)
                        rows.append([*middle, heading, length, depth, height])
                        break
    return np.array(rows, float).reshape(-1, 6)


def _cells(point: np.ndarray) -> list[tuple[int, int]]:
    column, row = int(point[0] // 40), int(point[1] // 40)
    return [(column + i, row + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]


def _rectangle(middle: np.ndarray, heading: float, length: float, width: float) -> shapely.Geometry:
    along = np.array([np.cos(heading), np.sin(heading)]) * length / 2
    across = np.array([-np.sin(heading), np.cos(heading)]) * width / 2
    return shapely.Polygon([middle + along + across, middle - along + across, middle - along - across, middle + along - across])


def _trees(
    road: shapely.Geometry, walk: shapely.Geometry, buildings: np.ndarray, random: np.random.Generator
) -> Float[np.ndarray, "trees 4"]:
    """Trees in rows beside the streets and some anywhere on the grass, clear of streets, pavements and buildings."""
    houses = shapely.union_all([_rectangle(row[:2], row[2], row[3], row[4]) for row in buildings])
    blocked = shapely.union_all([road, walk, houses])
    shapely.prepare(blocked)
    points = []
    spacing = random.uniform(9.0, 22.0)
    for part in shapely.get_parts(shapely.union(road, walk).buffer(2.0, quad_segs=2)):
        for ring in (part.exterior, *part.interiors):
            along = np.arange(random.uniform(0, spacing), ring.length, spacing)
            along = along + random.uniform(-0.25, 0.25, len(along)) * spacing
            along = along[random.random(len(along)) < 0.7]
            points.append(shapely.get_coordinates(shapely.line_interpolate_point(shapely.LineString(ring.coords), along)))
    low_x, low_y, high_x, high_y = road.buffer(60).bounds
    count = int((high_x - low_x) * (high_y - low_y) / random.uniform(500, 2500))
    points.append(random.uniform([low_x, low_y], [high_x, high_y], (count, 2)))
    trees = np.concatenate(points)
    radius = random.uniform(1.1, 2.4, len(trees))
    height = radius * random.uniform(1.7, 2.6, len(trees)) + 2.2
    free = shapely.distance(blocked, shapely.points(trees)) > 1.3
    return np.column_stack([trees, height, radius])[free]
