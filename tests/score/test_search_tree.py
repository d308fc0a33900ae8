"""The search tree against shapely's, which it imitates."""

import numpy as np
import pytest
import shapely

from irlvla.score.search_tree import first_nearest


def found(shapes, asked):
    bounds = shapely.bounds(shapes)
    return first_nearest(bounds, shapely.distance(shapes, asked), len(shapes), np.array(asked.bounds))


@pytest.mark.parametrize("count", [1, 2, 3, 9, 10, 11, 20, 21, 35, 101, 130])
def test_of_many_that_overlap_the_same_one_is_first(count):
    random = np.random.default_rng(count)
    for _ in range(40):
        x, y = random.uniform(0.0, 30.0, (2, count))
        width, height = random.uniform(1.0, random.choice([4.0, 20.0]), (2, count))
        shapes = shapely.box(x, y, x + width, y + height)
        asked = shapely.box(*random.uniform(0.0, 15.0, 2), *random.uniform(15.0, 30.0, 2))
        assert found(shapes, asked) == shapely.STRtree(shapes).nearest(asked)


def test_of_a_few_that_overlap_it_is_the_lowest():
    shapes = shapely.box([0.0, 5.0, 2.0], [4.0, 1.0, 2.0], [3.0, 6.0, 5.0], [6.0, 3.0, 5.0])
    assert found(shapes, shapely.box(-10.0, -10.0, 20.0, 20.0)) == 1


def test_the_nearest_is_found_if_there_is_one():
    shapes = shapely.box([0.0, 5.0, 8.0], [0.0, 0.0, 0.0], [1.0, 6.0, 9.0], [1.0, 1.0, 1.0])
    assert found(shapes, shapely.box(9.5, 0.0, 10.0, 1.0)) == 2
