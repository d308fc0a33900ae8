"""Strips along lines and what they touch, by hand and against shapely."""

import numpy as np
import pytest
import shapely

from irlvla.score.shapes import (
    BLOCK,
    add_box,
    bounds_gap,
    fill_blocks,
    fill_strip,
    fill_whole,
    most_pieces,
    pieces_touch,
    shapes_gap,
    shapes_touch,
)
from tests.score.dense import lane


def strip(line, radius):
    """Pieces, their bounds, and the bounds of all."""
    line = np.asarray(line, dtype=np.float64)
    most = most_pieces(line) + 1
    pieces, bounds, whole = np.empty((most, 4, 2)), np.empty((most, 4)), np.empty(4)
    count, _ = fill_strip(line, radius, pieces, bounds, np.empty(len(line), np.int64), np.empty(len(line), np.int64))
    fill_whole(bounds, count, whole)
    return pieces[:count], bounds[:count], whole


def area(pieces):
    return shapely.union_all([shapely.Polygon(piece) for piece in pieces])


def box(low_x, low_y, high_x, high_y):
    """A shape of one piece."""
    pieces, bounds = np.empty((1, 4, 2)), np.empty((1, 4))
    add_box(np.array([[high_x, high_y], [low_x, high_y], [low_x, low_y], [high_x, low_y]], dtype=np.float64), 0, pieces, bounds)
    return pieces, bounds, bounds[0]


def gap(one, other, limit=np.inf):
    return shapes_gap(one[0], one[1], len(one[0]), other[0], other[1], len(other[0]), other[2], limit)


def touch(one, other, first=0):
    blocks = np.empty((len(one[0]) // BLOCK + 1, 4))
    fill_blocks(one[1], len(one[0]), blocks)
    return shapes_touch(one[0], one[1], blocks, first, len(one[0]), other[0], other[1], len(other[0]), other[2])


def test_a_straight_line_has_one_piece_however_many_points_it_has():
    pieces, _, whole = strip([[x, 0.0] for x in range(11)], 1.0)
    assert len(pieces) == 1 and whole.tolist() == [0.0, -1.0, 10.0, 1.0]


def test_a_strip_ends_flat_and_is_cut_on_the_inside_of_a_corner():
    found = area(strip([[0.0, 0.0], [10.0, 0.0], [10.0, 10.0]], 1.0)[0])
    assert found.contains(shapely.Point(8.9, 9.9)) is False and found.contains(shapely.Point(9.1, 9.9))
    assert not found.intersects(shapely.Point(-0.01, 0.0)) and not found.intersects(shapely.Point(10.0, 10.01))
    assert found.area == pytest.approx(2 * 18.0 + 3.0 + np.pi / 4, abs=0.01), "two legs of 9 m, a square, one corner round"


def test_beyond_the_end_of_a_short_last_segment_nothing_of_the_one_before_is_left():
    line = [[0.0, 0.0], [3.0, 0.0], [3.3, 0.15]]
    found = area(strip(line, 1.0)[0])
    assert found.symmetric_difference(shapely.LineString(line).buffer(1.0, quad_segs=16, cap_style="flat")).area < 1e-9
    assert found.area < area([*strip(line[:2], 1.0)[0], *strip(line[1:], 1.0)[0], *strip(line, 1.0)[0]]).area - 1e-3


def test_a_strip_is_the_buffer_of_its_line():
    off = []
    for seed in range(40):
        random = np.random.default_rng(seed)
        line, radius = lane(random, random.uniform(15.0, 120.0))[:, :2], random.uniform(0.3, 1.3)
        expected = shapely.LineString(line).buffer(radius, quad_segs=16, cap_style="flat")
        off.append(area(strip(line, radius)[0]).symmetric_difference(expected).area / expected.area)
    assert sum(share < 1e-7 for share in off) >= 38 and max(off) < 1e-3, "they differ where a line bends more sharply than it is wide"


def test_a_line_of_no_length_has_no_strip_and_repeated_points_do_not_matter():
    assert len(strip([[1.0, 2.0], [1.0, 2.0]], 1.0)[0]) == 0
    once, twice = strip([[0.0, 0.0], [5.0, 0.0], [5.0, 5.0]], 1.0), strip([[0.0, 0.0]] * 2 + [[5.0, 0.0]] * 3 + [[5.0, 5.0]] * 2, 1.0)
    np.testing.assert_array_equal(once[0], twice[0])


def test_the_segments_of_a_strip_are_known_by_their_first_points():
    line = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [2.0, 3.0], [5.0, 3.0]])
    begins, starts = np.empty(8, np.int64), np.empty(8, np.int64)
    most = most_pieces(line)
    count, segments = fill_strip(line, 0.5, np.empty((most, 4, 2)), np.empty((most, 4)), begins, starts)
    assert segments == 3 and begins[:3].tolist() == [0, 2, 3]
    assert starts[0] == 0 and starts[1] > 1 and count == starts[2] + 1, "each but the last is followed by its corner's fan"


def test_distances_by_hand():
    unit = box(0, 0, 1, 1)
    assert gap(unit, box(4, 0, 5, 1)) == 3.0 and gap(unit, box(4, 5, 5, 6)) == 5.0
    assert gap(unit, box(1, 1, 2, 2)) == 0.0 and gap(unit, box(0.2, 0.2, 0.3, 0.3)) == 0.0, "touching and inside are no distance"
    assert gap(unit, box(4, 0, 5, 1), limit=3.0) == 3.0 and gap(unit, box(4, 0, 5, 1), limit=2.9) == np.inf


def test_touching_counts_and_only_the_pieces_asked_about():
    line = strip([[float(x), 0.01 * x * x] for x in range(60)], 0.5)
    here = box(2.0, 0.5, 2.5, 5.0)
    assert touch(line, here) and not touch(line, here, first=len(line[0]) // 2)
    assert touch(box(0, 0, 1, 1), box(1, 1, 2, 2)) and not touch(box(0, 0, 1, 1), box(1.0001, 1, 2, 2))
    assert bounds_gap(np.array([0.0, 0.0, 1.0, 1.0]), np.array([4.0, 5.0, 6.0, 6.0])) == 25.0


def test_a_diagonal_between_two_boxes_keeps_them_apart():
    turned = np.array([[2.0, 1.0], [1.0, 2.0], [0.0, 1.0], [1.0, 0.0]])
    corner = np.array([[0.4, 0.4], [-1.0, 0.4], [-1.0, -1.0], [0.4, -1.0]])
    assert not pieces_touch(turned, corner) and pieces_touch(turned, corner + 0.1)
    triangle = np.array([[0.0, 0.0], [0.5, 0.5], [0.0, 0.5], [0.0, 0.5]])
    assert pieces_touch(turned, triangle), "a triangle is a piece with a doubled corner"


@pytest.mark.parametrize("seed", range(20))
def test_two_strips_are_as_far_apart_as_their_buffers(seed):
    random = np.random.default_rng(seed)
    lines = [lane(random, 20.0)[:, :2] + random.normal(0.0, 12.0, 2) for _ in range(2)]
    one, other = (strip(line, 0.9) for line in lines)
    expected = shapely.distance(*(shapely.LineString(line).buffer(0.9, quad_segs=16, cap_style="flat") for line in lines))
    assert gap(one, other) == pytest.approx(expected, abs=1e-6) and touch(one, other) == (expected == 0.0)
