"""A town as SUMO and the map know it -> what the camera can see of it: paint on its streets, traffic light poles, houses."""

import numpy as np
import shapely

from irlvla.world.scenery import Scenery
from irlvla.world.surroundings import scenery, signal_poles
from irlvla.world.town import Lane, Town, shifted

FARTHEST_POLE = 42.0
CENTRE_GAP = 0.2
"""How far each of the two yellow lines lies from the middle of a wide street, m."""


def dressed_town(town: Town, seed: int) -> tuple[Scenery, tuple[tuple[int, int], ...]]:
    """What the camera can see of a town.

    Args:
        town: The town.
        seed: Chooses buildings and trees.

    Returns:
        The scenery, and for each of its pole groups the light system (index into `town.signals`) and a link whose letter
        it shows.
    """
    lanes = [lane.polygon for lane in town.lanes] + [area.polygon for area in town.parking]
    junctions = [area.polygon for area in town.intersections] + [connector.polygon for connector in town.connectors]
    roads = [_ring(polygon, town) for polygon in lanes + junctions]
    approaches, pole_systems = _approaches(town)
    poles, groups = signal_poles(roads, approaches)
    stops = sorted({connector.before for connector in town.connectors if connector.signal >= 0})
    built = scenery(
        name=town.name,
        lanes=roads[: len(lanes)],
        junctions=roads[len(lanes) :],
        markings=[(kind, line + town.origin) for kind, line in _markings(town)],
        crossings=np.array([_crossing(area.polygon, town) for area in town.crosswalks]).reshape(-1, 5),
        sidewalks=[_ring(area.polygon, town) for area in town.walkways],
        stop_lines=np.array([_stop_line(town.lanes[lane], town) for lane in stops]).reshape(-1, 2, 2),
        poles=poles,
        pole_groups=groups,
        seed=seed,
    )
    return built, pole_systems


def _ring(polygon: shapely.Polygon, town: Town) -> np.ndarray:
    return np.asarray(polygon.exterior.coords)[:-1, :2] + town.origin


def _markings(town: Town) -> list[tuple[str, np.ndarray]]:
    """Dashes between lanes, a yellow line (two on wide streets) in the middle, a white edge beside parking and kerbs."""
    counts = np.bincount([lane.block for lane in town.lanes], minlength=len(town.blocks))
    markings = []
    for lane in town.lanes:
        if lane.place + 1 < counts[lane.block]:
            markings.append(("dashed", lane.left))
        else:
            gap = CENTRE_GAP if counts[lane.block] > 1 else 0.0
            markings.append(("yellow", shifted(lane.line, lane.width / 2 - gap)))
        if lane.place == 0:
            markings.append(("solid", shifted(lane.line, 0.25 - lane.width / 2)))
    return markings


def _crossing(polygon: shapely.Polygon, town: Town) -> np.ndarray:
    corners = np.asarray(shapely.minimum_rotated_rectangle(polygon).exterior.coords)[:4, :2]
    if np.hypot(*(corners[1] - corners[0])) < np.hypot(*(corners[2] - corners[1])):
        corners = np.roll(corners, -1, axis=0)
    start, end = (corners[0] + corners[3]) / 2, (corners[1] + corners[2]) / 2
    return np.array([*(start + town.origin), *(end + town.origin), np.hypot(*(corners[3] - corners[0]))])


def _stop_line(lane: Lane, town: Town) -> np.ndarray:
    direction = (lane.line[-1] - lane.line[-2]) / np.hypot(*(lane.line[-1] - lane.line[-2]))
    return np.stack((lane.left[-1], lane.right[-1])) - 0.35 * direction + town.origin


def _approaches(town: Town) -> tuple[np.ndarray, tuple[tuple[int, int], ...]]:
    """Each signalised approach (middle of its stop line, heading, width, depth of its junction), and the link that it shows."""
    links: dict[int, list[Lane]] = {}
    for connector in town.connectors:
        if connector.signal >= 0:
            links.setdefault(town.lanes[connector.before].block, []).append(connector)
    areas = [area.polygon.buffer(1.0) for area in town.intersections]
    rows, systems = [], []
    for block in sorted(links):
        lanes = sorted((lane for lane in town.lanes if lane.block == block), key=lambda lane: lane.place)
        right, left = lanes[0].right[-1], lanes[-1].left[-1]
        middle = (left + right) / 2
        step = lanes[0].line[-1] - lanes[0].line[-2]
        heading = float(np.arctan2(step[1], step[0]))
        straightest = min(links[block], key=_turn)
        ahead = shapely.LineString([middle, middle + 70.0 * np.array([np.cos(heading), np.sin(heading)])])
        inside = [area.intersection(ahead) for area in areas if area.distance(shapely.Point(middle)) < 2.0]
        depth = max((part.length for part in inside), default=20.0)
        rows.append([*(middle + town.origin), heading, np.hypot(*(left - right)), np.clip(depth, 12.0, FARTHEST_POLE)])
        systems.append((straightest.signal, straightest.link))
    return np.array(rows, float).reshape(-1, 5), tuple(systems)


def _turn(connector: Lane) -> float:
    start, end = connector.line[1] - connector.line[0], connector.line[-1] - connector.line[-2]
    return abs(float(np.arctan2(start[0] * end[1] - start[1] * end[0], start @ end)))
