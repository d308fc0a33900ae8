import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from irlvla.model.cameras import distorted, place_features, projected, ray_features, rays, undistorted, widest

from ..sights import FRONT, LENS, mounted


def camera(yaw=0.0, intrinsics=FRONT, lens=(0.0,) * 5, place=(1.65, 0.0, 1.6)):
    return torch.tensor([intrinsics]).float(), torch.tensor([lens]).float(), mounted(yaw, place)[None]


def test_a_point_on_the_ground_ahead_appears_below_the_middle_and_one_behind_does_not():
    place, depth, shown = projected(torch.tensor([[11.65, 0.0, 0.0], [11.65, 1.0, 1.6], [-5.0, 0.0, 0.0]]), *camera())
    torch.testing.assert_close(place[0, 0], torch.tensor([0.5, 0.5 + 0.16 * 1.42]))
    torch.testing.assert_close(place[0, 1], torch.tensor([0.5 - 0.1 * 0.8, 0.5]))
    assert shown.tolist() == [[True, True, False]] and depth[0, 0] == pytest.approx(10.0)


def test_a_camera_that_looks_left_shows_what_is_on_the_left_and_not_what_is_on_the_right():
    place, _, shown = projected(torch.tensor([[1.65, 8.0, 1.6], [10.0, -9.0, 0.0]]), *camera(yaw=math.pi / 2))
    torch.testing.assert_close(place[0, 0], torch.tensor([0.5, 0.5]))
    assert shown.tolist() == [[True, False]]


def test_an_off_centre_lens_moves_the_picture():
    place, _, _ = projected(torch.tensor([[11.65, 0.0, 1.6]]), *camera(intrinsics=(0.8, 1.42, 0.4, 0.7)))
    torch.testing.assert_close(place[0, 0], torch.tensor([0.4, 0.7]))


def test_distortion_is_that_of_opencv_worked_by_hand():
    # r2 = 0.05; radial = 1 + 0.1 * 0.05 + 0.2 * 0.0025 + 0.5 * 0.000125 = 1.0055625; 2xy = 0.04
    found = distorted(torch.tensor([[[0.1, 0.2]]]), torch.tensor([[0.1, 0.2, 0.01, 0.02, 0.5]]))
    x = 0.1 * 1.0055625 + 0.01 * 0.04 + 0.02 * (0.05 + 2 * 0.01)
    y = 0.2 * 1.0055625 + 0.02 * 0.04 + 0.01 * (0.05 + 2 * 0.04)
    torch.testing.assert_close(found, torch.tensor([[[x, y]]]))


@settings(max_examples=30, deadline=None)
@given(st.floats(-0.6, 0.6), st.floats(-0.4, 0.4))
def test_undistorted_undoes_distorted(x, y):
    place, lens = torch.tensor([[[x, y]]]), torch.tensor([LENS])
    torch.testing.assert_close(undistorted(distorted(place, lens), lens), place, rtol=0, atol=1e-4)


def test_a_lens_holds_up_to_the_radius_where_its_polynomial_turns_back():
    # r - r^3 / 3 grows up to r = 1; a pinhole has no such radius
    assert widest(torch.tensor([[-1 / 3, 0.0, 0.0, 0.0, 0.0], [0.0] * 5])).tolist() == pytest.approx([1.0, 8.0], abs=0.011)


def test_points_beyond_the_lens_are_not_folded_back_into_the_picture():
    # at 1.7 the polynomial is back at 0.06: without the check the point would appear near the middle
    points = torch.tensor([[11.65, 17.0, 1.6], [11.65, 5.0, 1.6]])
    place, _, shown = projected(points, *camera(lens=(-1 / 3, 0.0, 0.0, 0.0, 0.0)))
    assert 0 <= float(place[0, 0, 0]) <= 1 and shown.tolist() == [[False, True]]


@settings(max_examples=20, deadline=None)
@given(st.floats(-3.1, 3.1), st.booleans(), st.floats(-0.5, 0.5))
def test_a_point_along_a_pixels_ray_appears_in_that_pixel(yaw, is_lens, height):
    seen_by = camera(yaw, lens=LENS if is_lens else (0.0,) * 5, place=(1.0, -0.4, 1.6 + height))
    directions = rays(3, 5, *seen_by)[0]
    place, _, shown = projected(seen_by[2][0, :, 3] + 12.0 * directions, *seen_by)
    wanted = torch.stack([(torch.arange(15) % 5 + 0.5) / 5, (torch.arange(15) // 5 + 0.5) / 3], dim=1)
    torch.testing.assert_close(place[0], wanted, rtol=0, atol=2e-3)
    assert shown.all()


def test_a_ray_down_to_the_road_is_told_by_where_it_meets_it():
    _, _, pose = camera(place=(2.0, 0.0, 1.5))
    down = torch.nn.functional.normalize(torch.tensor([[[10.0, 0.0, -1.5], [1.0, 0.0, 0.5]]]), dim=2)
    found = ray_features(down, pose)
    elevation = torch.atan2(down[0, :, 2], down[0, :, 0])
    torch.testing.assert_close(found[0], place_features(torch.tensor([12.0, 80.0]), torch.zeros(2), elevation), rtol=1e-4, atol=1e-4)


def test_rays_of_a_camera_that_is_not_there_are_finite():
    found = rays(2, 3, torch.zeros(1, 4), torch.zeros(1, 5), torch.zeros(1, 3, 4))
    assert found.shape == (1, 6, 3) and bool(torch.isfinite(ray_features(found, torch.zeros(1, 3, 4))).all())
