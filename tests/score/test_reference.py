from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from irlvla.data.navsim import scenes_of_tokens
from irlvla.geometry import fill_box
from irlvla.lanes import flat_polygons
from irlvla.score import prepared as preparation
from irlvla.score import reference
from irlvla.score.forecast import _along, forecast, found_order
from irlvla.score.reference import LATERAL_OFFSETS, SPEED_SHARES, _corridor, _corridor_line, _gap, _leads, _projected, reference_proposals
from irlvla.types import STEPS
from irlvla.vehicle import LENGTH

from .. import tiny
from . import slow_reference
from .scenes import prepared_by_hand

GOLDEN = Path(__file__).parents[1] / "golden"


def proposals(scene, speed_limit=10.0):
    """All proposals (3, 5, 51, 3) and scores of a scene."""
    caught = {}

    def spy(under_construction, boxes, velocities, types, limit):
        caught["result"] = reference_proposals(under_construction, boxes, velocities, types, speed_limit)
        return caught["result"][0][0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparation, "reference_plan", spy)
        preparation.prepared(scene)
    plans, scores = caught["result"]
    return plans.reshape(len(LATERAL_OFFSETS), len(SPEED_SHARES), 51, 3), scores


def speeds(plan):
    return np.hypot(*np.diff(plan[:, :2], axis=0).T) / 0.1


def straight(objects=(), speed=8.0):
    """The ego on a long straight road with objects that stay where they are seen now."""
    return tiny.scene(speed=speed, start=(0.0, 0.0, 0.0), future_objects=[tiny.objects(*objects)] * 9)


def test_all_proposals_of_golden_score_what_the_devkit_gave_them_and_the_plan_is_its_plan():
    expected = np.load(GOLDEN / "reference.npz")
    tokens = sorted({name.rsplit("_pdm_closed", 1)[0] for name in expected if name.endswith("_pdm_closed")})
    scenes = scenes_of_tokens(GOLDEN / "openscene", GOLDEN / "maps", "test", tokens)
    with pytest.MonkeyPatch.context() as patch:
        found = {}

        def spy(scene, *rest):
            plans, scores = reference_proposals(scene, *rest)
            found[scene.token] = plans, scores
            return plans[int(np.argmax(scores))]

        patch.setattr(preparation, "reference_plan", spy)
        for scene in scenes:
            plan = preparation.prepared(scene).reference_poses
            np.testing.assert_allclose(found[scene.token][1], expected[f"{scene.token}_pdm_proposal_scores"], atol=1e-8)
            np.testing.assert_allclose(plan[:, :2], expected[f"{scene.token}_pdm_closed"][:, 1:3], atol=1e-6)


def test_the_first_step_always_brakes_hard_because_no_lead_is_known_yet():
    plans, _ = proposals(straight(), speed_limit=20.0)
    np.testing.assert_allclose(speeds(plans[0, -1])[:2], [8.0, 8.0 - 0.3], atol=1e-3)
    assert speeds(plans[0, -1])[2] > speeds(plans[0, -1])[1]


def test_the_paths_lie_on_the_centerline_and_a_metre_to_its_right_and_left():
    plans, _ = proposals(straight())
    np.testing.assert_allclose(plans[:, -1, 10, 1] - plans[0, -1, 10, 1], LATERAL_OFFSETS, atol=1e-9)


def test_faster_proposals_get_further_on_a_free_road():
    plans, _ = proposals(straight(speed=3.0))
    ends = plans[0, :, -1, 0]
    assert (np.diff(ends) > 0).all()


def test_a_standing_car_ahead_slows_every_proposal_behind_it():
    plans, _ = proposals(straight([("a", 0, 45.0, 0.0, 0.0, 0.0)]))
    fronts = plans[0, :, -1, 0] + LENGTH - 1.127
    assert (fronts < 45.0 - 2.0).all(), "the tail of a 4 m car at 45 m"
    assert speeds(plans[0, -1])[-1] < speeds(proposals(straight())[0][0, -1])[-1] - 3.0


def test_a_car_aside_of_the_corridor_stops_nobody():
    free, _ = proposals(straight())
    beside, _ = proposals(straight([("a", 0, 45.0, 0.0 + 6.0, 0.0, 0.0)]))
    np.testing.assert_allclose(beside[0], free[0])


def test_an_object_that_overlaps_the_ego_now_is_not_followed():
    free, _ = proposals(straight())
    around, _ = proposals(straight([("a", 0, 1.5, 0.0, 0.0, 0.0)]))
    np.testing.assert_allclose(around, free)


def test_scores_are_those_of_the_first_four_seconds():
    plans, scores = proposals(straight())
    assert plans.shape[2] == STEPS + 10 and scores.shape == (15,)
    assert ((scores >= 0) & (scores <= 1)).all()


def test_a_car_that_slides_is_forecast_along_its_heading_at_its_speed():
    boxes = np.array([(0.0, 0.0, 0.0, 4.0, 2.0)] * 4)
    boxes[3, 2] = np.pi / 2
    velocities = np.array([(3.0, 4.0), (-3.0, 4.0), (0.0, 0.0), (0.0, 2.0)])
    static = np.array([False, False, False, True])
    np.testing.assert_allclose(_along(boxes, velocities, static), [(5.0, 0.0), (-5.0, 0.0), (0.0, 0.0), (0.0, 0.0)], atol=1e-12)
    ahead = straight([("a", 0, 25.0, 0.0, 0.0, 5.0)])
    sliding = [replace(frame, velocities=np.array([(3.0, 4.0, 0.0)])) for frame in ahead.objects[3:]]
    np.testing.assert_allclose(proposals(replace(ahead, objects=(*ahead.objects[:3], *sliding)))[0], proposals(ahead)[0], atol=1e-9)


def test_a_car_that_reverses_towards_the_ego_is_forecast_backwards():
    reversing, _ = proposals(straight([("a", 0, 60.0, 0.0, 0.0, -4.0)]))
    standing, _ = proposals(straight([("a", 0, 60.0, 0.0, 0.0, 0.0)]))
    assert reversing[0, -1, -1, 0] < standing[0, -1, -1, 0] - 2.0


def test_the_reference_minds_the_lights_of_the_corrected_route_which_the_score_does_not():
    roads = {**tiny.ROADS, "5": ((-60.0, 0.0), (-10.0, 0.0))}
    lanes = tiny.city(roads, {**tiny.LINKS, "14": ("5", "1")})
    far = {"lanes": lanes, "start": (-30.0, 0.0, 0.0), "route": ("1", "11", "2"), "speed": 8.0}
    dark, red = tiny.scene(**far), tiny.scene(**far, lights=[(("114", True),)] * 9)
    assert len(preparation.prepared(red).red_polygons) == 0
    assert proposals(red)[0][0, -1, -1, 0] < -10.0 - 4.0 < proposals(dark)[0][0, -1, -1, 0]


def test_the_corridor_has_the_paths_own_points_only_unless_these_are_too_few():
    path = np.array([(0.0, 0.0, 0.0), (10.0, 0.0, 0.0), (10.0, 0.0, 0.0), (20.0, 0.0, 0.0), (200.0, 0.0, 0.0)])
    progress = path[:, 0].copy()
    np.testing.assert_allclose(_corridor_line(path, progress, 5.0, 25.0), [(10.0, 0.0), (10.0, 0.0), (20.0, 0.0)])
    np.testing.assert_allclose(_corridor_line(path, progress, 30.0, 90.0), [(30.0, 0.0), (90.0, 0.0)])
    np.testing.assert_allclose(_corridor_line(path, progress, 15.0, 90.0), [(15.0, 0.0), (20.0, 0.0), (90.0, 0.0)])
    np.testing.assert_allclose(_corridor_line(path, progress, 150.0, 900.0), [(150.0, 0.0), (200.0, 0.0)])
    np.testing.assert_allclose(_corridor_line(path, progress, 300.0, 900.0), [(200.0, 0.0)])
    assert _corridor(np.array([(200.0, 0.0)])).area == pytest.approx(2.297**2), "a square at the end of the path"


def test_a_corridor_starts_at_a_vertex_that_the_ego_is_abreast_of():
    way = np.array([(0.0, 0.0), (7.1, 0.3), (14.0, 2.9), (20.0, 7.7)]) + (664000.123, 3996000.456)
    abreast = way[1] + 3.0 * np.array((np.sin(0.2), -np.cos(0.2)))
    scene = prepared_by_hand(speed=3.0, centerline=way, origin=(*abreast, 0.2))
    path = np.column_stack([way, np.zeros(4)])
    progress = np.r_[0.0, np.cumsum(np.hypot(*np.diff(way, axis=0).T))]
    assert _projected(*scene.ego_state[:2], path, progress) == progress[1]


def in_corridor(line, car):
    """Whether a car (x, y, heading, length, width) is found in the corridor along a line."""
    path, outline = np.column_stack([line, np.zeros(len(line))]), _corridor(line).exterior.coords
    progress = np.r_[0.0, np.cumsum(np.hypot(*np.diff(line, axis=0).T))]
    rings = np.array([0, len(outline) - 1])
    return _leads(path, progress, line, np.array(outline)[:-1], rings, np.array([car]), np.zeros((1, 2)), np.zeros(1, bool))[1][0, 0]


def test_a_car_beside_the_joint_of_two_lanes_is_not_in_the_corridor():
    """The last point of a lane and the first of the next differ by rounding: a segment of 1e-10 m has any direction."""
    y = 4_010_000.0
    line = np.array([(0.0, y), (20.0, y), (20.0, np.nextafter(y, np.inf)), (40.0, y)])
    assert in_corridor(line, (20.0, y + 1.2, 0.0, 2.0, 0.2))
    assert not in_corridor(line, (20.0, y + 1.26, 0.0, 2.0, 0.2))


def crowd(first_tree=True):
    """A standing ego that two pedestrians walk through at once, one with it and one against it, and the plan's speeds."""
    rows = [("a", 1, 3.0, -4.0, np.pi / 2 - 0.3, 1.5), ("b", 1, 3.2, 4.0, -np.pi / 2 - 0.3, 1.5)]
    scene = tiny.scene(speed=0.0, start=(0.0, 0.0, 0.0), future_objects=[tiny.objects(*rows)] * 9)
    with pytest.MonkeyPatch.context() as patch:
        asked = []

        def spy(*arguments):
            asked.append(arguments[1])
            order = found_order(*arguments)
            return order if first_tree else order[::-1].copy()

        patch.setattr(reference, "found_order", spy)
        return proposals(scene)[0], asked


def test_of_two_leads_on_the_ego_itself_the_devkits_search_tree_decides():
    (plans, asked), (others, _) = crowd(), crowd(first_tree=False)
    assert asked and np.abs(plans - others).max() > 1e-3, "who is the lead there matters"


def test_two_lights_on_the_ego_need_no_decision():
    square = np.array([(2.0, -3.0), (40.0, -3.0), (40.0, 3.0), (2.0, 3.0)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "found_order", None)
        scene = prepared_by_hand(speed=1.0, reds=[(square, np.ones(STEPS, bool))] * 2, origin=(0.0, 0.0, 0.0))
        reference_proposals(scene, np.zeros((0, 5)), np.zeros((0, 2)), np.zeros(0, np.int64), 10.0)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.floats(-12.0, 12.0), st.floats(-12.0, 12.0), st.floats(-3.1, 3.1))
def test_the_gap_to_a_red_connector_minds_its_hole_and_its_parts(x, y, heading):
    ring = shapely.box(-9.0, -9.0, 9.0, 9.0).difference(shapely.box(-6.0, -6.0, 6.0, 6.0)).union(shapely.box(14.0, -2.0, 18.0, 2.0))
    flat = flat_polygons([ring])
    car = np.empty((4, 2))
    fill_box(x, y, heading, 4.0, 2.0, car)
    found = _gap(car, flat.vertices, flat.ring_start, 0, len(flat.ring_start) - 1)
    assert found == pytest.approx(shapely.distance(shapely.Polygon(car), ring), abs=1e-9)
    scene = prepared_by_hand(origin=(0.0, 0.0, 0.0))
    scene = replace(scene, red_polygons=flat, red_valid=np.ones((STEPS, 1), bool))
    assert forecast(scene, np.zeros((0, 5)), np.zeros((0, 2)), np.zeros(0, np.int64)).reds[0].equals(ring)


def test_an_object_of_unknown_velocity_nearby_is_refused_as_the_devkit_refuses_it():
    lost = without_velocities(("a", 0, 30.0, 0.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="cannot be prepared: a vehicle 28.5 m from the ego has no velocity"):
        preparation.prepared(lost)
    for fine in (("a", 3, 30.0, 0.0, 0.0, 1.0), ("a", 0, 130.0, 0.0, 0.0, 1.0)):
        preparation.prepared(without_velocities(fine))


def without_velocities(row):
    scene = straight([row])
    unknown = [replace(frame, velocities=frame.velocities * np.nan) for frame in scene.objects[3:]]
    return replace(scene, objects=(*scene.objects[:3], *unknown))


def test_a_car_that_rolls_back_does_not_stop_at_once():
    ways = proposals(tiny.scene(speed=-0.5, start=(10.0, 0.0, 0.0)))[0][0, -1, :3, 0]
    wish = 1.0 - 0.5 * 1.5 + 0.25 / (2.0 * np.sqrt(1.5 * 3.0))
    np.testing.assert_allclose(np.diff(ways), [-0.05, 0.1 * (-0.5 + 0.15 * (1.0 - (0.5 / 10.0) ** 10 - wish**2))], atol=1e-9)


def test_a_speed_limit_of_zero_lets_nobody_drive():
    plans, _ = proposals(straight(speed=1.0), speed_limit=0.0)
    assert np.isfinite(plans).all() and (plans[..., -1, 0] < 5.0).all()


def made_up(seed):
    """Arguments of `reference_proposals`: a bent path of few or many points, objects of all kinds beside it, perhaps a red light."""
    random = np.random.default_rng(seed)
    bend, points = random.uniform(-0.03, 0.03), random.choice([2, 3, 8, 40])
    way = np.linspace(-20.0, random.choice([30.0, 80.0, 150.0]), points)

    def at(way):
        return np.stack([np.sin(bend * way) / bend, (1.0 - np.cos(bend * way)) / bend], axis=-1)

    line = at(way) if points < 10 else np.concatenate([at(way[:12]), at(way[11:])])
    count = random.choice([0, 2, 8, 25])
    ways, offsets = random.uniform(-15.0, random.choice([20.0, 80.0]), count), random.normal(0.0, 2.5, count)
    headings = bend * ways
    places = at(ways) + offsets[:, None] * np.stack([-np.sin(headings), np.cos(headings)], axis=-1)
    headings = headings + random.choice([0.0, 0.0, np.pi, np.pi / 2, 0.4], count)
    boxes = np.column_stack([places, headings, random.uniform(0.5, 8.0, count), random.uniform(0.4, 2.5, count)])
    courses = headings + random.choice([0.0, 0.0, np.pi, 0.9], count)
    speeds = random.uniform(0.0, 12.0, count) * random.integers(0, 2, count)
    velocities = speeds[:, None] * np.stack([np.cos(courses), np.sin(courses)], axis=-1)
    stop = random.uniform(-5.0, 60.0)
    reds = [(np.array([(stop, -3.0), (stop + 12.0, -2.0), (stop + 14.0, 2.0), (stop, 2.0)]), np.ones(STEPS, bool))] * random.integers(0, 2)
    speed = random.choice([0.0, 0.3, -0.4, -3.0, random.uniform(0.0, 20.0), 35.0])
    scene = prepared_by_hand(speed=speed, reds=reds, centerline=line, origin=(0.0, 0.0, 0.0))
    return scene, boxes, velocities, random.integers(0, 7, count), random.choice([None, 5.0, 13.0, 25.0])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_the_fast_planner_equals_its_slow_twin(seed):
    arguments = made_up(seed)
    fast, slow = reference_proposals(*arguments)[0], slow_reference.proposals(*arguments)
    np.testing.assert_allclose(fast[..., :2], slow[..., :2], atol=1e-6)
    np.testing.assert_allclose(np.exp(1j * fast[..., 2]), np.exp(1j * slow[..., 2]), atol=1e-6)


def test_an_ego_that_rolls_back_far_enough_meets_the_nose_of_a_bus_beside_it():
    """The bus is centred 5 m behind the ego's rear axle at the start, and reaches into the corridor with its nose."""
    line = np.column_stack([np.arange(-40.0, 81.0, 5.0), np.zeros(25)])
    scene = prepared_by_hand(speed=-6.0, centerline=line, origin=(20.0, 0.0, 0.0))
    bus = np.array([(15.0, 4.9, -0.25, 24.0, 2.5)]), np.zeros((1, 2)), np.zeros(1, np.int64), 10.0
    fast, slow = reference_proposals(scene, *bus)[0], slow_reference.proposals(scene, *bus)
    np.testing.assert_allclose(fast[..., :2], slow[..., :2], atol=1e-9)
    free = reference_proposals(scene, *(values[:0] for values in bus[:3]), 10.0)[0]
    assert np.abs(fast - free).max() > 1.0
