"""Scenes of many kinds, fast against slow, and the edges of what a scene may hold, worked by hand."""

import dataclasses

import numpy as np
import pytest

from irlvla.score.collision import collision_scores
from irlvla.score.comfort import history_comfort
from irlvla.score.epdms import human_zeros, reference_progress, sub_scores
from irlvla.score.road import OFF_ROAD, OFF_ROUTE, SEVERAL_LANES, ego_areas, road_scores
from irlvla.score.states import reference_poses
from irlvla.types import SUB_SCORE_NAMES
from irlvla.vehicle import STEER, VX, simulated
from tests.score import kinds, slow_twin
from tests.score.scenes import ROAD, driven, moving, prepared_by_hand, rectangle, straight_plan

KINDS = sorted(kinds.PLACES)


def made_up(kind, seed):
    scene, plans, previous = kinds.scene(np.random.default_rng([seed, KINDS.index(kind)]), kind)
    progress, multiplier = reference_progress(scene)
    scene = dataclasses.replace(scene, reference_progress=progress, reference_multiplier=multiplier)
    return dataclasses.replace(scene, human_zero=human_zeros(scene)), plans, previous


@pytest.mark.parametrize("human_filter", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_every_sub_score_equals_its_slow_twin(kind, human_filter):
    scene, plans, previous = made_up(kind, 5 + human_filter)
    fast = sub_scores(scene, plans[:4], previous[:4], human_filter)
    slow = slow_twin.sub_scores(scene, plans[:4], previous[:4], human_filter)
    for name in SUB_SCORE_NAMES:
        np.testing.assert_allclose(getattr(fast, name), slow[name], atol=1e-6, err_msg=name)


def test_the_made_up_scenes_bring_out_every_value_of_every_sub_score():
    found = {name: set() for name in SUB_SCORE_NAMES}
    for kind in KINDS:
        for seed in range(4):
            result = sub_scores(*made_up(kind, seed), human_filter=False)
            for name in SUB_SCORE_NAMES:
                found[name] |= set(np.round(2.0 * getattr(result, name)) / 2.0)
    assert found == {name: {0.0, 0.5, 1.0} if name in ("nc", "ddc", "ep") else {0.0, 1.0} for name in SUB_SCORE_NAMES}


def judged(objects, states=None, **drive):
    """NC and TTC of an ego that drives straight past objects."""
    scene = prepared_by_hand(objects=objects)
    states = driven(scene, **drive) if states is None else states
    return list(collision_scores(scene, states, *ego_areas(scene, states))[:, 0])


def road_of(areas, **drive):
    scene = prepared_by_hand(road=areas)
    return ego_areas(scene, driven(scene, **drive))[1][0]


def with_rings(*shapes):
    """A hand-made scene whose map has one polygon a shape, of several rings each."""
    scene = prepared_by_hand()
    flat = [rings for _, _, rings in shapes]
    return dataclasses.replace(
        scene,
        map_polygons=kinds.polygons(flat, (*scene.ego_state[:2], 0.0)),
        map_layers=np.array([kinds.LAYER_NAMES.index(layer) for layer, _, _ in shapes]),
        map_on_route=np.array([route for _, route, _ in shapes]),
    )


def test_a_car_that_backs_up_looks_forward_for_its_time_to_collision_and_never_minds_what_is_behind():
    assert judged([moving("vehicle", 9.0, 0.0)], speed=-4.0)[1] == 0.0, "moved by its speed along its heading, it would hit the car ahead"
    assert judged([moving("vehicle", -12.0, 0.0)], speed=-4.0)[1] == 1.0


def test_a_car_that_backs_up_is_at_fault_for_what_stands_behind_it_but_not_for_what_moves_there():
    assert judged([moving("vehicle", -12.0, 0.0)], speed=-4.0)[0] == 0.0
    assert judged([moving("vehicle", -12.0, 0.0, speed=1.0)], speed=-4.0)[0] == 1.0


def test_a_neighbour_that_reverses_into_the_front_is_the_egos_fault():
    assert judged([moving("vehicle", 20.0, 0.0, speed=-6.0, first_speed=6.0)], speed=2.0)[0] == 0.0


@pytest.mark.parametrize("speed, score", [(0.05, 1.0), (0.0501, 0.0)])
def test_up_to_five_centimetres_a_second_the_ego_stands(speed, score):
    assert judged([moving("vehicle", 6.3, 0.0)], speed=speed, x=0.0)[0] == score


@pytest.mark.parametrize("speed, score", [(0.05, 0.0), (0.0501, 1.0)])
def test_up_to_five_centimetres_a_second_an_object_stands(speed, score):
    assert judged([moving("vehicle", 15.0, 2.0, first_speed=speed, first=15)], speed=10.0)[0] == score


@pytest.mark.parametrize("speed, score", [(0.0049, 1.0), (0.005, 0.0)])
def test_below_five_millimetres_a_second_nothing_is_looked_at(speed, score):
    assert judged([moving("vehicle", 6.3, 0.0)], speed=speed)[1] == score


def test_an_object_that_appears_on_the_ego_is_hit_at_once():
    assert judged([moving("pedestrian", 22.0, 0.0, size=(0.6, 0.6), speed=1.0, first=20)])[0] == 0.0
    assert judged([moving("pedestrian", 22.0, 0.0, size=(0.6, 0.6), speed=1.0, last=15)])[0] == 1.0


def test_an_innocent_contact_still_forgives_an_object_that_was_away_for_a_while():
    kind, speed, boxes, _ = moving("vehicle", 10.0, 2.05, speed=10.0)
    boxes[21:] = moving("vehicle", 14.0, 0.0, speed=10.0)[2][21:]
    away = np.r_[np.ones(10, bool), np.zeros(10, bool), np.ones(21, bool)]
    assert judged([(kind, speed, boxes, np.r_[np.zeros(21, bool), np.ones(20, bool)])], x=9.0)[0] == 0.0
    assert judged([(kind, speed, boxes, away)], x=9.0)[0] == 1.0


def test_the_last_step_of_objects_is_the_last_that_time_to_collision_sees():
    end = 40.0 + 4.0 - 0.9 * 10.0 + 9.0
    for first, score in ((40, 0.0), (41, 1.0)):
        assert judged([moving("vehicle", end, 0.0, first=first)], until=40)[1] == score


def test_the_island_of_a_roundabout_is_no_intersection():
    island = ("intersection", False, [rectangle(-50, -20, 60, 20), rectangle(5, -5, 15, 5)])
    scene = with_rings(("roadblock", False, [rectangle(-50, -20, 60, 20)]), island)
    inside = ego_areas(scene, driven(scene))[1][0, :, 3]
    centers = 1.461 + np.arange(41)
    assert np.array_equal(inside, ~((centers >= 5.0) & (centers <= 15.0)))


def test_two_parts_of_a_multi_polygon_are_one_lane():
    halves = [rectangle(-100, -1.75, 200, -0.01), rectangle(-100, 0.01, 200, 1.75)]
    apart = with_rings(("lane", True, halves[:1]), ("lane", True, halves[1:]))
    together = with_rings(("lane", True, halves))
    assert ego_areas(apart, driven(apart))[1][0, :, SEVERAL_LANES].all()
    areas = ego_areas(together, driven(together))[1][0]
    assert not areas[:, SEVERAL_LANES].any() and areas[:, OFF_ROUTE].all(), "the centre lies on the crack"


def test_without_a_map_every_place_is_off_road_and_off_route():
    areas = road_of([])
    assert areas[:, OFF_ROAD].all() and areas[:, OFF_ROUTE].all() and not areas[:, SEVERAL_LANES].any()
    result = sub_scores(prepared_by_hand(road=[]), straight_plan())
    assert [result.dac[0], result.ddc[0], result.tlc[0], result.lk[0]] == [0.0, 0.0, 1.0, 1.0]


def test_a_light_that_is_red_for_one_step_fails_only_who_is_there_then():
    for step, score in ((20, 0.0), (2, 1.0)):
        scene = prepared_by_hand(reds=[(rectangle(20, -1.75, 30, 1.75), np.arange(41) == step)])
        states = driven(scene)
        assert road_scores(scene, *ego_areas(scene, states))[2, 0] == score


def test_wheels_turn_sixty_degrees_at_most():
    scene = prepared_by_hand(speed=2.0)
    reference = reference_poses(scene.ego_state, scene.time_us, straight_plan(2.0, turn=2.0))
    states = simulated(scene.ego_state, reference)[0]
    assert states[:, STEER].max() == np.pi / 3
    np.testing.assert_allclose(states, slow_twin.simulated(scene.ego_state, reference[0]), atol=1e-6)


def test_a_plan_of_sixty_metres_a_second_is_followed_and_leaves_the_centerline():
    scene = prepared_by_hand(
        speed=60.0, road=[("roadblock", False, rectangle(-100, -5, 400, 5)), ("lane", True, rectangle(-100, -5, 400, 5))]
    )
    states = simulated(scene.ego_state, reference_poses(scene.ego_state, scene.time_us, straight_plan(60.0)))
    np.testing.assert_allclose(states[0, :, VX], 60.0, atol=1e-5)
    assert road_scores(scene, *ego_areas(scene, states))[4, 0] == pytest.approx(200.0 - 1.461)


def test_a_plan_of_nothing_but_turns_does_not_turn_a_standing_car():
    plan = np.zeros((1, 8, 3))
    plan[0, :, 2] = np.linspace(0.3, 2.0, 8)
    scene = prepared_by_hand(speed=0.0)
    states = simulated(scene.ego_state, reference_poses(scene.ego_state, scene.time_us, plan))[0]
    assert np.ptp(states[:, :3], axis=0).max() == 0.0
    result = sub_scores(scene, plan)
    assert result.nc[0] == result.ttc[0] == result.hc[0] == 1.0


@pytest.mark.parametrize("gaps_us, samples", [((440_000, 450_000, 460_000), 13), ((500_000, 500_000, 500_001), 15), ((540_000,) * 3, 16)])
def test_the_pasts_length_follows_the_stamps(gaps_us, samples):
    scene = prepared_by_hand(gaps_us=gaps_us)
    assert history_comfort(scene, driven(scene))[0] == slow_twin.history_comfort(scene, driven(scene)[0])
    assert len(np.arange(scene.past_time_us[0], scene.past_time_us[-1], 100_000)[:-1]) == samples


def test_a_map_without_a_lane_of_the_route_is_off_route_everywhere():
    assert road_of([(layer, False, shape) for layer, _, shape in ROAD])[:, OFF_ROUTE].all()


@pytest.mark.parametrize("size", [(4.0, 0.0), (0.0, 4.0), (0.0, 0.0)])
def test_objects_may_be_lines_or_points(size):
    assert judged([moving("vehicle", 30.0, 0.0, size=size)]) == [0.0, 0.0]
    beside = moving("vehicle", 20.0, 1.3 + 0.5 * max(size), heading=0.5 * np.pi, size=size)
    aslant = moving("vehicle", 20.0, 2.75, heading=0.25 * np.pi, size=size)
    assert judged([beside, aslant]) == [1.0, 1.0]


def surging(begin):
    """A plan made `begin` seconds after some moment, of a car whose speed swings."""
    time = begin + 0.5 * np.arange(1, 9)
    way = 10.0 * (time - begin) - 2.5 / 1.5**2 * (np.sin(1.5 * time + 2.0) - np.sin(1.5 * begin + 2.0))
    return np.stack([way, np.zeros(8), np.zeros(8)], axis=1)[None]


@pytest.mark.parametrize("microseconds, score", [(0, 1.0), (4, 0.0)])
def test_the_shift_of_two_plans_is_rounded_from_float_seconds(microseconds, score):
    """Stamps 0.45 s apart: their difference in float seconds lies above (5 steps) or below (4 steps), as the stamps fall."""
    scene = prepared_by_hand(gaps_us=(500_000, 500_000, 450_000))
    scene = dataclasses.replace(
        scene, **{name: getattr(scene, name) + microseconds for name in ("time_us", "previous_time_us", "past_time_us")}
    )
    assert sub_scores(scene, surging(0.45), surging(0.0)).ec[0] == score
