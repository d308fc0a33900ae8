import dataclasses

import numpy as np
import pytest

from irlvla.data.features import SensorConfig, features, view_names
from irlvla.data.rig import camera_rig, joined_rigs, missing_rig, views_of
from irlvla.types import Camera, Features
from irlvla.world.camera import CAMERA_NAMES, EGO_FROM_LIDAR, LENSES, mounting

from .. import tiny
from .test_features import scene, write_pictures


def camera(name="CAM_F0", **changes):
    """One of the embedded world's cameras, as its logs describe it."""
    mounted = mounting(name)
    ego_from_lidar = np.eye(4)
    ego_from_lidar[:3, 3] = EGO_FROM_LIDAR
    values = {
        "name": name, "path": "p.jpg", "intrinsics": mounted.intrinsics, "distortion": np.arange(5.0), "rotation": mounted.rotation,
        "translation": mounted.translation, "ego_from_lidar": ego_from_lidar,
    }  # fmt: skip
    return Camera(**values | changes)


def pixels(rig, view, point):
    """Where a point of the ego frame appears in a view, as shares of its width and height, by the pinhole model."""
    pose = rig.ego_from_camera[view].astype(float)
    x, y, z = pose[:, :3].T @ (np.asarray(point) - pose[:, 3])
    fx, fy, cx, cy = rig.intrinsics[view]
    return cx + fx * x / z, cy + fy * y / z


@pytest.mark.parametrize("name", CAMERA_NAMES)
def test_a_camera_stands_where_it_is_mounted_above_the_ground(name):
    width, height, view, yaw, place = LENSES[name]
    rig = camera_rig(camera(name), width, height)
    assert rig.ego_from_camera[0, :, 3] == pytest.approx(place) and len(rig.valid) == views_of(name)
    forward, down = rig.ego_from_camera[0, :, 2], rig.ego_from_camera[0, :, 1]
    assert np.degrees(np.arctan2(forward[1], forward[0])) == pytest.approx(yaw) and down == pytest.approx([0, 0, -1])
    assert np.degrees(2 * np.arctan(0.5 / rig.intrinsics[0, 0])) == pytest.approx(view)


def test_a_point_of_the_road_appears_where_the_lens_says():
    """21.65 m ahead is 20 m before the front camera, whose lens has a focal length of 192 / tan(32 deg) = 307.3 pixels of 384."""
    rig = camera_rig(camera(), 384, 216)
    focal = 192 / np.tan(np.radians(32))
    assert pixels(rig, 0, (21.65, 0.0, 0.0)) == pytest.approx((0.5, 0.5 + focal * 1.6 / 20 / 216))
    assert pixels(rig, 0, (21.65, 5.0, 1.6)) == pytest.approx((0.5 - focal * 5 / 20 / 384, 0.5))


def test_the_middle_half_shows_everything_twice_as_far_from_its_centre():
    rig = camera_rig(camera(), 384, 216)
    whole, middle = (np.array(pixels(rig, view, (21.65, 2.0, 0.5))) for view in (0, 1))
    assert middle - 0.5 == pytest.approx(2 * (whole - 0.5), abs=1e-6)
    off_centre = camera(intrinsics=np.array([[300.0, 0, 180], [0, 300, 100], [0, 0, 1]]))
    whole, middle = (np.array(pixels(camera_rig(off_centre, 384, 216), view, (21.65, 2.0, 0.5))) for view in (0, 1))
    assert 0.25 + middle / 2 == pytest.approx(whole, abs=1e-6)


def test_the_size_of_the_picture_does_not_matter():
    large = camera(intrinsics=mounting("CAM_F0").intrinsics * np.array([[5.0], [5.0], [1.0]]))
    np.testing.assert_allclose(camera_rig(large, 1920, 1080).intrinsics, camera_rig(camera(), 384, 216).intrinsics, rtol=1e-6)


def test_the_road_below_the_origin_is_brought_to_zero():
    low, high = camera_rig(camera(), 384, 216), camera_rig(camera(), 384, 216, ground=-0.4)
    difference = high.ego_from_camera - low.ego_from_camera
    assert difference[:, 2, 3] == pytest.approx(0.4) and not difference[..., :3].any() and not difference[:, :2].any()


def test_rigs_side_by_side_keep_their_order():
    rig = joined_rigs([camera_rig(camera(), 384, 216), missing_rig("CAM_B0"), camera_rig(camera("CAM_R0"), 192, 108)])
    assert rig.valid.tolist() == [True, True, False, True] and not rig.intrinsics[2].any() and not rig.ego_from_camera[2].any()
    assert rig.distortion[3].tolist() == [0, 1, 2, 3, 4] and joined_rigs([]).intrinsics.shape == (0, 4)


def test_features_bring_the_rig_of_their_pictures(tmp_path):
    write_pictures(tmp_path, 640, 360)
    seen = features(scene(tmp_path))
    assert len(seen.rig.valid) == len(view_names(SensorConfig())) and seen.rig.valid.all()
    assert seen.rig.intrinsics[0, :2] == pytest.approx((1 / 640, 1 / 360)) and seen.rig.intrinsics[1, 0] == pytest.approx(2 / 640)


def test_a_missing_camera_is_black_and_not_valid_where_that_is_allowed(tmp_path):
    write_pictures(tmp_path)
    (tmp_path / "CAM_L0.jpg").unlink()
    sensors = SensorConfig(cameras=("CAM_F0", "CAM_L0", "CAM_B0", "CAM_R0"), missing_cameras=True)
    seen = features(scene(tmp_path), sensors)
    assert seen.rig.valid.tolist() == [True, True, False, False, True]
    assert not seen.images[2:4].any() and seen.images[[0, 1, 4]].any(axis=(1, 2, 3)).all()
    nothing = features(scene(), dataclasses.replace(sensors, cameras=("CAM_F0",)))
    assert nothing.images.shape == (2, 96, 176, 3) and not nothing.images.any() and not nothing.rig.valid.any()


@pytest.mark.parametrize("focal", [0.0, -300.0, np.nan])
def test_a_lens_without_focal_length_is_named(tmp_path, focal):
    with pytest.raises(ValueError, match="CAM_F0 has the focal lengths 300.0 and"):
        camera_rig(camera(intrinsics=np.array([[300.0, 0, 180], [0, focal, 100], [0, 0, 1]])), 384, 216)
    write_pictures(tmp_path)
    some = scene(tmp_path)
    broken = tuple(dataclasses.replace(one, intrinsics=np.zeros((3, 3))) for one in some.cameras[3])
    with pytest.raises(ValueError, match="scene a: .*CAM_F0.jpg: CAM_F0 has the focal lengths 0.0 and 0.0"):
        features(dataclasses.replace(some, cameras=(broken,) * 4))


def test_pictures_and_cameras_have_to_be_as_many():
    values = {"images": np.zeros((3, 4, 4, 3), np.uint8), "ego_history": np.zeros((4, 7)), "command": np.eye(4)[1]}
    with pytest.raises(ValueError, match=r"\(3,\) pictures and \(2,\) cameras differ in number"):
        Features(rig=tiny.rig(views=2), **values)


def test_a_rig_that_is_not_finite_is_named():
    with pytest.raises(ValueError, match="rig: distortion holds values that are not finite"):
        dataclasses.replace(tiny.rig(), distortion=np.full((4, 5), np.inf, np.float32))
