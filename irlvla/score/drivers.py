"""Scene -> the traffic that reacts to the ego: which vehicles drive along which lane, which stay, what is replayed.

Source: autonomousvision/navsim at 0a380a9, navsim/traffic_agents_policies/{abstract_traffic_agents_policy,
navsim_IDM_traffic_agents}.py, navsim/planning/simulation/observation/{navsim_idm_agents,navsim_idm/navsim_idm_agents_builder}.py,
and nuplan-devkit at nuplan-devkit-v1.2, nuplan/planning/simulation/observation/idm/{idm_agents_builder,utils}.py.
"""

from dataclasses import dataclass, replace

import numpy as np
import shapely
from jaxtyping import Float

from irlvla.geometry import boxes_touch, fill_box
from irlvla.lanes import Lane, LaneMap, near
from irlvla.score.epdms import reactive_human_zeros
from irlvla.score.prepared import NOW, Traffic, is_synthetic, objects
from irlvla.types import LAYER_NAMES, OBJECT_NAMES, PreparedScene, ReactiveTraffic, Scene
from irlvla.vehicle import LENGTH, REAR_AXLE_TO_CENTER, WIDTH

TARGET_SPEED = 10.0
"""What the first vehicles without a speed limit would like to drive, m/s."""
SNAP_DISTANCE = 3.0
"""A vehicle further from its lane's centre line stays where it is, m."""
PARKED_SPEED = 0.1
"""A slower vehicle off all lanes stays where it is, m/s."""
HEADING_DISTANCE = 0.5
"""Over which the heading of a centre line is taken, m."""
REPEATED = 1e-8
"""Points of a centre line that are no further apart count as one, m."""

_VEHICLE = OBJECT_NAMES.index("vehicle")
_LANE, _CONNECTOR, _INTERSECTION = (LAYER_NAMES.index(name) for name in ("lane", "lane_connector", "intersection"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _OnLane:
    """Where a vehicle is on its lane: the pose on the centre line, how far along it that is, how far away."""

    lane: Lane
    pose: Float[np.ndarray, "3"]
    way: float
    distance: float


def with_reactive_traffic(scene: Scene, prepared: PreparedScene) -> PreparedScene:
    """The prepared scene with the traffic that `irlvla.score(..., traffic="idm")` needs.

    Args:
        scene: The scene.
        prepared: What `irlvla.score.prepared.prepared` made of it.

    Returns:
        The same scene with `reactive` set: the traffic, or the reason why there is none.
    """
    return with_drivers(prepared, objects(scene), scene.lane_map)


def with_drivers(prepared: PreparedScene, traffic: Traffic, lane_map: LaneMap) -> PreparedScene:
    """The same from a scene's traffic, as `irlvla.score.prepared.objects` gives it, and the city's map."""
    try:
        found = _reactive_traffic(traffic, lane_map, prepared.ego_state[:3])
    except (ValueError, shapely.errors.GEOSException) as error:
        return replace(prepared, reactive=str(error))
    prepared = replace(prepared, reactive=found)
    if is_synthetic(prepared.token):
        return prepared
    return replace(prepared, reactive=replace(found, human_zero=reactive_human_zeros(prepared)))


def reactive_traffic(scene: Scene) -> ReactiveTraffic:
    """The scene's traffic, ready to be simulated; `human_zero` is left False.

    Vehicles annotated at t0 are taken in their order. One in a lane, or in a connector inside an intersection, is put onto the
    centre line of that which fits its heading best, unless that is more than 3 m away or its box there touches the ego or a
    vehicle before it; then it drives. Of the others those stay that stand off all lanes and intersections, and those more than
    3 m from their centre line whether they stand or not; the rest are there at t0 only. What is no vehicle is replayed.

    Raises:
        ValueError: A vehicle on a lane has no velocity, or its lane no centre line.
    """
    return _reactive_traffic(objects(scene), scene.lane_map, scene.ego_poses[NOW])


def _reactive_traffic(traffic: Traffic, lane_map: LaneMap, ego: Float[np.ndarray, "3"]) -> ReactiveTraffic:
    vehicles = np.flatnonzero(traffic.types_now == _VEHICLE)
    outlines = [_corners(*ego[:2] + REAR_AXLE_TO_CENTER * np.array([np.cos(ego[2]), np.sin(ego[2])]), ego[2], LENGTH, WIDTH)]
    drivers: dict[int, tuple[_OnLane, float, float]] = {}
    parked, target = list[int](), TARGET_SPEED
    for row in vehicles:
        owner, box, speed = int(traffic.now[row]), traffic.boxes_now[row], float(np.hypot(*traffic.velocities_now[row]))
        lanes, is_on_road = _lanes_at(lane_map, box[0], box[1])
        place = _on_lane(lane_map, lanes, box) if lanes else None
        if owner not in drivers and place is not None and place.distance <= SNAP_DISTANCE:
            outline = _corners(*place.pose, box[3], box[4])
            if not any(boxes_touch(outline, other) for other in outlines):
                if np.isnan(speed):
                    raise ValueError(f"a vehicle on lane {place.lane.id} has no velocity: it cannot drive")
                outlines.append(outline)
                target = place.lane.speed_limit or target
                drivers[owner] = place, speed, target
        elif (speed < PARKED_SPEED and not is_on_road) or (place is not None and place.distance > SNAP_DISTANCE):
            parked.append(owner)
    paths = [_path(place.lane) for place, _, _ in drivers.values()]
    kept, types, speeds, boxes, valid = _replayed(traffic)
    places = np.zeros(len(traffic.types), np.int64)
    places[kept] = np.arange(len(kept))
    return ReactiveTraffic(
        object_types=types,
        object_first_speed=speeds,
        object_boxes=boxes,
        object_valid=valid,
        driver_objects=places[list(drivers)].astype(np.int64),
        driver_poses=np.array([place.pose for place, _, _ in drivers.values()]).reshape(-1, 3),
        driver_ways=np.array([place.way for place, _, _ in drivers.values()], dtype=np.float64),
        driver_speeds=np.array([speed for _, speed, _ in drivers.values()], dtype=np.float64),
        driver_targets=np.array([target for _, _, target in drivers.values()], dtype=np.float64),
        path_start=np.cumsum([0, *(len(path) for path in paths)]).astype(np.int64),
        path_points=np.concatenate([np.zeros((0, 4)), *paths]),
        parked_objects=places[[owner for owner in dict.fromkeys(parked) if owner not in drivers]].astype(np.int64),
        human_zero=np.zeros(8, bool),
    )


def _corners(x: float, y: float, heading: float, length: float, width: float) -> Float[np.ndarray, "4 2"]:
    box = np.empty((4, 2))
    fill_box(x, y, heading, length, width, box)
    return box


def _lanes_at(lane_map: LaneMap, x: float, y: float) -> tuple[list[Lane], bool]:
    """The lanes that hold a point, or without any the connectors if an intersection holds it; and whether one of these layers does."""
    areas = lane_map.areas
    places = near(areas.bounds, x, y, 0.0)
    places = places[shapely.contains_xy([areas.geometries[place] for place in places], x, y).astype(bool).reshape(-1)]
    layers = areas.layers[places]
    for layer in (_LANE, _INTERSECTION):
        if (layers == layer).any():
            found = places[layers == (_CONNECTOR if layer == _INTERSECTION else layer)]
            return [lane_map.lanes[areas.ids[place]] for place in found], True
    return [], False


def _on_lane(lane_map: LaneMap, lanes: list[Lane], box: Float[np.ndarray, "5"]) -> _OnLane:
    """Where a vehicle is on that of the lanes whose heading is nearest to its own; turns are not wrapped."""
    found: list[_OnLane] = []
    for lane in lanes:
        if not len(lane.baseline):
            raise ValueError(f"lane {lane.id} of map {lane_map.name} has no baseline, or several, or one of no length")
        line = shapely.linestrings(lane.baseline[:, :2])
        way = shapely.line_locate_point(line, shapely.Point(box[:2]))
        here, ahead, behind = (
            shapely.get_coordinates(shapely.line_interpolate_point(line, max(way + shift, 0.0)))[0]
            for shift in (0.0, HEADING_DISTANCE, -HEADING_DISTANCE)
        )
        dx, dy = here - behind if (here == ahead).all() else ahead - here
        pose = np.array([*here, np.arctan2(dy, dx)])
        found.append(_OnLane(lane=lane, pose=pose, way=float(way), distance=float(np.hypot(*(here - box[:2])))))
    return found[int(np.argmin([abs(place.pose[2] - box[2]) for place in found]))]


def _path(lane: Lane) -> Float[np.ndarray, "points 4"]:
    """The centre line as it is driven: without its last point, and without those before another at the same place.

    Differs: a centre line of only two points is driven to its end; the devkit stops with an error there.
    """
    line = lane.baseline
    steps = np.hypot(*np.diff(line[:, :2], axis=0).T)
    way = np.r_[0.0, np.cumsum(steps)]
    kept = np.flatnonzero(steps > REPEATED)
    if len(kept) < 2:
        kept = np.r_[kept, len(line) - 1]
    return np.column_stack([line[kept, :2], np.unwrap(line[kept, 2]), way[kept]])


def _replayed(traffic: Traffic) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Which objects take part (those seen at t0, and all that are no vehicles), their types, first speeds, boxes and presence.

    At t0 every object is there as it is annotated, and no other; later on only what is no vehicle.
    """
    moves = traffic.types == _VEHICLE
    boxes, valid, speeds, types = traffic.boxes.copy(), traffic.valid & ~moves, traffic.first_speed.copy(), traffic.types.copy()
    valid[0] = False
    # Of two of one token in a frame the first gives the speed, the last the place.
    boxes[0, traffic.now], valid[0, traffic.now] = traffic.boxes_now, True
    first = traffic.now[::-1], np.hypot(*traffic.velocities_now[::-1].T)
    speeds[first[0]] = np.where(np.isnan(first[1]), np.inf, first[1])
    kept = np.flatnonzero(valid.any(axis=0))
    return kept, types[kept], speeds[kept], np.ascontiguousarray(boxes[:, kept]), np.ascontiguousarray(valid[:, kept])
