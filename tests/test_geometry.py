import numpy as np
import pytest
import shapely
from shapely.geometry import LineString, Point, Polygon

from irlvla.geometry import (
    arc_length,
    box_touches_polygon,
    boxes_touch,
    fill_box,
    frozen,
    in_polygon,
    principal,
    segment_touches_box,
    wrapped,
)

SQUARE = np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 4.0], [0.0, 4.0]])
HOLE = np.array([[1.0, 1.0], [3.0, 1.0], [3.0, 3.0], [1.0, 3.0]])


def box(x, y, heading=0.0, length=2.0, width=2.0):
    corners = np.empty((4, 2))
    fill_box(x, y, heading, length, width, corners)
    return corners


def test_a_box_starts_front_left_and_goes_round_by_the_rear():
    assert np.allclose(box(1.0, 2.0, np.pi / 2, 4.0, 2.0), [[0, 4], [0, 0], [2, 0], [2, 4]])


def test_an_angle_is_brought_to_half_a_turn():
    assert wrapped(3 * np.pi / 2) == pytest.approx(-np.pi / 2)


def test_boxes_that_share_an_edge_touch_and_boxes_a_hair_apart_do_not():
    assert boxes_touch(box(0.0, 0.0), box(2.0, 0.0))
    assert not boxes_touch(box(0.0, 0.0), box(2.0 + 1e-9, 0.0))
    assert not boxes_touch(box(0.0, 0.0), box(1.9, 1.9, np.pi / 4))


def test_the_boundary_and_holes_are_outside_a_polygon():
    vertices, rings = np.concatenate([SQUARE, HOLE]), np.array([0, 4, 8])
    assert in_polygon(0.5, 0.5, vertices, rings, 0, 2)
    assert not in_polygon(2.0, 2.0, vertices, rings, 0, 2)
    for x, y in ((0.0, 2.0), (2.0, 0.0), (4.0, 4.0), (1.0, 2.0), (2.0, 4.0)):
        assert not in_polygon(x, y, vertices, rings, 0, 2)


def test_a_box_inside_a_polygon_touches_it_but_not_inside_its_hole():
    vertices, rings = np.concatenate([SQUARE, HOLE]), np.array([0, 4, 8])
    small = box(2.0, 2.0, 0.3, 0.5, 0.5)
    assert box_touches_polygon(small, SQUARE, np.array([0, 4]), 0, 1)
    assert not box_touches_polygon(small, vertices, rings, 0, 2)
    assert box_touches_polygon(box(2.0, 2.0, 0.0, 2.0, 0.5), vertices, rings, 0, 2)
    assert box_touches_polygon(box(2.0, 2.0, 0.0, 20.0, 20.0), SQUARE, np.array([0, 4]), 0, 1)


def test_shapes_meet_as_shapely_says():
    random = np.random.default_rng(0)
    for _ in range(300):
        first, second = (box(*random.uniform(-3, 3, 2), random.uniform(-4, 4), *random.uniform(0.3, 4, 2)) for _ in range(2))
        blob = random.uniform(-4, 4, (1, 2)) + random.uniform(0.5, 3, (9, 1)) * np.stack(
            [np.cos(np.arange(9) * 2 * np.pi / 9), np.sin(np.arange(9) * 2 * np.pi / 9)], axis=1
        )
        rings = np.array([0, 9])
        assert boxes_touch(first, second) == Polygon(first).intersects(Polygon(second))
        assert box_touches_polygon(first, blob, rings, 0, 1) == Polygon(first).intersects(Polygon(blob))
        assert segment_touches_box(first[::2].copy(), second) == LineString(first[::2]).intersects(Polygon(second))
        assert in_polygon(*first[0], blob, rings, 0, 1) == Polygon(blob).contains(Point(first[0]))


def test_arc_length_is_shapelys_projection_clamped_to_the_ends():
    random = np.random.default_rng(1)
    line = np.cumsum(random.uniform(-1, 2, (20, 3)), axis=0)
    for point in random.uniform(-10, 20, (50, 2)):
        assert arc_length(*point, line) == pytest.approx(shapely.line_locate_point(LineString(line[:, :2]), Point(point)), abs=1e-9)
    assert arc_length(5.0, 1.0, np.array([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]])) == 2.0


def test_a_frozen_view_is_read_only_and_leaves_its_source_writable():
    source = np.zeros(3)
    assert not frozen(source, np.float64).flags.writeable and source.flags.writeable


def test_boxes_without_length_or_width_touch_what_they_lie_on():
    wide, lengthless, point = np.empty((4, 2)), np.empty((4, 2)), np.empty((4, 2))
    fill_box(664000.0, 3996000.0, 0.3, 4.0, 2.0, wide)
    for along, touches in ((1.9, True), (2.1, False), (-2.1, False)):
        x, y = 664000.0 + along * np.cos(0.3), 3996000.0 + along * np.sin(0.3)
        fill_box(x, y, 0.3, 0.0, 1.0, lengthless)
        fill_box(x, y, 0.3, 0.0, 0.0, point)
        assert boxes_touch(wide, lengthless) == boxes_touch(lengthless, wide) == boxes_touch(wide, point) == touches
    fill_box(664003.0, 3996000.0, 0.3, 0.0, 6.0, lengthless)
    assert not boxes_touch(wide, lengthless)


def test_principal_angles_begin_at_minus_pi():
    assert principal(np.pi) == -np.pi == principal(-np.pi)
    assert principal(0.5) == pytest.approx(0.5, abs=1e-15)
    assert principal(7.0) == pytest.approx(7.0 - 2 * np.pi, abs=1e-14)
