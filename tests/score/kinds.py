"""Made-up scenes of many kinds, each with plans: roads of every shape, neighbours of every type, stamps that jitter."""

from dataclasses import dataclass

import numpy as np

from irlvla.types import LAYER_NAMES, OBJECT_NAMES, STEPS, Polygons, PreparedScene
from tests.score.scenes import TIME_US, placed

TIME = 0.1 * np.arange(STEPS)
TYPES = len(OBJECT_NAMES)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A road in its own frame: the line that the ego should follow, and areas (layer, on the route, rings)."""

    line: np.ndarray
    areas: list
    reds: list
    speed: float


def band(line, left, right):
    """The ring between two parallels of a polyline at signed offsets."""
    along = np.gradient(line, axis=0)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) / np.hypot(*along.T)[:, None]
    return np.concatenate([line + left * across, (line + right * across)[::-1]])


def arc(radius, start, end, points=60):
    angle = np.linspace(start, end, points)
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def bent(length, turn, points=80):
    """A line from the origin along x whose heading grows to `turn` (rad) over its length."""
    heading = turn * np.linspace(0.0, 1.0, points) ** 1.5
    step = length / (points - 1)
    return np.concatenate([[[0.0, 0.0]], np.cumsum(step * np.stack([np.cos(heading), np.sin(heading)], axis=1)[:-1], axis=0)])


def backed(line, length=30.0):
    """A line with a straight piece in front of it."""
    along = (line[1] - line[0]) / np.hypot(*(line[1] - line[0]))
    return np.concatenate([line[0] + along * np.linspace(-length, -1.0, 15)[:, None], line])


def _road(line, lanes=1, width=3.5, oncoming=True):
    left = 0.5 * width
    areas = [("roadblock", False, [band(line, left, left - lanes * width)])]
    areas += [("lane", k == 0, [band(line, left - k * width, left - (k + 1) * width)]) for k in range(lanes)]
    if oncoming:
        areas += [("roadblock", False, [band(line, left + width, left - 0.01)]), ("lane", False, [band(line, left + width, left)])]
    return areas


def roundabout(random):
    radius = random.uniform(11.0, 25.0)
    ring = arc(radius, -np.pi / 2, 1.4 * np.pi) + [0.0, radius]
    inner, outer = arc(radius - 2.5, 0.0, 2 * np.pi, 90)[:-1], arc(radius + 2.5, 0.0, 2 * np.pi, 90)[:-1]
    middle = np.array([0.0, radius])
    areas = [("intersection", False, [outer + middle, inner + middle])] if random.random() < 0.5 else []
    areas += [("roadblock", False, [outer + middle, inner + middle]), ("lane_connector", True, [band(ring, 2.5, -2.5)])]
    entry = np.stack([np.linspace(-40.0, 0.0, 20), np.zeros(20)], axis=1)
    return Place(
        line=np.concatenate([entry[:-1], ring]), areas=areas + _road(entry, oncoming=False), reds=[], speed=random.uniform(2.0, 9.0)
    )


def merge(random):
    line = backed(bent(120.0, random.uniform(-0.3, 0.3)))
    end = random.uniform(20.0, 60.0)
    ramp = line[np.searchsorted(line[:, 0], -20.0) : np.searchsorted(line[:, 0], end)]
    taper = np.linspace(1.0, 0.0, len(ramp))[:, None]
    edge = band(ramp, -1.75, -5.25)
    narrow = np.concatenate([edge[: len(ramp)], edge[: len(ramp)][::-1] + (edge[len(ramp) :] - edge[: len(ramp)][::-1]) * taper[::-1]])
    areas = [*_road(line), ("roadblock", False, [edge]), ("lane", bool(random.integers(2)), [narrow])]
    return Place(line=line, areas=areas, reds=[], speed=random.uniform(8.0, 30.0))


def carpark(random):
    line = backed(bent(60.0, random.uniform(-1.5, 1.5)))
    low, high = line.min(axis=0) - 12.0, line.max(axis=0) + 12.0
    yard = np.array([low, [high[0], low[1]], high, [low[0], high[1]]])
    island = np.array([[8.0, 4.0], [14.0, 4.0], [14.0, 6.0], [8.0, 6.0]])
    kind = ("carpark", False, [yard, island]) if random.random() < 0.6 else ("carpark", False, [yard])
    areas = [kind] + ([("lane", True, [band(line, 1.75, -1.75)])] if random.random() < 0.5 else [])
    return Place(line=line, areas=areas, reds=[], speed=random.uniform(0.0, 5.0))


def crossing(random):
    line = backed(bent(70.0, random.uniform(-1.6, 1.6)))
    start = int(random.integers(20, 40))
    first, second = line[: start + 1], line[start:]
    side = random.uniform(12.0, 25.0)
    middle = line[start] + [0.4 * side, 0.0]
    square = middle + side * np.array([[-0.5, -0.6], [0.5, -0.6], [0.5, 0.6], [-0.5, 0.6]])
    areas = [*_road(first), ("lane_connector", True, [band(second, 1.75, -1.75)]), ("roadblock", False, [band(second[20:], 1.75, -1.75)])]
    areas.append(("intersection", False, [square]))
    if random.random() < 0.3:
        areas.append(("intersection", False, [square + [60.0, 0.0], square + [90.0, 5.0]]))
    switch = int(random.integers(0, STEPS + 1))
    lit = np.arange(STEPS) < switch if random.random() < 0.5 else np.arange(STEPS) >= switch
    reds = [([band(second, 1.75, -1.75)], lit)] if random.random() < 0.6 else []
    return Place(line=line, areas=areas, reds=reds, speed=random.uniform(0.0, 14.0))


def motorway(random):
    line = backed(bent(320.0, random.uniform(-0.4, 0.4)), 100.0)
    return Place(line=line, areas=_road(line, lanes=3, width=3.7), reds=[], speed=random.uniform(20.0, 55.0))


def off_route(random):
    """The ego starts beside its route, on the wrong side, between lanes or on the verge."""
    line = backed(bent(80.0, random.uniform(-0.8, 0.8)))
    aside = line + [0.0, random.choice([-9.0, -5.0, -3.5, -1.2, 1.2, 3.5, 6.0])]
    return Place(line=aside, areas=_road(aside, lanes=int(random.integers(1, 3))), reds=[], speed=random.uniform(0.0, 12.0))


PLACES = {
    "roundabout": roundabout, "merge": merge, "carpark": carpark, "crossing": crossing, "motorway": motorway, "off_route": off_route,
}  # fmt: skip


def neighbour(random, place, now):
    """A road user near the line: (type, speed at first sight, boxes (41, 5), valid (41,)); it may come late, go early or reverse."""
    kind = int(random.integers(TYPES))
    at = place.line[min(len(place.line) - 2, max(0, now + int(random.integers(-12, 45))))]
    ahead = place.line[min(len(place.line) - 1, now + 1)] - place.line[max(now - 1, 0)]
    heading = np.arctan2(ahead[1], ahead[0]) + random.choice([0.0, np.pi, np.pi / 2, random.uniform(-np.pi, np.pi)])
    speed = random.choice([0.0, 0.03, 0.05, 0.06, random.uniform(-4.0, 20.0), place.speed]) if kind < 3 else 0.0
    turn, change = random.choice([0.0, random.uniform(-0.5, 0.5)]), random.choice([0.0, random.uniform(-2.0, 2.0)])
    headings = heading + turn * TIME + random.choice([0.0, 2 * np.pi])
    travelled = np.concatenate([[0.0], np.cumsum(0.1 * (speed + change * TIME[:-1]))])
    boxes = np.zeros((STEPS, 5))
    boxes[:, 0] = at[0] + random.normal(0.0, 2.5) + np.cos(headings) * travelled
    boxes[:, 1] = at[1] + random.normal(0.0, 2.5) + np.sin(headings) * travelled
    boxes[:, 2] = headings
    boxes[:, 3:] = random.choice([[4.6, 1.9], [12.0, 2.6], [0.7, 0.7], [1.8, 0.6], [0.3, 0.3], [0.4, 6.0]])
    steps = np.arange(STEPS)
    first, last = sorted(random.integers(0, STEPS, 2))
    valid = (
        np.ones(STEPS, bool),
        steps >= first,
        steps <= last,
        (steps >= first) & (steps <= last),
    )[int(random.integers(4))]
    if random.random() < 0.15:
        boxes, valid = np.repeat(boxes[:1], STEPS, axis=0), np.ones(STEPS, bool)
    return kind, abs(speed) if random.random() < 0.9 else 0.0, boxes, valid


def polygons(shapes, origin):
    rings = [ring for shape in shapes for ring in shape]
    counts = [len(ring) for ring in rings]
    vertices = placed(np.concatenate(rings), origin) if rings else np.zeros((0, 2))
    return Polygons(vertices=vertices, ring_start=np.cumsum([0, *counts]), polygon_start=np.cumsum([0, *(len(shape) for shape in shapes)]))


def scene(random, kind, neighbours=None):
    """A prepared scene of a kind, and the ego's plans: poses (plans, 8 or 40, 3) and as many of the frame before."""
    place = PLACES[kind](random)
    origin = (random.uniform(3e5, 7e5), random.uniform(1e5, 5e6), random.uniform(-np.pi, np.pi))
    now = int(np.argmin(np.hypot(*place.line.T)))
    ahead = place.line[now + 1] - place.line[now]
    heading = np.arctan2(ahead[1], ahead[0]) + random.normal(0.0, 0.04)
    speed = random.choice([place.speed, 0.0, -random.uniform(0.0, 2.0)], p=[0.85, 0.1, 0.05])
    pose = np.array([*(place.line[now] + random.normal(0.0, 0.15, 2) if kind != "off_route" else (0.0, 0.0)), heading])
    yaw_rate, pull = random.normal(0.0, 0.1) * random.integers(2), random.normal(0.0, 1.0) * random.integers(2)
    gaps = 500_000 + random.integers(-60_000, 40_000, 3) * int(random.integers(2))
    stamps = TIME_US + int(random.integers(0, 10**13)) - np.array([gaps.sum(), gaps[1:].sum(), gaps[2], 0])
    past = np.zeros((4, 7))
    for row in range(4):
        ago = (stamps[row] - stamps[3]) * 1e-6
        past[row] = [*pose, speed + pull * ago, random.normal(0.0, 0.05), pull + random.normal(0.0, 0.2), random.normal(0.0, 0.3)]
        past[row, :2] += speed * ago * np.array([np.cos(heading), np.sin(heading)])
        past[row, 2] += yaw_rate * ago
    count = int(random.integers(0, 14)) if neighbours is None else neighbours
    objects = [neighbour(random, place, now) for _ in range(count)]
    boxes = np.array([one[2] for one in objects]).reshape(-1, STEPS, 5).transpose(1, 0, 2).copy()
    boxes[..., :3] = placed(boxes[..., :3], origin)
    line = placed(place.line, origin)
    line_heading = np.arctan2(*np.gradient(line, axis=0).T[::-1])
    follows = followed(place, now, max(speed, 3.0), pose)
    world = placed(past[:, :3], origin)
    past[:, :3] = np.column_stack([world[:, :2], np.arctan2(np.sin(world[:, 2]), np.cos(world[:, 2]))])
    plan = follows(1.0, 51)
    result = PreparedScene(
        token="made_up",
        log_name="made_up",
        map_name="made_up",
        time_us=int(stamps[3]),
        ego_state=past[3],
        past_time_us=stamps,
        past_states=past,
        previous_time_us=int(stamps[2]),
        previous_state=past[2],
        object_types=np.array([one[0] for one in objects], dtype=np.int64),
        object_first_speed=np.array([one[1] for one in objects], dtype=np.float64),
        object_boxes=boxes,
        object_valid=np.array([one[3] for one in objects], dtype=bool).reshape(-1, STEPS).T.copy(),
        red_polygons=polygons([rings for rings, _ in place.reds], origin),
        red_valid=np.array([lit for _, lit in place.reds], dtype=bool).reshape(-1, STEPS).T.copy(),
        map_polygons=polygons([rings for _, _, rings in place.areas], origin),
        map_layers=np.array([LAYER_NAMES.index(layer) for layer, _, _ in place.areas]),
        map_on_route=np.array([route for _, route, _ in place.areas]),
        centerline=np.column_stack([line, line_heading]),
        reference_poses=placed(plan, origin),
        human_poses=_in_ego(follows(random.uniform(0.7, 1.1), 41)[5:41:5], pose),
        reference_progress=0.0,
        reference_multiplier=0.0,
        human_zero=np.zeros(8, bool),
    )
    poses = plans(random, follows, pose)
    return result, poses, made_before(random, poses, past[3, :3], past[2, :3])


def _in_ego(poses, pose):
    cos, sin = np.cos(pose[2]), np.sin(pose[2])
    x, y = poses[:, 0] - pose[0], poses[:, 1] - pose[1]
    return np.column_stack([cos * x + sin * y, cos * y - sin * x, poses[:, 2] - pose[2]])


def followed(place, now, speed, pose):
    """A function (share of the speed, samples) -> poses along the line from the ego on, at 10 Hz."""
    legs = np.hypot(*np.diff(place.line, axis=0).T)
    at = np.concatenate([[0.0], np.cumsum(legs)])
    headings = np.unwrap(np.arctan2(*np.gradient(place.line, axis=0).T[::-1]))

    def poses(share, samples, aside=0.0):
        way = at[now] + share * speed * 0.1 * np.arange(samples)
        x, y, heading = (np.interp(way, at, column) for column in (*place.line.T, headings))
        blend = np.minimum(0.1 * np.arange(samples) / 1.5, 1.0) * aside
        x, y = x - np.sin(heading) * blend, y + np.cos(heading) * blend
        return np.column_stack([x, y, heading])

    return poses


def plans(random, follows, pose, count=8):
    """Plans of many manners in the ego frame, all at 2 Hz or all at 10 Hz."""
    samples = 8 if random.random() < 0.7 else 40
    time = 4.0 * np.arange(1, samples + 1) / samples
    stride = 40 // samples
    result = []
    for manner in range(count):
        share = random.choice([0.0, 0.4, 0.8, 1.0, 1.3, 2.0])
        poses = _in_ego(follows(share, 41, random.choice([0.0, 0.4, -0.6, 3.5, -3.5, 8.0]))[stride::stride], pose)
        if manner % 4 == 1:
            poses = poses + random.normal(0.0, [0.3, 0.3, 0.08], (samples, 3))
        elif manner % 4 == 2:
            fast, turn = random.uniform(-3.0, 25.0), random.choice([1e-3, random.uniform(-0.9, 0.9)])
            poses = np.column_stack([fast / turn * np.sin(turn * time), fast / turn * (1 - np.cos(turn * time)), turn * time])
        elif manner % 4 == 3:
            poses = poses[np.minimum(np.arange(samples), int(random.integers(0, samples)))]
        poses[:, 2] += 2 * np.pi * random.integers(-1, 2, samples)
        result.append(poses)
    return np.stack(result)


def made_before(random, poses, pose, before):
    """Plans that were made half a second earlier, at `before`, and mostly meant the same."""
    lag = poses.shape[1] // 8
    rows = [np.concatenate([np.linspace(before, pose, lag + 1)[1:], placed(plan, pose)[:-lag]]) for plan in poses]
    meant = np.stack([_in_ego(row, before) for row in rows])
    return meant + random.choice([0.0, 0.0, 0.02, 0.3], (len(poses), 1, 1)) * random.normal(0.0, 1.0, meant.shape)
