import numpy as np
import pytest

from irlvla.viewer.box_pictures import MOVING, STANDING, box_sheet, corners

from .cameras import grey_camera

CAR = np.array([10.0, 1.0, 0.8, 4.0, 2.0, 1.6, 0.0])


def colours(image):
    return {tuple(colour) for colour in np.asarray(image).reshape(-1, 3).tolist()}


def test_corners_go_from_the_rear_to_the_front():
    found = corners(CAR[None])[0]
    assert found[0] == pytest.approx((8.0, 0.0, 0.0)) and found[-1] == pytest.approx((12.0, 2.0, 1.6))
    turned = corners((CAR + np.array([0, 0, 0, 0, 0, 0, np.pi / 2]))[None])[0]
    assert turned[0] == pytest.approx((11.0, -1.0, 0.0)) and turned[-1] == pytest.approx((9.0, 3.0, 1.6))


def test_boxes_are_drawn_where_they_are_seen_in_the_colour_of_their_motion(tmp_path):
    seer = grey_camera(tmp_path)
    sheet = box_sheet([seer], np.stack([CAR, CAR + np.array([8.0, 0, 0, 0, 0, 0, 0])]), np.array([True, False]), columns=1, width=200)
    assert sheet.size == (200, 100) and {MOVING, STANDING, (90, 90, 90)} == colours(sheet)
    # The near box' rear: y 0 .. 2 m left, 0 .. 1.6 m high, 8 m ahead of a camera at 1.5 m.
    green = np.argwhere((np.asarray(sheet) == MOVING).all(-1))
    assert green[:, 1].max() == 100 and green[:, 1].min() == 75 and green[:, 0].max() == pytest.approx(50 + 150 / 8, abs=1)


def test_boxes_behind_beside_or_far_away_are_not_drawn(tmp_path):
    boxes = np.stack([CAR * (-1, 1, 1, 1, 1, 1, 1), CAR + (0, 40, 0, 0, 0, 0, 0), CAR + (80, 0, 0, 0, 0, 0, 0)])
    assert colours(box_sheet([grey_camera(tmp_path)] * 2, boxes, np.ones(3, bool), columns=2, width=406)) == {(90, 90, 90), (0, 0, 0)}


def test_without_a_camera_there_is_nothing_to_draw_into():
    with pytest.raises(ValueError, match="no camera to draw boxes into"):
        box_sheet([], CAR[None], np.ones(1, bool))
