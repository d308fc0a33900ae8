import dataclasses

import numpy as np
import pytest
from PIL import Image

from irlvla.observed import Observed
from irlvla.viewer.plan_pictures import COLOURS, FINE, FRONT, HEADER, MARGIN, Shown, _swept, contact_sheet, page, shown_scene

from .. import tiny
from .cameras import grey_camera

AHEAD = np.column_stack([2.0 * np.arange(1, 9), np.zeros(8), np.zeros(8)])
NOTHING = Observed(text="", boxes=np.zeros((0, 5)), lines=np.zeros((0, 10, 2)), kinds=np.zeros(0, np.int64))
STAY = np.zeros((8, 3))


def shown(folder, names=("CAM_F0",), **changes):
    values = {"title": "log token", "note": "4 m/s", "driven": STAY, "plans": {"ours": AHEAD}}
    return Shown(cameras=tuple(grey_camera(folder, name, size=(320, 180), focal=160.0) for name in names), **values | changes)


def orange(image):
    """Where a picture of grey things is orange."""
    red, green, blue = np.moveaxis(np.asarray(image).astype(int), -1, 0)
    return (red - blue > 60) & (green - blue > 10)


def test_a_straight_plan_is_swept_by_the_bumper_from_where_it_is_now():
    middle, left, right = _swept(AHEAD)
    assert len(middle) == 8 * FINE + 1
    assert middle[0] == pytest.approx((FRONT, 0.0)) and middle[-1] == pytest.approx((FRONT + 16.0, 0.0))
    assert middle[FINE] == pytest.approx((FRONT + 2.0, 0.0)) and (np.diff(middle[:, 0]) > 0).all()
    assert left[:, 1] == pytest.approx(2.297 / 2) and right[:, 1] == pytest.approx(-2.297 / 2)


def test_a_bend_is_drawn_round():
    turn = np.linspace(0, np.pi / 2, 9)[1:]
    middle, left, right = _swept(np.column_stack([20 * np.sin(turn), 20 * (1 - np.cos(turn)), turn]))
    centre = np.hypot(middle[:, 0], middle[:, 1] - 20.0)
    assert centre == pytest.approx(np.hypot(20.0, FRONT), abs=0.02)
    assert np.linalg.norm(left - right, axis=1) == pytest.approx(2.297)


def test_the_ribbon_lies_ahead_of_the_car_and_its_second_plan_is_an_outline(tmp_path):
    drawn = page(shown(tmp_path), width=1200)
    marks = orange(drawn)
    large = marks[HEADER : HEADER + 480, MARGIN : MARGIN + 800]
    # In the front camera: centred, below the horizon, wider near than far.
    rows = np.flatnonzero(large.sum(1) > 30)
    assert rows.min() > 240 and large[rows[-5]].sum() > 2 * large[rows.min() + 5].sum()
    empty = page(shown(tmp_path, plans={}), width=1200)
    assert orange(empty).sum() < 0.02 * marks.sum()
    both = np.asarray(page(shown(tmp_path, plans={"other": STAY, "ours": AHEAD}), width=1200))
    alone = np.asarray(drawn)
    filled = (HEADER + rows[-5], MARGIN + 400 + 60)
    assert alone[filled].tolist() != [90, 90, 90] and both[filled].tolist() == [90, 90, 90]


def test_a_page_shows_every_camera_and_a_sheet_every_scene(tmp_path):
    names = ("CAM_F0", "CAM_L0", "CAM_R0", "CAM_B0")
    alone, four = page(shown(tmp_path), width=900), page(shown(tmp_path, names), width=900)
    assert alone.width == four.width == 900 and four.height > alone.height
    one = shown(tmp_path)
    sheet = contact_sheet([one] * 3, columns=2, width=800)
    assert sheet.width == 800 and sheet.height > 2 * contact_sheet([one], columns=2, width=800).height - 2 * HEADER
    assert orange(sheet)[:, :400].sum() > orange(sheet)[:, 400:].sum() > 0


def test_without_a_front_camera_the_first_one_is_large(tmp_path):
    assert page(shown(tmp_path, ("CAM_L0", "CAM_R0")), width=900).height > 300


def test_proposals_driven_path_and_boxes_are_drawn(tmp_path):
    plain = shown(tmp_path, plans={})
    side = AHEAD + np.array([0.0, 3.0, 0.0]) * np.linspace(0.1, 1, 8)[:, None]
    first = np.asarray(page(plain, width=900)).astype(int)
    for changes in (
        {"proposals": np.stack([side, AHEAD]), "confidences": np.array([0.3, 0.7])},
        {"driven": AHEAD},
        {"boxes": np.array([[15.0, 3.0, 0.2, 4.5, 2.0]])},
        {"seen": dataclasses.replace(NOTHING, boxes=np.array([[15.0, 3.0, 0.2, 4.5, 2.0]]))},
        {"seen": dataclasses.replace(NOTHING, lines=np.stack([np.linspace((5.0, -3.0), (25.0, 2.0), 10)] * 2), kinds=np.array([0, 3]))},
    ):
        assert np.abs(np.asarray(page(dataclasses.replace(plain, **changes), width=900)).astype(int) - first).sum() > 10_000


def test_a_scene_of_a_log_is_ready_to_be_drawn_and_cameras_without_pictures_are_left_out(tmp_path):
    there, missing = grey_camera(tmp_path), grey_camera(tmp_path, "CAM_L0")
    (tmp_path / "CAM_L0.png").unlink()
    scene = dataclasses.replace(tiny.scene(), cameras=((),) * 3 + ((there, missing),))
    found = shown_scene(scene, {"ours": AHEAD}, note="ADE 0.0 m")
    assert found.cameras == (there,) and found.note == "5.0 m/s, straight, ADE 0.0 m" and found.boxes.shape == (0, 5)
    assert found.driven[:, 0] == pytest.approx(2.5 * np.arange(1, 9))
    said = shown_scene(scene, {}, seen=dataclasses.replace(NOTHING, text="free road; lateral keep, longitudinal keep"))
    assert said.note == '5.0 m/s, straight: "free road; lateral keep, longitudinal keep"'
    bare = dataclasses.replace(scene, objects=None, traffic_lights=None)
    assert shown_scene(bare, {}).boxes is None and isinstance(page(shown_scene(bare, {}), width=600), Image.Image)


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(ValueError, match=f"log token: {len(COLOURS) + 1} plans, there are colours for {len(COLOURS)}"):
        shown(tmp_path, plans={str(number): AHEAD for number in range(len(COLOURS) + 1)})
    with pytest.raises(ValueError, match="log token: no camera to draw into"):
        shown(tmp_path, names=())
    with pytest.raises(ValueError, match="no scene to draw"):
        contact_sheet([])
