"""A town as the camera sees it: its streets handed to the painter of grounds, its light systems as poles."""

import numpy as np
import shapely

from irlvla.world.scenery import Scenery
from irlvla.world.surroundings import scenery, signal_poles
from irlvla.world.town import Lane, Town


def town_scenery(town: Town, seed: int) -> tuple[Scenery, list[tuple[int, int]]]:
    """What stands in a town.

    Args:
        town: The town.
        seed: Chooses buildings and trees.

    Returns:
        The scenery, and for each group of light poles its light system and the link whose letter it shows.
    """
    by_block: dict[int, list[Lane]] = {}
    for lane in town.lanes:
        by_block.setdefault(lane.block, []).append(lane)
    markings = []
    parked = set(town.parking_blocks)
    for block, lanes in sorted(by_block.items()):
        for number, lane in enumerate(lanes):
            if number == 0 and block in parked:
                markings.append(("solid", lane.right))
            markings.append(("yellow" if number == len(lanes) - 1 else "dashed", lane.left))
    approaches, systems = _approaches(town, by_block)
    poles, pole_groups = signal_poles(approaches + np.array((*town.origin, 0.0, 0.0, 0.0)))
    rings = [_ring(area.polygon) for area in (*town.blocks, *town.intersections, *town.parking)]
    stops = [np.stack((lane.right[-1], lane.left[-1])) for number, lane in enumerate(town.lanes) if any(town.connectors[link].signal >= 0 for link in town.onward[number])]
    crossings = town.crossing_lines + np.array((*town.origin, *town.origin, 0.0))
    standing = scenery(
        name=town.name,
        lanes=[ring + town.origin for ring in rings[: len(town.blocks)] + rings[len(town.blocks) + len(town.intersections) :]],
        junctions=[ring + town.origin for ring in rings[len(town.blocks) : len(town.blocks) + len(town.intersections)]],
        markings=[(kind, line + town.origin) for kind, line in markings],
        crossings=crossings,
        sidewalks=[_ring(area.polygon) + town.origin for area in town.walkways],
        stop_lines=np.array(stops).reshape(-1, 2, 2) + town.origin,
        poles=poles,
        pole_groups=pole_groups,
        seed=seed,
    )
    return standing, systems


def _ring(polygon: shapely.Polygon) -> np.ndarray:
    return shapely.get_coordinates(polygon.exterior)[:-1]


def _approaches(town: Town, by_block: dict[int, list[Lane]]) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Middle of the stop line, heading, width and depth of the junction for each approach with lights; the link that it shows."""
    links: dict[int, list[Lane]] = {}
    for link in town.connectors:
        if link.signal >= 0:
            links.setdefault(town.lanes[link.before].block, []).append(link)
    grounds = [area.polygon for area in town.intersections]
    rows, systems = [], []
    for block, members in sorted(links.items()):
        lanes = by_block[block]
        right, left = lanes[0].right[-1], lanes[-1].left[-1]
        direction = lanes[0].line[-1] - lanes[0].line[-3]
        heading = float(np.arctan2(direction[1], direction[0]))
        forward = np.array((np.cos(heading), np.sin(heading)))
        middle = (left + right) / 2
        ray = shapely.LineString((middle + forward, middle + 70.0 * forward))
        depth = max((ray.intersection(ground).length for ground in grounds if ground.distance(shapely.Point(middle + forward)) < 1.0), default=20.0) + 1.0
        straight = min(members, key=lambda link: (abs(_turn(link)), link.fid))
        rows.append((*middle, heading, float(np.hypot(*(left - right))), depth))
        systems.append((straight.signal, straight.link))
    return np.array(rows, float).reshape(-1, 5), systems


def _turn(link: Lane) -> float:
    start, end = link.line[1] - link.line[0], link.line[-1] - link.line[-2]
    turn = np.arctan2(end[1], end[0]) - np.arctan2(start[1], start[0])
    return float((turn + np.pi) % (2 * np.pi) - np.pi)
