"""Egos moved aside: the world stays where it was, the way leads back, pictures change, and real logs are refused."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from irlvla.data.features import SensorConfig
from irlvla.data.navsim import log_frames
from irlvla.data.store import Store
from irlvla.prepare import prepare
from irlvla.shifted import ShiftConfig, shifted_frames, shifted_poses, shifted_store, sound, sources
from irlvla.world.camera import mounting
from irlvla.world.look import look
from irlvla.world.scenery import Footage, save_footage, save_scenery

from .tiny import ORIGIN, frame, write_log, write_maps
from .world.test_camera import CAR, moment, town

CAMERA = "CAM_F0"
SENSORS = SensorConfig(cameras=(CAMERA,), height=24, width=44)
NOW = 4
FAR = ShiftConfig(along=2.0, aside=1.0, turn=0.1)


def logged(**changes):
    """A log along a straight road at 5 m/s, with one car 20 m ahead and 3 m to the left of every frame's ego."""
    rig = mounting(CAMERA)
    about = {"sensor2lidar_rotation": rig.rotation, "sensor2lidar_translation": rig.translation, "cam_intrinsic": rig.intrinsics}
    frames = []
    for place in range(14):
        own = frame(place, **changes)
        camera = about | {"distortion": np.zeros(5), "data_path": f"log/{CAMERA}/{own['token']}.jpg"}
        frames.append(own | {"cams": {CAMERA: camera}, "lidar2ego": np.eye(4)})
    return frames


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A store of one scene of a log with its sidecar."""
    root = tmp_path_factory.mktemp("world")
    write_maps(root / "maps")
    frames, logs = logged(), root / "openscene"
    write_log(logs, frames, split="trainval")
    path = logs / "sensor_blobs" / "trainval" / "log" / CAMERA
    path.mkdir(parents=True)
    for row in frames:
        Image.new("RGB", (384, 216)).save(path / f"{row['token']}.jpg")
    (logs / "sidecar").mkdir()
    standing = town(at=ORIGIN)
    save_scenery(logs / "sidecar" / "street.npz", standing)
    tokens = tuple(row["token"] for row in frames[NOW - 1 : NOW + 1])
    film = Footage(town="street", look=look(4), tokens=tokens, moments=(moment([CAR], at=ORIGIN + (10.0, 0.0)),) * 2)
    save_footage(logs / "sidecar" / "log.npz", film)
    split = root / "split.yaml"
    lines = ["num_history_frames: 4", "num_future_frames: 8", "has_route: true", "log_names: ['log']", f"tokens: ['{tokens[1]}']"]
    split.write_text("\n".join(lines) + "\n")
    return prepare(logs, root / "maps", split, root / "store", SENSORS, processes=1)


def in_world(row):
    """Global places and headings of a frame's boxes, and their velocities."""
    heading = 2 * np.arctan2(row["ego2global_rotation"][3], row["ego2global_rotation"][0])
    turn = np.array([[np.cos(heading), -np.sin(heading)], [np.sin(heading), np.cos(heading)]])
    boxes = np.asarray(row["anns"]["gt_boxes"], float)
    places = boxes[:, :2] @ turn.T + row["ego2global_translation"][:2]
    return places, boxes[:, 6] + heading, np.asarray(row["anns"]["gt_velocity_3d"], float)[:, :2] @ turn.T


def test_all_but_the_ego_stays_where_it_was():
    annotated = frame(0)["anns"] | {"gt_velocity_3d": np.array([[3.0, 1.0, 0.0]], np.float32)}
    frames = logged(anns=annotated)
    moved = shifted_frames(frames, NOW, "new", FAR, np.random.default_rng(0))
    for old, new in zip(frames, moved, strict=True):
        for one, other in zip(in_world(old), in_world(new), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4)
    assert not np.allclose(moved[NOW]["anns"]["gt_boxes"], frames[NOW]["anns"]["gt_boxes"], atol=0.05)
    assert len({row["token"] for row in moved} | {row["token"] for row in frames}) == 28
    assert moved[NOW]["sample_prev"] == moved[NOW - 1]["token"] and moved[-1]["sample_next"] is None


def test_the_past_moves_rigidly_and_the_future_leads_back():
    poses = np.column_stack([2.5 * np.arange(14.0), np.zeros(14), np.zeros(14)])
    moved = shifted_poses(poses, NOW, np.array([1.0, 0.5, np.pi / 2]))
    assert moved[NOW] == pytest.approx([11.0, 0.5, np.pi / 2])
    assert moved[NOW - 1] == pytest.approx([11.0, 0.5 - 2.5, np.pi / 2])
    assert moved[NOW + 6 :] == pytest.approx(poses[NOW + 6 :])
    assert moved[NOW + 3] == pytest.approx(poses[NOW + 3] + [0.5, 0.25, np.pi / 4])
    assert (np.diff(moved[NOW:, 1]) <= 1e-9).all()


def test_a_slow_ego_and_one_that_is_hemmed_in_are_left_out():
    random = np.random.default_rng(0)
    assert shifted_frames(logged(ego_dynamic_state=[1.0, 0.0, 0.0, 0.0]), NOW, "new", FAR, random) is None
    around = frame(0)["anns"] | {"gt_boxes": np.array([(0.0, 0.0, 0.0, 9.0, 9.0, 1.5, 0.0)], np.float32)}
    assert shifted_frames(logged(anns=around), NOW, "new", FAR, random) is None


def test_shifted_scenes_are_a_store_with_pictures_of_their_own(world, tmp_path):
    store = shifted_store(world, np.arange(1), tmp_path, FAR, seed=1)
    assert not store.failed and sources(store) == [("log", world.tokens[0])] and sound(store).tolist() == [0]
    before, after = world.prepared(0), store.prepared(0)
    assert 0.05 < np.abs(after.ego_state[1] - before.ego_state[1]) <= 1.3 and store.has_previous.all()
    np.testing.assert_allclose(world.features([0]).ego_history, store.features([0]).ego_history, atol=1e-6)
    np.testing.assert_allclose(after.object_boxes[0, :, :2], before.object_boxes[0, :, :2], atol=1e-3)
    still = shifted_store(world, np.arange(1), tmp_path / "still", dataclasses.replace(FAR, along=0.0, aside=0.0, turn=0.0))
    images, unmoved = store.features([0]).images, still.features([0]).images
    assert unmoved.any() and np.abs(images.astype(int) - unmoved).max() > 20
    np.testing.assert_allclose(still.human([0]), world.human([0]), atol=1e-6)


def test_shifted_scenes_are_kept_continued_and_made_again_when_stale(world, tmp_path, monkeypatch):
    drawn = []
    original = shifted_frames

    def watched(*arguments):
        drawn.append(0)
        return original(*arguments)

    monkeypatch.setattr("irlvla.shifted.shifted_frames", watched)
    monkeypatch.setattr("irlvla.shifted.PROCESSES", 1)
    monkeypatch.setattr("irlvla.shifted.work_off", lambda jobs, work, *_: {} if [work(job) for job in jobs] else {})
    first = shifted_store(world, np.arange(1), tmp_path, FAR)
    assert len(drawn) == 1
    place = first.prepared(0).ego_state[1]
    assert shifted_store(world, np.arange(1), tmp_path, FAR).key == first.key and len(drawn) == 1
    (tmp_path / "shifted.json").write_text((tmp_path / "shifted.json").read_text().replace("true", "false"))
    assert shifted_store(world, np.arange(1), tmp_path, FAR).key == first.key and len(drawn) == 1
    other = shifted_store(world, np.arange(1), tmp_path, FAR, seed=9)
    assert len(drawn) == 2 and other.prepared(0).ego_state[1] != place


def test_a_process_that_dies_is_named(world, tmp_path, monkeypatch):
    monkeypatch.setattr("irlvla.shifted.work_off", lambda *_: {0: "ended with exit code -9"})
    with pytest.raises(ValueError, match="shifted log ended with exit code -9"):
        shifted_store(world, np.arange(1), tmp_path, FAR)


def test_scenes_that_cannot_be_shifted_are_no_store(world, tmp_path):
    with pytest.raises(ValueError, match="none of 1 scenes can be shifted: egos are slower than 50.0 m/s"):
        shifted_store(world, np.arange(1), tmp_path, dataclasses.replace(FAR, slowest=50.0))


def test_logs_of_real_cars_cannot_be_drawn_again(world, tmp_path):
    real = Store(world.folder)
    real.settings["logs"] = str(tmp_path)
    with pytest.raises(ValueError, match="only the embedded world's egos can be shifted"):
        shifted_store(real, np.arange(1), tmp_path / "shifted", FAR)


def test_the_logs_that_are_written_are_read_by_the_reader(world, tmp_path):
    shifted_store(world, np.arange(1), tmp_path, FAR)
    (path,) = (tmp_path / "openscene" / "navsim_logs" / "shifted").glob("*.pkl")
    assert [row["frame_idx"] for row in log_frames(path)] == list(range(13))
