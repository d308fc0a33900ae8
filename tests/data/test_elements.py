import dataclasses

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as some

from irlvla.data import elements as module
from irlvla.data.elements import LONGEST, elements, nearest_boxes, nearest_lines, no_elements
from irlvla.lanes import drawn_lines
from irlvla.types import ELEMENTS, LINE_NAMES, Elements, Objects

from .. import tiny

EGO = np.array([10.0, 0.0, 0.0])
CENTRE, BOUNDARY, CROSSING, STOP = range(4)


def found(drawn, ego=EGO):
    """Lines around an ego, by kind."""
    lines, kinds = nearest_lines(drawn, np.asarray(ego, dtype=float))
    return [lines[kinds == kind].astype(float) for kind in range(len(LINE_NAMES))]


def boundary(*points):
    return drawn_lines((), [shapely.LineString(points)])


def lengths(lines):
    return np.hypot(*np.diff(lines, axis=1).transpose(2, 0, 1)).sum(axis=1)


def test_the_road_of_a_tiny_city_lies_where_it_is():
    """Roads of 50 m and links of 10 m along x, 4 m wide; the ego stands at x = 10 and sees from x = 2 to x = 66."""
    centres, edges, crossings, stops = found(tiny.city().drawn)
    assert [(round(line[0, 0]), round(line[-1, 0])) for line in centres] == [(-8, 16), (16, 40), (40, 50), (50, 56)]
    assert np.abs(np.concatenate(centres)[:, 1]).max() < 1e-5 and len(crossings) == len(stops) == 0
    assert sorted(np.round(line[0, 1]) for line in edges) == [-2, -2, -2, 2, 2, 2] and sorted(np.round(lengths(edges))) == [
        6,
        6,
        24,
        24,
        24,
        24,
    ]


def test_lines_turn_with_the_ego():
    motion = (300.0, -200.0, 2.0)
    here, there = tiny.city(), tiny.city(motion=motion)
    # A little aside, so that nothing is as near as something else.
    x, y = tiny.placed(np.array([[10.3, 0.2]]), motion)[0]
    for line, other in zip(found(here.drawn, (10.3, 0.2, 0.0)), found(there.drawn, (x, y, 2.0)), strict=True):
        np.testing.assert_allclose(line, other, atol=1e-4)


def test_a_line_is_cut_into_equal_pieces_of_evenly_spaced_points():
    _, pieces, _, _ = found(boundary((10.0, 6.0), (14.0, 6.0), (60.0, 6.0)))
    assert lengths(pieces) == pytest.approx(50 / 2) and len(pieces) == int(np.ceil(50 / LONGEST))
    assert np.hypot(*np.diff(pieces[1], axis=0).T) == pytest.approx(50 / 18, abs=1e-4) and pieces[1][-1] == pytest.approx((50.0, 6.0))


def test_a_line_that_leaves_the_area_and_comes_back_is_two_lines():
    _, pieces, _, _ = found(boundary((10.0, 20.0), (10.0, 40.0), (20.0, 40.0), (20.0, 20.0)))
    assert [line[[0, -1]].round(4).tolist() for line in pieces] == [[[0, 20], [0, 32]], [[10, 20], [10, 32]]]


def test_what_has_no_direction_starts_at_its_end_nearer_to_the_ego():
    for points in (((15.0, 3.0), (30.0, 3.0)), ((30.0, 3.0), (15.0, 3.0))):
        assert found(boundary(*points))[BOUNDARY][0][0] == pytest.approx((5.0, 3.0))


def test_centres_run_with_the_traffic():
    line, *_ = found(tiny.city(roads={"1": ((40.0, 3.5), (20.0, 3.5))}, links={}).drawn)[CENTRE]
    assert line[[0, -1], 0] == pytest.approx((30.0, 10.0))


def test_a_crosswalk_is_an_outline_that_ends_where_it_starts():
    for turn in (1, -1):
        area = shapely.Polygon([(20, -3), (24, -3), (24, 5), (20, 5)][::turn])
        (outline,) = found(drawn_lines((), crosswalks=[area]))[CROSSING]
        assert outline[0] == pytest.approx(outline[-1]) and outline[0] == pytest.approx((10.0, -3.0))
        assert lengths(outline[None])[0] == pytest.approx(24, abs=2.5)
        x, y = outline.T
        assert (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() > 0


def test_a_crosswalk_on_the_edge_of_the_area_is_clipped():
    (outline,) = found(drawn_lines((), crosswalks=[shapely.box(60, -4, 70, 4)]))[CROSSING]
    assert outline[:, 0].max() == pytest.approx(56.0) and outline[:, 0].min() == pytest.approx(50.0)
    assert not len(found(drawn_lines((), crosswalks=[shapely.box(67, -4, 70, 4)]))[CROSSING])


def test_a_stop_line_is_the_middle_of_its_area_along_the_longer_side():
    (line,) = found(drawn_lines((), stops=[shapely.box(20, -6, 21, 1)]))[STOP]
    assert line[0] == pytest.approx((10.5, 1.0)) and line[-1] == pytest.approx((10.5, -6.0))


def test_of_an_edge_that_two_lanes_share_one_is_kept():
    twins = [shapely.LineString([(15, 2), (30, 2)]), shapely.LineString([(30, 2.3), (15, 2.3)]), shapely.LineString([(15, 3), (30, 3)])]
    assert found(drawn_lines((), twins))[BOUNDARY][:, 0, 1] == pytest.approx([2.0, 3.0])


def test_each_kind_keeps_its_nearest_and_gets_its_share():
    edges = [shapely.LineString([(15 + i, 2), (15 + i, 8)]) for i in range(50)]
    walks = [shapely.box(15 + 5 * i, -8, 18 + 5 * i, -4) for i in range(6)]
    lines, kinds = nearest_lines(drawn_lines(tuple(tiny.city().lanes.values()), edges, walks), EGO)
    assert np.bincount(kinds, minlength=4).tolist() == [4, 22, 6, 0] and (kinds >= 0).all()
    distance = np.hypot(*lines.transpose(2, 0, 1)).min(axis=1)
    assert (np.diff(distance) >= 0).all()
    assert lines[kinds == BOUNDARY][:, 0, 0].max() == pytest.approx(26.0)


POINT = some.tuples(some.integers(-60, 100), some.integers(-60, 60))


@settings(deadline=None, max_examples=50)
@given(some.lists(POINT, min_size=2, max_size=6), some.floats(-4, 4), some.floats(-30, 30))
def test_pieces_are_what_shapely_cuts_out(points, heading, x):
    line, drawn, ego = shapely.LineString(points), boundary(*points), np.array([x, 5.0, heading])
    cos, sin = np.cos(heading), np.sin(heading)
    seen = shapely.transform(line, lambda p: (p - ego[:2]) @ np.array([[cos, -sin], [sin, cos]]))
    inside = shapely.intersection(seen, shapely.box(-8, -32, 56, 32))
    pieces, kinds = np.empty((64, 10, 2)), np.empty(64, np.int64)
    count = module._fill_pieces(drawn.vertices, drawn.line_start, drawn.kinds, np.array([0]), ego, module._AREA, 1e9, pieces, kinds)
    if count:
        assert shapely.distance(shapely.points(pieces[:count].reshape(-1, 2)), inside).max() < 1e-6
    if len(points) == 2 and abs(inside.length - 1.0) > 1e-6:
        assert count == (inside.length > 1.0)
        assert not count or lengths(pieces[:1])[0] == pytest.approx(inside.length)


def test_boxes_are_the_nearest_in_the_area():
    rows = [(str(i), i % 3, 10.0 + i, 1.0, 2.5 * np.pi, 4.0) for i in range(40)] + [
        ("far", 0, 57.0, 0.0, 0.0, 0.0),
        ("beside", 0, 0.0, 33.0, 0.0, 0.0),
    ]
    boxes, classes = nearest_boxes(tiny.objects(*rows[::-1]))
    assert boxes[:, 0] == pytest.approx(10.0 + np.arange(32)) and classes.tolist() == [i % 3 for i in range(32)]
    assert boxes[5, 1:] == pytest.approx((1.0, 4.0, 2.0, np.pi / 2, 0.0, 4.0), abs=1e-5)


def test_a_velocity_that_is_not_known_counts_as_none():
    one = tiny.objects(("a", 0, 5.0, 0.0, 0.0, 3.0))
    boxes, classes = nearest_boxes(dataclasses.replace(one, velocities=np.full((1, 3), np.nan)))
    assert boxes[0, 5:].tolist() == [0.0, 0.0] and classes[:2].tolist() == [0, -1] and np.isnan(boxes[1:]).all()


def test_the_moment_before_has_its_own_objects_and_place():
    before, now = tiny.objects(("a", 1, 9.0, 0.0, 0.0, 0.0)), tiny.objects(("a", 1, 6.5, 0.0, 0.0, 0.0))
    scene = tiny.scene(future_objects=(now,))
    scene = dataclasses.replace(scene, objects=(*scene.objects[:2], before, *scene.objects[3:]))
    assert elements(scene).boxes[0, 0] == 6.5 and elements(scene, 2).boxes[0, 0] == 9.0
    np.testing.assert_array_equal(elements(scene, 2).lines, nearest_lines(scene.lane_map.drawn, scene.ego_poses[2])[0])


def test_nothing_around_gives_nothing():
    nothing = elements(tiny.scene(start=(5000.0, 0.0, 0.0)))
    for name in ("boxes", "classes", "lines", "kinds"):
        np.testing.assert_array_equal(getattr(nothing, name), getattr(no_elements(), name))
        assert getattr(nothing, name).dtype == getattr(no_elements(), name).dtype
    nearest_boxes(Objects(track_tokens=(), types=np.zeros(0, int), boxes=np.zeros((0, 7)), velocities=np.zeros((0, 3))))


def test_a_scene_without_annotations_has_none():
    with pytest.raises(ValueError, match="scene .* has no annotations"):
        elements(dataclasses.replace(tiny.scene(), objects=None, traffic_lights=None, lane_map=None))


def test_elements_are_checked():
    values = {name: getattr(tiny.elements(), name) for name in ("boxes", "classes", "lines", "kinds")}
    with pytest.raises(ValueError, match="elements: classes has values -1 .. 7, not -1 .. 6"):
        Elements(**values | {"classes": np.full(ELEMENTS, 7, np.int8) * (np.arange(ELEMENTS) == 0) - (np.arange(ELEMENTS) > 0)})
    with pytest.raises(ValueError, match="elements: kinds and the numbers they belong to differ"):
        Elements(**values | {"kinds": np.zeros(ELEMENTS, np.int8)})
