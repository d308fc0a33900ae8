"""What a vehicle's navigation would say: the lanes ahead along its route, and the driving command from them."""

import numpy as np

from irlvla.types import COMMAND_NAMES
from irlvla.world.town import Town
from irlvla.world.traffic import Track

LOOK_AHEAD = 20.0
SIDE_STEP = 2.0
REAR_AXLE_BEHIND_FRONT = 4.05
WINDOW = 3
"""Roadblocks ahead that the command looks at; they are longer than LOOK_AHEAD."""


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


def driving_command(line: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """One-hot command by the devkit's rule: where the route's line is 20 m ahead, seen from its own pose beside the ego.

    Args:
        line: Centre line of the route's lanes.
        pose: x, y, heading of the ego in the same frame.

    Returns:
        Integers over COMMAND_NAMES: left or right from 2 m aside on, unknown without a line.
    """
    command = np.zeros(len(COMMAND_NAMES), int)
    if len(line) < 3:
        command[COMMAND_NAMES.index("unknown")] = 1
        return command
    along = np.concatenate(([0.0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))))
    nearest = int(np.argmin(np.hypot(*(line - pose[:2]).T)))
    ahead = along[nearest] + LOOK_AHEAD
    x, y = np.interp(ahead, along, line[:, 0]), np.interp(ahead, along, line[:, 1])
    low, high = max(nearest - 1, 0), min(nearest + 1, len(line) - 1)
    dx, dy = line[high] - line[low]
    side = (dx * (y - line[nearest, 1]) - dy * (x - line[nearest, 0])) / max(np.hypot(dx, dy), 1e-9)
    command[COMMAND_NAMES.index("left" if side >= SIDE_STEP else "right" if side <= -SIDE_STEP else "straight")] = 1
    return command
