"""Tracks made into what a data set holds: smooth ego motion, and everybody's boxes at 2 Hz."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from irlvla.types import OBJECT_NAMES
from irlvla.world.town import Town, shifted
from irlvla.world.traffic import PEDESTRIAN_SIZE, SIZES, TIME_STEP, Track

FRAME_STEPS = 5
"""Steps of the simulation between two frames."""
FRONT_TO_REAR_AXLE = 4.049
PATH_STEP = 0.25
PATH_SMOOTHING = 2.0
TIME_SMOOTHING = 0.4
MARGIN = 12
"""Steps at both ends of a track that smoothing spoils."""
CONE_SIZE, BARRIER_SIZE, SIGN_SIZE = (0.40, 0.40, 0.75), (0.5, 1.8, 1.0), (0.5, 0.7, 1.6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ego:
    """A vehicle's smooth motion: rear axle, one row a step of its track."""

    x: np.ndarray
    y: np.ndarray
    heading: np.ndarray
    speed: np.ndarray
    acceleration: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A thing that never moves. Its box is x, y (centre), heading, length, width, height."""

    name: str
    kind: int
    box: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """All road users of a run by frame: rows `starts[k]` .. `starts[k + 1]` are frame k. Boxes as in `Standing`."""

    starts: np.ndarray
    owners: np.ndarray
    """Row -> index into `names`."""
    boxes: np.ndarray
    speeds: np.ndarray
    braking: np.ndarray
    names: tuple[str, ...]
    kinds: np.ndarray
    """OBJECT_NAMES index by name."""


def ego_motion(track: Track) -> Ego:
    """The track of a vehicle's front bumper made physically smooth.

    The path is smoothed by a Gaussian of 2 m, the way along it by one of 0.4 s; the rear axle follows the front on that path,
    its heading is the path's tangent, speed and acceleration are derivatives of the way.

    Returns:
        Motion at the track's steps. The first and last `MARGIN` steps are not to be used.
    """
    steps = np.hypot(np.diff(track.x), np.diff(track.y))
    way = np.concatenate(([0.0], np.cumsum(steps)))
    moving = np.concatenate(([True], steps > 1e-3))
    lead = 8.0
    ends = []
    for index, sign in ((0, -1), (-1, 1)):
        direction = np.array((np.cos(track.heading[index]), np.sin(track.heading[index])))
        ends.append(np.array((track.x[index], track.y[index])) + sign * lead * direction)
    points = np.concatenate((ends[:1], np.stack((track.x, track.y), -1)[moving], ends[1:]))
    along = np.concatenate(([0.0], way[moving] + lead, [way[-1] + 2 * lead]))
    grid = np.arange(0.0, along[-1] + PATH_STEP, PATH_STEP)
    path = np.stack(
        [gaussian_filter1d(np.interp(grid, along, points[:, axis]), PATH_SMOOTHING / PATH_STEP, mode="nearest") for axis in range(2)], -1
    )
    length = np.concatenate(([0.0], np.cumsum(np.hypot(*np.diff(path, axis=0).T))))
    tangent = np.gradient(path, axis=0)
    heading = np.unwrap(np.arctan2(tangent[:, 1], tangent[:, 0]))
    rear = gaussian_filter1d(np.interp(way + lead, grid, length), TIME_SMOOTHING / TIME_STEP, mode="nearest") - FRONT_TO_REAR_AXLE
    speed = np.gradient(rear, TIME_STEP)
    return Ego(
        x=np.interp(rear, length, path[:, 0]),
        y=np.interp(rear, length, path[:, 1]),
        heading=np.interp(rear, length, heading),
        speed=speed,
        acceleration=np.gradient(speed, TIME_STEP),
    )


def route_places(track: Track, town: Town) -> np.ndarray:
    """Index into the track's route at each step: the roadblock that the front bumper is on, or last was on."""
    place = -1
    places = np.zeros(len(track.x), int)
    known: dict[str, int] = {}
    for step, name in enumerate(track.lanes):
        number = known.setdefault(name, town.lane_numbers.get(name, -1))
        if number >= 0:
            block = town.lanes[number].block
            if place < 0 or track.route[place] != block:
                later = [index for index in range(max(place, 0), len(track.route)) if track.route[index] == block]
                place = later[0] if later else place
        elif place < 0:
            place = _block_before(track, town, step)
        places[step] = max(place, 0)
    return places


def _block_before(track: Track, town: Town, step: int) -> int:
    """Place in the route of the roadblock before a junction that the track starts in."""
    for name in track.lanes[step:]:
        number = town.lane_numbers.get(str(name), -1)
        if number >= 0 and town.lanes[number].block in track.route:
            return max(track.route.index(town.lanes[number].block) - 1, 0)
    return 0


def standing_things(town: Town, seed: int) -> list[Standing]:
    """Parked cars and a few road works on a town's parking strips."""
    rng = np.random.default_rng([seed, 9])
    things: list[Standing] = []
    kinds = [kind for kind in SIZES if kind not in ("truck", "bus")]
    works = set(rng.permutation(len(town.parking_lines))[: max(1, len(town.parking_lines) // 4)].tolist())
    for strip, middle in enumerate(town.parking_lines):
        line = shifted(middle, -0.2)
        along = np.concatenate(([0.0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))))
        site = rng.uniform(0.3, 0.6) * along[-1] if strip in works else -100.0
        if strip in works:
            things += _road_works(line, along, site, f"w{strip}")
        position = 14.0
        fill = rng.uniform(0.3, 0.8)
        while position < along[-1] - 14.0:
            size = SIZES[str(rng.choice(kinds))][:3]
            if rng.random() < fill and abs(position - site - 8.0) > 14.0:
                pose = _pose_at(line, along, position)
                offset = rng.normal(0, 0.06)
                pose = (pose[0] - offset * np.sin(pose[2]), pose[1] + offset * np.cos(pose[2]), pose[2] + rng.normal(0, 0.02))
                things.append(Standing(name=f"k{strip}_{len(things)}", kind=0, box=(*pose, *size)))
            position += 6.6 + rng.exponential(0.7)
    return things


def _pose_at(line: np.ndarray, along: np.ndarray, position: float) -> tuple[float, float, float]:
    x, y = (float(np.interp(position, along, line[:, axis])) for axis in range(2))
    ahead, behind = (np.array([np.interp(position + shift, along, line[:, axis]) for axis in range(2)]) for shift in (1.0, -1.0))
    return x, y, float(np.arctan2(*(ahead - behind)[::-1]))


def _road_works(line: np.ndarray, along: np.ndarray, start: float, name: str) -> list[Standing]:
    """A sign, a row of cones along the traffic side, and barriers around a hole."""
    things = []
    rows = [("czone_sign", SIGN_SIZE, -4.0, -0.3)]
    rows += [("traffic_cone", CONE_SIZE, 2.5 * number, min(-0.5 + 0.4 * number, 0.6)) for number in range(7)]
    rows += [("barrier", BARRIER_SIZE, 5.0, -0.1), ("barrier", BARRIER_SIZE, 13.0, -0.1), ("generic_object", (1.2, 1.0, 0.9), 9.0, -0.4)]
    for number, (kind, size, shift, offset) in enumerate(rows):
        x, y, heading = _pose_at(line, along, start + shift)
        box = (x - offset * np.sin(heading), y + offset * np.cos(heading), heading, *size)
        things.append(Standing(name=f"{name}_{number}", kind=OBJECT_NAMES.index(kind), box=box))
    return things


def crowd(tracks: list[Track], things: list[Standing], frames: int) -> Crowd:
    """All boxes of a run by frame, standing things included."""
    steps, owners, boxes, speeds, braking = [], [], [], [], []
    for owner, track in enumerate(tracks):
        first = -(-track.first // FRAME_STEPS) * FRAME_STEPS
        rows = np.arange(first - track.first, len(track.x), FRAME_STEPS)
        rows = rows[(rows + track.first) // FRAME_STEPS < frames]
        length = 0.0 if track.size == PEDESTRIAN_SIZE else track.size[0]
        heading = track.heading[rows]
        size = np.broadcast_to(np.array(track.size), (len(rows), 3))
        x, y = track.x[rows] - 0.5 * length * np.cos(heading), track.y[rows] - 0.5 * length * np.sin(heading)
        steps.append((rows + track.first) // FRAME_STEPS)
        owners.append(np.full(len(rows), owner))
        boxes.append(np.column_stack((x, y, heading, size)))
        speeds.append(track.speed[rows])
        braking.append(track.braking[rows])
    for owner, thing in enumerate(things, len(tracks)):
        steps.append(np.arange(frames))
        owners.append(np.full(frames, owner))
        boxes.append(np.broadcast_to(np.array(thing.box), (frames, 6)))
        speeds.append(np.zeros(frames))
        braking.append(np.zeros(frames, bool))
    frame = np.concatenate(steps)
    order = np.argsort(frame, kind="stable")
    return Crowd(
        starts=np.searchsorted(frame[order], np.arange(frames + 1)),
        owners=np.concatenate(owners)[order],
        boxes=np.concatenate(boxes)[order],
        speeds=np.concatenate(speeds)[order],
        braking=np.concatenate(braking)[order],
        names=tuple(track.name for track in tracks) + tuple(thing.name for thing in things),
        kinds=np.array([track.kind for track in tracks] + [thing.kind for thing in things], int),
    )
