"""What the devkit's pickles hold of nuPlan's classes -> arrays: poses, states, tracked objects, traffic lights.

Nothing of nuPlan is imported: `irlvla.data.pickles` gives the attributes that its classes have.

Source: motional/nuplan-devkit at nuplan-devkit-v1.2, nuplan/common/actor_state and nuplan/common/maps/maps_datatypes.py.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from irlvla.data.frames import FARTHEST, FASTEST, LARGEST
from irlvla.data.pickles import arguments_of, state_of
from irlvla.files import short
from irlvla.types import OBJECT_NAMES, Objects

_STATE = "nuplan.common.actor_state"
_MAPS = "nuplan.common.maps.maps_datatypes"
_SIMULATION = "nuplan.planning.simulation"
CLASSES = (
    f"{_STATE}.agent.Agent", f"{_STATE}.static_object.StaticObject", f"{_STATE}.tracked_objects.TrackedObjects",
    f"{_STATE}.tracked_objects_types.TrackedObjectType", f"{_STATE}.oriented_box.OrientedBox", f"{_STATE}.oriented_box.Dimension",
    f"{_STATE}.scene_object.SceneObjectMetadata", f"{_STATE}.scene_object.SceneObject", f"{_STATE}.waypoint.Waypoint",
    f"{_STATE}.state_representation.StateSE2", f"{_STATE}.state_representation.StateVector2D", f"{_STATE}.state_representation.Point2D",
    f"{_STATE}.state_representation.TimePoint", f"{_STATE}.ego_state.EgoState", f"{_STATE}.car_footprint.CarFootprint",
    f"{_STATE}.dynamic_car_state.DynamicCarState", f"{_STATE}.vehicle_parameters.VehicleParameters",
    f"{_MAPS}.TrafficLightStatuses", f"{_MAPS}.TrafficLightStatusData", f"{_MAPS}.TrafficLightStatusType", f"{_MAPS}.SemanticMapLayer",
    f"{_SIMULATION}.observation.observation_type.DetectionsTracks", f"{_SIMULATION}.trajectory.trajectory_sampling.TrajectorySampling",
    f"{_SIMULATION}.trajectory.interpolated_trajectory.InterpolatedTrajectory",
    f"{_SIMULATION}.trajectory.predicted_trajectory.PredictedTrajectory",
    "shapely.io.from_wkb", "pathlib.PosixPath", "pathlib._local.PosixPath",
)  # fmt: skip
"""nuPlan's classes (and what stands for polygons and paths) in synthetic scenes and metric caches."""

AGENT_TYPES = len(OBJECT_NAMES[:3])
"""Types below this move by themselves; nuPlan's numbers are the places in OBJECT_NAMES."""
RED = 2
"""nuPlan's number of a red light."""


def number(values: dict[str, Any], key: str, largest: float, may_be_unknown: bool = False) -> float:
    """One number of an object's attributes.

    Args:
        values: The attributes.
        key: Their name there.
        largest: The largest absolute value that makes sense.
        may_be_unknown: Whether it may be NaN.

    Raises:
        ValueError: It is missing, no number, or too large.
    """
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise ValueError(f"{key} is {short(value)}, no number")
    if isinstance(value, int) and value.bit_length() > 64:
        raise ValueError(f"{key} is {short(value)}")
    found = float(value)
    if not (abs(found) <= largest or (may_be_unknown and found != found)):
        raise ValueError(f"{key} is {found}, more than {largest}")
    return found


def items(value: Any, name: str) -> list[Any]:
    """The items of a list.

    Raises:
        ValueError: It is no list; the message has its name.
    """
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name} is {short(value)}, no list")
    return list(value)


def pose(value: Any) -> tuple[float, float, float]:
    """x, y (m) and heading (rad) of a StateSE2."""
    values = state_of(value, "StateSE2")
    return number(values, "x", FARTHEST), number(values, "y", FARTHEST), number(values, "heading", FARTHEST)


def vector(value: Any) -> tuple[float, float]:
    """x and y of a StateVector2D, m/s or m/s2; NaN where unknown."""
    values = state_of(value, "StateVector2D")
    return number(values, "_x", FASTEST, may_be_unknown=True), number(values, "_y", FASTEST, may_be_unknown=True)


def time_us(value: Any) -> int:
    """Microseconds of a TimePoint."""
    return int(number(state_of(value, "TimePoint"), "time_us", 2.0**60))


def ego_state(value: Any) -> tuple[int, Float[np.ndarray, "7"]]:
    """Time (us) and x, y, heading, vx, vy, ax, ay at the rear axle of an EgoState; velocities in the ego frame."""
    values = state_of(value, "EgoState")
    footprint = state_of(values.get("_car_footprint"), "CarFootprint")
    x, y, heading = pose(footprint.get("_center"))
    dynamic = state_of(values.get("_dynamic_car_state"), "DynamicCarState")
    # nuPlan keeps the centre; how far the rear axle lies behind it is part of the state.
    behind = number(dynamic, "_rear_axle_to_center_dist", LARGEST)
    found = np.array(
        [
            x - behind * np.cos(heading),
            y - behind * np.sin(heading),
            heading,
            *vector(dynamic.get("_rear_axle_velocity_2d")),
            *vector(dynamic.get("_rear_axle_acceleration_2d")),
        ]
    )
    if not np.isfinite(found).all():
        raise ValueError("an ego state holds values that are not finite")
    return time_us(values.get("_time_point")), found


def ego_states(value: Any) -> list[tuple[int, Float[np.ndarray, "7"]]]:
    """The states of an InterpolatedTrajectory, see `ego_state`."""
    (states,) = arguments_of(value, "InterpolatedTrajectory", 1)
    return [ego_state(state) for state in items(states, "an InterpolatedTrajectory")]


def tracked_objects(value: Any) -> Objects:
    """The objects of a DetectionsTracks: boxes and velocities as they stand there, that is global; z is 0."""
    tracks = state_of(state_of(value, "DetectionsTracks").get("tracked_objects"), "TrackedObjects")
    tokens, types, boxes, velocities = [], [], [], []
    for track in items(tracks.get("tracked_objects"), "tracked_objects"):
        name = getattr(track, "name", "").rpartition(".")[2]
        values = state_of(track, name if name in ("Agent", "StaticObject") else "Agent or StaticObject")
        (kind,) = arguments_of(values.get("_tracked_object_type"), "TrackedObjectType", 1)
        if type(kind) is not int or not 0 <= kind < len(OBJECT_NAMES):
            raise ValueError(f"an object has the type {short(kind)}, not 0 to {len(OBJECT_NAMES) - 1}")
        token = state_of(values.get("_metadata"), "SceneObjectMetadata").get("track_token")
        if not isinstance(token, str) or len(token) > 256:
            raise ValueError(f"an object has the track token {short(token)}")
        box = state_of(values.get("_box"), "OrientedBox")
        x, y, heading = pose(box.get("_center"))
        length, width = number(box, "_length", LARGEST), number(box, "_width", LARGEST)
        if length < 0.0 or width < 0.0:
            raise ValueError(f"the object {short(token)} measures {length} m x {width} m")
        # The devkit asks no more of things that cannot move.
        velocity = vector(values.get("_velocity")) if kind < AGENT_TYPES else (0.0, 0.0)
        tokens.append(token)
        types.append(kind)
        boxes.append((x, y, 0.0, length, width, 0.0, heading))
        velocities.append((*velocity, 0.0))
    return Objects(
        track_tokens=tuple(tokens),
        types=np.array(types, dtype=np.int64),
        boxes=np.array(boxes, dtype=np.float64).reshape(-1, 7),
        velocities=np.array(velocities, dtype=np.float64).reshape(-1, 3),
    )


def traffic_lights(value: Any) -> tuple[tuple[str, bool], ...]:
    """Lane connectors of a TrafficLightStatuses, and whether they are red."""
    lights = []
    for light in items(state_of(value, "TrafficLightStatuses").get("traffic_lights"), "traffic_lights"):
        values = state_of(light, "TrafficLightStatusData")
        (status,) = arguments_of(values.get("status"), "TrafficLightStatusType", 1)
        connector = values.get("lane_connector_id")
        if isinstance(connector, bool) or not isinstance(connector, int | str | np.integer):
            raise ValueError(f"a traffic light stands at {short(connector)}, no lane connector")
        lights.append((str(connector)[:256], status == RED))
    return tuple(lights)
