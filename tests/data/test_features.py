import numpy as np
import pytest
from PIL import Image

from irlvla.data import features as module
from irlvla.data.features import SensorConfig, ego_history, features, human_poses, targets, view_names
from irlvla.types import HISTORY, Camera, Objects, Polygons, PreparedScene, Scene

EYE = np.eye(4)


def square(left, bottom, right, top):
    return np.array([[left, bottom], [right, bottom], [right, top], [left, top]], dtype=np.float64)


def polygons(*rings):
    vertices = np.concatenate(rings) if rings else np.zeros((0, 2))
    starts = np.cumsum([0, *[len(ring) for ring in rings]])
    return Polygons(vertices=vertices, ring_start=starts, polygon_start=np.arange(len(rings) + 1))


def scene(folder=None, heading=0.0, boxes=(), frames=14, token="a"):
    step = np.arange(frames) - (HISTORY - 1)
    poses = np.stack([100 + 2 * step * np.cos(heading), 50 + 2 * step * np.sin(heading), np.full(frames, heading)], axis=1)
    boxes = np.array(boxes, dtype=np.float64).reshape(-1, 7)
    objects = Objects(
        track_tokens=tuple(str(i) for i in range(len(boxes))),
        types=np.zeros(len(boxes), int),
        boxes=boxes,
        velocities=np.zeros((len(boxes), 3)),
    )
    cameras = ()
    if folder is not None:
        names = ("CAM_F0", "CAM_L0", "CAM_R0")
        camera = [
            Camera(
                name=name, path=str(folder / f"{name}.jpg"), intrinsics=np.eye(3), distortion=np.zeros(5), rotation=np.eye(3),
                translation=np.zeros(3), ego_from_lidar=EYE,
            )
            for name in names
        ]  # fmt: skip
        cameras = (tuple(camera),) * frames
    return Scene(
        token=token,
        log_name="log",
        map_name="us-nv-las-vegas-strip",
        frame_tokens=tuple(token if i == HISTORY - 1 else f"{token}{i}" for i in range(frames)),
        time_us=1_000_000 + 500_000 * np.arange(frames),
        ego_poses=poses,
        ego_velocities=np.tile([4.0, 0.0], (frames, 1)),
        ego_accelerations=np.zeros((frames, 2)),
        commands=np.tile([0, 1, 0, 0], (frames, 1)),
        roadblock_ids=("1",),
        objects=(objects,) * frames,
        traffic_lights=((),) * frames,
        cameras=cameras,
        previous_token=None,
        lane_map=None,
    )


def prepared(lane=square(0, 0, 1, 1), red=None, objects=3, token="a"):
    return PreparedScene(
        token=token,
        log_name="log",
        map_name="us-nv-las-vegas-strip",
        time_us=2_500_000,
        ego_state=np.arange(7.0),
        past_time_us=np.arange(4),
        past_states=np.ones((4, 7)),
        previous_time_us=-1,
        previous_state=np.zeros(7),
        object_types=np.arange(objects),
        object_first_speed=np.arange(float(objects)),
        object_boxes=np.random.default_rng(objects).normal(size=(41, objects, 5)),
        object_valid=np.ones((41, objects), bool),
        red_polygons=polygons(*([] if red is None else [red])),
        red_valid=np.ones((41, 0 if red is None else 1), bool),
        map_polygons=polygons(lane, square(-500, -500, -400, -400)),
        map_layers=np.array([2, 0]),
        map_on_route=np.array([False, True]),
        centerline=np.zeros((5, 3)),
        reference_poses=np.zeros((51, 3)),
        human_poses=np.zeros((8, 3)),
        reference_progress=12.5,
        reference_multiplier=1.0,
        human_zero=np.zeros(8, bool),
    )


def write_pictures(folder, width=384, height=216):
    gradient = np.zeros((height, width, 3), dtype=np.uint8)
    gradient[..., 0] = np.linspace(0, 255, width).astype(np.uint8)
    for name in ("CAM_F0", "CAM_L0", "CAM_R0"):
        Image.fromarray(gradient).save(folder / f"{name}.jpg", quality=95)


def test_history_and_human_lie_along_the_ego_axis_whatever_the_heading():
    for heading in (0.0, 2.0, -3.0):
        some = scene(heading=heading)
        assert ego_history(some)[:, 0] == pytest.approx([-6, -4, -2, 0]) and ego_history(some)[:, 1] == pytest.approx(0, abs=1e-9)
        assert human_poses(some)[:, 0] == pytest.approx(2 * np.arange(1, 9)) and human_poses(some)[:, 2] == pytest.approx(0, abs=1e-9)


def test_the_views_are_the_front_its_middle_and_the_sides(tmp_path):
    write_pictures(tmp_path)
    seen = features(scene(tmp_path), SensorConfig()).images
    assert view_names(SensorConfig()) == ("CAM_F0", "CAM_F0_crop", "CAM_L0", "CAM_R0") and seen.shape == (4, 96, 176, 3)
    red = seen[..., 0].astype(float).mean(axis=1)
    assert red[0, 0] < 8 and red[0, -1] > 247
    assert red[1, 0] == pytest.approx(64, abs=4) and red[1, -1] == pytest.approx(191, abs=4)


def test_a_full_size_picture_gives_the_same_views_as_a_small_one(tmp_path):
    write_pictures(tmp_path)
    small = features(scene(tmp_path), SensorConfig()).images.astype(float)
    write_pictures(tmp_path, 1920, 1080)
    assert np.abs(features(scene(tmp_path), SensorConfig()).images - small).max() < 8


def test_no_cameras_give_no_views():
    assert features(scene(), SensorConfig(cameras=())).images.shape == (0, 96, 176, 3)


def test_a_camera_that_the_log_lacks_is_named():
    with pytest.raises(ValueError, match="scene a: the log has no picture of CAM_F0"):
        features(scene(), SensorConfig())


def test_a_missing_picture_is_named(tmp_path):
    with pytest.raises(ValueError, match="scene a: .*CAM_F0.jpg is missing"):
        features(scene(tmp_path), SensorConfig())


def test_a_broken_picture_is_named(tmp_path):
    write_pictures(tmp_path)
    (tmp_path / "CAM_L0.jpg").write_bytes((tmp_path / "CAM_L0.jpg").read_bytes()[:300])
    with pytest.raises(ValueError, match="CAM_L0.jpg is no readable picture"):
        features(scene(tmp_path), SensorConfig())


def test_an_unknown_camera_is_named():
    with pytest.raises(ValueError, match="unknown cameras \\['CAM_X'\\]"):
        SensorConfig(cameras=("CAM_X",))


def test_a_future_that_is_too_short_is_named():
    with pytest.raises(ValueError, match="2 future frames, 8 are needed"):
        human_poses(scene(frames=6))


def test_the_grid_has_the_road_where_it_is():
    road = square(100, 46, 120, 54)  # the ego stands at (100, 50) and looks along x
    grid = targets(scene(boxes=[[10, 4, 0, 4, 2, 1.5, 0]]), prepared(road))
    rows, columns = np.nonzero(grid[0])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 13, 14, 17)
    assert not grid[1].any() and not grid[3].any()
    assert grid[2].sum() in (4, 6, 9) and grid[2][9, 18] == 1


def test_the_grid_turns_with_the_ego():
    road = square(96, 50, 104, 70)  # straight ahead of an ego that looks along y
    grid = targets(scene(heading=np.pi / 2), prepared(road, red=road))
    rows, columns = np.nonzero(grid[0])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 13, 14, 17)
    assert (grid[3] == grid[0]).all()


def test_holes_are_not_road():
    outer, inner = square(90, 40, 130, 60), square(100, 46, 120, 54)
    some = prepared(outer)
    holed = Polygons(vertices=np.concatenate([outer, inner]), ring_start=np.array([0, 4, 8]), polygon_start=np.array([0, 2]))
    grid = np.zeros((32, 32), dtype=np.uint8)
    module._fill(grid, np.array([100.0, 50.0, 0.0]), holed.vertices, holed.ring_start, holed.polygon_start, np.array([True]))
    assert grid.sum() == targets(scene(), some)[0].sum() - 40
