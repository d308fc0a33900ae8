"""Synthetic scenes as NAVSIM's devkit keeps them: plain values and, for what comes after the frames, objects of nuPlan's classes.

nuPlan is not needed: objects here stand in for those of its classes, with the same attributes, and go by their names in the file.

Source: autonomousvision/navsim at 0a380a9, navsim/common/dataclasses.py (612-731); motional/nuplan-devkit at nuplan-devkit-v1.2,
nuplan/common/actor_state and nuplan/common/maps/maps_datatypes.py.
"""

import copyreg
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from irlvla.types import OBJECT_NAMES

AGENT_TYPES = 3
"""The first so many of OBJECT_NAMES move by themselves."""
GREEN, RED = 0, 2
"""nuPlan's numbers of a light's states."""

_STATE = "nuplan.common.actor_state"
_MODULES = {
    "Agent": f"{_STATE}.agent",
    "StaticObject": f"{_STATE}.static_object",
    "TrackedObjects": f"{_STATE}.tracked_objects",
    "TrackedObjectType": f"{_STATE}.tracked_objects_types",
    "OrientedBox": f"{_STATE}.oriented_box",
    "SceneObjectMetadata": f"{_STATE}.scene_object",
    "StateSE2": f"{_STATE}.state_representation",
    "StateVector2D": f"{_STATE}.state_representation",
    "TimePoint": f"{_STATE}.state_representation",
    "TrafficLightStatuses": "nuplan.common.maps.maps_datatypes",
    "TrafficLightStatusData": "nuplan.common.maps.maps_datatypes",
    "TrafficLightStatusType": "nuplan.common.maps.maps_datatypes",
    "DetectionsTracks": "nuplan.planning.simulation.observation.observation_type",
}
"""Where nuPlan's classes are."""
_SLOTTED = ("StateSE2", "StateVector2D", "TimePoint")
"""Those that have slots for their attributes, which pickles tell apart."""


class _StandIn:
    """An object of one of nuPlan's classes: an enum's value (`arguments`), or an object by its attributes."""

    __slots__ = ("arguments", "attributes")

    def __init__(self, *arguments: Any, **attributes: Any) -> None:
        self.arguments, self.attributes = arguments, attributes

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        if self.arguments:
            return type(self), self.arguments
        is_slotted = type(self).__name__ in _SLOTTED
        return copyreg.__newobj__, (type(self),), (None, self.attributes) if is_slotted else self.attributes


_CLASSES = {name: type(name, (_StandIn,), {"__slots__": (), "__module__": __name__}) for name in _MODULES}
# Pickle wants to find a class by its name in its module.
globals().update(_CLASSES)


def detections(
    time_us: int,
    names: Sequence[str],
    boxes: Float[np.ndarray, "objects 7"],
    velocities: Float[np.ndarray, "objects 2"],
    track_tokens: Sequence[str],
    instance_tokens: Sequence[str],
) -> Any:
    """A moment's road users as nuPlan's DetectionsTracks.

    Args:
        time_us: when.
        names: of OBJECT_NAMES.
        boxes: x, y, z, length, width, height, heading, global.
        velocities: x and y, global, m/s.
        track_tokens: one a road user, the same over its life.
        instance_tokens: one a road user and moment.
    """
    rows = zip(names, boxes.tolist(), velocities.tolist(), track_tokens, instance_tokens, strict=True)
    tracks = [_tracked(time_us, str(name), box, velocity, str(track), str(instance)) for name, box, velocity, track, instance in rows]
    return _made("DetectionsTracks", tracked_objects=_made("TrackedObjects", tracked_objects=tracks))


def traffic_lights(time_us: int, lights: Sequence[tuple[int, bool]]) -> Any:
    """A moment's lights, lane connectors and whether they are red, as nuPlan's TrafficLightStatuses."""
    found = [
        _made(
            "TrafficLightStatusData",
            status=_CLASSES["TrafficLightStatusType"](RED if is_red else GREEN),
            lane_connector_id=int(connector),
            timestamp=_made("TimePoint", time_us=time_us),
        )
        for connector, is_red in lights
    ]
    return _made("TrafficLightStatuses", traffic_lights=found)


def write_scene(path: Path, values: dict[str, Any]) -> None:
    """Writes a synthetic scene's pickle such that the devkit, and NumPy 1 and 2 alike, find its classes."""
    content = pickle.dumps(values, protocol=3)
    for name, module in _MODULES.items():
        content = content.replace(f"c{__name__}\n{name}\n".encode(), f"c{module}\n{name}\n".encode())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.replace(b"cnumpy._core.", b"cnumpy.core."))


def _made(kind: str, **attributes: Any) -> Any:
    return _CLASSES[kind](**attributes)


def _tracked(time_us: int, name: str, box: list[float], velocity: list[float], track_token: str, instance_token: str) -> Any:
    x, y, _, length, width, height, heading = box
    kind = OBJECT_NAMES.index(name)
    common = {
        "_metadata": _made(
            "SceneObjectMetadata", timestamp_us=time_us, token=instance_token, track_id=None, track_token=track_token, category_name=None
        ),
        "instance_token": None,
        "_tracked_object_type": _CLASSES["TrackedObjectType"](kind),
        "_box": _made(
            "OrientedBox", _center=_made("StateSE2", heading=heading, x=x, y=y), _length=length, _width=width, _height=height
        ),
    }  # fmt: skip
    if kind >= AGENT_TYPES:
        return _made("StaticObject", **common, predictions=None, past_trajectory=None, velocity=_vector(0.0, 0.0))
    begin = {"_initial_time_stamp": _made("TimePoint", time_us=time_us), "_predictions": [], "_past_trajectory": None}
    return _made("Agent", **begin, **common, _velocity=_vector(*velocity), _angular_velocity=None)


def _vector(x: float, y: float) -> Any:
    return _made("StateVector2D", _x=x, _y=y, _array=np.array([x, y]))
