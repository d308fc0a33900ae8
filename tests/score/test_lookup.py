import numpy as np

from irlvla.geometry import fill_bounds, in_polygon
from irlvla.score.lookup import in_strips, strips
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
