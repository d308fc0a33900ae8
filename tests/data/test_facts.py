import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from irlvla.data.facts import FACT_NAMES, Facts, fact_words, facts, facts_of_row, facts_row
from irlvla.lanes import baseline
from irlvla.types import HISTORY

from .. import tiny
from .test_features import prepared

FREE = Facts(lead=0, lead_motion=0, light=0, pedestrian=0, turn=0, lateral=0, longitudinal=2)
STRAIGHT = [(-100.0, 0.0), (500.0, 0.0)]
CORNER = [(0.0, 0.0), (40.0, 0.0), (40.0, 300.0)]
VEHICLE, PEDESTRIAN, BICYCLE, CONE = range(4)


def said(*rows, way=STRAIGHT, command="straight", future=None, frame=HISTORY - 1, **others):
    """Words about an ego at (10, 0) that drives 5 m/s along x, with objects now (in its own frame), on a way."""
    scene = tiny.scene(future_objects=(tiny.objects(*rows),), **others)
    commands = np.zeros_like(scene.commands)
    commands[:, ("left", "straight", "right", "unknown").index(command)] = 1
    poses, velocities = scene.ego_poses.copy(), scene.ego_velocities.copy()
    if future is not None:
        poses[HISTORY:], velocities[HISTORY:, 0] = future
    scene = dataclasses.replace(scene, commands=commands, ego_poses=poses, ego_velocities=velocities)
    route = dataclasses.replace(prepared(), centerline=baseline(np.array(way)))
    return fact_words(facts(scene, route, frame))


def driven(end, heading=0.0, speed=5.0):
    """Poses and speeds of 4 s from (10, 0) to an end."""
    share = np.arange(1, 9) / 8
    return np.column_stack([10 + share * (end[0] - 10), share * end[1], share * heading]), np.full(8, float(speed))


def car(x, y=0.0, heading=0.0, speed=0.0, kind=VEHICLE):
    return ("a", kind, x, y, heading, speed)


def test_names_and_fields_are_the_same():
    assert list(FACT_NAMES) == [field.name for field in dataclasses.fields(Facts)]
    assert all(len(set(names)) == len(names) for names in FACT_NAMES.values())


def test_an_empty_straight_road_is_free():
    assert said() == fact_words(FREE)


@pytest.mark.parametrize(
    ("gap", "lead"), [(0.5, "near"), (9.0, "near"), (11.0, "mid"), (24.0, "mid"), (26.0, "far"), (49.0, "far"), (51.0, "none")]
)
def test_a_lead_vehicle_is_told_by_the_gap_before_the_bumper(gap, lead):
    """The front bumper is 1.461 + 2.588 = 4.049 m ahead of the rear axle, the rear of a car of 4 m 2 m behind its centre."""
    assert said(car(4.049 + gap + 2.0))["lead"] == lead


@pytest.mark.parametrize(("speed", "motion"), [(0.4, "stopped"), (3.0, "slower"), (4.5, "same"), (5.5, "same"), (7.0, "faster")])
def test_its_motion_is_compared_with_the_ego(speed, motion):
    assert said(car(30.0, speed=speed))["lead_motion"] == motion


@pytest.mark.parametrize(
    "other",
    [
        car(30.0, 2.5), car(30.0, -2.5), car(30.0, heading=np.pi, speed=5.0), car(30.0, heading=np.pi / 2, speed=5.0), car(1.0), car(-1.0, 2.0),
        car(30.0, kind=CONE), car(30.0, 100.0), car(-30.0),
    ],
)  # fmt: skip
def test_who_does_not_drive_ahead_on_the_way_leads_nobody(other):
    assert said(other) == fact_words(FREE)


def test_the_nearest_of_several_leads_and_bicycles_do_too():
    words = said(car(40.0, speed=9.0), car(25.0, kind=BICYCLE, speed=2.0))
    assert (words["lead"], words["lead_motion"]) == ("mid", "slower")


def test_a_lead_vehicle_is_found_around_the_corner():
    """The corner is 30 m ahead; 20 m beyond it makes a gap of 30 + 20 - 2 - 4.05 m."""
    words = said(car(30.0, 20.0, np.pi / 2, 5.0), way=CORNER)
    assert (words["lead"], words["lead_motion"], words["turn"]) == ("far", "same", "left")
    assert said(car(45.0, 0.0, 0.0, 5.0), way=CORNER)["lead"] == "none"


def lights(x):
    """Words of an ego before a junction whose connector 111 (from x = 50 on) is red, as seen from x."""
    return said(lanes=tiny.city(), start=(x, 0.0, 0.0), lights=((("111", True), ("112", False)),))["light"]


@pytest.mark.parametrize(
    ("gap", "light"), [(51.0, "none"), (40.0, "far"), (20.0, "mid"), (5.0, "near"), (0.2, "near"), (-1.0, "near"), (-3.0, "none")]
)
def test_a_red_light_is_told_by_the_gap_to_its_connector(gap, light):
    """Connector 111 starts at x = 50."""
    assert lights(50.0 - 4.049 - gap) == light


def test_a_red_light_of_another_turn_does_not_count():
    roads = {"1": ((0.0, 0.0), (50.0, 0.0)), "2": ((60.0, 0.0), (110.0, 0.0)), "4": ((60.0, 8.0), (60.0, 60.0))}
    city = tiny.city(roads=roads, links={"11": ("1", "2"), "14": ("1", "4")})
    for red, light in (("111", "mid"), ("114", "none"), ("999", "none"), ("102", "mid")):
        assert said(lanes=city, start=(30.0, 0.0, 0.0), lights=(((red, True),),))["light"] == (light if red != "102" else "far")


@pytest.mark.parametrize(
    ("person", "there"),
    [
        (car(30.0, 0.5, kind=PEDESTRIAN), "ahead"),
        (car(30.0, 4.0, -np.pi / 2, 1.2, kind=PEDESTRIAN), "ahead"),
        (car(30.0, 4.0, np.pi / 2, 1.2, kind=PEDESTRIAN), "none"),
        (car(30.0, 4.0, 0.0, 1.2, kind=PEDESTRIAN), "none"),
        (car(30.0, 8.0, -np.pi / 2, 1.2, kind=PEDESTRIAN), "none"),
        (car(60.0, 0.0, kind=PEDESTRIAN), "none"),
        (car(2.0, 0.0, kind=PEDESTRIAN), "none"),
    ],
)
def test_who_is_on_the_way_or_walks_onto_it_is_ahead(person, there):
    assert said(person)["pedestrian"] == there


def bent(degrees, at=30.0):
    angle = np.radians(degrees)
    return [(0.0, 0.0), (at, 0.0), (at + 200 * np.cos(angle), 200 * np.sin(angle))]


@pytest.mark.parametrize(
    ("way", "command", "turn"),
    [
        (bent(35), "straight", "left"), (bent(-35), "straight", "right"), (bent(25), "straight", "none"), (bent(25), "left", "left"),
        (bent(-25), "right", "right"), (bent(-25), "left", "none"), (bent(10), "left", "none"), (bent(90, at=60.0), "straight", "none"),
        (bent(90), "unknown", "left"),
    ],
)  # fmt: skip
def test_a_turn_is_told_by_the_way_ahead_and_the_command(way, command, turn):
    assert said(way=way, command=command)["turn"] == turn


@pytest.mark.parametrize(
    ("end", "heading", "lateral"),
    [
        ((30.0, 0.0), 0.0, "keep"), ((30.0, 3.5), 0.0, "lane_change_left"), ((30.0, -3.5), 0.1, "lane_change_right"),
        ((30.0, 1.0), 0.0, "keep"), ((25.0, 8.0), 1.2, "left"), ((25.0, -8.0), -1.2, "right"), ((30.0, 3.5), 0.5, "left"),
        ((30.0, 9.0), 0.0, "keep"),
    ],
)  # fmt: skip
def test_the_wheel_is_told_by_the_way_and_the_heading(end, heading, lateral):
    assert said(future=driven(end, heading))["lateral"] == lateral


def test_who_follows_a_bend_turns_and_changes_no_lane():
    assert said(way=bent(45), future=driven((40.0, 10.0), np.radians(45)))["lateral"] == "left"


@pytest.mark.parametrize(
    ("speed", "longitudinal"), [(0.0, "stop"), (0.4, "stop"), (3.0, "slow"), (4.0, "keep"), (6.0, "keep"), (7.0, "accelerate")]
)
def test_the_pedals_are_told_by_the_speed_after_four_seconds(speed, longitudinal):
    assert said(future=driven((30.0, 0.0), speed=speed))["longitudinal"] == longitudinal


def test_the_moment_before_has_its_own_facts():
    one = tiny.scene(future_objects=(tiny.objects(car(30.0)),))
    route = dataclasses.replace(prepared(), centerline=baseline(np.array(STRAIGHT)))
    assert facts(one, route).lead == 2 and facts(one, route, HISTORY - 2).lead == 0


def test_a_way_that_ends_at_the_ego_tells_nothing():
    assert said(car(30.0), way=[(0.0, 0.0), (10.0, 0.0)]) == fact_words(FREE)
    assert said(car(30.0), way=[(0.0, 0.0), (5.0, 0.0), (5.0, 0.0)])["lead"] == "none"


@settings(deadline=None, max_examples=50)
@given(some.floats(-4, 4), some.floats(-100, 100))
def test_facts_do_not_depend_on_where_in_the_world_they_are(turn, x):
    motion = (x, 30.0, turn)
    here = said(car(30.0, 0.3, 0.1, 3.0), car(33.0, 3.0, -1.5, 1.0, PEDESTRIAN), lanes=tiny.city(), lights=((("111", True),),))
    way, start = tiny.placed(np.array(STRAIGHT), motion), tiny.placed(np.array([(10.0, 0.0)]), motion)[0]
    there = said(
        car(30.0, 0.3, 0.1, 3.0), car(33.0, 3.0, -1.5, 1.0, PEDESTRIAN), way=way, lanes=tiny.city(motion=motion), start=(*start, turn),
        lights=((("111", True),),),
    )  # fmt: skip
    assert here == there and here["pedestrian"] == "ahead" and here["light"] == "far" and here["lead"] == "mid"


def test_facts_come_back_from_a_row():
    assert facts_of_row(facts_row(FREE)) == FREE and facts_of_row(facts_row(None)) is None
    with pytest.raises(ValueError, match="facts: light is -1"):
        facts_of_row(np.array([0, 0, -1, 0, 0, 0, 0], np.int8))


@pytest.mark.parametrize(("name", "value"), [("lead", 4), ("turn", -1), ("longitudinal", 4)])
def test_a_fact_that_has_no_name_is_refused(name, value):
    with pytest.raises(ValueError, match=f"facts: {name} is {value}, not 0 .. "):
        dataclasses.replace(FREE, **{name: value})


@pytest.mark.parametrize(("lead", "motion"), [(1, 0), (0, 2)])
def test_a_lead_vehicle_and_its_motion_go_together(lead, motion):
    with pytest.raises(ValueError, match="facts: lead is .*, but lead_motion"):
        dataclasses.replace(FREE, lead=lead, lead_motion=motion)


def test_a_scene_without_annotations_or_future_has_none():
    with pytest.raises(ValueError, match="scene .* has no annotations"):
        facts(dataclasses.replace(tiny.scene(), objects=None, traffic_lights=None, lane_map=None), prepared())
    with pytest.raises(ValueError, match="7 frames after frame 3, 8 are needed"):
        facts(tiny.scene(frames=11), prepared())
