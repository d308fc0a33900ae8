import dataclasses
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from irlvla.data.navsim import scenes_of_tokens
from irlvla.score.prepared import drivable_map, human_poses, objects, prepared, red_lights
from irlvla.types import LAYER_NAMES

from .. import tiny

CROSSING = [("900", shapely.box(48, -5, 62, 5))]
FAR = 40.0
"""Beside the road: no object there touches anybody."""


def seen(frames, count=9):
    """Objects of the frames from now on; `frames` maps a frame to rows of `tiny.objects`."""
    return objects(tiny.scene(speed=0.0, start=(0.0, 0.0, 0.0), future_objects=[tiny.objects(*frames.get(k, ())) for k in range(count)]))


def car(x, heading=0.0, speed=0.0, token="a", y=FAR, kind=0):
    return (token, kind, x, y, heading, speed)


def test_an_object_moves_linearly_between_its_frames_and_is_there_from_the_first_to_the_last():
    found = seen({2: [car(0.0)], 3: [car(5.0)], 5: [car(5.0)]})
    assert found.valid[:, 0].nonzero()[0].tolist() == list(range(10, 26)), "frame 4 is bridged"
    np.testing.assert_allclose(found.boxes[10:16, 0, 0], np.linspace(0.0, 5.0, 6))
    np.testing.assert_allclose(found.boxes[16:26, 0, 0], 5.0)


def test_a_gap_is_bridged_in_a_straight_line():
    found = seen({0: [car(0.0)], 4: [car(20.0)]})
    np.testing.assert_allclose(found.boxes[:21, 0, 0], np.linspace(0.0, 20.0, 21))


def test_an_object_seen_once_stands_there_all_the_time():
    found = seen({6: [car(7.0, speed=9.0)]})
    assert found.valid.all() and (found.boxes[:, 0, 0] == 7.0).all() and found.first_speed.tolist() == [9.0]


def test_a_track_seen_once_within_four_seconds_is_a_ghost_even_if_it_goes_on_later():
    found = objects(
        tiny.scene(frames=14, future_objects=[tiny.objects(*rows) for rows in ([], [], [], [], [], [], [], [], [car(7.0)], [car(9.0)])])
    )
    assert found.valid.all() and found.boxes.shape == (41, 1, 5)


def test_size_type_and_speed_are_those_of_the_first_sight():
    later = tiny.objects(("a", 1, 3.0, FAR, 0.0, 8.0))
    later = dataclasses.replace(later, boxes=later.boxes * (1, 1, 1, 2, 2, 2, 1))
    found = objects(tiny.scene(future_objects=[tiny.objects(car(0.0, speed=2.0, kind=2)), later]))
    assert found.types.tolist() == [2] and found.first_speed.tolist() == [2.0]
    np.testing.assert_allclose(found.boxes[:6, 0, 3:], [[4.0, 2.0]] * 6)


def test_a_heading_turns_the_short_way():
    found = seen({0: [car(0.0, heading=3.0)], 1: [car(0.0, heading=-3.0)]})
    np.testing.assert_allclose(found.boxes[:6, 0, 2], np.linspace(3.0, 2 * np.pi - 3.0, 6))


def test_boxes_are_taken_from_the_ego_frame_of_their_own_frame():
    still = [tiny.objects(car(30.0 - 2.5 * k, y=10.0)) for k in range(9)]
    found = objects(tiny.scene(start=(10.0, 5.0, 0.0), speed=5.0, future_objects=still))
    np.testing.assert_allclose(found.boxes[:, 0, :2], [[40.0, 15.0]] * 41)


def test_frames_count_as_half_a_second_apart_whatever_their_stamps_say():
    scene = tiny.scene(future_objects=[tiny.objects(car(float(k))) for k in range(9)])
    stamps = scene.time_us + np.array([0, 9, -7, 30, 90_000, 5, -40_000, 8, 3, -2, 1, 0])
    late = dataclasses.replace(scene, time_us=stamps)
    np.testing.assert_array_equal(objects(late).boxes, objects(scene).boxes)
    np.testing.assert_array_equal(human_poses(late), human_poses(scene))


def test_a_token_twice_in_one_frame_only_is_a_ghost_at_the_first_of_the_two():
    found = seen({3: [car(1.0), car(2.0)]})
    assert found.valid.all() and (found.boxes[:, 0, 0] == 1.0).all()


def test_a_token_twice_in_its_first_frame_is_absent_there_and_goes_on_from_the_second():
    found = seen({0: [car(1.0), car(2.0)], 1: [car(7.0)]})
    assert found.valid[:, 0].nonzero()[0].tolist() == [1, 2, 3, 4, 5] and found.first_speed.tolist() == [np.inf]
    np.testing.assert_allclose(found.boxes[1:6, 0, 0], [3.0, 4.0, 5.0, 6.0, 7.0])


def test_a_token_twice_in_a_later_frame_jumps_there():
    found = seen({0: [car(0.0)], 1: [car(5.0), car(10.0)], 2: [car(15.0)]})
    np.testing.assert_allclose(found.boxes[[4, 5, 6], 0, 0], [4.0, 5.0, 11.0])


def test_there_may_be_no_objects():
    found = seen({})
    assert found.boxes.shape == (41, 0, 5) and found.valid.shape == (41, 0) and len(found.types_now) == 0
    assert prepared(tiny.scene()).object_boxes.shape == (41, 0, 5)


ROWS = st.tuples(st.sampled_from("abcd"), st.integers(0, 6), st.floats(-50, 50), st.floats(5, 60), st.floats(-3, 3), st.floats(0, 9))
FRAMES = st.lists(st.lists(ROWS, max_size=4, unique_by=lambda row: row[0]), min_size=9, max_size=9)


@settings(max_examples=25, deadline=None)
@given(FRAMES, st.randoms(use_true_random=False))
def test_the_order_of_objects_in_a_frame_does_not_matter(frames, random):
    mixed = [random.sample(rows, len(rows)) for rows in frames]
    found = [objects(tiny.scene(future_objects=[tiny.objects(*rows) for rows in some])) for some in (frames, mixed)]
    tokens = [list(dict.fromkeys(row[0] for rows in some for row in rows)) for some in (frames, mixed)]
    order = [np.array(sorted(range(len(some)), key=some.__getitem__), dtype=int) for some in tokens]
    for name in ("types", "first_speed"):
        np.testing.assert_array_equal(*(getattr(one, name)[at] for one, at in zip(found, order)))
    np.testing.assert_array_equal(*(one.boxes[:, at] for one, at in zip(found, order)))
    np.testing.assert_array_equal(*(one.valid[:, at] for one, at in zip(found, order)))


def slow_track(rows, frames):
    """One object's places by NumPy's own interpolation."""
    times = 5 * np.array(frames)
    if len(times) == 1:
        return np.ones(41, bool), np.full(41, rows[0][2]), np.full(41, rows[0][4])
    steps = np.arange(41)
    inside = (steps >= times[0]) & (steps <= times[-1])
    return inside, np.interp(steps, times, [row[2] for row in rows]), np.interp(steps, times, np.unwrap([row[4] for row in rows]))


@settings(max_examples=25, deadline=None)
@given(FRAMES)
def test_tracks_equal_interpolation_object_by_object(frames):
    scene = tiny.scene(speed=0.0, start=(0.0, 0.0, 0.0), future_objects=[tiny.objects(*rows) for rows in frames])
    found = objects(scene)
    tokens = list(dict.fromkeys(row[0] for rows in frames for row in rows))
    for place, token in enumerate(tokens):
        sights = [(k, row) for k, rows in enumerate(frames) for row in rows if row[0] == token]
        valid, x, heading = slow_track([row for _, row in sights], [k for k, _ in sights])
        np.testing.assert_array_equal(found.valid[:, place], valid)
        np.testing.assert_allclose(found.boxes[valid, place, 0], x[valid], atol=1e-9)
        np.testing.assert_allclose(found.boxes[valid, place, 2], heading[valid], atol=1e-9)


def lit(lights, route=("1", "11", "2", "12", "3"), raw=("111", "112")):
    scene = tiny.scene(lights=lights, route=route)
    return red_lights(scene, set(raw))


def test_a_light_is_held_until_the_next_frame():
    _, valid = lit([(("111", True),), (), (("111", True),), (), (), (), (), (), (("111", True),)])
    assert valid[:, 0].nonzero()[0].tolist() == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14, 40]


def test_only_red_connectors_of_the_logged_route_count():
    polygons, valid = lit([(("111", False), ("112", True), ("999", True))], raw=("101", "111", "102"))
    assert valid.shape == (41, 0) and len(polygons) == 0
    polygons, valid = lit([(("112", True),)])
    assert valid.sum() == 5 and polygons.vertices[:, 0].min() == 110.0


def test_a_connector_named_twice_in_a_frame_is_red_if_either_says_so():
    polygons, valid = lit([(("111", True), ("111", False)), (("111", False), ("111", True)), (("111", True), ("111", True))])
    assert len(polygons) == 1 and valid.sum() == 15


def test_red_connectors_of_the_corrected_route_do_not_count():
    lanes = tiny.city()
    scene = tiny.scene(lanes, route=("2", "12", "3"), start=(10.0, 0.0, 0.0), lights=[(("111", True), ("112", True))])
    found = prepared(scene)
    assert found.map_on_route.sum() == 4, "road 1 and link 11 were put before the route, road 3 is too far away"
    assert found.red_valid.shape == (41, 1) and found.red_polygons.vertices[:, 0].min() == 110.0


def test_the_map_holds_lanes_connectors_roadblocks_intersections_and_car_parks_but_no_connectors_roadblocks():
    lanes = tiny.city(intersections=CROSSING, carparks=[("950", shapely.box(0, 10, 20, 20)), ("951", shapely.box(0, 150, 20, 160))])
    polygons, layers, on_route = drivable_map(lanes, np.array((0.0, 0.0)), {"101", "111"})
    names = [LAYER_NAMES[layer] for layer in layers]
    counts = {name: names.count(name) for name in LAYER_NAMES}
    assert counts == {"lane": 2, "lane_connector": 1, "roadblock": 2, "intersection": 1, "carpark": 1}
    assert [name for name, chosen in zip(names, on_route) if chosen] == ["lane", "lane_connector"] and len(polygons) == 7


def test_the_map_reaches_a_hundred_metres_along_both_axes_from_the_ego_centre():
    roads = {"1": ((0.0, 0.0), (50.0, 0.0)), "2": ((141.0, 141.0), (190.0, 141.0))}
    for x, count in ((40.9, 2), (41.1, 4)):
        _, layers, _ = drivable_map(tiny.city(roads, {}), np.array((x, 43.1)), set())
        assert len(layers) == count


def test_a_lane_counts_with_its_roadblock():
    lanes = tiny.city()
    wide = dataclasses.replace(lanes.roadblocks["3"], polygon=shapely.box(-1, -2, 170, 2))
    lanes = dataclasses.replace(
        lanes,
        roadblocks=lanes.roadblocks | {"3": wide},
        block_bounds=np.array(
            [(-1.0, -2.0, 170.0, 2.0) if name == "3" else tuple(b) for name, b in zip(lanes.block_ids, lanes.block_bounds)]
        ),
    )
    _, layers, _ = drivable_map(lanes, np.array((-90.0, 0.0)), set())
    assert [LAYER_NAMES[layer] for layer in layers] == ["roadblock", "roadblock", "lane", "lane"], "in the devkit's order"


def test_objects_that_overlap_the_ego_at_the_start_are_gone_for_good():
    rows = [car(3.0, y=0.0), car(30.0, token="b", y=0.0)], [car(20.0, y=0.0), car(1.0, token="b", y=0.0)]
    found = prepared(tiny.scene(speed=1.0, future_objects=[tiny.objects(*some) for some in rows]))
    assert found.object_boxes.shape[1] == 1 and found.object_boxes[0, 0, 0] == 40.0
    touching = (4.049 + 2.0, 4.049 + 2.0 + 1e-6)
    counts = [prepared(tiny.scene(future_objects=[tiny.objects(car(x, y=0.0))])).object_boxes.shape[1] for x in touching]
    assert counts == [0, 1], "touching is overlapping"


def test_a_ghost_that_will_appear_on_the_ego_is_gone_too():
    found = prepared(tiny.scene(speed=0.0, future_objects=[tiny.objects(), tiny.objects(car(1.0, y=0.0))]))
    assert found.object_boxes.shape[1] == 0


def test_a_prepared_scene_has_the_past_the_frame_before_and_the_human_plan():
    found = prepared(tiny.scene(start=(10.0, 0.0, 0.0), speed=5.0))
    np.testing.assert_allclose(found.past_states[:, 0], [2.5, 5.0, 7.5, 10.0])
    assert found.previous_time_us == found.time_us - 500_000 and found.previous_state[0] == 7.5
    np.testing.assert_allclose(found.human_poses[:, 0], 2.5 * np.arange(1, 9))
    first = prepared(tiny.scene(previous=False))
    assert first.previous_time_us == -1 and not first.previous_state.any()


@pytest.mark.parametrize("motion", [(300.0, -200.0, 0.0), (-50.0, 80.0, 1.2), (1000.0, 1000.0, -2.9)])
def test_moving_and_turning_the_world_changes_nothing_but_places(motion):
    found = []
    for shift in ((0.0, 0.0, 0.0), motion):
        lanes = tiny.city(intersections=CROSSING, motion=shift, limit=10.0)
        start = (*tiny.placed(np.array([[10.0, 0.2]]), shift)[0], shift[2])
        cars = [tiny.objects(car(20.0 + k, y=-3.0, heading=0.3), car(4.0, token="b", y=30.0)) for k in range(9)]
        scene = tiny.scene(lanes, start, future_objects=cars, lights=[(("111", True),)], route=("1", "11", "2", "12", "3"))
        found.append(prepared(scene))
    here, there = found
    for name in ("human_poses", "object_first_speed"):
        np.testing.assert_allclose(getattr(there, name), getattr(here, name), atol=1e-6)
    for name in ("object_valid", "red_valid", "human_zero"):
        np.testing.assert_array_equal(getattr(there, name), getattr(here, name))
    for name in ("centerline", "object_boxes"):
        np.testing.assert_allclose(getattr(there, name)[..., :2], tiny.placed(getattr(here, name)[..., :2], motion), atol=1e-6)
    assert len(there.map_polygons) >= len(here.map_polygons), "the square of the map does not turn"


def test_what_cannot_be_prepared_is_named():
    with pytest.raises(ValueError, match="scene 0{15}3: 7 future frames, 8 are needed"):
        prepared(tiny.scene(frames=11))
    with pytest.raises(ValueError, match="scene 0{15}3 of log log cannot be prepared: the route is empty"):
        prepared(tiny.scene(route=()))
    with pytest.raises(ValueError, match="cannot be prepared: roadblock 77 of the route is not in map tiny"):
        prepared(tiny.scene(route=("77",)))
    with pytest.raises(ValueError, match="cannot be prepared: the route has no lane"):
        prepared(tiny.scene(tiny.city(links={}, without_lanes=("1", "2", "3")), route=("1",)))


def test_golden_scenes_have_the_devkits_route_and_centerline():
    root = Path(__file__).parents[1] / "golden"
    reference = np.load(root / "reference.npz")
    tokens = sorted({name.split("_")[0] for name in reference.files})
    for scene in scenes_of_tokens(root / "openscene", root / "maps", "test", tokens):
        found = prepared(scene)
        np.testing.assert_allclose(found.centerline[:, :2], reference[f"{scene.token}_centerline"][:, :2], atol=1e-4)
        np.testing.assert_allclose(found.ego_state, reference[f"{scene.token}_ego"], atol=1e-6)
        lanes = {name for name in scene.lane_map.lanes if name in reference[f"{scene.token}_route_lane_ids"].astype(str)}
        assert found.map_on_route.sum() <= len(lanes) == len(reference[f"{scene.token}_route_lane_ids"])


@pytest.mark.parametrize(("before", "after"), [(0.3, 0.3 + np.pi), (0.3 + np.pi, 0.3), (-2.0, -2.0 + np.pi), (1.1, 1.1 - 3 * np.pi)])
def test_a_heading_that_flips_turns_the_way_that_the_devkits_rounding_decides(before, after):
    wrapped = [np.arctan2(np.sin(angle), np.cos(angle)) for angle in (before, after)]
    wrapped = np.unwrap([np.arctan2(np.sin(angle), np.cos(angle)) for angle in wrapped])
    found = seen({0: [car(0.0, heading=before)], 1: [car(0.0, heading=after)]})
    np.testing.assert_allclose(found.boxes[:6, 0, 2], np.linspace(*wrapped, 6), atol=1e-9)


def test_of_two_types_of_one_token_in_a_frame_the_lower_one_is_first():
    found = seen({0: [car(4.0, kind=5)], 1: [car(9.0, kind=3), car(5.0, kind=1)], 2: [car(6.0, kind=1)]})
    np.testing.assert_allclose(found.boxes[[0, 5, 6, 10], 0, 0], [4.0, 5.0, 9.0 - 0.6, 6.0])
    found = objects(tiny.scene(future_objects=[tiny.objects(car(2.0, kind=4), car(1.0, kind=0, token="b"))]))
    assert found.types_now.tolist() == [0, 4], "the devkit sorts a frame by type"


def test_an_unknown_velocity_counts_as_moving_where_it_is_needed_for_the_first_sight():
    frames = [tiny.objects(car(float(k), token="a"), car(float(k), token="b"), car(float(k), token="c")) for k in range(4)]
    for frame, who in ((0, 0), (1, 1), (2, 2)):
        frames[frame].velocities[who] = np.nan
    assert objects(tiny.scene(future_objects=frames)).first_speed.tolist() == [np.inf, np.inf, 0.0]
