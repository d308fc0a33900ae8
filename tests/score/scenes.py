"""Small scenes made by hand: a straight road along x, built in a local frame and put anywhere on the map."""

import numpy as np

from irlvla.types import LAYER_NAMES, OBJECT_NAMES, STEPS, Polygons, PreparedScene

TIME_US = 1_630_000_000_000_000
ORIGIN = (365_000.0, 4_010_000.0, 0.0)


def rectangle(low_x, low_y, high_x, high_y):
    return np.array([[low_x, low_y], [high_x, low_y], [high_x, high_y], [low_x, high_y]], dtype=np.float64)


ROAD = (
    ("roadblock", False, rectangle(-100, -5.25, 200, 1.75)),
    ("roadblock", False, rectangle(-100, 1.70, 200, 5.25)),
    ("lane", True, rectangle(-100, -1.75, 200, 1.75)),
    ("lane", False, rectangle(-100, -5.25, 200, -1.75)),
    ("lane", False, rectangle(-100, 1.75, 200, 5.25)),
)
"""Layer, on the route, shape: the ego's lane along y = 0, one more on each side; the left one belongs to another block."""


def placed(points, origin):
    """Local points (..., 2) or poses (..., 3) on the map."""
    x, y, heading = origin
    points = np.asarray(points, dtype=np.float64)
    cos, sin = np.cos(heading), np.sin(heading)
    result = points.copy()
    result[..., 0] = x + cos * points[..., 0] - sin * points[..., 1]
    result[..., 1] = y + sin * points[..., 0] + cos * points[..., 1]
    if points.shape[-1] == 3:
        result[..., 2] = points[..., 2] + heading
    return result


def polygons(shapes, origin=(0.0, 0.0, 0.0)):
    """Simple polygons of one ring each."""
    counts = [len(shape) for shape in shapes]
    vertices = placed(np.concatenate(shapes), origin) if shapes else np.zeros((0, 2))
    return Polygons(vertices=vertices, ring_start=np.cumsum([0, *counts]), polygon_start=np.arange(len(shapes) + 1))


def moving(kind, x, y, heading=0.0, speed=0.0, size=(4.6, 1.9), first=0, last=STEPS - 1, first_speed=None):
    """An object that drives straight: (type, speed at first sight, boxes (41, 5), valid (41,))."""
    time = 0.1 * np.arange(STEPS)
    boxes = np.empty((STEPS, 5))
    boxes[:, 0], boxes[:, 1] = x + np.cos(heading) * speed * time, y + np.sin(heading) * speed * time
    boxes[:, 2], boxes[:, 3], boxes[:, 4] = heading, *size
    valid = (np.arange(STEPS) >= first) & (np.arange(STEPS) <= last)
    return OBJECT_NAMES.index(kind), speed if first_speed is None else first_speed, boxes, valid


def prepared_by_hand(
    speed=10.0, acceleration=(0.0, 0.0), heading=0.0, objects=(), reds=(), road=ROAD, centerline=((-100.0, 0.0), (200.0, 0.0)),
    gaps_us=(500_000, 500_000, 500_000), yaw_rate=0.0, reference=0.0, human_zero=(), has_previous=True, origin=ORIGIN, order=None,
):  # fmt: skip
    """A prepared scene: the ego at the local origin, its past at constant speed and yaw rate.

    `reds` holds (shape, valid (41,)); `reference` is PDM-Closed's progress; `order` permutes the objects.
    """
    stamps = TIME_US - np.array([sum(gaps_us), sum(gaps_us[1:]), gaps_us[2], 0])
    past = np.zeros((4, 7))
    for row, stamp in enumerate(stamps):
        ago = (stamp - TIME_US) * 1e-6
        past[row] = [speed * ago, 0.0, heading + yaw_rate * ago, speed, 0.0, *acceleration]
    past[:, :3] = placed(past[:, :3], origin)
    kinds, speeds = [one[0] for one in objects], [one[1] for one in objects]
    boxes = np.array([one[2] for one in objects]).reshape(-1, STEPS, 5).transpose(1, 0, 2).copy()
    boxes[..., :3] = placed(boxes[..., :3], origin)
    valid = np.array([one[3] for one in objects], dtype=bool).reshape(-1, STEPS).T.copy()
    order = np.arange(len(objects)) if order is None else np.asarray(order)
    line = placed(np.asarray(centerline), origin)
    line_heading = np.arctan2(*np.diff(line, axis=0).T[::-1])
    straight = np.stack([0.1 * speed * np.arange(51), np.zeros(51), np.zeros(51)], axis=1)
    return PreparedScene(
        token="by_hand",
        log_name="by_hand",
        map_name="by_hand",
        time_us=TIME_US,
        ego_state=past[-1],
        past_time_us=stamps,
        past_states=past,
        previous_time_us=int(stamps[2]) if has_previous else -1,
        previous_state=past[2],
        object_types=np.array(kinds, dtype=np.int64)[order],
        object_first_speed=np.array(speeds, dtype=np.float64)[order],
        object_boxes=boxes[:, order],
        object_valid=valid[:, order],
        red_polygons=polygons([shape for shape, _ in reds], origin),
        red_valid=np.array([when for _, when in reds], dtype=bool).reshape(-1, STEPS).T.copy(),
        map_polygons=polygons([shape for _, _, shape in road], origin),
        map_layers=np.array([LAYER_NAMES.index(layer) for layer, _, _ in road], dtype=np.int64),
        map_on_route=np.array([route for _, route, _ in road], dtype=bool),
        centerline=np.column_stack([line, [*line_heading, line_heading[-1]]]),
        reference_poses=placed(straight, origin),
        human_poses=straight[5:41:5],
        reference_progress=float(reference),
        reference_multiplier=1.0,
        human_zero=np.array([name in human_zero for name in ("nc", "dac", "ddc", "tlc", "ep", "ttc", "lk", "hc")]),
    )


def straight_plan(speed=10.0, lateral=0.0, count=8, turn=0.0):
    """One plan (1, count, 3) at constant speed towards y = `lateral`, at constant yaw rate `turn`."""
    time = 4.0 * np.arange(1, count + 1) / count
    if turn:
        x, y = speed / turn * np.sin(turn * time), speed / turn * (1.0 - np.cos(turn * time))
    else:
        x, y = speed * time, lateral * np.minimum(time, 1.0)
    return np.stack([x, y, turn * time], axis=1)[None]


def driven(scene, speed=10.0, x=0.0, y=0.0, heading=0.0, sideways=0.0, until=STEPS - 1):
    """States (1, 41, 11) of an ego that drives straight from local (x, y) and stands still after step `until`."""
    states = np.zeros((1, STEPS, 11))
    time = 0.1 * np.minimum(np.arange(STEPS), until)
    local = np.stack([x + speed * time * np.cos(heading), y + (speed * np.sin(heading) + sideways) * time, np.full(STEPS, heading)], axis=1)
    origin = (*(scene.ego_state[:2]), scene.ego_state[2])
    states[0, :, :3] = placed(local, origin)
    states[0, : until + 1, 3] = speed
    return states
