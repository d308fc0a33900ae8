import numpy as np
import pytest

from irlvla.geometry import fill_bounds, in_polygon
from irlvla.score.lookup import cell_of, grid, held, in_strips, strips
from tests.score.scenes import polygons, rectangle


def looked_up(made, points, window):
    bounds = np.empty((len(made), 4))
    fill_bounds(made.vertices, made.ring_start, made.polygon_start, bounds)
    index = strips(made.vertices, made.ring_start, made.polygon_start, bounds, np.asarray(window, dtype=np.float64))
    return [[in_strips(x, y, i, *index) for x, y in points] for i in range(len(made))]


def plain(made, points):
    starts = made.polygon_start
    return [[in_polygon(x, y, made.vertices, made.ring_start, starts[i], starts[i + 1]) for x, y in points] for i in range(len(made))]


def test_strips_find_what_the_plain_rule_finds():
    random = np.random.default_rng(0)
    angle = np.sort(random.uniform(0, 2 * np.pi, 120))
    star = np.stack([np.cos(angle), np.sin(angle)], axis=1) * random.uniform(2, 9, (120, 1))
    made = polygons([star, star * [3.0, 0.2], star * [0.2, 3.0], rectangle(-1, -1, 1, 1)])
    points = random.uniform(-8, 8, (500, 2))
    assert looked_up(made, points, (-8, -8, 8, 8)) == plain(made, points)


def test_points_on_edges_and_corners_are_outside():
    made = polygons([rectangle(0, 0, 4, 2), rectangle(0, 0, 2, 4)])
    points = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0], [2.0, 2.0], [4.0, 2.0], [1.0, 1.0]])
    assert looked_up(made, points, (-1, -1, 5, 5)) == plain(made, points) == [[False] * 5 + [True]] * 2


def test_a_window_of_one_point_is_enough():
    made = polygons([rectangle(0, 0, 4, 2)])
    assert looked_up(made, [[1.0, 1.0]], (1, 1, 1, 1)) == [[True]]


def celled(made, points, window, trajectories):
    """What the grid's cells (and for unclear polygons the strips) say of each polygon and point, and how many bits were unclear."""
    bounds = np.empty((len(made), 4))
    fill_bounds(made.vertices, made.ring_start, made.polygon_start, bounds)
    window = np.asarray(window, dtype=np.float64)
    index = strips(made.vertices, made.ring_start, made.polygon_start, bounds, window)
    scale, columns, rows, places, inner, edged = grid(
        made.vertices, made.ring_start, made.polygon_start, bounds, index, window, trajectories
    )
    answers, unclear = np.zeros((len(made), len(points)), dtype=bool), 0
    for number, (x, y) in enumerate(points):
        cell = cell_of(x, y, scale, columns, rows)
        for word in range(inner.shape[1]):
            found = inner[cell, word] | held(x, y, edged[cell, word], word, places, bounds, *index)
            unclear += int(edged[cell, word]).bit_count()
            for place in range(64):
                if int(found) >> place & 1:
                    answers[places[64 * word + place], number] = True
    return answers.tolist(), unclear


@pytest.mark.parametrize("trajectories", [1, 20, 1000])
@pytest.mark.parametrize("origin", [(0.0, 0.0), (664000.0, 3996000.0)])
def test_cells_find_what_the_plain_rule_finds(trajectories, origin):
    random = np.random.default_rng(1)
    angle = np.sort(random.uniform(0, 2 * np.pi, 60))
    star = np.stack([np.cos(angle), np.sin(angle)], axis=1) * random.uniform(2, 9, (60, 1))
    slants = [rectangle(0, 0, 9, 1) @ np.array([[0.8, 0.6], [-0.6, 0.8]]) + random.uniform(-8, 8, 2) for _ in range(140)]
    shapes = [star, star * [3.0, 0.2], *slants, star * [0.2, 3.0], rectangle(-1, -1, 1, 1), rectangle(20, 20, 30, 30)]
    made = polygons([shape + origin for shape in shapes])
    points = np.concatenate([random.uniform(-8, 8, (300, 2)) + origin, made.vertices[(np.abs(made.vertices - origin) <= 8).all(axis=1)]])
    window = (origin[0] - 8, origin[1] - 8, origin[0] + 8, origin[1] + 8)
    assert celled(made, points, window, trajectories)[0] == plain(made, points)


def test_more_trajectories_make_finer_cells_that_leave_less_unclear():
    made = polygons([rectangle(0, 0, 4, 2)])
    points = np.random.default_rng(2).uniform(-3, 7, (200, 2))
    coarse, fine = (celled(made, points, (-3, -3, 7, 7), trajectories) for trajectories in (1, 1000))
    assert coarse[0] == fine[0] == plain(made, points)
    assert 0 < fine[1] < coarse[1]


def test_the_window_may_be_a_line():
    made = polygons([rectangle(0, 0, 4, 2)])
    assert celled(made, [[1.0, 1.0], [5.0, 1.0]], (1, 1, 5, 1), 1)[0] == [[True, False]]
