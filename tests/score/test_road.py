import numpy as np
import pytest

from irlvla.score.road import CENTER_IN_INTERSECTION, OFF_ROAD, OFF_ROUTE, SEVERAL_LANES, ego_areas, road_scores
from irlvla.types import STEPS
from tests.score.scenes import ROAD, driven, prepared_by_hand, rectangle

DAC, DDC, TLC, LK, PROGRESS = range(5)
ALWAYS = np.ones(STEPS, dtype=bool)


def judged(speed=10.0, y=0.0, heading=0.0, until=40, **made):
    scene = prepared_by_hand(**made)
    states = driven(scene, speed=speed, y=y, heading=heading, until=until)
    points, areas = ego_areas(scene, states)
    return road_scores(scene, points, areas)[:, 0], areas[0]


def test_the_middle_of_ones_own_lane_is_fine():
    scores, areas = judged()
    assert list(scores[:4]) == [1.0, 1.0, 1.0, 1.0] and scores[PROGRESS] == pytest.approx(40.0)
    assert not areas.any()


def test_a_corner_off_the_road_at_any_step_fails_dac_the_first_included():
    assert judged(y=-4.2)[0][DAC] == 0.0
    off_at_start = [*ROAD[:1], ("roadblock", False, rectangle(-1.2, 1.7, 200, 5.25)), *ROAD[2:]]
    scores, areas = judged(y=1.5, road=[("roadblock", False, rectangle(-1.0, -5.25, 200, 5.25)), *ROAD[2:]])
    assert scores[DAC] == 0.0 and areas[:, OFF_ROAD].sum() == 1
    assert judged(y=0.0, road=off_at_start)[0][DAC] == 1.0


def test_corners_may_lie_in_different_blocks_but_not_on_their_shared_edge():
    assert judged(y=1.7)[0][DAC] == 1.0
    edge = 2.297 / 2
    shared = [("roadblock", False, rectangle(-100, -5, 200, edge)), ("roadblock", False, rectangle(-100, edge, 200, 5))]
    flat = (0.0, 0.0, 0.0)
    assert judged(road=[*shared, *ROAD[2:]], origin=flat)[0][DAC] == 0.0
    assert judged(y=0.01, road=[*shared, *ROAD[2:]], origin=flat)[0][DAC] == 1.0


def test_a_lane_connector_outside_an_intersection_is_not_drivable():
    connector = ("lane_connector", True, rectangle(50, -1.75, 200, 1.75))
    block, lane = ("roadblock", False, rectangle(-100, -5, 30, 5)), ("lane", True, rectangle(-100, -1.75, 60, 1.75))
    assert judged(road=[block, lane, connector])[0][DAC] == 0.0
    crossing = ("intersection", False, rectangle(29, -5, 200, 5))
    assert judged(road=[block, lane, connector, crossing])[0][DAC] == 1.0


def test_a_car_park_is_drivable_but_off_the_route():
    park = [("carpark", False, rectangle(-100, -20, 200, 20))]
    scores, areas = judged(road=park)
    assert scores[DAC] == 1.0 and scores[DDC] == 0.0 and areas[:, OFF_ROUTE].all()


def test_several_lanes_means_no_lane_holds_all_four_corners():
    assert judged(y=1.0)[1][:, SEVERAL_LANES].all()
    wide = [*ROAD, ("lane", False, rectangle(-100, -5, 200, 5))]
    assert not judged(y=1.0, road=wide)[1][:, SEVERAL_LANES].any()


def test_driving_off_the_route_for_a_second_costs_half_from_2_m_and_all_from_6_m():
    assert judged(speed=1.7, y=-3.5)[0][DDC] == 1.0
    assert judged(speed=1.9, y=-3.5)[0][DDC] == 0.5
    assert judged(speed=5.4, y=-3.5)[0][DDC] == 0.5
    assert judged(speed=5.6, y=-3.5)[0][DDC] == 0.0


def test_a_same_direction_lane_off_the_route_counts_as_oncoming():
    assert judged(speed=10.0, y=-3.5)[0][DDC] == 0.0


def test_the_window_of_a_second_holds_eleven_steps():
    assert judged(speed=2.0 / 1.1 + 1e-3, y=-3.5)[0][DDC] == 0.5
    assert judged(speed=2.0 / 1.1 - 1e-3, y=-3.5)[0][DDC] == 1.0


def test_intersections_excuse_leaving_the_route():
    crossing = ("intersection", False, rectangle(-100, -6, 200, 6))
    scores, areas = judged(speed=10.0, y=-3.5, road=[*ROAD, crossing])
    assert scores[DDC] == 1.0 and areas[:, CENTER_IN_INTERSECTION].all()


def test_a_red_connector_counts_as_a_whole_and_at_t0():
    connector = rectangle(3.0, -1.75, 30.0, 1.75)
    assert judged(speed=0.0, reds=[(connector, ALWAYS)])[0][TLC] == 0.0
    assert judged(speed=0.0, reds=[(connector + [1.5, 0.0], ALWAYS)])[0][TLC] == 1.0
    only_now = np.arange(STEPS) == 0
    assert judged(speed=0.0, reds=[(connector, only_now)])[0][TLC] == 0.0


def test_a_light_that_turns_red_fails_a_car_that_entered_on_green():
    connector = rectangle(10.0, -1.75, 60.0, 1.75)
    assert judged(reds=[(connector, np.arange(STEPS) >= 30)])[0][TLC] == 0.0
    assert judged(reds=[(connector, np.arange(STEPS) < 5)])[0][TLC] == 1.0


def test_half_a_metre_off_the_centerline_for_two_seconds_fails_lane_keeping():
    assert judged(y=0.49)[0][LK] == 1.0 and judged(y=0.51)[0][LK] == 0.0


def off_line(states_off, crossing):
    scene = prepared_by_hand(road=[*ROAD, ("intersection", False, crossing)] if crossing is not None else ROAD)
    states = driven(scene, speed=5.0)
    states[0, np.asarray(states_off), 1] += 0.6
    points, areas = ego_areas(scene, states)
    return road_scores(scene, points, areas)[LK, 0]


def test_twenty_steps_in_a_row_are_needed():
    assert off_line(range(5, 24), None) == 1.0 and off_line(range(5, 25), None) == 0.0
    assert off_line([*range(2, 21), *range(22, 41)], None) == 1.0


def test_steps_in_an_intersection_neither_count_nor_reset():
    crossing = rectangle(7.0, -5.0, 11.99, 5.0)
    inside = [step for step in range(STEPS) if 7.0 < 0.5 * step + 1.461 < 11.99]
    assert len(inside) == 10
    first, last = inside[0], inside[-1]
    assert off_line([*range(first - 10, first), *range(last + 1, last + 11)], crossing) == 0.0
    assert off_line([*range(first - 10, first), *range(last + 1, last + 10)], crossing) == 1.0
    assert off_line([*range(first - 10, last + 1), *range(last + 1, last + 10)], crossing) == 1.0


def test_progress_is_never_negative_and_ends_with_the_centerline():
    assert judged(speed=-5.0)[0][PROGRESS] == 0.0
    assert judged(centerline=((-100.0, 0.0), (21.461, 0.0)))[0][PROGRESS] == pytest.approx(20.0)
