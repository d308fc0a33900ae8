"""Which vehicles of a scene drive, which stay, and which are seen once only: the devkit's rules, each by its name."""

import dataclasses

import numpy as np
import pytest
import shapely

from irlvla.lanes import Lane, Roadblock, baseline, lane_map
from irlvla.score.drivers import TARGET_SPEED, reactive_traffic, with_reactive_traffic
from irlvla.score.prepared import prepared

from .. import tiny


def found(*rows, later=(), **scene):
    """Traffic of a scene with these objects (token, type, x, y, heading, speed; global) at t0, and others in later frames."""
    start = (10.0, 0.0, 0.0)
    frames = [tiny.objects(*rows), *(tiny.objects(*some) for some in later)]
    shifted = [dataclasses.replace(some, boxes=some.boxes - [start[0], 0, 0, 0, 0, 0, 0]) for some in frames]
    return reactive_traffic(tiny.scene(start=start, speed=0.0, future_objects=shifted, **scene))


def car(token, x, y=0.0, heading=0.0, speed=5.0):
    return (token, 0, x, y, heading, speed)


def lane(fid, points, limit=None, width=4.0, is_connector=False):
    points = np.array(points, dtype=np.float64)
    polygon = shapely.LineString(points).buffer(width / 2, cap_style="flat")
    return Lane(
        id=fid, is_connector=is_connector, roadblock_id=f"b{fid}", speed_limit=limit, polygon=polygon, baseline=baseline(points),
        incoming=(), outgoing=(),
    )  # fmt: skip


def city(*lanes, intersections=()):
    blocks = [
        Roadblock(id=one.roadblock_id, is_connector=one.is_connector, polygon=one.polygon, lane_ids=(one.id,), incoming=(), outgoing=())
        for one in lanes
    ]
    return lane_map("hand", list(lanes), blocks, list(intersections), [])


def along(y=0.0, end=100.0, points=21):
    return [(x, y) for x in np.linspace(0.0, end, points)]


def test_a_vehicle_in_a_lane_is_put_onto_its_centre_line():
    traffic = found(car("a", 30.0, 1.0, 0.1, 7.0))
    np.testing.assert_allclose(traffic.driver_poses, [[30.0, 0.0, 0.0]], atol=1e-9)
    assert traffic.driver_ways.tolist() == pytest.approx([30.0]) and traffic.driver_speeds.tolist() == pytest.approx([7.0])
    np.testing.assert_allclose(traffic.object_boxes[0, 0, :3], [30.0, 1.0, 0.1])
    assert traffic.driver_targets.tolist() == [TARGET_SPEED] and not len(traffic.parked_objects)


def test_a_path_ends_at_the_last_but_one_point_of_the_centre_line():
    traffic = found(car("a", 30.0))
    np.testing.assert_allclose(traffic.path_points[:, 3], np.arange(0.0, 46.0, 5.0), atol=1e-9)
    assert traffic.path_points[:, 2].tolist() == [0.0] * 10


def test_points_at_one_place_count_once():
    points = [(0, 0), (10, 0), (10, 0), (20, 0), (30, 0), (30, 0)]
    traffic = found(car("a", 25.0, speed=1.0), lanes=city(lane("1", points)), route=("b1",))
    assert traffic.path_points[:, 0].tolist() == [0.0, 10.0, 20.0]


def test_a_centre_line_of_two_points_is_driven_to_its_end():
    traffic = found(car("a", 30.0), lanes=city(lane("1", [(0, 0), (100, 0)])), route=("b1",))
    assert traffic.path_points[:, 3].tolist() == [0.0, 100.0]


def test_headings_along_a_path_are_continuous():
    angle = np.linspace(2.5, 4.0, 30)
    points = np.column_stack([60.0 + 40 * np.cos(angle), 40 * np.sin(angle)])
    traffic = found(car("a", *points[8], angle[8] + np.pi / 2), lanes=city(lane("1", points)), route=("b1",))
    assert np.abs(np.diff(traffic.path_points[:, 2])).max() < 0.1 and np.ptp(traffic.path_points[:, 2]) > 1.2


def test_only_vehicles_drive_and_the_rest_is_replayed():
    rows = [car("a", 30.0), ("p", 1, 40.0, 0.0, 0.0, 1.0), ("c", 3, 45.0, 0.0, 0.0, 0.0)]
    traffic = found(*rows, later=[[("p", 1, 41.0, 0.0, 0.0, 1.0), car("late", 40.0)]])
    assert traffic.object_types.tolist() == [0, 1, 3] and traffic.driver_objects.tolist() == [0]
    assert traffic.object_valid[0].all() and not traffic.object_valid[1:, 0].any(), "vehicles first seen later never come"
    assert traffic.object_valid[:6, 1].all() and not traffic.object_valid[6:, 1].any()
    assert traffic.object_valid[:, 2].all(), "what is seen once stands there all the time"


def test_what_is_seen_once_and_later_is_there_from_the_second_step_on():
    traffic = found(later=[[], [("p", 1, 40.0, 0.0, 0.0, 3.0)]])
    assert not traffic.object_valid[0, 0] and traffic.object_valid[1:, 0].all() and traffic.object_first_speed.tolist() == [3.0]


def test_an_object_on_the_ego_at_t0_is_there():
    assert found(car("a", 11.0)).object_valid[0].tolist() == [True]


def test_a_vehicle_whose_box_on_the_lane_touches_the_ego_is_seen_once_only():
    traffic = found(car("a", 15.5, 1.9))
    assert (
        not len(traffic.driver_objects) and not len(traffic.parked_objects) and traffic.object_valid[:, 0].tolist() == [True] + 40 * [False]
    )


def test_of_two_that_would_touch_on_their_lane_the_first_drives():
    rows = [car("a", 30.0, 1.5), car("b", 31.0, -1.5)]
    assert found(*rows).driver_objects.tolist() == [0]
    assert found(*rows[::-1]).driver_poses[0, 0] == pytest.approx(31.0)


def test_a_standing_vehicle_off_all_lanes_stays_and_a_moving_one_is_seen_once_only():
    traffic = found(car("a", 30.0, 20.0, speed=0.09), car("b", 40.0, 20.0, speed=0.11))
    assert traffic.parked_objects.tolist() == [0] and not len(traffic.driver_objects) and traffic.object_valid[0].all()


def test_more_than_three_metres_from_the_centre_line_a_vehicle_stays_even_if_it_moves():
    wide = city(lane("1", along(), width=8.0))
    traffic = found(car("a", 30.0, 3.01, speed=9.0), car("b", 50.0, 2.99, speed=0.0), lanes=wide, route=("b1",))
    assert traffic.parked_objects.tolist() == [0] and traffic.driver_objects.tolist() == [1]


def test_a_standing_vehicle_in_an_intersection_without_connector_is_seen_once_only():
    crossing = [("900", shapely.box(20, 10, 30, 20))]
    traffic = found(car("a", 25.0, 15.0, speed=0.0), lanes=tiny.city(intersections=crossing))
    assert not len(traffic.parked_objects) and not len(traffic.driver_objects)


def test_a_connector_counts_only_inside_an_intersection():
    crossing = [("900", shapely.box(49, -5, 61, 5))]
    inside, outside = (found(car("a", 55.0), lanes=tiny.city(intersections=some)) for some in (crossing, ()))
    assert inside.driver_objects.tolist() == [0] and inside.path_points[-1, 0] == pytest.approx(55.0)
    assert not len(outside.driver_objects)


def test_of_several_lanes_that_which_fits_the_heading_counts_and_turns_are_not_wrapped():
    angle = np.pi - 0.05
    back = [(80.0 * (1 - t), 80.0 * t * np.tan(0.05)) for t in np.linspace(0.0, 1.0, 17)]
    both = city(lane("1", along(), width=12.0), lane("2", back, width=12.0))
    east, west, across = (
        found(car("a", 60.0, 0.5, heading), lanes=both, route=("b1",)).driver_poses[0, 2] for heading in (0.2, angle, -np.pi + 0.01)
    )
    assert east == 0.0 and west == pytest.approx(angle)
    assert across == 0.0, "heading -3.13 is 6.2 away from 3.09, and 3.13 from 0"


def test_the_heading_on_a_line_is_that_of_the_next_half_metre_or_at_its_end_of_the_last():
    points = [(0, 0), (10, 0), (20, 0), (30, 0), (30.3, 0), (30.3, 0.4), (30.3, 10)]
    lanes = city(lane("1", points, width=6.0))
    near = found(car("a", 30.0, -0.5), lanes=lanes, route=("b1",)).driver_poses[0]
    assert near[:2].tolist() == pytest.approx([30.0, 0.0]) and near[2] == pytest.approx(np.arctan2(0.2, 0.3))
    end = found(car("a", 31.0, 9.99, 1.5), lanes=city(lane("1", points, width=6.0)), route=("b1",)).driver_poses[0]
    assert end[2] == pytest.approx(np.pi / 2)
    shortly = found(car("a", 100.0 - 0.2), lanes=city(lane("1", along())), route=("b1",)).driver_poses[0]
    assert shortly.tolist() == pytest.approx([99.8, 0.0, 0.0])


def test_a_lane_without_a_limit_takes_that_of_the_vehicle_before():
    lanes = city(*(lane(str(k), along(6.0 * k), limit) for k, limit in enumerate((None, 7.0, None, 0.0))))
    rows = [car(str(k), 30.0, 6.0 * k) for k in range(4)]
    assert found(*rows, lanes=lanes, route=("b0",)).driver_targets.tolist() == [10.0, 7.0, 7.0, 7.0]
    assert found(*rows[::-1], lanes=lanes, route=("b0",)).driver_targets.tolist() == [10.0, 10.0, 7.0, 7.0]


def test_first_speeds_are_those_of_the_log():
    traffic = found(car("a", 30.0, speed=0.0), ("p", 1, 40.0, 9.0, 0.0, 2.0))
    assert traffic.object_first_speed.tolist() == [0.0, 2.0]


def test_a_token_that_stands_twice_in_the_first_frame_drives_once():
    traffic = found(car("a", 30.0, speed=3.0), car("a", 45.0, speed=4.0))
    assert traffic.driver_ways.tolist() == pytest.approx([30.0]) and traffic.object_first_speed.tolist() == [3.0]
    assert traffic.object_boxes[0, 0, 0] == 45.0 and not len(traffic.parked_objects)


def test_a_scene_without_vehicles_has_no_drivers():
    traffic = found()
    assert traffic.object_boxes.shape == (41, 0, 5) and traffic.path_start.tolist() == [0] and traffic.path_points.shape == (0, 4)


def unknown_speed(scene):
    now = scene.objects[3]
    return dataclasses.replace(
        scene, objects=(*scene.objects[:3], dataclasses.replace(now, velocities=now.velocities * np.nan), *scene.objects[4:])
    )


def test_a_vehicle_of_unknown_speed_cannot_drive():
    scene = unknown_speed(tiny.scene(speed=0.0, future_objects=[tiny.objects(car("a", 20.0))]))
    with pytest.raises(ValueError, match="a vehicle on lane 101 has no velocity: it cannot drive"):
        reactive_traffic(scene)


def test_a_lane_without_a_centre_line_is_named():
    broken = dataclasses.replace(lane("1", along()), baseline=np.zeros((0, 3)))
    with pytest.raises(ValueError, match="lane 1 of map hand has no baseline"):
        found(car("a", 30.0), lanes=city(broken), route=("b1",))


def test_a_scene_says_why_it_has_no_reactive_traffic():
    far = tiny.scene(speed=0.0, future_objects=[tiny.objects(car("a", 145.0))])
    ready = prepared(far)
    assert with_reactive_traffic(unknown_speed(far), ready).reactive == "a vehicle on lane 103 has no velocity: it cannot drive"
    assert with_reactive_traffic(far, ready).reactive.driver_objects.tolist() == [0]
