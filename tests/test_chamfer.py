import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from irlvla.chamfer import SAMPLES, chamfer_distances

STRAIGHT = np.stack([np.linspace(0.0, 9.0, 10), np.zeros(10)], axis=1)


def alone(found, wanted, limit=np.inf):
    return chamfer_distances(found[None, None], wanted[None, None], np.array([[True]]), limit)[0, 0, 0]


def slow_twin(found, wanted):
    """The same with numpy's interpolation and the whole table of distances."""
    sampled = []
    for line in (found, wanted):
        along = np.append(0.0, np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1)))
        places = np.linspace(0.0, along[-1], SAMPLES)
        sampled.append(np.stack([np.interp(places, along, line[:, axis]) for axis in (0, 1)], axis=1))
    table = np.linalg.norm(sampled[0][:, None] - sampled[1], axis=-1)
    return (table.min(axis=0).mean() + table.min(axis=1).mean()) / 2


def test_parallel_lines_lie_as_far_as_they_are_apart_whichever_way_they_run():
    assert alone(STRAIGHT, STRAIGHT + [0.0, 1.5]) == pytest.approx(1.5)
    assert alone(STRAIGHT, STRAIGHT[::-1] + [0.0, 1.5]) == pytest.approx(1.5)
    assert alone(STRAIGHT, STRAIGHT) == 0.0


def test_the_uneven_spacing_of_points_does_not_matter():
    uneven = STRAIGHT.copy()
    uneven[1:9, 0] = [0.1, 0.2, 0.3, 0.4, 0.5, 7.0, 8.0, 8.5]
    assert alone(STRAIGHT, uneven) == pytest.approx(0.0, abs=1e-9)


def test_half_a_line_is_near_in_one_direction_only():
    # Half of the long line's points lie 0 .. 9 m beyond the end of the short one: 2.25 m over all of them, halved once more;
    # its points lie up to 9 cm from the short one's.
    assert alone(STRAIGHT, np.stack([np.linspace(0.0, 18.0, 10), np.zeros(10)], axis=1)) == pytest.approx(9 / 8, abs=0.05)


def test_a_line_of_one_place_is_a_point():
    assert alone(np.zeros((10, 2)), np.full((10, 2), 3.0)) == pytest.approx(np.hypot(3.0, 3.0))


def test_absent_lines_and_those_beyond_the_limit_are_infinitely_far():
    wanted = np.stack([STRAIGHT, np.full((10, 2), np.nan), STRAIGHT + [0.0, 9.0]])[None]
    distances = chamfer_distances(STRAIGHT[None, None], wanted, np.array([[True, False, True]]), 1.5)
    assert distances[0, 0].tolist() == [0.0, np.inf, np.inf]


@settings(deadline=None, max_examples=30)
@given(some.integers(0, 10_000))
def test_it_equals_the_slow_twin_where_it_is_near_and_does_not_cut_too_much(seed):
    random = np.random.default_rng(seed)
    found, wanted = (np.cumsum(random.normal(size=(3, 10, 2)), axis=1) for _ in range(2))
    limit = random.uniform(0.0, 4.0)
    distances = chamfer_distances(found[None], wanted[None], np.ones((1, 3), dtype=bool), limit)[0]
    truth = np.array([[slow_twin(mine, its) for its in wanted] for mine in found])
    assert ((distances == np.inf) | np.isclose(distances, truth)).all()
    assert (distances[truth <= limit] < np.inf).all()
