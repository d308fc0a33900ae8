"""Regions of pictures, worked by hand: where they lie, what fills them, and where else as much can be filled."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from irlvla.masks import area, elsewhere, filled, joined, region

AHEAD = np.array([True, True])


def regions(*rows):
    return np.array(rows, dtype=np.int64).reshape(-1, 4)


def is_apart(first, second):
    return first[1] <= second[0] or second[1] <= first[0] or first[3] <= second[2] or second[3] <= first[2]


def test_a_region_holds_every_pixel_that_is_touched_and_a_margin():
    places = np.array([[0.3, 0.5], [0.5, 0.8]])
    assert region(places, AHEAD, 10, 20, margin=0).tolist() == [5, 8, 6, 10]
    assert region(places, AHEAD, 10, 20, margin=2).tolist() == [3, 10, 4, 12]


def test_a_region_ends_with_the_picture():
    assert region(np.array([[-3.0, 0.5], [0.25, 2.0]]), AHEAD, 10, 20).tolist() == [4, 10, 0, 6]


@pytest.mark.parametrize("places", [[[1.2, 0.5], [1.5, 0.6]], [[0.2, -0.5], [0.4, -0.1]]])
def test_what_lies_beside_the_picture_has_no_region(places):
    assert not region(np.array(places), AHEAD, 10, 20).any()


def test_points_behind_the_camera_do_not_count():
    places = np.array([[0.5, 0.5], [0.9, 0.9]])
    assert region(places, np.array([True, False]), 10, 20, margin=1).tolist() == [4, 6, 9, 11]
    assert not region(places, ~AHEAD, 10, 20).any()


def test_regions_that_overlap_are_joined_also_in_chains():
    found = joined(regions([0, 4, 0, 4], [8, 9, 8, 9], [0, 0, 0, 0], [6, 9, 0, 4], [3, 7, 3, 5]))
    assert sorted(found.tolist()) == [[0, 9, 0, 5], [8, 9, 8, 9]]
    assert area(found).tolist() == [1, 45]
    assert joined(regions([0, 2, 0, 2], [0, 2, 2, 4])).tolist() == [[0, 2, 0, 2], [0, 2, 2, 4]]


def test_a_region_is_filled_from_the_colour_at_its_left_to_that_at_its_right():
    image = np.full((2, 6, 3), 7, np.uint8)
    image[:, 1], image[:, 5] = 10, 50
    before = image.copy()
    painted = filled(image, regions([0, 1, 2, 5]))
    assert painted[0, :, 0].tolist() == [7, 10, 20, 30, 40, 50]
    np.testing.assert_array_equal(painted[1], before[1])
    np.testing.assert_array_equal(image, before)


def test_at_the_edge_the_other_side_fills_and_a_whole_row_gets_the_mean():
    image = np.zeros((1, 4, 3), np.uint8)
    image[0, 2:] = 100
    assert filled(image, regions([0, 1, 0, 2]))[0, :, 0].tolist() == [100, 100, 100, 100]
    assert filled(image, regions([0, 1, 2, 4]))[0, :, 0].tolist() == [0, 0, 0, 0]
    assert filled(image, regions([0, 1, 0, 4]))[0, :, 0].tolist() == [50, 50, 50, 50]


def test_without_regions_nothing_is_filled_and_nothing_is_needed_elsewhere():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    np.testing.assert_array_equal(filled(image, regions()), image)
    assert elsewhere(regions(), 2, 4, np.random.default_rng(0)).shape == (0, 4)


@given(st.integers(0, 30), st.integers(0, 60), st.integers(1, 10), st.integers(1, 20), st.integers(0, 10_000))
def test_elsewhere_is_as_much_at_about_the_same_height_and_apart(top, left, tall, wide, seed):
    given_ = regions([top, top + tall, left, left + wide], [35, 38, 2, 6])
    moved = elsewhere(given_, 40, 80, np.random.default_rng(seed))
    assert area(moved).tolist() == area(given_).tolist()
    assert (np.abs(moved[:, 0] - given_[:, 0]) <= np.maximum(2, (given_[:, 1] - given_[:, 0]) // 4)).all()
    every = [*given_, *moved]
    assert all(is_apart(one, other) for i, one in enumerate(every) for other in every[i + 1 :] if not (i == 0 and other is every[1]))
    assert (moved[:, [0, 2]] >= 0).all() and (moved[:, 1] <= 40).all() and (moved[:, 3] <= 80).all()


def test_what_fits_nowhere_in_one_piece_is_cut():
    # Six columns in the middle of ten leave two at each side: three pieces of two would do at no height, four of one or two do below.
    moved = elsewhere(regions([0, 2, 2, 8]), 2, 16, np.random.default_rng(0))
    assert len(moved) == 1 and moved[0, 3] - moved[0, 2] == 6
    moved = elsewhere(regions([0, 2, 3, 9]), 2, 12, np.random.default_rng(0))
    assert len(moved) == 2 and area(moved).sum() == 12


def test_where_most_is_covered_there_is_no_room_elsewhere():
    assert elsewhere(regions([0, 8, 0, 9]), 10, 12, np.random.default_rng(0)) is None


def test_there_may_be_room_at_another_height():
    moved = elsewhere(regions([8, 10, 0, 12]), 10, 12, np.random.default_rng(0))
    assert area(moved).sum() == 24 and (moved[:, 1] <= 8).all()
