"""The route that a car really follows: roadblocks repaired to start where the ego is, and the line along their lanes.

Source: autonomousvision/navsim at 0a380a9, navsim/planning/simulation/planner/pdm_planner/utils (route_utils.py,
graph_search/bfs_roadblock.py, graph_search/dijkstra.py) and abstract_pdm_planner.py.
"""

import numpy as np
import shapely
from jaxtyping import Float, Int

from irlvla.lanes import Lane, LaneMap, Roadblock, near
from irlvla.types import LAYER_NAMES

CANDIDATE_RADIUS = 1.0
"""Half width of the square around the rear axle in which the current roadblock is looked for, m."""
CANDIDATE_HEADING = np.pi / 4
CANDIDATE_DISTANCE = 3.0
BACKWARD_DEPTH = 15
FORWARD_DEPTH = 30
_ROADBLOCK = LAYER_NAMES.index("roadblock")
TARGETS = 3
"""An off-route start may join the route at one of its first roadblocks, this many."""
LOOP_AREA = 1.0
"""Roadblock connectors that overlap by more than this (m2) make a loop, which is cut."""
WINDOW = 30
"""Roadblocks along which the centerline runs at most."""
MAP_RADIUS = 100.0
"""Half width of the square around the ego centre whose map counts, m."""
NODE_CAPACITY = 10
"""Children of a node in the devkit's search trees: it decides in which order equal finds come out."""


def route_blocks(lane_map: LaneMap, block_ids: tuple[str, ...] | list[str]) -> list[str]:
    """The ids once each, in order.

    Raises:
        ValueError: No id, or one that the map does not have.
    """
    unknown = [block for block in block_ids if block not in lane_map.roadblocks]
    if unknown:
        raise ValueError(f"roadblock {unknown[0]} of the route is not in map {lane_map.name}")
    if not block_ids:
        raise ValueError("the route is empty")
    return list(dict.fromkeys(block_ids))


def route_lanes(lane_map: LaneMap, block_ids: list[str]) -> list[str]:
    """Ids of all lanes and lane connectors inside the roadblocks, in order."""
    return list(dict.fromkeys(lane for block in block_ids for lane in lane_map.roadblocks[block].lane_ids))


def corrected_route(lane_map: LaneMap, block_ids: list[str], pose: Float[np.ndarray, "3"]) -> list[str]:
    """The logged route, led to where the ego is, with missing links filled and loops cut.

    Args:
        lane_map: The city.
        block_ids: Logged roadblocks and roadblock connectors.
        pose: x, y, heading of the rear axle, global.
    """
    route = list(block_ids)
    current, candidates = _current_block(lane_map, route, pose)
    if current not in route:
        path, is_found = _search(lane_map, route[0], candidates, BACKWARD_DEPTH, forward=False)
        if is_found:
            route = path[:-1] + route
        else:
            path, is_found = _search(lane_map, current, route[:TARGETS], FORWARD_DEPTH, forward=True)
            if is_found:
                route = path + route[route.index(path[-1]) + 1 :]
    linked = route[:1]
    for before, after in zip(route[:-1], route[1:]):
        if before not in lane_map.roadblocks[after].incoming:
            path, is_found = _search(lane_map, before, [after], FORWARD_DEPTH, forward=True)
            if is_found and len(path) >= 3:
                linked += path[1:-1]
        linked.append(after)
    return list(dict.fromkeys(_without_loop(lane_map, linked)))


def _current_block(lane_map: LaneMap, route: list[str], pose: np.ndarray) -> tuple[str, list[str]]:
    """The roadblock that the ego is most likely in, and all candidates of its kind (one entry a fitting lane)."""
    places = near(lane_map.block_bounds, pose[0], pose[1], CANDIDATE_RADIUS)
    square = shapely.box(*(pose[:2] - CANDIDATE_RADIUS), *(pose[:2] + CANDIDATE_RADIUS))
    blocks = [lane_map.roadblocks[lane_map.block_ids[place]] for place in places]
    blocks = [block for block in blocks if block.polygon.intersects(square)]
    if not blocks:
        blocks = [block for block in (_nearest_block(lane_map, pose, kind) for kind in (False, True)) if block is not None]
    if not blocks:
        raise ValueError(f"map {lane_map.name} has no roadblock")
    blocks.sort(key=lambda block: block.is_connector)
    on_route: list[tuple[float, str]] = []
    off_route: list[tuple[float, str]] = []
    nearest = np.full(len(blocks), np.inf)
    known = set(route)
    for number, block in enumerate(blocks):
        for lane_id in block.lane_ids:
            distance, turn = _offset(lane_map, lane_map.lanes[lane_id], pose)
            nearest[number] = min(nearest[number], distance)
            if turn < CANDIDATE_HEADING and distance < CANDIDATE_DISTANCE:
                (on_route if block.id in known else off_route).append((distance, block.id))
    for found in (on_route, off_route):
        if found:
            return found[int(np.argmin([distance for distance, _ in found]))][1], [block for _, block in found]
    return blocks[int(np.argmin(nearest))].id, [block.id for block in blocks]


def _nearest_block(lane_map: LaneMap, pose: np.ndarray, is_connector: bool) -> Roadblock | None:
    """The roadblock (or roadblock connector) nearest to the rear axle, looked for in ever larger squares; None in a map without any."""
    point, radius, places = shapely.Point(pose[:2]), 10.0, np.zeros(0, int)
    while len(places) < len(lane_map.block_ids):
        places = near(lane_map.block_bounds, pose[0], pose[1], radius)
        blocks = [lane_map.roadblocks[lane_map.block_ids[place]] for place in places]
        blocks = [block for block in blocks if block.is_connector == is_connector]
        distances = shapely.distance(np.array([block.polygon for block in blocks], dtype=object), point)
        if len(blocks) and (distances.min() <= radius or len(places) == len(lane_map.block_ids)):
            return blocks[int(np.argmin(distances))]
        radius *= 3.0
    return None


def _offset(lane_map: LaneMap, lane: Lane, pose: np.ndarray) -> tuple[float, float]:
    """Distance to the nearest point of a baseline (its vertices only), m, and the heading difference there, rad."""
    line = _line(lane_map, lane)
    distances = ((line[:, :2] - pose[:2]) ** 2).sum(axis=1) ** 0.5
    place = int(np.argmin(distances))
    turn = line[place, 2] - pose[2]
    return float(distances[place]), float(abs(np.arctan2(np.sin(turn), np.cos(turn))))


def _line(lane_map: LaneMap, lane: Lane) -> np.ndarray:
    if not len(lane.baseline):
        raise ValueError(f"lane {lane.id} of map {lane_map.name} has no baseline, or several, or one of no length")
    return lane.baseline


def _search(lane_map: LaneMap, start: str, targets: list[str], depth: int, forward: bool) -> tuple[list[str], bool]:
    """Breadth-first path of roadblocks in driving order from (forward) or to (backward) `start`.

    The devkit keeps no visited set: a roadblock can appear on many levels, and on each level its parent is the last one that
    reached it while the goal is the first one met. Both orders are carried along without the doublets.
    """
    wanted = set(targets)
    first, last = [start], [start]
    parents: list[dict[str, str]] = [{}]
    for level in range(depth):
        goal = next((block for block in first if block in wanted), None)
        if goal is not None:
            path = [goal]
            for known in reversed(parents[1:]):
                path.append(known[path[-1]])
            return (path[::-1] if forward else path), True
        if level == depth - 1:
            break
        reached: dict[str, str] = {}
        later: dict[str, None] = {}
        for block in last:
            for other in _neighbours(lane_map, block, forward):
                reached[other] = block
                later.pop(other, None)
                later[other] = None
        first = list(dict.fromkeys(other for block in first for other in _neighbours(lane_map, block, forward)))
        last = list(later)
        parents.append(reached)
        if not first:
            break
    return [], False


def _neighbours(lane_map: LaneMap, block: str, forward: bool) -> tuple[str, ...]:
    edges = lane_map.roadblocks[block].outgoing if forward else lane_map.roadblocks[block].incoming
    return tuple(edge for edge in edges if edge in lane_map.roadblocks)


def _without_loop(lane_map: LaneMap, route: list[str]) -> list[str]:
    """The route up to the first roadblock connector that overlaps an earlier one."""
    seen: list[shapely.Geometry] = []
    for place, block_id in enumerate(route):
        block = lane_map.roadblocks[block_id]
        if not block.is_connector:
            continue
        if any(other.intersects(block.polygon) and other.intersection(block.polygon).area > LOOP_AREA for other in seen):
            return route[:place]
        seen.append(block.polygon)
    return route


def starting_lane(
    lane_map: LaneMap, lane_ids: list[str], pose: Float[np.ndarray, "3"], center: Float[np.ndarray, "2"], footprint: shapely.Polygon
) -> Lane:
    """The lane of the corrected route that the car is on.

    Args:
        lane_map: The city.
        lane_ids: Lanes of the corrected route.
        pose: Rear axle, global.
        center: Centre of the car, global.
        footprint: Its outline.

    Raises:
        ValueError: The route has no lane.
    """
    if not lane_ids:
        raise ValueError(f"the route has no lane in map {lane_map.name}")
    lanes = [lane_map.lanes[lane] for lane in lane_ids]
    point = shapely.Point(pose[:2])
    places = np.array([_place(lane_map, lane) for lane in lanes])
    under = [lanes[k] for k in near(lane_map.areas.bounds[places], pose[0], pose[1], 0.0) if lanes[k].polygon.intersects(point)]
    if under:
        return _best_aligned(lane_map, under, pose, center, point)
    middle = shapely.Point(center)
    polygons = np.array([lane.polygon for lane in lanes], dtype=object)
    holds = shapely.contains(polygons, middle)
    last = int(np.argmax(holds)) if holds.any() else len(lanes) - 1
    check_polygons(lane_map, places[: last + 1])
    return lanes[last if holds.any() else int(np.argmin(shapely.distance(polygons, footprint)))]


def _best_aligned(lane_map: LaneMap, lanes: list[Lane], pose: np.ndarray, center: np.ndarray, point: shapely.Point) -> Lane:
    """The lane whose heading is nearest to the ego's; of equals the one that the devkit's search tree finds first."""
    turns = np.array([_offset(lane_map, lane, pose)[1] for lane in lanes])
    best = [lanes[place] for place in np.flatnonzero(turns == turns.min())]
    if len(best) == 1:
        return best[0]
    places = around(lane_map, center)
    tree = shapely.STRtree([lane_map.areas.geometries[place] for place in places], NODE_CAPACITY)
    found = [places[number] for number in tree.query(point, predicate="intersects")]
    order = {place: number for number, place in enumerate(found)}
    return min(best, key=lambda lane: order.get(_place(lane_map, lane), len(order)))


def around(lane_map: LaneMap, center: Float[np.ndarray, "2"]) -> Int[np.ndarray, "found"]:
    """Places in `areas` of all that counts around the ego: roadblocks, their lanes, lane connectors, intersections, car parks.

    A lane counts if its roadblock meets the square, a lane connector if its roadblock connector does. The order is the devkit's.

    Raises:
        ValueError: One of them has no polygon.
    """
    square = shapely.box(*(center - MAP_RADIUS), *(center + MAP_RADIUS))
    areas = lane_map.areas
    nearby = [lane_map.roadblocks[lane_map.block_ids[place]] for place in near(lane_map.block_bounds, *center, MAP_RADIUS)]
    blocks = [block for block in nearby if block.polygon.intersects(square)]
    places = [lane_map.area_index[_ROADBLOCK, block.id] for block in blocks if not block.is_connector]
    for is_connector, layer in ((False, "lane"), (True, "lane_connector")):
        index = LAYER_NAMES.index(layer)
        places += [lane_map.area_index[index, lane] for block in blocks if block.is_connector == is_connector for lane in block.lane_ids]
    others = [place for place in near(areas.bounds, *center, MAP_RADIUS) if areas.layers[place] > _ROADBLOCK]
    places += sorted((int(place) for place in others if areas.geometries[place].intersects(square)), key=lambda k: areas.layers[k])
    found = np.array(places, dtype=np.int64)
    check_polygons(lane_map, found)
    return found


def check_polygons(lane_map: LaneMap, places: Int[np.ndarray, "chosen"]) -> None:
    """Refuse areas without a polygon: the devkit looks them up when a scene needs them, and fails then.

    Raises:
        ValueError: One of them has none.
    """
    empty = places[np.isnan(lane_map.areas.bounds[places, 0])]
    if len(empty):
        name = LAYER_NAMES[lane_map.areas.layers[empty[0]]]
        raise ValueError(f"{name} {lane_map.areas.ids[empty[0]]} of map {lane_map.name} has no polygon, or several")


def _place(lane_map: LaneMap, lane: Lane) -> int:
    return lane_map.area_index[LAYER_NAMES.index("lane_connector" if lane.is_connector else "lane"), lane.id]


def centerline(lane_map: LaneMap, block_ids: list[str], lane_ids: list[str], start: Lane) -> Float[np.ndarray, "points 3"]:
    """Baselines along the shortest chain of route lanes from `start` to the last roadblock of the window."""
    place = block_ids.index(start.roadblock_id) if start.roadblock_id in block_ids else 0
    lanes = _lane_chain(lane_map, start, set(lane_ids), block_ids[place : place + WINDOW][-1])
    return np.concatenate([_line(lane_map, lane) for lane in lanes])


def _lane_chain(lane_map: LaneMap, start: Lane, allowed: set[str], goal_block: str) -> list[Lane]:
    """Dijkstra over lanes by length; without a way to the goal, the way to the nearest of the deepest lanes."""
    frontier: dict[str, tuple[float, int]] = {start.id: (1.0, 1)}
    parents: dict[str, str | None] = {start.id: None}
    expanded: dict[str, tuple[float, int]] = {}
    end = None
    while frontier:
        lane_id = min(frontier, key=lambda waiting: frontier[waiting][0])
        distance, depth = frontier.pop(lane_id)
        if lane_map.lanes[lane_id].roadblock_id == goal_block:
            end = lane_id
            break
        expanded[lane_id] = distance, depth
        for other in lane_map.lanes[lane_id].outgoing:
            if other not in allowed or other in expanded:
                continue
            total = distance + _length(lane_map, lane_map.lanes[other])
            if other not in frontier or total < frontier[other][0]:
                parents[other] = lane_id
                frontier[other] = total, depth + 1
    if end is None:
        deepest = max(depth for _, depth in expanded.values())
        end = min((lane_id for lane_id in expanded if expanded[lane_id][1] == deepest), key=lambda lane_id: expanded[lane_id][0])
    chain: list[Lane] = []
    at: str | None = end
    while at is not None:
        chain.append(lane_map.lanes[at])
        at = parents[at]
    return chain[::-1]


def _length(lane_map: LaneMap, lane: Lane) -> float:
    return float(shapely.length(shapely.linestrings(_line(lane_map, lane)[:, :2])))
