import numpy as np
import pytest

from irlvla.score.collision import collision_scores
from irlvla.score.road import ego_areas
from tests.score.scenes import driven, moving, prepared_by_hand


def judged(objects, **drive):
    scene = prepared_by_hand(objects=objects)
    states = driven(scene, **drive)
    points, areas = ego_areas(scene, states)
    return collision_scores(scene, states, points, areas)[:, 0]


def test_an_empty_road_costs_nothing():
    assert list(judged([])) == [1.0, 1.0]


def test_driving_into_a_standing_car_is_at_fault():
    assert list(judged([moving("vehicle", 30.0, 0.0)])) == [0.0, 0.0]


@pytest.mark.parametrize("kind, score", [("vehicle", 0.0), ("pedestrian", 0.0), ("bicycle", 0.0)])
def test_hitting_a_road_user_is_worth_nothing(kind, score):
    assert judged([moving(kind, 30.0, 0.0, size=(1.0, 1.0))])[0] == score


@pytest.mark.parametrize("kind", ["traffic_cone", "barrier", "czone_sign", "generic_object"])
def test_hitting_a_static_object_costs_half(kind):
    assert judged([moving(kind, 30.0, 0.0, size=(0.5, 0.5))])[0] == 0.5


def test_a_static_object_counts_as_stopped_whatever_its_speed():
    assert judged([moving("barrier", -8.0, 0.0, speed=12.0)])[0] == 0.5


def test_being_hit_while_standing_is_not_at_fault():
    assert judged([moving("vehicle", 30.0, 0.0, np.pi, 10.0)], speed=0.0)[0] == 1.0


def test_being_hit_from_behind_is_not_at_fault():
    assert judged([moving("vehicle", -12.0, 0.0, 0.0, 14.0)], speed=10.0)[0] == 1.0


def test_ttc_takes_the_bearing_from_where_the_ego_is_now_so_that_a_car_catching_up_counts_as_ahead():
    assert judged([moving("vehicle", -12.0, 0.0, 0.0, 14.0)], speed=10.0)[1] == 0.0
    assert judged([moving("vehicle", -9.0, 0.0, 0.0, 9.0)], speed=0.01)[1] == 1.0


def test_touching_is_a_contact():
    nose = 4.049 + 40.0
    assert judged([moving("vehicle", nose + 2.3 - 1e-6, 0.0)])[0] == 0.0
    assert judged([moving("vehicle", nose + 2.3 + 1e-3, 0.0)])[0] == 1.0


def test_a_car_that_stood_when_first_seen_makes_the_ego_at_fault_even_if_it_drives_into_its_side():
    aside = {"x": 15.0, "y": -9.0, "heading": np.pi / 2, "speed": 4.0}
    assert judged([moving("vehicle", **aside)], speed=10.0)[0] == 1.0
    assert judged([moving("vehicle", **aside, first_speed=0.0)], speed=10.0)[0] == 0.0


def test_a_side_contact_counts_only_between_lanes_or_off_the_road():
    beside = moving("vehicle", -0.5, 2.2, -0.05, 10.0)
    assert judged([beside], speed=10.0)[0] == 1.0
    assert judged([moving("vehicle", -0.5, 2.9, -0.05, 10.0)], speed=10.0, y=0.7)[0] == 0.0


def test_the_first_innocent_contact_forgives_an_object_for_good():
    bumper = moving("vehicle", -5.0, 0.0, 0.0, 12.0)
    assert judged([bumper], speed=10.0)[0] == 1.0


def test_an_object_counts_only_while_it_is_there():
    assert judged([moving("vehicle", 30.0, 0.0, first=0, last=10)])[0] == 1.0
    assert judged([moving("vehicle", 30.0, 0.0, first=25, last=40)])[0] == 0.0


def test_ttc_looks_nine_tenths_of_a_second_ahead_along_the_heading():
    gap = 10.0 * (3.1 + 0.9) + 4.049 + 2.3
    assert judged([moving("vehicle", gap - 0.01, 0.0)], until=31)[1] == 0.0
    assert judged([moving("vehicle", gap + 0.01, 0.0)], until=31)[1] == 1.0


def test_ttc_does_not_look_after_step_31():
    appears = moving("vehicle", 45.0, 0.0, first=41 - 1, last=40)
    assert judged([appears])[0] == 0.0 and judged([appears])[1] == 0.0
    late = moving("vehicle", 4.049 + 2.3 + 10.0 * 4.0 - 0.001, 0.0)
    assert judged([late], speed=10.0)[1] == 0.0


def test_ttc_forgives_an_object_first_met_beside_the_ego_for_good():
    pushed = moving("vehicle", 1.0, 2.0, 0.0, 10.0)
    cut = moving("vehicle", 1.0, 2.0, 0.0, 10.0)
    cut[2][10:, 0] += 4.0
    cut[2][10:, 1] = 0.0
    assert judged([pushed])[1] == 1.0 and judged([cut])[1] == 1.0
    cut[3][:10] = False
    assert judged([cut])[1] == 0.0


def test_a_standing_ego_has_no_time_to_collision():
    assert judged([moving("vehicle", 8.0, 0.0, np.pi, 10.0)], speed=0.0)[1] == 1.0


def test_the_order_of_objects_does_not_matter():
    objects = [moving("vehicle", 20.0 + 3 * i, 2.0 - 0.3 * i, 0.1 * i, 1.0 * i) for i in range(6)]
    assert np.array_equal(judged(objects, speed=8.0), judged(objects[::-1], speed=8.0))
