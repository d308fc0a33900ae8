"""Made-up reactive traffic: lanes that bend, cross and merge, up to 60 vehicles of all sizes, some too close, some at a lane's end."""

import numpy as np
import shapely

from irlvla.types import STEPS, ReactiveTraffic
from tests.score.slow_reactive import box


def lane(random, length):
    """A centre line (points, 3) through the neighbourhood of the origin: straight, an arc or an S, finely or coarsely drawn."""
    step = random.choice([0.5, 1.0, 2.0, 5.0])
    points = max(int(length / step), 4)
    along = np.linspace(0.0, 1.0, points)
    kind = random.integers(4)
    bend = np.zeros(points) if kind == 0 else random.normal(0.0, 1.0) * (along if kind == 1 else np.sin(2 * np.pi * along))
    heading = random.uniform(-np.pi, np.pi) + bend
    step = length / (points - 1)
    line = np.concatenate([[[0.0, 0.0]], np.cumsum(step * np.stack([np.cos(heading), np.sin(heading)], axis=1)[:-1], axis=0)])
    line += random.normal(0.0, 8.0, 2) - line[random.integers(points)]
    turns = np.diff(line, axis=0)
    headings = np.arctan2(turns[:, 1], turns[:, 0])
    return np.column_stack([line, np.r_[headings, headings[-1]]])


def path(line):
    way = np.r_[0.0, np.cumsum(np.hypot(*np.diff(line[:, :2], axis=0).T))]
    return np.column_stack([line[:, :2], np.unwrap(line[:, 2]), way])[:-1]


def dense_traffic(seed, drivers=60, parked=6, origin=(365_000.0, 4_010_000.0), length=(25.0, 150.0)):
    """Reactive traffic, and the states (41, 11) of an ego that drives through it."""
    random = np.random.default_rng(seed)
    lanes = [path(lane(random, random.uniform(*length)) + [*origin, 0.0]) for _ in range(max(drivers // 4, 1))]
    count = drivers + parked
    sizes = random.uniform([0.5, 0.5], [6.0, 2.6], (count, 2))
    sizes[random.random(count) < 0.7] = [4.6, 1.9]
    chosen, ways, poses, shapes = [], [], [], []
    while len(chosen) < drivers:
        # Ever smaller ones, until the last finds room.
        size, line = sizes[len(chosen)], lanes[random.integers(len(lanes))]
        way = random.uniform(0.0, line[-1, 3]) + 3.0 * (random.random() < 0.05)
        pose = np.array([np.interp(way, line[:, 3], line[:, k]) for k in range(3)])
        shape = box(*pose, *size)
        if shapely.intersects(shape, shapes).any():
            size *= 0.98
            continue
        chosen, ways, poses, shapes = [*chosen, line], [*ways, way], [*poses, pose], [*shapes, shape]
    ways, poses = np.array(ways), np.array(poses).reshape(-1, 3)
    boxes, valid = np.zeros((STEPS, count, 5)), np.zeros((STEPS, count), bool)
    valid[0] = True
    boxes[0, :drivers, :3] = poses + random.normal(0.0, 0.3, poses.shape)
    boxes[0, drivers:, :3] = np.r_[origin, 0.0] + random.normal(0.0, 1.0, (parked, 3)) * [20.0, 20.0, 2.0]
    boxes[0, :, 3:] = sizes
    limits = random.choice([5.0, 8.0, 13.9, 20.0], drivers)
    traffic = ReactiveTraffic(
        object_types=np.zeros(count, np.int64),
        object_first_speed=random.uniform(0.0, 10.0, count),
        object_boxes=boxes,
        object_valid=valid,
        driver_objects=np.arange(drivers),
        driver_poses=poses,
        driver_ways=ways,
        driver_speeds=np.where(random.random(drivers) < 0.3, 0.0, random.uniform(0.0, 1.2, drivers) * limits),
        driver_targets=limits,
        path_start=np.cumsum([0, *(len(line) for line in chosen)]),
        path_points=np.concatenate([np.zeros((0, 4)), *chosen]),
        parked_objects=np.arange(drivers, count),
        human_zero=np.zeros(8, bool),
    )
    line, states = lanes[0], np.zeros((STEPS, 11))
    speed = random.uniform(0.0, 12.0)
    for step in range(STEPS):
        way = min(0.3 * line[-1, 3] + 0.1 * step * speed, line[-1, 3])
        states[step, :3] = [np.interp(way, line[:, 3], line[:, k]) for k in range(3)]
    states[:, 1] += random.normal(0.0, 1.0)
    states[:, 3] = speed
    return traffic, states
