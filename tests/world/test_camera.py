"""The camera: what it draws where, worked out by hand, and what must not change a picture."""

from dataclasses import replace

import numpy as np
import pytest

from irlvla.types import OBJECT_NAMES
from irlvla.world.camera import camera_pose, mounting, picture, stage
from irlvla.world.look import look, look_from_values, look_values
from irlvla.world.scenery import Footage, Moment, load_footage, load_scenery, save_footage, save_scenery
from irlvla.world.surroundings import scenery, signal_poles

FRONT = mounting("CAM_F0")
EYE_X, EYE_Z = 1.65, 1.6
RED = 1


def town(poles=(), groups=(), markings=(), stop_lines=(), at=(0.0, 0.0)):
    """A straight street along x, 14 m wide, x = -60 .. 160, moved by `at`; nothing but what is asked for stands on it."""
    shift = np.array(at)
    street = np.array([(-60.0, -7.0), (160.0, -7.0), (160.0, 7.0), (-60.0, 7.0)]) + shift
    built = scenery(
        name="street",
        lanes=[street],
        junctions=[],
        markings=[(kind, np.array(line) + shift) for kind, line in markings],
        crossings=np.zeros((0, 5)),
        sidewalks=[],
        stop_lines=np.array(stop_lines, float).reshape(-1, 2, 2) + shift,
        poles=np.array(poles, float).reshape(-1, 4) + np.array([*at, 0.0, 0.0]),
        pole_groups=np.array(groups, dtype=np.int64),
        seed=1,
    )
    none = np.zeros((0, 6))
    return replace(built, buildings=none, building_seeds=np.zeros(0, np.int64), trees=np.zeros((0, 4)))


def moment(objects=(), lights=(), at=(0.0, 0.0)):
    """Objects are (name, x, y, heading, length, width, height, seed, braking)."""
    boxes = np.array([row[1:7] for row in objects], float).reshape(-1, 6)
    boxes[:, :2] += np.array(at)
    return Moment(
        types=np.array([OBJECT_NAMES.index(row[0]) for row in objects], dtype=np.int64),
        boxes=boxes,
        seeds=np.array([row[7] for row in objects], dtype=np.int64),
        braking=np.array([row[8] for row in objects], dtype=bool),
        lights=np.array(lights, dtype=np.int64),
    )


def drawn(standing, moving, ego=(0.0, 0.0, 0.0), light=None):
    pose = camera_pose(np.array(ego, float), FRONT)
    return picture(stage(standing), moving, pose, FRONT.intrinsics, FRONT.width, FRONT.height, look(4) if light is None else light)


def changed(first, second):
    return np.abs(first.astype(int) - second.astype(int)).max(2) > 12


CAR = ("vehicle", 20.0, 0.0, 0.0, 4.6, 1.8, 1.5, 3, False)


@pytest.mark.parametrize("state, strong, weak", [(1, 0, 1), (2, 0, 2), (3, 1, 0)])
def test_a_lit_lamp_covers_three_pixels_at_thirty_metres(state, strong, weak):
    distance = EYE_X + 30.0
    standing = town(poles=[(distance, -4.0, np.pi, 0.0)], groups=[0])
    off, on = drawn(standing, moment(lights=[0])), drawn(standing, moment(lights=[state]))
    lamp = changed(off, on)
    assert lamp.sum() >= 3
    assert (on[lamp][:, strong] > 200).all()
    assert (on[lamp][:, strong].astype(int) - on[lamp][:, weak] > 60).all()


def test_a_light_shows_its_back_to_those_who_come_from_behind():
    standing = town(poles=[(30.0, -4.0, 0.0, 0.0)], groups=[0])
    assert not changed(drawn(standing, moment(lights=[0])), drawn(standing, moment(lights=[RED]))).any()


def test_visors_hide_a_light_from_the_crossing_street():
    sideways = town(poles=[(40.0, -4.0, np.pi / 2, 0.0)], groups=[0])
    dark, bright = drawn(sideways, moment(lights=[0])), drawn(sideways, moment(lights=[RED]))
    assert not (bright[changed(dark, bright)][:, 0] > 200).any()


def test_a_car_is_as_wide_as_the_pinhole_says():
    car = (drawn(town(), moment()) != drawn(town(), moment([CAR]))).any(2)
    back = 20.0 - 4.6 / 2 - EYE_X
    row = int(FRONT.height / 2 + FRONT.intrinsics[1, 1] * (EYE_Z - 0.7) / back)
    columns = np.flatnonzero(car[row])
    assert abs(columns.max() - columns.min() + 1 - FRONT.intrinsics[0, 0] * 1.8 / back) <= 2
    assert abs(columns.mean() + 0.5 - FRONT.width / 2) <= 1.5


def test_a_stop_line_lies_in_the_row_that_the_pinhole_says():
    plain, lined = drawn(town(), moment()), drawn(town(stop_lines=[[(11.65, -7.0), (11.65, 7.0)]]), moment())
    rows = np.flatnonzero(changed(plain, lined)[:, FRONT.width // 2])
    focal = FRONT.intrinsics[1, 1]
    assert abs(rows.min() - (FRONT.height / 2 + focal * EYE_Z / 10.25)) <= 1.5
    assert abs(rows.max() + 1 - (FRONT.height / 2 + focal * EYE_Z / 9.75)) <= 1.5


def test_the_nearer_car_hides_the_farther_one_in_any_order():
    near, far = CAR, ("vehicle", 40.0, 0.0, 0.0, 4.6, 1.8, 1.3, 9, True)
    alone = drawn(town(), moment([near]))
    both, swapped = drawn(town(), moment([near, far])), drawn(town(), moment([far, near]))
    np.testing.assert_array_equal(both, swapped)
    hidden = changed(drawn(town(), moment()), alone)
    lower = np.s_[125:, :]
    np.testing.assert_array_equal(both[lower][hidden[lower]], alone[lower][hidden[lower]])


def test_brake_lights_glow_and_the_front_has_none():
    def glowing(image):
        return int(((image[..., 0] > 240) & (image[..., 1] < 60)).sum())

    braking = (*CAR[:8], True)
    oncoming = (*CAR[:3], np.pi, *CAR[4:8], True)
    assert glowing(drawn(town(), moment([CAR]))) == 0
    assert glowing(drawn(town(), moment([braking]))) > 20
    assert glowing(drawn(town(), moment([oncoming]))) == 0
    bright = drawn(town(), moment([oncoming])).min(2) > 225
    assert bright.sum() > 10


def test_every_kind_of_object_is_seen_and_looks_different():
    shares = {}
    for name, size in (("pedestrian", (0.5, 0.6, 1.75)), ("bicycle", (1.8, 0.6, 1.7)), ("traffic_cone", (0.4, 0.4, 0.75))):
        shares[name] = changed(drawn(town(), moment()), drawn(town(), moment([(name, 12.0, 0.0, 0.0, *size, 1, False)]))).sum()
    for name, size in (("barrier", (0.5, 1.8, 1.0)), ("czone_sign", (0.5, 0.7, 1.6)), ("generic_object", (1.0, 1.0, 1.0))):
        shares[name] = changed(drawn(town(), moment()), drawn(town(), moment([(name, 12.0, 0.0, 0.0, *size, 1, False)]))).sum()
    for length, height in ((4.4, 1.45), (5.2, 1.8), (5.7, 2.4), (9.2, 3.4), (12.0, 3.1)):
        vehicle = ("vehicle", 20.0, 0.0, 0.0, length, 2.0, height, 1, False)
        shares[length] = changed(drawn(town(), moment()), drawn(town(), moment([vehicle]))).sum()
    assert min(shares.values()) > 20
    assert len(set(shares.values())) == len(shares)


def test_what_lies_behind_the_camera_is_not_seen():
    behind = ("vehicle", -15.0, 0.0, 0.0, 4.6, 1.8, 1.5, 3, False)
    np.testing.assert_array_equal(drawn(town(), moment()), drawn(town(), moment([behind])))


def test_shifting_the_world_changes_nothing():
    paint = [("dashed", [(-60.0, 0.0), (160.0, 0.0)]), ("yellow", [(-60.0, 3.5), (160.0, 3.5)])]
    shift = (331776.0, 4689920.0)
    here = drawn(town(markings=paint), moment([CAR]))
    there = drawn(town(markings=paint, at=shift), moment([CAR], at=shift), ego=(*shift, 0.0))
    assert (here != there).any(2).mean() < 1e-3


def test_the_same_inputs_give_the_same_bytes_also_from_disk(tmp_path):
    standing = town(poles=[(30.0, -4.0, np.pi, 4.0)], groups=[0], markings=[("solid", [(-60.0, 1.0), (160.0, 1.0)])])
    moving = moment([CAR], lights=[RED])
    save_scenery(tmp_path / "street.npz", standing)
    save_footage(tmp_path / "log.npz", Footage(town="street", look=look(4), tokens=("a",), moments=(moving,)))
    again = load_footage(tmp_path / "log.npz")
    assert again.tokens == ("a",)
    first = drawn(load_scenery(tmp_path / "street.npz"), moving)
    np.testing.assert_array_equal(first, drawn(load_scenery(tmp_path / "street.npz"), again.moments[0], light=again.look))
    before = (tmp_path / "street.npz").read_bytes()
    save_scenery(tmp_path / "street.npz", standing)
    assert before == (tmp_path / "street.npz").read_bytes()


def test_footage_of_no_frames_is_kept(tmp_path):
    save_footage(tmp_path / "log.npz", Footage(town="street", look=look(4), tokens=(), moments=()))
    assert load_footage(tmp_path / "log.npz").moments == ()


def test_light_and_colours_differ_between_logs_and_survive_being_written():
    pictures = [drawn(town(), moment(), light=look(seed)) for seed in range(4)]
    assert len({image.tobytes() for image in pictures}) == 4
    np.testing.assert_array_equal(look_values(look_from_values(look_values(look(7)))), look_values(look(7)))


def test_side_cameras_look_to_their_side():
    box = ("vehicle", 6.0, 9.0, 0.0, 4.6, 1.8, 1.5, 3, False)
    seen = {}
    for name in ("CAM_L0", "CAM_R0", "CAM_B0"):
        camera = mounting(name)
        pose = camera_pose(np.zeros(3), camera)
        views = [
            picture(stage(town()), moving, pose, camera.intrinsics, camera.width, camera.height, look(4))
            for moving in (moment(), moment([box]))
        ]
        seen[name] = changed(*views).any()
    assert seen == {"CAM_L0": True, "CAM_R0": False, "CAM_B0": False}


def test_poles_stand_beside_the_road_on_both_sides_of_the_junction():
    square = np.array([(-60.0, -7.0), (160.0, -7.0), (160.0, 7.0), (-60.0, 7.0)])
    poles, groups = signal_poles([square], np.array([[10.0, -3.5, 0.0, 7.0, 20.0]]))
    assert groups.tolist() == [0, 0]
    assert (np.abs(poles[:, 1]) > 7.4).all()
    assert poles[0, 0] < 14.0 and poles[1, 0] > 30.0
    np.testing.assert_allclose(np.cos(poles[:, 2]), -1.0)


def test_a_camera_below_the_ground_is_an_error():
    pose = camera_pose(np.zeros(3), FRONT)
    pose[2, 3] = -0.1
    with pytest.raises(ValueError, match="above the ground"):
        picture(stage(town()), moment(), pose, FRONT.intrinsics, 32, 18, look(0))


def test_a_moment_with_too_few_lights_is_an_error():
    with pytest.raises(ValueError, match="light groups up to 0, the moment only 0"):
        drawn(town(poles=[(30.0, -4.0, np.pi, 0.0)], groups=[0]), moment())


def test_an_unknown_camera_marking_type_or_state_is_an_error():
    with pytest.raises(ValueError, match="unknown camera 'CAM_X'"):
        mounting("CAM_X")
    with pytest.raises(ValueError, match="unknown kind of marking 'dotted'"):
        town(markings=[("dotted", [(0.0, 0.0), (5.0, 0.0)])])
    with pytest.raises(ValueError, match="an object's type lies outside"):
        replace(moment([CAR]), types=np.array([9]))
    with pytest.raises(ValueError, match="a traffic light's state lies outside"):
        moment(lights=[4])
    with pytest.raises(ValueError, match="1 tokens, 0 moments"):
        Footage(town="street", look=look(0), tokens=("a",), moments=())


def test_impossible_scenery_and_light_is_an_error():
    with pytest.raises(ValueError, match="ground polygons, 0 classes"):
        replace(town(), ground_classes=np.zeros(0, np.int64))
    with pytest.raises(ValueError, match="a ground class lies outside"):
        replace(town(), ground_classes=town().ground_classes + 90)
    with pytest.raises(ValueError, match="the sun's direction"):
        replace(look(0), sun=np.array([0.0, 0.0, -1.0]))
    with pytest.raises(ValueError, match="haze is a distance"):
        replace(look(0), haze=0.0)
    with pytest.raises(ValueError, match="a look has 27 numbers"):
        look_from_values(np.ones(30))
