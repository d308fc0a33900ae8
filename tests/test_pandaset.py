"""Sequences in PandaSet's format made from a known drive; the real one is not needed."""

import json

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from irlvla import cli
from irlvla.data import navsim
from irlvla.data.features import SensorConfig
from irlvla.pandaset import CAMERAS, EGO_FROM_FRONT, _quaternion, drive, motion, write_pandaset
from irlvla.prepare import prepare
from irlvla.types import CAMERA_NAMES, HISTORY

START = 1_557_539_956.4
DELAYS = {"front_left_camera": -0.011, "left_camera": -0.031, "front_right_camera": 0.011, "right_camera": 0.031, "back_camera": -0.05}
YAWS = {"front_left_camera": 1.0, "left_camera": 1.6, "front_right_camera": -1.0, "right_camera": -1.6, "back_camera": np.pi}
CHOSEN = navsim.SceneFilter(num_future_frames=8, has_route=False)


def poses_at(times, turning, speed=4.0, speeding=1.0, standing=0.0):
    """Ego matrices of a drive along an arc that begins to speed up after it stood for a while."""
    time = np.maximum(np.asarray(times) - standing, 0.0)
    way = (0.0 if standing else speed) * time + speeding * time**2 / 2
    heading = 0.7 + turning * way
    radius = 1 / turning if turning else 0.0
    x = radius * (np.sin(heading) - np.sin(0.7)) if turning else way * np.cos(0.7)
    y = radius * (np.cos(0.7) - np.cos(heading)) if turning else way * np.sin(0.7)
    found = np.tile(np.eye(4), (len(time), 1, 1))
    found[:, :3, :3] = Rotation.from_euler(
        "ZYX", np.stack([heading, np.full(len(time), 0.01), np.full(len(time), 0.03)], axis=1)
    ).as_matrix()
    found[:, :2, 3] = np.stack([x, y], axis=1)
    return found


def mounts():
    """Camera points -> ego frame; the front camera is where the reader says."""
    found = {"front_camera": np.vstack([EGO_FROM_FRONT, (0, 0, 0, 1)])}
    for name, yaw in YAWS.items():
        turn = Rotation.from_euler("z", yaw).as_matrix()
        found[name] = np.eye(4)
        found[name][:3, :3] = turn @ np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
        found[name][:3, 3] = turn @ (0.6, 0.0, 1.9)
    return found


def write_sequence(folder, frames=60, **how):
    """Tiny pictures and the files beside them; `how` goes to `poses_at`."""
    for name, mount in mounts().items():
        place = folder / "camera" / name
        place.mkdir(parents=True)
        times = 0.1 * np.arange(frames) + DELAYS.get(name, 0.0)
        poses = poses_at(times, **{"turning": 0.0} | how) @ mount
        turns = Rotation.from_matrix(poses[:, :3, :3]).as_quat(scalar_first=True)
        rows = [
            {"position": dict(zip("xyz", pose[:3, 3].tolist())), "heading": dict(zip("wxyz", turn.tolist()))}
            for pose, turn in zip(poses, turns)
        ]
        (place / "poses.json").write_text(json.dumps(rows))
        (place / "timestamps.json").write_text(json.dumps((START + times).tolist()))
        (place / "intrinsics.json").write_text(json.dumps({"fx": 24.0, "fy": 25.0, "cx": 16.5, "cy": 9.5}))
        for number in range(frames):
            Image.new("RGB", (32, 18), (3 * number, 40, 200)).save(place / f"{number:02d}.jpg")
    return folder


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """A sequence that turns left."""
    return write_sequence(tmp_path_factory.mktemp("panda") / "007", turning=0.05)


@pytest.fixture
def damaged(left, tmp_path):
    """The same, to be damaged: its own files, linked pictures."""
    for source in left.rglob("*"):
        place = tmp_path / "007" / source.relative_to(left)
        if source.is_dir():
            place.mkdir(parents=True)
        elif source.suffix == ".jpg":
            place.symlink_to(source)
        else:
            place.write_bytes(source.read_bytes())
    return tmp_path / "007"


def test_every_phase_becomes_a_log_of_cameras_only_that_the_reader_reads(left, tmp_path):
    names = write_pandaset(left, tmp_path)
    assert names == [f"007-{phase}" for phase in range(5)]
    for phase, name in enumerate(names):
        (scene,) = navsim.log_scenes(tmp_path / "navsim_logs" / "pandaset" / f"{name}.pkl", navsim.Maps(tmp_path), CHOSEN, tmp_path)
        assert scene.objects is None and scene.traffic_lights is None and scene.log_name == name
        times = 0.1 * (phase + 5 * np.arange(12))
        assert np.abs(scene.time_us / 1e6 - START - times).max() < 1e-5
        truth = poses_at(times, turning=0.05)
        assert scene.ego_poses[:, :2] == pytest.approx(truth[:, :2, 3], abs=1e-3)
        assert np.abs(scene.ego_poses[:, 2] - np.arctan2(truth[:, 1, 0], truth[:, 0, 0])).max() < 2e-3
        assert sorted(camera.name for camera in scene.cameras[HISTORY - 1]) == sorted(CAMERAS.values())
        with Image.open(scene.cameras[2][0].path) as picture:
            assert abs(picture.getpixel((5, 5))[0] - 3 * (phase + 10)) < 6


def test_cameras_are_mounted_as_they_are_though_they_fire_one_after_the_other(left, tmp_path):
    name = write_pandaset(left, tmp_path)[0]
    (scene,) = navsim.log_scenes(tmp_path / "navsim_logs" / "pandaset" / f"{name}.pkl", navsim.Maps(tmp_path), CHOSEN, tmp_path)
    for camera in scene.cameras[0]:
        known = next(mount for source, mount in mounts().items() if CAMERAS[source] == camera.name)
        assert camera.ego_from_lidar[:3, :3] @ camera.rotation == pytest.approx(known[:3, :3], abs=2e-4)
        assert camera.translation == pytest.approx(known[:3, 3], abs=5e-3)
        assert camera.intrinsics.tolist() == [[24.0, 0.0, 16.5], [0.0, 25.0, 9.5], [0.0, 0.0, 1.0]] and not camera.distortion.any()


def test_the_store_knows_ego_status_and_the_driven_path_and_nothing_annotated(left, tmp_path):
    write_pandaset(left, tmp_path)
    sensors = SensorConfig(cameras=tuple(name for name in CAMERA_NAMES if name in CAMERAS.values()), height=18, width=32)
    store = prepare(tmp_path, tmp_path / "maps", "pandaset", tmp_path / "store", sensors, processes=1)
    assert len(store) == 5 and not store.failed and not store.annotated.any()
    order = np.argsort(store.log_names)
    status, human = store.histories(order)[:, -1, 3:], store.human(order)
    now = 1.5 + 0.1 * np.arange(5)
    speed = 4.0 + now
    assert status[:, 0] == pytest.approx(speed, abs=0.02) and np.abs(status[:, 1]).max() < 0.05
    assert status[:, 2] == pytest.approx(np.full(5, 1.0), abs=0.2)
    # The parabola's bend is that of its middle, 0.35 s ago.
    assert status[:, 3] == pytest.approx(0.05 * (speed - 0.35) ** 2, abs=0.15)
    way = 4.0 * 4.0 + ((now + 4.0) ** 2 - now**2) / 2
    assert human[:, -1, 2] == pytest.approx(0.05 * way, abs=2e-3)
    assert store.commands(order).tolist() == [[1.0, 0.0, 0.0, 0.0]] * 5


@pytest.mark.parametrize(("turning", "command"), [(0.02, 0), (0.0, 1), (-0.02, 2)])
def test_the_command_says_where_the_driven_path_lies_20_m_ahead(tmp_path, turning, command):
    name = write_pandaset(write_sequence(tmp_path / "008", turning=turning), tmp_path)[0]
    frames = navsim.log_frames(tmp_path / "navsim_logs" / "pandaset" / f"{name}.pkl")
    # At 20 m the arc lies 0.02 * 20**2 / 2 = 4 m aside, beyond 2 m.
    assert [int(np.argmax(frame["driving_command"])) for frame in frames[:6]] == [command] * 6


def test_a_car_that_stands_and_then_turns_has_the_command_of_its_turn_from_the_start(tmp_path):
    name = write_pandaset(write_sequence(tmp_path / "009", turning=-0.05, speeding=2.0, standing=2.0), tmp_path)[2]
    frames = navsim.log_frames(tmp_path / "navsim_logs" / "pandaset" / f"{name}.pkl")
    assert int(np.argmax(frames[0]["driving_command"])) == 2 and np.abs(frames[0]["ego_dynamic_state"]).max() < 1e-6


def test_motion_knows_nothing_of_what_comes_after():
    times = 0.1 * np.arange(40)
    poses = poses_at(times, turning=0.03)
    velocity, acceleration = motion(times, poses)
    later = poses.copy()
    later[21:, :3, 3] += np.random.default_rng(0).normal(size=(19, 3))
    changed, bent = motion(times, later)
    np.testing.assert_array_equal(velocity[:21], changed[:21])
    np.testing.assert_array_equal(acceleration[:21], bent[:21])
    assert not np.allclose(velocity[21], changed[21])


def test_every_heading_survives_as_a_quaternion():
    for heading in np.linspace(-np.pi, np.pi, 41):
        matrix = Rotation.from_euler("ZYX", [heading, 0.02, -0.03]).as_matrix()
        w, x, y, z = _quaternion(matrix)
        assert Rotation.from_quat([x, y, z, w]).as_matrix() == pytest.approx(matrix, abs=1e-9)


def test_the_command_line_writes_the_same_logs_and_may_do_so_again(left, tmp_path, capsys):
    cli.pandaset(left, tmp_path)
    paths = sorted((tmp_path / "navsim_logs" / "pandaset").glob("*.pkl"))
    once = [path.read_bytes() for path in paths]
    cli.pandaset(left, tmp_path)
    assert [path.read_bytes() for path in paths] == once and capsys.readouterr().out.count("cameras only: 007-") == 10


def change(path, work):
    values = json.loads(path.read_text())
    path.write_text(json.dumps(work(values)))


def test_a_damaged_sequence_is_named(damaged):
    front = damaged / "camera" / "front_camera"
    kept = {path: path.read_text() for path in damaged.rglob("*.json")}

    def complains(name, work, message, camera="front_camera"):
        path = damaged / "camera" / camera / name
        change(path, work)
        with pytest.raises(ValueError, match=message):
            drive(damaged)
        path.write_text(kept[path])

    complains("timestamps.json", lambda times: {}, "timestamps.json: holds dict, no list of times")
    complains("timestamps.json", lambda times: [*times[:9], times[8], *times[10:]], "timestamps.json: time 9 is not after the one before")
    complains("timestamps.json", lambda times: times[:-1], "59 times and 60 poses, the front camera has 59", camera="front_camera")
    complains(
        "timestamps.json", lambda times: times[:-1], "left_camera: 59 times and 60 poses, the front camera has 60", camera="left_camera"
    )
    complains("poses.json", lambda poses: [*poses[:3], {"position": {"x": 1.0}}, *poses[4:]], "pose 3 has no position x y z and heading")
    complains("poses.json", lambda poses: 3, "pose 0 has no position")
    zero = {"position": dict.fromkeys("xyz", 0.0), "heading": dict.fromkeys("wxyz", 0.0)}
    complains("poses.json", lambda poses: [*poses[:-1], zero], r"pose 59 is .* which is no pose")
    complains("intrinsics.json", lambda values: values | {"fy": "far"}, "intrinsics.json: fy is 'far', no number of pixels")
    (front / "33.jpg").unlink()
    with pytest.raises(ValueError, match="front_camera/33.jpg is missing: timestamps.json names 60 pictures"):
        drive(damaged)


def test_a_sequence_that_is_too_short_for_a_scene_is_refused(tmp_path):
    with pytest.raises(ValueError, match="55 frames, a scene needs 56"):
        drive(write_sequence(tmp_path / "short", frames=55))
    assert len(drive(write_sequence(tmp_path / "enough", frames=56)).times) == 56


def test_a_car_that_moves_sideways_is_refused(tmp_path):
    folder = write_sequence(tmp_path / "sideways")
    for name, mount in mounts().items():
        turned = poses_at(0.1 * np.arange(60), turning=0.0)
        turned[:, :3, :3] = turned[:, :3, :3] @ Rotation.from_euler("z", -0.4).as_matrix()
        turned = turned @ mount

        def of(rows, turned=turned):
            turns = Rotation.from_matrix(turned[:, :3, :3]).as_quat(scalar_first=True)
            return [row | {"heading": dict(zip("wxyz", turn.tolist()))} for row, turn in zip(rows, turns)]

        change(folder / "camera" / name / "poses.json", of)
    with pytest.raises(ValueError, match=r"the car moves .* degrees off its heading, at most 5.7 make sense"):
        drive(folder)
