"""What a vehicle's navigation would say: the lanes ahead along its route."""

import numpy as np

from irlvla.world.town import Town
from irlvla.world.traffic import Track

REAR_AXLE_BEHIND_FRONT = 4.05
WINDOW = 3
"""Roadblocks ahead that the command looks at; together longer than the 20 m that the command looks ahead."""


def lanes_ahead(town: Town, track: Track, places: np.ndarray, blocks: list[int], step: int, way: np.ndarray) -> np.ndarray:
    """The shortest line over lanes of the route from the lane that the rear axle is on.

    Args:
        town: The town.
        track: The vehicle's track.
        places: `route_places` of the track.
        blocks: Roadblocks of the log's route.
        step: Step of the track.
        way: Distance driven at each step, m.

    Returns:
        Points about 1 m apart in the town's frame; empty where the rear axle's lane is not on the route.
    """
    behind = int(np.searchsorted(way, way[step] - REAR_AXLE_BEHIND_FRONT, side="right")) if way[step] > REAR_AXLE_BEHIND_FRONT else 0
    behind = min(behind, step)
    block = track.route[places[behind]]
    if block not in blocks:
        return np.zeros((0, 2))
    place = blocks.index(block)
    name = str(track.lanes[behind])
    ahead = blocks[place : place + WINDOW]
    if name in town.lane_numbers:
        return _shortest(town, ahead, [(town.lane_numbers[name], [town.lanes[town.lane_numbers[name]].line])])
    if len(ahead) < 2:
        return np.zeros((0, 2))
    links = [town.connectors[number] for number in town.connector_numbers.get(name, ())]
    links = [link for link in links if town.lanes[link.after].block == ahead[1]]
    return _shortest(town, ahead[1:], [(link.after, [link.line, town.lanes[link.after].line]) for link in links])


def _shortest(town: Town, blocks: list[int], starts: list[tuple[int, list[np.ndarray]]]) -> np.ndarray:
    """Concatenated lines of the shortest way that goes furthest along the roadblocks."""
    best = [(lane, lines, 0.0) for lane, lines in starts]
    if not best:
        return np.zeros((0, 2))
    for block in blocks[1:]:
        onward: dict[int, tuple[int, list[np.ndarray], float]] = {}
        for lane, lines, cost in best:
            for number in town.onward[lane]:
                link = town.connectors[number]
                if town.lanes[link.after].block != block:
                    continue
                total = cost + len(link.line) * 0.75 + len(town.lanes[link.after].line)
                if link.after not in onward or total < onward[link.after][2]:
                    onward[link.after] = (link.after, [*lines, link.line, town.lanes[link.after].line], total)
        if not onward:
            break
        best = [onward[lane] for lane in sorted(onward)]
    return np.concatenate(min(best, key=lambda way: way[2])[1])
