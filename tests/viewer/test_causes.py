"""Contact sheets: a panel for each version, plans where the pinhole puts them."""

import numpy as np

from irlvla.viewer.causes import AFTER, BEFORE, SCALE, TITLE, Panel, contact_sheet

from ..tiny import rig

HEIGHT, WIDTH = 24, 48


def panel(after):
    poses = np.zeros((2, 8, 3))
    poses[:, :, 0] = 2.0 * np.arange(1, 9)
    poses[1, :, 1] = after * np.arange(1, 9) / 8
    return Panel(title="any", images=np.zeros((3, HEIGHT, WIDTH, 3), np.uint8), before=poses[0], after=poses[1])


def test_every_version_has_a_column_and_every_moment_a_row():
    image = np.asarray(contact_sheet([(rig(views=3), [panel(0.0), panel(4.0)]), (rig(views=3), [panel(0.0)])]))
    assert image.shape[0] >= 2 * (TITLE + 2 * SCALE * HEIGHT) and image.shape[1] >= 2 * SCALE * WIDTH
    assert (image[-10:, -10:] == 255).all()


def test_plans_lie_on_the_ground_where_the_pinhole_shows_it():
    image = np.asarray(contact_sheet([(rig(views=3), [panel(8.0)])], views=1))[TITLE : TITLE + SCALE * HEIGHT]
    # 16 m ahead of a camera of 90 degrees, 1.6 m high: a twentieth of the picture below its middle; 8 m to the left: a quarter left of it.
    row = int(SCALE * HEIGHT * 0.55)
    assert (image[row, SCALE * WIDTH // 2] == BEFORE).all()
    assert (image[row, SCALE * WIDTH // 4] == AFTER).all()


def test_the_plan_of_a_standing_car_is_not_drawn_behind_the_camera():
    standing = Panel(title="", images=np.zeros((1, HEIGHT, WIDTH, 3), np.uint8), before=np.zeros((8, 3)), after=np.zeros((8, 3)))
    image = np.asarray(contact_sheet([(rig(views=1), [standing])], views=1))[TITLE : TITLE + SCALE * HEIGHT, : SCALE * WIDTH]
    assert not image.any()
