"""Vehicles that react: speeds worked by hand, every quirk by its name, and all of it once more by the slow twin."""

import dataclasses

import numpy as np
import pytest

from irlvla.definitions import check_traffic
from irlvla.score.epdms import reactive_human_zeros, scene_amid, sub_scores
from irlvla.score.reactive import RADIUS, reactive_objects
from irlvla.types import STEPS, ReactiveTraffic
from tests.score import slow_reactive
from tests.score.dense import dense_traffic
from tests.score.scenes import ORIGIN, placed, prepared_by_hand, straight_plan

LENGTH, WIDTH = 5.0, 2.0
EGO_LENGTH = 5.176
ROAD = ((0.0, 0.0), (300.0, 0.0))


def driver(way, speed=0.0, road=ROAD, target=10.0, aside=0.0, size=(LENGTH, WIDTH), points=4):
    """A vehicle on a straight road: so far along it, its box logged `aside` m to the left."""
    ends = np.array(road)
    heading = np.arctan2(*(ends[1] - ends[0])[::-1])
    length = np.hypot(*(ends[1] - ends[0]))
    ways = np.linspace(0.0, length, points)
    path = np.column_stack([ends[0] + ways[:, None] / length * (ends[1] - ends[0]), np.full(points, heading), ways])
    pose = np.array([*(ends[0] + way / length * (ends[1] - ends[0])), heading])
    logged = pose + aside * np.array([-np.sin(heading), np.cos(heading), 0.0])
    return {"path": path, "pose": pose, "way": way, "speed": speed, "target": target, "box": [*logged, *size]}


def traffic_of(*drivers, parked=(), motion=(0.0, 0.0, 0.0)):
    """Reactive traffic of drivers and parked boxes."""
    count = len(drivers) + len(parked)
    boxes, valid = np.zeros((STEPS, count, 5)), np.zeros((STEPS, count), bool)
    boxes[0], valid[0] = np.array([*(one["box"] for one in drivers), *parked], dtype=np.float64).reshape(-1, 5), True
    boxes[0, :, :3] = placed(boxes[0, :, :3], motion)
    paths = [np.column_stack([placed(one["path"][:, :3], motion), one["path"][:, 3]]) for one in drivers]
    return ReactiveTraffic(
        object_types=np.zeros(count, np.int64),
        object_first_speed=np.zeros(count),
        object_boxes=boxes,
        object_valid=valid,
        driver_objects=np.arange(len(drivers)),
        driver_poses=placed(np.array([one["pose"] for one in drivers]).reshape(-1, 3), motion),
        driver_ways=np.array([one["way"] for one in drivers], dtype=np.float64),
        driver_speeds=np.array([one["speed"] for one in drivers], dtype=np.float64),
        driver_targets=np.array([one["target"] for one in drivers], dtype=np.float64),
        path_start=np.cumsum([0, *(len(path) for path in paths)]),
        path_points=np.concatenate([np.zeros((0, 4)), *paths]),
        parked_objects=np.arange(len(drivers), count),
        human_zero=np.zeros(8, bool),
    )


def ego(x=110.0, y=None, heading=0.0, speed=0.0, motion=(0.0, 0.0, 0.0)):
    """An ego that drives straight; without a place it stands beside the road, seen by nobody."""
    y = (50.0 if x == 110.0 else 0.0) if y is None else y
    states = np.zeros((STEPS, 11))
    time = 0.1 * np.arange(STEPS)
    states[:, :3] = placed(
        np.stack([x + time * speed * np.cos(heading), y + time * speed * np.sin(heading), np.full(STEPS, heading)], 1), motion
    )
    states[:, 3] = speed
    return states


def speeds(traffic, states, number=0):
    """Speed at each step but the last, from how far the vehicle comes in the next 0.1 s."""
    boxes, _ = reactive_objects(traffic, states)
    path = traffic.path_points[traffic.path_start[number]]
    ways = (boxes[1:, number, :2] - path[:2]) @ [np.cos(path[2]), np.sin(path[2])]
    return np.diff([traffic.driver_ways[number], *ways]) / 0.1


def changed(speed, room, lead=0.0, target=10.0):
    """The IDM's formula: 1 m and 1.5 s of room wished for, 1 m/s2 to speed up, 2 m/s2 to brake with comfort and at most."""
    wish = 1.0 + 1.5 * speed + speed * (speed - lead) / (2 * np.sqrt(2.0))
    return max(speed + 0.1 * np.clip(1.0 - (speed / target) ** 4 - (wish / max(room, 1.0)) ** 2, -2.0, 1.0), 0.0)


def test_on_a_free_road_the_end_of_the_lane_stands_like_a_vehicle():
    room = 300.0 - 100.0 - LENGTH / 2
    found = speeds(traffic_of(driver(100.0, speed=5.0)), ego())
    assert found[0] == pytest.approx(5.0) and found[1] == pytest.approx(changed(5.0, room))
    assert found[2] == pytest.approx(changed(changed(5.0, room), room - 0.5)), "places move with the speed of before"


def test_a_car_doing_10_35_m_before_its_lane_end_has_slowed_to_3_after_four_seconds():
    assert 2.5 < speeds(traffic_of(driver(265.0, speed=10.0)), ego(250.0, 60.0))[-1] < 3.5


def test_nobody_leaves_its_lane():
    boxes, valid = reactive_objects(traffic_of(driver(296.0, speed=15.0)), ego(250.0, 60.0))
    assert boxes[:, 0, 0].max() == 300.0 and valid.all()


def test_a_standing_car_on_a_lane_starts_to_drive():
    boxes, _ = reactive_objects(traffic_of(driver(50.0)), ego())
    assert boxes[-1, 0, 0] > 56.0


def test_cars_jump_onto_their_lane_after_the_logged_first_step():
    boxes, _ = reactive_objects(traffic_of(driver(50.0, speed=4.0, aside=1.0)), ego())
    np.testing.assert_allclose(boxes[:2, 0, :2], [[50.0, 1.0], [50.4, 0.0]])


def test_the_ego_counts_as_a_box_around_its_rear_axle():
    traffic = traffic_of(driver(50.0, speed=8.0))
    room = 75.0 - EGO_LENGTH / 2 - (50.0 + LENGTH / 2)
    assert speeds(traffic, ego(75.0, speed=6.0))[1] == pytest.approx(changed(8.0, room, 6.0))


def test_of_the_egos_speed_counts_what_goes_along_the_vehicles_heading():
    traffic = traffic_of(driver(50.0, speed=8.0))
    turned = ego(75.0, heading=1.0, speed=6.0)
    corners = np.array([[EGO_LENGTH, 2.297], [-EGO_LENGTH, 2.297], [EGO_LENGTH, -2.297], [-EGO_LENGTH, -2.297]]) / 2
    front = (75.0 + corners @ [np.cos(1.0), -np.sin(1.0)]).min()
    found = speeds(traffic, turned)[1]
    assert changed(8.0, front - 52.5, 6.0 * np.cos(1.0)) == pytest.approx(found, abs=2e-3)


def test_an_oncoming_car_counts_with_a_speed_below_zero():
    other = driver(220.0, speed=6.0, road=ROAD[::-1])
    found = speeds(traffic_of(driver(50.0, speed=6.0), other), ego())[1]
    assert found == pytest.approx(changed(6.0, 80.0 - 52.5 - LENGTH / 2, -6.0))


def test_cars_move_one_after_the_other_and_the_second_sees_where_the_first_is_by_then():
    follower, leader = driver(50.0, speed=8.0), driver(80.0, speed=4.0)
    room = 80.0 - 50.0 - LENGTH
    assert speeds(traffic_of(follower, leader), ego())[1] == pytest.approx(changed(8.0, room, 4.0))
    later = changed(4.0, 300.0 - 80.0 - LENGTH / 2)
    assert speeds(traffic_of(leader, follower), ego(), number=1)[1] == pytest.approx(changed(8.0, room + 0.4, later))


def test_behind_its_first_step_a_car_covers_the_next_second_and_a_half_of_its_path():
    crossing = driver(82.0, speed=10.0, road=((100.0, -100.0), (100.0, 200.0)))
    waiting = driver(90.0, speed=0.0)
    found = speeds(traffic_of(crossing, waiting), ego(), number=1)
    assert found[1] == pytest.approx(changed(0.0, 100.0 - 1.0 - 92.5, 0.0)), "the other is 18 m away, but its strip reaches across"
    alone = speeds(traffic_of(waiting), ego())
    assert found[2] < alone[2]


def test_a_car_brakes_for_one_behind_whose_strip_reaches_it():
    behind, ahead = driver(40.0, speed=12.0), driver(48.0, speed=3.0)
    assert speeds(traffic_of(behind, ahead), ego(), number=1)[1] == pytest.approx(3.0 - 0.2)
    assert speeds(traffic_of(ahead), ego())[1] > 3.0


def test_what_stands_beside_the_strip_is_passed_and_what_reaches_into_it_is_not():
    free = speeds(traffic_of(driver(50.0, speed=8.0)), ego())[1]
    beside = WIDTH / 2 + 2.297 / 2
    assert speeds(traffic_of(driver(50.0, speed=8.0)), ego(75.0, y=beside + 0.01))[1] == free
    assert speeds(traffic_of(driver(50.0, speed=8.0)), ego(75.0, y=beside - 0.01))[1] < free


def test_nobody_brakes_harder_than_2_or_drives_backwards():
    found = speeds(traffic_of(driver(50.0, speed=6.0)), ego(57.0))
    assert found.min() >= 0.0 and np.diff(found).min() == pytest.approx(-0.2)


def test_a_speed_above_the_target_falls():
    assert speeds(traffic_of(driver(70.0, speed=12.0, target=8.0)), ego())[1] == pytest.approx(12.0 - 0.2)


def test_cars_further_than_100_m_from_the_rear_axle_are_gone_for_good():
    near, far = driver(50.0), driver(50.0, road=((0.0, 60.0), (300.0, 60.0)))
    driving = ego(50.0 - RADIUS - 5.0, speed=10.0)
    _, valid = reactive_objects(traffic_of(near, far), driving)
    assert valid[0].all() and not valid[1:].any(), "the ego comes close later: they stay away"
    _, valid = reactive_objects(traffic_of(near, far), ego(50.0 - RADIUS + 1.0))
    assert valid[:, 0].sum() > 5 and not valid[1:, 1].any()


def test_parked_cars_stand_unless_a_driver_or_another_parked_one_touches_them():
    boxes, valid = reactive_objects(
        traffic_of(driver(50.0, speed=10.0), parked=[[70.0, 1.5, 0.1, 4.0, 2.0], [20.0, 9.0, 0.0, 4.0, 2.0], [22.0, 9.0, 0.0, 4.0, 2.0]]),
        ego(),
    )
    assert valid[0].all() and valid[:, 2].all() and not valid[1:, 3].any()
    assert 5 < (~valid[:, 1]).sum() < 20 and valid[-1, 1], "it is away while the driver passes"
    assert (boxes[valid[:, 1], 1] == boxes[0, 1]).all()


def test_nobody_stops_for_parked_cars():
    parked = [[70.0, 0.0, 0.0, 4.0, 2.0]]
    assert speeds(traffic_of(driver(50.0, speed=8.0), parked=parked), ego())[-1] > 8.0


def test_a_car_off_the_end_of_its_path_stays_there():
    # The last point of a centre line is not driven to: a car beyond stands on the last but one.
    beyond = driver(300.0, speed=2.0) | {"way": 303.0, "pose": np.array([303.0, 0.0, 0.0])}
    boxes, valid = reactive_objects(traffic_of(beyond), ego(250.0, 60.0))
    assert (boxes[1:, 0, 0] == 300.0).all() and valid.all()


def test_the_egos_last_state_is_seen_by_nobody():
    traffic, states = traffic_of(driver(50.0, speed=8.0)), ego(75.0)
    changed_states = states.copy()
    changed_states[-1, 0] = 52.0
    np.testing.assert_array_equal(reactive_objects(traffic, states)[0], reactive_objects(traffic, changed_states)[0])


def test_there_may_be_nobody():
    boxes, valid = reactive_objects(traffic_of(), ego())
    assert boxes.shape == (STEPS, 0, 5) and valid.shape == (STEPS, 0)


def test_a_path_of_one_point_or_a_speed_that_is_none_is_refused():
    traffic = traffic_of(driver(50.0))
    with pytest.raises(ValueError, match="a path has fewer than 2 points"):
        dataclasses.replace(traffic, path_start=np.array([0, 1]))
    with pytest.raises(ValueError, match="driver_speeds holds values that are not finite"):
        dataclasses.replace(traffic, driver_speeds=np.array([np.nan]))


@pytest.mark.parametrize("seed, drivers", [(0, 6), (5, 12), (6, 12), (8, 20), (16, 25), (20, 40)])
def test_the_fast_simulation_equals_its_slow_twin(seed, drivers):
    traffic, states = dense_traffic(seed, drivers=drivers)
    boxes, valid = reactive_objects(traffic, states)
    slow_boxes, slow_valid, _ = slow_reactive.reactive_objects(traffic, states)
    np.testing.assert_array_equal(valid, slow_valid)
    off = np.abs(boxes - slow_boxes)[valid]
    # Of two that are equally far away, to the last digit, the twin may follow the other.
    assert off.max() < 0.05 and (off > 1e-6).any(axis=1).mean() < 0.01


@pytest.mark.parametrize("seed", range(3))
def test_turning_and_shifting_the_world_changes_nothing(seed):
    random = np.random.default_rng(seed)
    roads = [tuple(map(tuple, random.uniform(-60.0, 60.0, (2, 2)))) for _ in range(6)]
    drivers = [driver(random.uniform(0.0, 15.0), random.uniform(0.0, 9.0), road) for road in roads]
    motion = (365_000.0, 4_010_000.0, random.uniform(-3.0, 3.0))
    expected, there = reactive_objects(traffic_of(*drivers), ego(-20.0, speed=8.0))
    boxes, valid = reactive_objects(traffic_of(*drivers, motion=motion), ego(-20.0, speed=8.0, motion=motion))
    np.testing.assert_array_equal(valid, there)
    np.testing.assert_allclose(boxes[..., :2], placed(expected, motion)[..., :2], atol=1e-5)


def scene_with(traffic, **about):
    return dataclasses.replace(prepared_by_hand(origin=(0.0, 0.0, 0.0), **about), reactive=traffic)


def test_each_plan_meets_the_traffic_that_reacts_to_it_whatever_the_other_plans():
    scene = scene_with(traffic_of(driver(120.0, speed=6.0, road=((-100.0, 0.0), (300.0, 0.0)))), reference=40.0)
    plans = np.concatenate([straight_plan(speed) for speed in (2.0, 6.0, 10.0, 14.0)])
    together = sub_scores(scene, plans, traffic="idm")
    for place in range(len(plans)):
        alone = sub_scores(scene, plans[place : place + 1], traffic="idm")
        assert all(getattr(alone, name)[0] == getattr(together, name)[place] for name in ("nc", "ttc", "ep", "hc"))
    assert together.nc.tolist() == [1.0, 1.0, 1.0, 0.0] or together.nc[0] == 1.0 > together.nc[-1]


def test_the_reference_meets_the_traffic_that_reacts_to_the_plan():
    # PDM-Closed's plan drives on at 10 m/s into a standing lane end's queue only if the traffic lets it.
    blocked = traffic_of(driver(130.0, road=((-100.0, 0.0), (134.0, 0.0))))
    scene = scene_with(blocked, reference=40.0)
    scene = dataclasses.replace(scene, reference_poses=np.stack([np.arange(51.0), np.zeros(51), np.zeros(51)], axis=1))
    slow = sub_scores(scene, straight_plan(5.0), traffic="idm")
    assert slow.ep[0] == 1.0, "the reference hits the standing car: its progress does not count"
    free = dataclasses.replace(scene, reactive=traffic_of())
    assert sub_scores(free, straight_plan(5.0), traffic="idm").ep[0] < 0.7


def test_a_car_on_the_ego_at_the_start_is_not_taken_away():
    logged = traffic_of(parked=[[6.0, 0.0, 0.0, 4.0, 2.0]])
    assert sub_scores(scene_with(logged), straight_plan(), traffic="idm").nc[0] == 0.0


def test_the_human_filter_looks_at_the_human_amid_reactive_traffic():
    traffic = traffic_of(driver(115.0, speed=0.0, road=((-100.0, 0.0), (118.0, 0.0))))
    scene = scene_with(traffic)
    zero = reactive_human_zeros(scene)
    assert zero[0] and not zero[1:4].any() and not scene.human_zero.any()
    scene = dataclasses.replace(scene, reactive=dataclasses.replace(traffic, human_zero=zero))
    assert sub_scores(scene, straight_plan(), traffic="idm").nc[0] == 1.0
    assert sub_scores(scene, straight_plan(), traffic="idm", human_filter=False).nc[0] == 0.0
    met = scene_amid(scene, ego(0.0, speed=10.0))
    assert met.object_boxes.shape == (STEPS, 1, 5) and met.object_valid.all()


def test_standing_is_judged_by_the_logged_speed_at_t0():
    traffic = traffic_of(driver(115.0, speed=0.0, road=((-100.0, 0.0), (118.0, 0.0))))
    assert traffic.object_first_speed[0] == 0.0
    assert (scene_amid(scene_with(traffic), ego(0.0)).object_first_speed == traffic.object_first_speed).all()


def test_traffic_without_a_name_and_scenes_without_reactive_traffic_are_refused():
    with pytest.raises(ValueError, match="unknown traffic 'sumo'; known: log_replay, idm"):
        check_traffic("sumo")
    with pytest.raises(ValueError, match="scene by_hand has no reactive traffic: it was prepared without"):
        sub_scores(prepared_by_hand(origin=ORIGIN), straight_plan(), traffic="idm")
