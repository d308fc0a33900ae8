import os
import pickle
import pickletools
from dataclasses import replace

import numpy as np
import pytest

import irlvla
from irlvla.data.features import targets
from irlvla.data.frames import rotation, yaw
from irlvla.data.maps import Maps
from irlvla.data.navsim import (
    SceneFilter,
    log_frames,
    log_moments,
    log_paths,
    log_scenes,
    scene_filter,
    scenes,
    scenes_of_tokens,
)
from irlvla.types import OBJECT_NAMES, PreparedScene

from .. import tiny
from . import test_features


def data(root, frames=None, count=16):
    """An OPENSCENE_DATA_ROOT with one log and a NUPLAN_MAPS_ROOT."""
    path = tiny.write_log(root / "logs", [tiny.frame(place) for place in range(count)] if frames is None else frames)
    if not (root / "maps").exists():
        tiny.write_maps(root / "maps")
    return path, root / "logs", root / "maps"


def with_frame(change, place=5, count=16):
    return [tiny.frame(k, **(change if k == place else {})) for k in range(count)]


def annotated(**changes):
    return {"anns": tiny.frame(0)["anns"] | changes}


def filter_file(folder, text):
    path = folder / "filter.yaml"
    path.write_text(text)
    return path


class Command:
    def __reduce__(self):
        return os.system, ("touch /tmp/irlvla-test-must-not-exist",)


def test_a_pickle_that_runs_a_command_is_refused_and_nothing_is_run(tmp_path):
    path = tiny.write_log(tmp_path, [tiny.frame(0, token=Command())])
    with pytest.raises(ValueError, match=r"log.pkl: .*class posix.system is not allowed"):
        log_frames(path)
    assert not os.path.exists("/tmp/irlvla-test-must-not-exist")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps([tiny.frame(0)])[:-200], "not a readable pickle"),
        (b"", "not a readable pickle"),
        (b"garbage", "not a readable pickle"),
        (pickle.dumps({"frames": []}), "holds no list of frames"),
        (pickle.dumps([]), "holds no list of frames"),
        (pickle.dumps([1, 2]), "frame 0 lacks token"),
        (pickle.dumps([tiny.frame(0), {"token": "a"}]), "frame 1 lacks timestamp"),
        (b"cbuiltins\neval\n.", "class builtins.eval is not allowed"),
        (b"cnumpy\nload\n.", "class numpy.load is not allowed"),
    ],
)
def test_a_file_that_is_no_log_is_named(tmp_path, content, message):
    with pytest.raises(ValueError, match=f"log.pkl: .*{message}"):
        log_frames(tiny.write_log(tmp_path, content))


def test_a_log_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(ValueError, match="absent.pkl does not exist"):
        log_frames(tmp_path / "absent.pkl")
    with pytest.raises(ValueError, match="cannot be opened"):
        log_frames(tmp_path)


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_numpy_1_and_2_are_read_in_every_protocol(tmp_path, protocol):
    frames = [tiny.frame(0, score=np.float64(0.5), names=np.array(["a", None], dtype=object))]
    new = pickle.dumps(frames, protocol)
    names = {argument for _, argument, _ in pickletools.genops(new) if isinstance(argument, str)}
    assert any("numpy._core" in name for name in names) or np.__version__ < "2"
    old = pickle.dumps(frames, 0).replace(b"numpy._core", b"numpy.core")
    for content in (new, old):
        read = log_frames(tiny.write_log(tmp_path, content))[0]
        np.testing.assert_array_equal(read["anns"]["gt_boxes"], frames[0]["anns"]["gt_boxes"])
        assert read["score"] == 0.5 and read["names"].tolist() == ["a", None]


def test_a_scene_is_a_window_of_four_frames_and_its_future(tmp_path):
    _, logs, maps = data(tmp_path)
    found = list(scenes(logs, maps, SceneFilter()))
    assert [scene.token for scene in found] == [f"{place:016x}" for place in (3, 4, 5)]
    first = found[0]
    assert len(first.time_us) == 14 and first.log_name == "log" and first.roadblock_ids == ("1", "11", "2")
    np.testing.assert_allclose(first.ego_poses[3], (*(tiny.ORIGIN + (7.5, 0.0)), 0.0))
    assert first.traffic_lights[2] == (("111", True),) and first.traffic_lights[3] == (("111", False),)
    assert first.ego_velocities.dtype == np.float64 and first.ego_accelerations[0, 0] == np.float32(0.1)
    assert found[0].lane_map is found[1].lane_map


def test_the_first_scene_of_a_log_has_no_moment_before(tmp_path):
    path, logs, maps = data(tmp_path)
    moments = log_moments(path, Maps(maps), SceneFilter(), logs)
    assert [previous.token if previous else None for _, previous in moments] == [None, f"{3:016x}", f"{4:016x}"]
    assert [now.previous_token for now, _ in moments] == [None, f"{3:016x}", f"{4:016x}"]


@pytest.mark.parametrize(
    ("changes", "places"),
    [
        ({"num_future_frames": 8}, [3, 4, 5, 6, 7]),
        ({"frame_interval": 2}, [3, 5]),
        ({"frame_interval": None}, [3]),
        ({"max_scenes": 2}, [3, 4]),
        ({"tokens": (f"{4:016x}",)}, [4]),
        ({"has_route": False}, [3, 4, 5]),
    ],
)
def test_a_filter_chooses_windows_as_navsim_does(tmp_path, changes, places):
    _, logs, maps = data(tmp_path)
    assert [scene.token for scene in scenes(logs, maps, SceneFilter(**changes))] == [f"{place:016x}" for place in places]


@pytest.mark.parametrize("blocks", [[], None])
def test_a_frame_without_a_route_is_no_scene(tmp_path, blocks):
    _, logs, maps = data(tmp_path, with_frame({"roadblock_ids": blocks}, place=4))
    assert [scene.token for scene in scenes(logs, maps, SceneFilter())] == [f"{place:016x}" for place in (3, 5)]


def read(tmp_path, change):
    """The scene whose current frame (place 5) has the change."""
    _, logs, maps = data(tmp_path, with_frame(change))
    return scenes_of_tokens(logs, maps, "test", [f"{5:016x}"])[0]


def test_a_frame_may_have_no_objects(tmp_path):
    empty = {"gt_boxes": np.zeros((0,)), "gt_names": [], "gt_velocity_3d": np.zeros((0, 3)), "track_tokens": []}
    assert len(read(tmp_path, annotated(**empty)).objects[3].types) == 0


def test_every_type_of_object_is_known(tmp_path):
    count = len(OBJECT_NAMES)
    many = {
        "gt_boxes": np.ones((count, 7), np.float32),
        "gt_names": np.array(OBJECT_NAMES),
        "gt_velocity_3d": np.ones((count, 3)),
        "track_tokens": [str(k) for k in range(count)],
    }
    assert read(tmp_path, annotated(**many)).objects[3].types.tolist() == list(range(count))


def test_commands_and_dynamic_states_may_be_lists_or_arrays(tmp_path):
    found = read(tmp_path, {"driving_command": [1, 0, 0, 0], "ego_dynamic_state": np.array((1.0, 2.0, 3.0, 4.0))})
    assert found.commands[3].tolist() == [1, 0, 0, 0] and found.ego_accelerations[3].tolist() == [3.0, 4.0]


def test_camera_names_may_be_lower_case(tmp_path):
    camera = {
        "data_path": "log/CAM_F0/a.jpg",
        "sensor2lidar_rotation": np.array((1.0, 0.0, 0.0, 0.0)),
        "sensor2lidar_translation": np.zeros(3),
        "cam_intrinsic": np.eye(3),
        "distortion": np.zeros(5),
    }
    lidar = {"lidar2ego_rotation": np.array((1.0, 0.0, 0.0, 0.0)), "lidar2ego_translation": np.array((1.0, 0.0, 1.6))}
    (found,) = read(tmp_path, {"cams": {"cam_f0": camera}} | lidar).cameras[3]
    assert found.name == "CAM_F0" and found.path.endswith("sensor_blobs/test/log/CAM_F0/a.jpg")
    np.testing.assert_array_equal(found.rotation, np.eye(3))
    assert found.ego_from_lidar[2, 3] == 1.6


@pytest.mark.parametrize("cameras", [{}, None])
def test_a_frame_may_have_no_cameras(tmp_path, cameras):
    assert read(tmp_path, {"cams": cameras}).cameras[3] == ()


def test_old_logs_name_las_vegas_differently(tmp_path):
    assert read(tmp_path, {"map_location": "las_vegas"}).map_name == tiny.CITY


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (annotated(gt_names=["tram"]), "unknown object type 'tram'"),
        (annotated(gt_boxes=np.zeros((7, 1))), r"gt_boxes has shape \(7, 1\)"),
        (annotated(gt_boxes=np.full((1, 7), np.nan)), "gt_boxes holds values that are not finite"),
        (annotated(track_tokens=["a", "b"]), "2 tokens, 1 types"),
        ({"ego_dynamic_state": [1.0, 2.0]}, "ego_dynamic_state has shape"),
        ({"driving_command": [1, 0]}, "driving_command has shape"),
        ({"anns": {}}, "gt_names"),
    ],
)
def test_a_frame_that_cannot_be_read_is_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=f"log.pkl: frame 5 .{5:016x}. cannot be read: .*{message}"):
        read(tmp_path, change)


def test_yaw_is_taken_first_when_a_car_rolls_and_pitches():
    half = 0.5 * 0.7
    assert yaw((np.cos(half), 0.0, 0.0, np.sin(half))) == pytest.approx(0.7)
    w, x, y, z = 0.5, 0.1, -0.2, 0.8
    turned = rotation((w, x, y, z))
    np.testing.assert_allclose(turned @ turned.T, np.eye(3), atol=1e-12)
    assert yaw((w, x, y, z)) == pytest.approx(np.arctan2(-turned[0, 1], turned[0, 0]))


def test_a_scene_filter_file_is_read_and_hydra_keys_are_passed_over(tmp_path):
    path = filter_file(
        tmp_path,
        "_target_: navsim.common.dataclasses.SceneFilter\nnum_history_frames: 4\nnum_future_frames: 9\nframe_interval: null\n"
        "has_route: false\nmax_scenes: null\nlog_names: ['log']\ntokens: ['412e01', \"0123\"]\nsynthetic_scene_tokens: []\n",
    )
    expected = SceneFilter(num_future_frames=9, frame_interval=None, has_route=False, log_names=("log",), tokens=("412e01", "0123"))
    assert scene_filter(path) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tokens: [1234567890123456]", "tokens holds 1234567890123456, which yaml read as a number: put it in quotes"),
        ("tokens: abc", "tokens is no list"),
        ("a: [", "not yaml"),
        ("- a", "holds no mapping"),
        ("num_history_frames: 3", "num_history_frames is 3; only 4 is supported"),
        ("num_future_frames: 7", "num_future_frames is 7; scoring needs at least 8"),
        ("num_future_frames: many", "scene filter .*filter.yaml"),
        ("frame_interval: 0", "frame_interval is 0"),
    ],
)
def test_a_wrong_scene_filter_is_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        scene_filter(filter_file(tmp_path, text))


def test_an_absent_scene_filter_is_named(tmp_path):
    with pytest.raises(ValueError, match="none.yaml does not exist"):
        scene_filter(tmp_path / "none.yaml")


def test_a_log_in_two_splits_is_found_in_each(tmp_path):
    for split in ("mini", "trainval"):
        tiny.write_log(tmp_path, [tiny.frame(0)], split=split)
    assert log_paths(tmp_path, "mini")["log"].parent.name == "mini"
    assert log_paths(tmp_path)["log"].parent.name == "trainval"


def test_what_is_not_there_is_named(tmp_path):
    _, logs, maps = data(tmp_path)
    with pytest.raises(ValueError, match="is no OPENSCENE_DATA_ROOT"):
        log_paths(tmp_path)
    with pytest.raises(ValueError, match="split 'other': no logs"):
        list(scenes(logs, maps, SceneFilter(), "other"))
    with pytest.raises(ValueError, match="1 logs of the filter are not below .* the first is gone"):
        list(scenes(logs, maps, SceneFilter(log_names=("log", "gone"))))
    with pytest.raises(ValueError, match="the split is empty"):
        list(scenes(logs, maps, SceneFilter(num_future_frames=20)))
    with pytest.raises(ValueError, match="1 of 2 tokens are in no log"):
        list(scenes(logs, maps, SceneFilter(tokens=(f"{4:016x}", "ffff"))))


def test_scenes_come_in_the_order_of_their_tokens_and_as_often(tmp_path):
    _, logs, maps = data(tmp_path)
    wanted = [f"{place:016x}" for place in (5, 3, 5)]
    assert [scene.token for scene in scenes_of_tokens(logs, maps, "test", wanted)] == wanted
    path = filter_file(tmp_path, "num_future_frames: 8\n")
    assert len(scenes_of_tokens(logs, maps, path)) == 5 and len(scenes_of_tokens(logs, maps, "test")) == 3


def test_loaded_scenes_are_prepared_and_in_order(tmp_path):
    _, logs, maps = data(tmp_path)
    wanted = [f"{place:016x}" for place in (5, 3)]
    loaded = irlvla.load_scenes(logs, maps, "test", wanted)
    assert [scene.token for scene in loaded] == wanted and all(isinstance(scene, PreparedScene) for scene in loaded)


def test_a_scene_names_the_frames_of_its_log_only(tmp_path):
    path, logs, maps = data(tmp_path)
    for scene in log_scenes(path, Maps(maps), SceneFilter(), logs):
        assert scene.frame_tokens[3] == scene.token and len(set(scene.frame_tokens)) == 14


def test_stamps_of_frames_to_come_may_be_anything_and_those_of_the_past_may_not(tmp_path):
    _, logs, maps = data(tmp_path, with_frame({"timestamp": 1_500_000_000_000_000}, place=7))
    assert scenes_of_tokens(logs, maps, "test", [f"{5:016x}"])[0].time_us[5] == 1_500_000_000_000_000
    with pytest.raises(ValueError, match="log.pkl: frame 7 .* is at 1500000000000000 us, not after"):
        scenes_of_tokens(logs, maps, "test", [f"{7:016x}"])


BARE = dict.fromkeys(("anns", "traffic_lights", "roadblock_ids", "map_location"))


def test_a_window_with_one_frame_without_annotations_has_none(tmp_path):
    path, logs, maps = data(tmp_path, with_frame(BARE, place=13))
    found = log_scenes(path, Maps(maps), SceneFilter(), logs)
    assert [scene.objects is None for scene in found] == [True, True, True]
    assert found[0].traffic_lights is None and found[0].roadblock_ids == () and found[0].map_name == ""
    found = log_scenes(path, Maps(maps), SceneFilter(num_future_frames=8), logs)
    assert [scene.objects is None for scene in found] == [False, False, True, True, True]


@pytest.mark.parametrize(("key", "message"), [("anns", "anns is None, no mapping"), ("traffic_lights", "traffic_lights is None, no list")])
def test_a_frame_that_lacks_some_of_its_annotations_is_a_damaged_one(tmp_path, key, message):
    path, logs, maps = data(tmp_path, with_frame({key: None}))
    with pytest.raises(ValueError, match=message):
        log_scenes(path, Maps(maps), SceneFilter(), logs)


def test_a_scene_has_objects_and_lights_or_neither():
    with pytest.raises(ValueError, match="traffic lights are missing; a scene without annotations has neither"):
        replace(tiny.scene(), traffic_lights=None)
    with pytest.raises(ValueError, match="objects are missing"):
        replace(tiny.scene(), objects=None)
    bare = replace(tiny.scene(), objects=None, traffic_lights=None, lane_map=None)
    with pytest.raises(ValueError, match=f"scene {bare.token} has no annotations .*targets need boxes"):
        targets(bare, test_features.prepared())
