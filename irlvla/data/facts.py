"""What a log says about a moment in words: the road ahead, and what the human does about it. Labels for semantic reasoning.

The way is the centre line of the route from the ego on (that of the reference planner, see `irlvla.score.route`), WAY long. What lies on it
is told by the place along it and the distance from it. docs/data.md tells the rules with their numbers, `facts` does as they say.
"""

from dataclasses import astuple, dataclass, fields
from typing import no_type_check

import numpy as np
from jaxtyping import Float, Int
from numba import njit

from irlvla.data.features import poses_in_ego
from irlvla.types import COMMAND_NAMES, HISTORY, OBJECT_NAMES, POSES, Objects, PreparedScene, Scene
from irlvla.vehicle import LENGTH, REAR_AXLE_TO_CENTER

LEAD_NAMES = ("none", "near", "mid", "far")
MOTION_NAMES = ("none", "stopped", "slower", "same", "faster")
LIGHT_NAMES = ("none", "near", "mid", "far")
PEDESTRIAN_NAMES = ("none", "ahead")
TURN_NAMES = ("none", "left", "right")
LATERAL_NAMES = ("keep", "left", "right", "lane_change_left", "lane_change_right")
LONGITUDINAL_NAMES = ("stop", "slow", "keep", "accelerate")
FACT_NAMES = {
    "lead": LEAD_NAMES,
    "lead_motion": MOTION_NAMES,
    "light": LIGHT_NAMES,
    "pedestrian": PEDESTRIAN_NAMES,
    "turn": TURN_NAMES,
    "lateral": LATERAL_NAMES,
    "longitudinal": LONGITUDINAL_NAMES,
}
"""Field of Facts -> what its values are indices into. In this order they are the columns of arrays of facts, where -1 is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is said about one moment, indices into the names in FACT_NAMES. The first five are seen, the last two are the meta action.

    The road is free where `lead`, `light` and `pedestrian` are none. `lead_motion` is none where and only where `lead` is.
    """

    lead: int
    """The next vehicle or bicycle on the ego's way, by distance."""
    lead_motion: int
    """How it moves, compared with the ego."""
    light: int
    """A red light on the ego's way, by distance."""
    pedestrian: int
    """Whether someone on foot is on the ego's way or about to step onto it."""
    turn: int
    """Where the way ahead turns."""
    lateral: int
    """What the human does with the wheel in the next 4 s."""
    longitudinal: int
    """What the human does with the pedals in the next 4 s."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value, names = getattr(self, field.name), FACT_NAMES[field.name]
            if not 0 <= value < len(names):
                raise ValueError(f"facts: {field.name} is {value}, not 0 .. {len(names) - 1} ({', '.join(names)})")
        if (self.lead == 0) != (self.lead_motion == 0):
            raise ValueError(f"facts: lead is {LEAD_NAMES[self.lead]}, but lead_motion {MOTION_NAMES[self.lead_motion]}")


WAY = 80.0
"""How far ahead of the rear axle the way is looked at, m."""
FRONT = REAR_AXLE_TO_CENTER + LENGTH / 2
"""From the rear axle to the front bumper, where distances begin, m."""
NEAR, MID, FAR = 10.0, 25.0, 50.0
"""Up to which distance something is near, mid, or far, m; beyond it does not count."""
HALF_WIDTH = 1.2
"""A vehicle is on the way if some of it is within this distance of its line, m."""
SAME_WAY = np.radians(60)
"""Vehicles that head more than so much away from the way cross it, or come towards the ego, and lead nobody."""
STANDING, LIKE = 0.5, 1.0
"""Slower than the first is to stand; two speeds that differ by less than the second are the same, m/s."""
CONNECTOR_OFFSET, OVERRUN = 1.0, 2.0
"""A lane connector is the way's if it stays so close to it; a stop line counts until the front bumper is so far beyond it, m."""
WALK_OFFSET, WALK_DISTANCE, WALK_TIME = 1.5, 30.0, 3.0
"""How close to the way's line (m) someone on foot is on the way, how far ahead (m) that counts, and how long they are forecast (s)."""
TURN_DISTANCE, TURN, TURN_ON_COMMAND = 30.0, np.radians(30), np.radians(15)
"""How far ahead of the front bumper turns are looked for (m), from which angle on, and from which if the command says so."""
STEERED = np.radians(20)
"""A human whose heading changes more than this within 4 s turns."""
LANE_CHANGE = (1.75, 5.5)
"""Least and most that a lane change moves a car across the way, m: half a lane and a lane and a half."""
PACE_CHANGE = 1.5
"""Speeds now and 4 s later that differ by less are kept, m/s."""
_STEP = 0.5
_SHARES = np.array([(along, across) for along in (-0.5, 0.0, 0.5) for across in (-0.5, 0.0, 0.5)])
_CENTRE = 4
"""Points of a box that are looked at, as shares of its length and width, and which of them is its centre."""


def facts(scene: Scene, prepared: PreparedScene, frame: int = HISTORY - 1) -> Facts:
    """What is said about one frame of a scene.

    Args:
        scene: the scene, with annotations and POSES frames after the one in question.
        prepared: the same scene prepared, for its route's centre line.
        frame: which frame.

    Raises:
        ValueError: the scene has no annotations, or its future is too short.
    """
    if scene.objects is None or scene.traffic_lights is None:
        raise ValueError(f"scene {scene.token} has no annotations (cameras only): facts need boxes, traffic lights, route and map")
    if len(scene.time_us) <= frame + POSES:
        raise ValueError(f"scene {scene.token}: {len(scene.time_us) - 1 - frame} frames after frame {frame}, {POSES} are needed")
    poses = scene.ego_poses[frame : frame + POSES + 1]
    speeds = np.hypot(*scene.ego_velocities[[frame, frame + POSES]].T)
    # All that follows is seen from the ego.
    way = _way(poses_in_ego(poses[0], np.asarray(prepared.centerline)))
    lead, motion = _lead(scene.objects[frame], way, speeds[0])
    return Facts(
        lead=lead,
        lead_motion=motion,
        light=_light(scene, frame, way),
        pedestrian=_pedestrian(scene.objects[frame], way),
        turn=_turn(way, scene.commands[frame]),
        lateral=_lateral(way, poses_in_ego(poses[0], poses)),
        longitudinal=_longitudinal(*speeds),
    )


def facts_row(some: Facts | None) -> Int[np.ndarray, "7"]:
    """Facts as a row of an array; -1 where they are not known."""
    return np.array([-1] * len(FACT_NAMES) if some is None else astuple(some), dtype=np.int8)


def facts_of_row(row: Int[np.ndarray, "7"]) -> Facts | None:
    """Facts of a row of an array, None where they are not known.

    Raises:
        ValueError: the row holds what cannot be said.
    """
    return None if (row == -1).all() else Facts(**{name: int(value) for name, value in zip(FACT_NAMES, row, strict=True)})


def fact_words(some: Facts) -> dict[str, str]:
    """Field of Facts -> the name of its value.

    Example:
        >>> fact_words(Facts(lead=1, lead_motion=2, light=0, pedestrian=0, turn=0, lateral=0, longitudinal=1))["lead_motion"]
        'slower'
    """
    return {name: names[value] for (name, names), value in zip(FACT_NAMES.items(), astuple(some), strict=True)}


def _way(line: Float[np.ndarray, "points 3"]) -> Float[np.ndarray, "places 3"]:
    """x, y every _STEP m along a line from the place nearest to the ego on, and the heading from each place to the next."""
    step = line[1:, :2] - line[:-1, :2]
    lengths = np.hypot(*step.T)
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    share = np.clip(-(line[:-1, :2] * step).sum(1) / np.maximum(lengths, 1e-9) ** 2, 0.0, 1.0)
    place = int(np.hypot(*(line[:-1, :2] + share[:, None] * step).T).argmin())
    start = along[place] + share[place] * lengths[place]
    wanted = start + np.arange(0.0, max(min(WAY, along[-1] - start), _STEP) + 1e-6, _STEP)
    way = np.empty((len(wanted), 3))
    way[:, 0], way[:, 1] = np.interp(wanted, along, line[:, 0]), np.interp(wanted, along, line[:, 1])
    ahead = way[1:, :2] - way[:-1, :2]
    # Where the line ends sooner than the first step, its own last heading tells the way.
    way[:-1, 2] = np.arctan2(ahead[:, 1], ahead[:, 0]) if ahead[0].any() else line[-1, 2]
    way[-1, 2] = way[-2, 2]
    return way


def _places(
    way: Float[np.ndarray, "places 3"], points: Float[np.ndarray, "*some 2"]
) -> tuple[Int[np.ndarray, "*some"], Float[np.ndarray, "*some"]]:
    """Index of the way's place nearest to each point, and the distance from it, m."""
    flat = np.ascontiguousarray(points, dtype=np.float64).reshape(-1, 2)
    place, distance = np.empty(len(flat), np.int64), np.empty(len(flat))
    _fill_places(way, flat, place, distance)
    return place.reshape(points.shape[:-1]), distance.reshape(points.shape[:-1])


@no_type_check
@njit(cache=True, nogil=True)
def _fill_places(way, points, place, distance):
    """Writes which place of the way is the nearest to each point (the first of equals), and how far it is."""
    for point in range(len(points)):
        least = np.inf
        for i in range(len(way)):
            x, y = way[i, 0] - points[point, 0], way[i, 1] - points[point, 1]
            if x * x + y * y < least:
                least = x * x + y * y
                place[point] = i
        distance[point] = np.sqrt(least)


def _turned(angle: np.ndarray | float) -> np.ndarray | float:
    """Angles brought to [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def _range(distance: float) -> int:
    """none, near, mid or far."""
    return next((number for number, limit in enumerate((NEAR, MID, FAR), 1) if distance < limit), 0)


def _lead(objects: Objects, way: Float[np.ndarray, "places 3"], speed: float) -> tuple[int, int]:
    """Distance and motion of the next vehicle or bicycle on the way that heads along it."""
    kinds = [OBJECT_NAMES.index(name) for name in ("vehicle", "bicycle")]
    is_one = (objects.types == kinds[0]) | (objects.types == kinds[1])
    chosen = np.flatnonzero(is_one & (np.hypot(*objects.boxes[:, :2].T) < WAY))
    if not len(chosen):
        return 0, 0
    boxes = objects.boxes[chosen]
    heading = boxes[:, 6]
    along = np.stack([np.cos(heading), np.sin(heading)], axis=1)[:, None]
    across = along[..., ::-1] * (-1.0, 1.0)
    points = boxes[:, None, :2] + _SHARES[:, :1] * boxes[:, 3, None, None] * along + _SHARES[:, 1:] * boxes[:, 4, None, None] * across
    place, distance = _places(way, points)
    # Of what is beyond the end of the way, or behind its start, the nearest place says nothing.
    is_on = (distance < HALF_WIDTH) & (place > 0) & (place < len(way) - 1)
    middle = place[:, _CENTRE]
    same = np.abs(_turned(heading - way[middle, 2])) < SAME_WAY
    is_lead = is_on.any(axis=1) & same & (_STEP * middle > REAR_AXLE_TO_CENTER)
    if not is_lead.any():
        return 0, 0
    gap = np.where(is_on, _STEP * place, np.inf).min(axis=1) - FRONT
    first = int(np.where(is_lead, gap, np.inf).argmin())
    lead = _range(gap[first])
    if not lead:
        return 0, 0
    direction = way[middle[first], 2]
    pace = np.nan_to_num(objects.velocities[chosen[first], :2] @ (np.cos(direction), np.sin(direction)), nan=0.0)
    if pace < STANDING:
        return lead, MOTION_NAMES.index("stopped")
    return lead, MOTION_NAMES.index("slower" if pace < speed - LIKE else "faster" if pace > speed + LIKE else "same")


def _light(scene: Scene, frame: int, way: Float[np.ndarray, "places 3"]) -> int:
    """Distance of the first lane connector of the way that is red."""
    lanes = scene.lane_map.lanes
    reds = [lanes[lane].baseline for lane, is_red in scene.traffic_lights[frame] if is_red and lane in lanes]
    reds = [line for line in reds if len(line) > 1]
    if not reds:
        return 0
    ego = scene.ego_poses[frame]
    place, distance = _places(way, poses_in_ego(ego, np.array([line[0] for line in reds]))[:, :2])
    gaps = [np.inf]
    for number in np.flatnonzero((distance < CONNECTOR_OFFSET) & (place > 0) & (_STEP * place - FRONT > -OVERRUN)):
        along, apart = _places(way, poses_in_ego(ego, reds[number])[:, :2])
        # Connectors to other lanes begin alike: the whole of it, as far as the way goes, has to be the way.
        if (apart[along < len(way) - 1] < CONNECTOR_OFFSET).all():
            gaps.append(_STEP * place[number] - FRONT)
    return _range(min(gaps))


def _pedestrian(objects: Objects, way: Float[np.ndarray, "places 3"]) -> int:
    """Whether someone on foot is on the way, or will be soon if they walk on as they do."""
    chosen = objects.types == OBJECT_NAMES.index("pedestrian")
    if not chosen.any():
        return 0
    times = np.arange(0.0, WALK_TIME + 0.25, 0.5)
    velocity = objects.velocities[chosen, :2]
    velocity = np.where(np.isnan(velocity), 0.0, velocity)
    place, distance = _places(way, objects.boxes[chosen, None, :2] + times[:, None] * velocity[:, None])
    gap = _STEP * place - FRONT
    return int(((distance < WALK_OFFSET) & (gap > 0.0) & (gap < WALK_DISTANCE) & (place < len(way) - 1)).any())


def _turn(way: Float[np.ndarray, "places 3"], command: Int[np.ndarray, "4"]) -> int:
    """Where the way turns soon."""
    ahead = way[: int((FRONT + TURN_DISTANCE) / _STEP) + 1, 2]
    angles = np.cumsum(_turned(ahead[1:] - ahead[:-1]))
    angle = angles[np.abs(angles).argmax()]
    side = "left" if angle > 0.0 else "right"
    is_commanded = bool(command[COMMAND_NAMES.index(side)])
    return TURN_NAMES.index(side) if abs(angle) >= (TURN_ON_COMMAND if is_commanded else TURN) else 0


def _lateral(way: Float[np.ndarray, "places 3"], poses: Float[np.ndarray, "9 3"]) -> int:
    """What the human does with the wheel: lane changes are told by the way, turns by the heading."""
    place, _ = _places(way, poses[[0, -1], :2])
    if place[1] < len(way) - 1:
        away = poses[[0, -1], :2] - way[place, :2]
        offset = np.diff(away[:, 1] * np.cos(way[place, 2]) - away[:, 0] * np.sin(way[place, 2]))[0]
        if LANE_CHANGE[0] <= abs(offset) <= LANE_CHANGE[1] and abs(_turned(poses[-1, 2] - way[place[1], 2])) < STEERED:
            return LATERAL_NAMES.index("lane_change_left" if offset > 0.0 else "lane_change_right")
    angle = _turned(np.diff(poses[:, 2])).sum()
    return LATERAL_NAMES.index("keep" if abs(angle) < STEERED else "left" if angle > 0.0 else "right")


def _longitudinal(now: float, later: float) -> int:
    """What the human does with the pedals, from the speeds now and 4 s later."""
    if later < STANDING:
        return LONGITUDINAL_NAMES.index("stop")
    return LONGITUDINAL_NAMES.index("slow" if later < now - PACE_CHANGE else "accelerate" if later > now + PACE_CHANGE else "keep")
