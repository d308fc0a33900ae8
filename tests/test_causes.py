"""Causes found where they were put: worked by hand on a straight way, and in one scene of a small world that is drawn again."""

import numpy as np
import pytest
import shapely

from irlvla.causes import (
    FRONT,
    Case,
    CauseConfig,
    cases,
    changed_pixels,
    drawn,
    lead_vehicle,
    light_ahead,
    red_on_way,
    scene_cases,
    shot,
    swapped,
    vehicles_off_the_way,
    views,
    way_ahead,
    with_lights,
    without,
)
from irlvla.types import OBJECT_NAMES, STEPS

from .causes_world import CAR, SENSORS, made_world
from .score.scenes import prepared_by_hand, rectangle

EGO = np.array([100.0, 50.0, np.pi / 2])
"""Looks along global y."""
AHEAD = shapely.LineString([(0.0, 0.0), (80.0, 0.0)])
VEHICLE, PEDESTRIAN, BICYCLE = (OBJECT_NAMES.index(name) for name in ("vehicle", "pedestrian", "bicycle"))


def in_world(*rows):
    """Boxes of x, y, heading in the ego frame, 4 m x 2 m."""
    return np.array([[EGO[0] - y, EGO[1] + x, heading + EGO[2], 4.0, 2.0, 1.5] for x, y, heading in rows], float).reshape(-1, 6)


def lead(*rows, types=None):
    return lead_vehicle(in_world(*rows), np.array([VEHICLE] * len(rows) if types is None else types, dtype=np.int64), EGO, AHEAD)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return made_world(tmp_path_factory.mktemp("world"))


def test_the_nearest_on_the_way_leads_and_the_gap_is_from_bumper_to_bumper():
    index, gap = lead((40.0, 0.0, 0.0), (20.0, 1.0, 0.1), (12.0, 3.0, 0.0))
    assert index == 1
    assert gap == pytest.approx(20.0 - 2.0 * np.cos(0.1) - np.sin(0.1) - FRONT)


def test_what_comes_towards_the_ego_crosses_or_lies_behind_leads_nobody():
    assert lead((20.0, 0.0, np.pi), (20.0, 0.0, np.pi / 2), (-8.0, 0.0, 0.0)) is None
    assert lead() is None


def test_bicycles_lead_and_people_on_foot_do_not():
    assert lead((20.0, 0.0, 0.0), (15.0, 0.0, 0.0), types=[BICYCLE, PEDESTRIAN])[0] == 0


def test_vehicles_off_the_way_are_told_nearest_first():
    boxes = in_world((30.0, 6.0, 0.0), (20.0, -6.0, 1.0), (10.0, 2.0, 0.0), (-10.0, 6.0, 0.0), (15.0, 9.0, 0.0))
    types = np.array([VEHICLE] * 4 + [PEDESTRIAN])
    assert vehicles_off_the_way(boxes, types, EGO, AHEAD) == [1, 0]


def test_the_way_begins_at_the_ego_and_is_seen_from_it():
    line = np.array([[100.0, 0.0, EGO[2]], [100.0, 400.0, EGO[2]]])
    np.testing.assert_allclose(shapely.get_coordinates(way_ahead(line, EGO)), [(0.0, 0.0), (80.0, 0.0)], atol=1e-6)
    ended = way_ahead(line[:, :] - (0.0, 400.0, 0.0), EGO)
    np.testing.assert_allclose(shapely.get_coordinates(ended), [(0.0, 0.0), (1.0, 0.0)])


def poles(*rows):
    """Poles of x, y, heading of the lamps, arm in the ego frame."""
    return np.array([[EGO[0] - y, EGO[1] + x, heading + EGO[2], arm] for x, y, heading, arm in rows], float)


def test_the_first_light_beside_the_way_that_looks_at_the_ego_is_its_own():
    standing = poles((60.0, -5.0, np.pi, 0.0), (30.0, -5.0, np.pi + 0.2, 0.0), (20.0, -5.0, np.pi / 2, 0.0), (25.0, 5.0, np.pi, 0.0))
    group, distance = light_ahead(standing, np.array([4, 5, 6, 7]), EGO, AHEAD)
    assert group == 5 and distance == pytest.approx(30.0 - FRONT)


def test_a_light_behind_far_aside_or_on_an_arm_alone_is_not():
    standing = poles((2.0, -5.0, np.pi, 0.0), (30.0, -20.0, np.pi, 0.0), (30.0, -5.0, np.pi, 6.0))
    assert light_ahead(standing, np.arange(3), EGO, AHEAD) is None


def test_a_red_connector_counts_where_the_way_leads_along_it_now():
    crossing, along, later = rectangle(20.0, -20.0, 23.0, 20.0), rectangle(30.0, -2.0, 50.0, 2.0), rectangle(10.0, -2.0, 20.0, 2.0)
    always, never = np.ones(STEPS, bool), np.arange(STEPS) > 0

    def red(*reds):
        scene = prepared_by_hand(reds=reds)
        return red_on_way(scene, way_ahead(np.asarray(scene.centerline), np.array(scene.ego_state[:3])))

    assert red((crossing, always), (along, always), (later, never)) == pytest.approx(30.0 - FRONT)
    assert red((crossing, always), (later, never)) == np.inf


def test_the_moment_is_drawn_as_it_lies_in_the_store(world):
    np.testing.assert_array_equal(views(shot(world, 0), SENSORS), world.features([0]).images[0])


def test_the_car_ahead_and_the_red_lamp_are_found_and_counted(world):
    found = {case.cause: case for case in scene_cases(world, 0, CauseConfig())}
    assert set(found) == {"lead", "red"}
    car, lamp = found["lead"], found["red"]
    assert car.thing == 0 and car.others == (1,) and car.speed == pytest.approx(5.0) and not car.alone
    assert car.distance == pytest.approx(CAR[1] - CAR[4] / 2 - FRONT, abs=0.05)
    assert lamp.thing == 0 and not lamp.alone and lamp.distance == pytest.approx(40.5 - FRONT, abs=0.05)
    at = shot(world, 0)
    assert car.pixels == changed_pixels(drawn(at), drawn(without(at, [0]))) > 100
    assert lamp.pixels == changed_pixels(drawn(at), drawn(with_lights(at, [0], 0))) >= 6


def test_a_light_of_the_crossing_street_is_the_other_one_where_it_is_visible(world):
    lamp = next(case for case in scene_cases(world, 0, CauseConfig()) if case.cause == "red")
    assert lamp.others == (1,)
    at = shot(world, 0)
    assert swapped(at, [0, 1]).moment.lights.tolist() == [3, 1]
    assert swapped(with_lights(at, [0], 2), [0]).moment.lights.tolist() == [2, 3]


def test_what_is_too_small_or_too_far_does_not_count(world):
    assert scene_cases(world, 0, CauseConfig(lead_pixels=100_000, lamp_pixels=100_000)) == []
    assert scene_cases(world, 0, CauseConfig(lead_distance=1.0, light_distance=1.0)) == []


def test_a_lamp_that_contradicts_the_map_does_not_count(world, monkeypatch):
    monkeypatch.setattr("irlvla.causes.red_on_way", lambda *_: np.inf)
    assert [case.cause for case in scene_cases(world, 0, CauseConfig())] == ["lead"]


def test_cases_are_thinned_by_a_seed(world):
    found = cases(world, [0, 0, 0], most=2)
    assert {name: len(some) for name, some in found.items()} == {"lead": 2, "red": 2, "green": 0}
    assert found == cases(world, [0, 0, 0], most=2) and len(cases(world, [0])["lead"]) == 1


def test_logs_without_a_sidecar_are_refused(tmp_path):
    store = made_world(tmp_path)
    (tmp_path / "openscene" / "sidecar" / "log.npz").unlink()
    with pytest.raises(ValueError, match="only moments of the embedded world can be drawn again"):
        shot(store, 0)
    (tmp_path / "openscene" / "sidecar").rename(tmp_path / "gone")
    with pytest.raises(ValueError, match="has no sidecar"):
        cases(store, [0])


def test_a_moment_that_the_sidecar_does_not_know_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="does not know this moment"):
        shot(made_world(tmp_path, tokens=("other", "another")), 0)


def test_an_unknown_cause_is_an_error():
    with pytest.raises(ValueError, match="unknown cause 'fog'"):
        Case(cause="fog", index=0, thing=0, others=(), pixels=9, distance=9.0, speed=5.0, alone=True)
