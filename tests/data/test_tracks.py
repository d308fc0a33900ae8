import pickle

import numpy as np
import pytest

from irlvla.data import tracks
from irlvla.data.pickles import unpickled

from ..devkit import class_of

STATE, MAPS = "nuplan.common.actor_state", "nuplan.common.maps.maps_datatypes"


@pytest.fixture
def nuplan(monkeypatch):
    """Makes objects of nuPlan's classes: nuplan("agent.Agent", ..arguments, **attributes), as our reader sees them."""

    def make(place, *arguments, **attributes):
        module, name = place.rsplit(".", 1)
        made = class_of(monkeypatch, module if module.startswith("nuplan") else f"{STATE}.{module}", name)(*arguments)
        made.__dict__.update(attributes)
        return made

    return make


def read(value):
    return unpickled(pickle.dumps(value), tracks.CLASSES)


def agent(nuplan, kind=0, x=1.0, velocity=(3.0, 4.0), token="a", length=4.0, name="agent.Agent"):
    center = nuplan("state_representation.StateSE2", x=x, y=2.0, heading=0.5)
    return nuplan(
        name,
        _tracked_object_type=nuplan("tracked_objects_types.TrackedObjectType", kind),
        _metadata=nuplan("scene_object.SceneObjectMetadata", track_token=token),
        _box=nuplan("oriented_box.OrientedBox", _center=center, _length=length, _width=2.0),
        _velocity=nuplan("state_representation.StateVector2D", _x=velocity[0], _y=velocity[1]),
    )


def detections(nuplan, objects):
    inner = nuplan("tracked_objects.TrackedObjects", tracked_objects=objects)
    return nuplan("nuplan.planning.simulation.observation.observation_type.DetectionsTracks", tracked_objects=inner)


def test_objects_keep_their_place_and_only_those_that_move_have_a_velocity(nuplan):
    cone = agent(nuplan, kind=3, token="b", name="static_object.StaticObject")
    found = tracks.tracked_objects(read(detections(nuplan, [agent(nuplan), cone])))
    assert (found.track_tokens, found.types.tolist()) == (("a", "b"), [0, 3])
    np.testing.assert_array_equal(found.boxes[0], (1.0, 2.0, 0.0, 4.0, 2.0, 0.0, 0.5))
    np.testing.assert_array_equal(found.velocities, [(3.0, 4.0, 0.0), (0.0, 0.0, 0.0)])
    assert len(tracks.tracked_objects(read(detections(nuplan, []))).types) == 0


def test_an_unknown_velocity_stays_unknown(nuplan):
    found = tracks.tracked_objects(read(detections(nuplan, [agent(nuplan, velocity=(np.nan, np.float32(1.0)))])))
    assert np.isnan(found.velocities[0, 0]) and found.velocities[0, 1] == 1.0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kind": 7}, "an object has the type 7, not 0 to 6"),
        ({"x": np.inf}, "x is inf, more than"),
        ({"x": np.nan}, "x is nan, more than"),
        ({"x": "1"}, "x is '1', no number"),
        ({"x": True}, "x is True, no number"),
        ({"x": 10**40}, "x is an integer"),
        ({"length": -1.0}, "measures -1.0 m x 2.0 m"),
        ({"token": 3}, "an object has the track token 3"),
        ({"name": "oriented_box.OrientedBox"}, "OrientedBox stands where a Agent or StaticObject belongs"),
    ],
)
def test_objects_that_cannot_be_are_errors(nuplan, change, reason):
    with pytest.raises(ValueError, match=reason):
        tracks.tracked_objects(read(detections(nuplan, [agent(nuplan, **change)])))
    with pytest.raises(ValueError, match="tracked_objects is 3, no list"):
        tracks.tracked_objects(read(detections(nuplan, 3)))


def test_of_traffic_lights_only_red_is_red(nuplan):
    lights = [
        nuplan(f"{MAPS}.TrafficLightStatusData", status=nuplan(f"{MAPS}.TrafficLightStatusType", status), lane_connector_id=connector)
        for status, connector in ((0, 10), (1, 11), (2, 12), (3, "13"))
    ]
    found = tracks.traffic_lights(read(nuplan(f"{MAPS}.TrafficLightStatuses", traffic_lights=lights)))
    assert found == (("10", False), ("11", False), ("12", True), ("13", False))
    lights[0].lane_connector_id = None
    with pytest.raises(ValueError, match="a traffic light stands at None"):
        tracks.traffic_lights(read(nuplan(f"{MAPS}.TrafficLightStatuses", traffic_lights=lights)))


def ego(nuplan, heading=0.0, speed=5.0):
    vector = nuplan("state_representation.StateVector2D", _x=speed, _y=0.0)
    return nuplan(
        "ego_state.EgoState",
        _car_footprint=nuplan("car_footprint.CarFootprint", _center=nuplan("state_representation.StateSE2", x=1.461, y=0.0, heading=heading)),
        _dynamic_car_state=nuplan(
            "dynamic_car_state.DynamicCarState",
            _rear_axle_to_center_dist=1.461,
            _rear_axle_velocity_2d=vector,
            _rear_axle_acceleration_2d=vector,
        ),
        _time_point=nuplan("state_representation.TimePoint", time_us=7),
    )  # fmt: skip


def test_an_ego_state_lies_at_the_rear_axle(nuplan):
    path = nuplan("nuplan.planning.simulation.trajectory.interpolated_trajectory.InterpolatedTrajectory", [ego(nuplan)])
    [(time, state)] = tracks.ego_states(read(path))
    assert time == 7
    np.testing.assert_allclose(state, (0.0, 0.0, 0.0, 5.0, 0.0, 5.0, 0.0), atol=1e-12)
    with pytest.raises(ValueError, match="not finite"):
        tracks.ego_state(read(ego(nuplan, speed=np.nan)))
