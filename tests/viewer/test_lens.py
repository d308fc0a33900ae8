import numpy as np
import pytest

from irlvla.viewer.lens import WIDEST, ego_from_camera, ground, pixels, unfolded

from .cameras import HEIGHT, camera


def test_what_lies_straight_ahead_at_the_camera_s_height_is_in_the_middle_and_the_rest_around_it():
    points = np.array([(10.0, 0.0, HEIGHT), (10.0, -1.0, HEIGHT), (10.0, 0.0, HEIGHT - 1.0), (20.0, 2.0, HEIGHT + 1.0)])
    places, shown = pixels(points, camera())
    assert places.tolist() == [[100.0, 50.0], [110.0, 50.0], [100.0, 60.0], [90.0, 45.0]] and shown.all()


def test_what_is_behind_or_beside_the_camera_is_not_shown():
    points = np.array([(-10.0, 0.0, 0.0), (0.0, 5.0, 0.0), (0.2, 0.0, HEIGHT), (1.0, 5.0, HEIGHT)])
    assert not pixels(points, camera())[1].any()


def test_a_lens_bends_as_opencv_says():
    # x = 0.5, y = -0.2, r2 = 0.29: radial 1 - 0.1 * 0.29 + 0.02 * 0.29**2 - 0.01 * 0.29**3
    radial = 1 - 0.1 * 0.29 + 0.02 * 0.29**2 - 0.01 * 0.29**3
    x = 0.5 * radial + 2 * 0.003 * 0.5 * -0.2 + 0.004 * (0.29 + 2 * 0.25)
    y = -0.2 * radial + 2 * 0.004 * 0.5 * -0.2 + 0.003 * (0.29 + 2 * 0.04)
    places, _ = pixels(np.array([(10.0, -5.0, HEIGHT + 2.0)]), camera(distortion=(-0.1, 0.02, 0.003, 0.004, -0.01)))
    assert places[0] == pytest.approx([100 + 100 * x, 50 + 100 * y])


def test_a_lens_shows_nothing_from_where_its_polynomial_folds_back():
    # 1 + 3 k1 r2 = 0 at r = 1
    bent = camera(distortion=(-1 / 3, 0.0, 0.0, 0.0, 0.0))
    assert unfolded(bent.distortion) == pytest.approx(1.0, abs=0.01) and unfolded(np.zeros(5)) == WIDEST
    shown = pixels(np.array([(10.0, 9.5, HEIGHT), (10.0, 10.5, HEIGHT)]), bent)[1]
    assert shown.tolist() == [True, False]


def test_the_camera_hangs_where_lidar_and_mounting_together_say():
    assert ego_from_camera(camera())[:3, 3].tolist() == [0.0, 0.0, HEIGHT]


def test_the_ground_from_above_has_the_colours_that_the_picture_shows_there():
    seer = camera(size=(400, 200), focal=150.0)
    # Red up to 10 m ahead, green beyond; blue left of the car everywhere.
    rows, columns = np.mgrid[:200, :400]
    ahead = HEIGHT * 150.0 / np.maximum(rows + 0.0 - 100.0, 1e-6)
    picture = np.zeros((200, 400, 3), np.uint8)
    picture[..., 0] = np.where(ahead < 10.0, 200, 0)
    picture[..., 1] = np.where(ahead >= 10.0, 200, 0)
    picture[columns < 200, 2] = 150
    found, sharpness = ground({"CAM_F0": (seer, picture)}, ahead=20.0, behind=5.0, aside=4.0, scale=4.0)
    assert found.shape == (100, 32, 3)

    def at(x, y):
        return found[round((20.0 - x) * 4), round((4.0 - y) * 4)].tolist()

    assert at(8.0, -2.0) == [200, 0, 0] and at(14.0, -2.0) == [0, 200, 0] and at(8.0, 2.0) == [200, 0, 150]
    assert at(-3.0, 0.0) == [0, 0, 0] and sharpness[-1].max() == 0
    assert sharpness[round((20 - 8) * 4), 16] > sharpness[round((20 - 16) * 4), 16] > 0


def test_a_lower_road_is_looked_up_lower():
    picture = np.zeros((100, 200, 3), np.uint8)
    picture[70:] = 255
    high, low = (ground({"a": (camera(), picture)}, 20.0, 0.0, 1.0, 2.0, road)[0][:, 2, 0] > 128 for road in (0.0, -0.5))
    # White is what appears 20 pixels and more below the middle: nearer than 1.5 / 0.2 m, or 2.0 / 0.2 m.
    assert 20.0 - np.argmax(high) / 2 == pytest.approx(7.5, abs=0.6) and 20.0 - np.argmax(low) / 2 == pytest.approx(10.0, abs=0.6)
