import os
import pickle
from pathlib import Path, PosixPath

import numpy as np
import pytest

from irlvla.data.maps import Maps
from irlvla.data.synthetic import synthetic_paths, synthetic_scene

from ..devkit import loaded

GOLDEN = Path(__file__).parents[1] / "golden"
TOKEN = "0129de0fb7424fa11"
PATH = GOLDEN / "openscene" / "navhard_two_stage" / "synthetic_scene_pickles" / f"{TOKEN}.pkl"


class NoMaps(Maps):
    """Stands in for the map files: nothing here looks at them."""

    def __init__(self):
        self.asked = []

    def __getitem__(self, name):
        self.asked.append(name)
        return name


def test_a_scene_has_its_history_and_what_follows_in_global_coordinates():
    scene = synthetic_scene(PATH, NoMaps())
    assert (scene.token, len(scene.frame_tokens), scene.map_name, scene.previous_token) == (TOKEN, 12, "us-pa-pittsburgh-hazelwood", None)
    assert scene.lane_map == scene.map_name and len(scene.objects) == len(scene.traffic_lights) == 12
    assert np.ptp(np.diff(scene.time_us)) < 2000 and (scene.ego_poses[4:] == 0).all() and (scene.ego_poses[:4, :2] > 1e5).all()
    # What is annotated around the ego now stands near it half a second later, where boxes are global.
    near = scene.objects[4].boxes[:, :2] - scene.ego_poses[3, :2]
    assert len(near) and (np.abs(near) < 150.0).all() and (np.abs(scene.objects[3].boxes[:, :2]) < 150.0).all()


def test_files_are_found_by_token(tmp_path):
    assert synthetic_paths(GOLDEN / "openscene")[TOKEN] == PATH and len(synthetic_paths(GOLDEN / "openscene")) == 6
    with pytest.raises(ValueError, match="no OPENSCENE_DATA_ROOT with synthetic scenes"):
        synthetic_paths(tmp_path)


def test_fewer_traffic_lights_than_moments_are_none_afterwards(tmp_path, monkeypatch):
    values = loaded(monkeypatch, PATH.read_bytes())
    values["extended_traffic_light_data"] = None
    (tmp_path / PATH.name).write_bytes(pickle.dumps(values))
    assert synthetic_scene(tmp_path / PATH.name, NoMaps()).traffic_lights[4:] == ((),) * 8


def test_a_scene_may_hold_frames_after_the_current_one(tmp_path, monkeypatch):
    values = loaded(monkeypatch, PATH.read_bytes())
    values["frames"].append({**values["frames"][3], "token": "f" * 17, "timestamp": values["frames"][3]["timestamp"] + 500_000})
    (tmp_path / PATH.name).write_bytes(pickle.dumps(values))
    scene = synthetic_scene(tmp_path / PATH.name, NoMaps())
    assert scene.frame_tokens[4] == "f" * 17 and len(scene.objects) == 12 and scene.ego_poses[4, 0] > 1e5 and scene.ego_poses[5, 0] == 0


def changed(values, keys, value):
    for key in keys[:-1]:
        values = values[key]
    values[keys[-1]] = value


@pytest.mark.parametrize(
    ("keys", "value", "reason"),
    [
        (("scene_metadata",), None, "scene_metadata is None, no mapping"),
        (("scene_metadata", "num_history_frames"), 3, "3 frames of history"),
        (("scene_metadata", "initial_token"), None, "initial_token is None, no name"),
        (("frames",), [], "0 frames, fewer than 4"),
        (("frames",), {}, "frames is dict, no list"),
        (("frames", 1, "timestamp"), 0, "not after"),
        (("frames", 3, "ego_status", "ego_pose"), [np.nan] * 3, "ego_pose holds values that are not finite"),
        (("frames", 3, "annotations", "boxes"), np.zeros((1, 6)), "gt_boxes has shape"),
        (("extended_detections_tracks",), None, "0 moments after the current one have objects, 8 are needed"),
        (("extended_detections_tracks", 0), 3, "3 stands where a DetectionsTracks belongs"),
        (("extended_traffic_light_data", 0), 3, "3 stands where a TrafficLightStatuses belongs"),
    ],
)
def test_damaged_scenes_are_named(tmp_path, monkeypatch, keys, value, reason):
    values = loaded(monkeypatch, PATH.read_bytes())
    changed(values, keys, value)
    (tmp_path / PATH.name).write_bytes(pickle.dumps(values))
    with pytest.raises(ValueError, match=f"synthetic scene .*{PATH.name} cannot be used: .*{reason}"):
        synthetic_scene(tmp_path / PATH.name, NoMaps())


class Hostile:
    def __reduce__(self):
        return os.system, ("touch hostile_was_here",)


def test_hostile_and_broken_files_run_nothing_and_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for content in (pickle.dumps({"frames": Hostile()}), PATH.read_bytes()[:2000], b""):
        (tmp_path / PATH.name).write_bytes(content)
        with pytest.raises(ValueError, match=f"synthetic scene .*{PATH.name}: not a readable pickle"):
            synthetic_scene(tmp_path / PATH.name, NoMaps())
    assert not (tmp_path / "hostile_was_here").exists()
    with pytest.raises(ValueError, match="nowhere.pkl cannot be read"):
        synthetic_scene(tmp_path / "nowhere.pkl", NoMaps())


def with_camera(values, path="log/CAM_F0/a.jpg"):
    """The current frame with one camera, as the devkit keeps those whose pictures were loaded."""
    camera = {
        "data_path": path,
        "sensor2lidar_rotation": np.eye(3),
        "sensor2lidar_translation": np.array([1.6, 0.0, 1.5]),
        "cam_intrinsic": np.array([[1545.0, 0.0, 960.0], [0.0, 1545.0, 560.0], [0.0, 0.0, 1.0]]),
        "distortion": np.zeros(5),
    }
    values["frames"][3]["camera_dict"] = {"cam_f0": camera, "cam_l0": {}}
    return values


@pytest.mark.parametrize("kind", [str, PosixPath])
def test_cameras_are_read_when_they_are_asked_for_and_their_lidar_frame_is_the_egos(tmp_path, monkeypatch, kind):
    folder = tmp_path / "two_stage" / "synthetic_scene_pickles"
    folder.mkdir(parents=True)
    values = with_camera(loaded(monkeypatch, PATH.read_bytes()), kind("log/CAM_F0/a.jpg"))
    (folder / PATH.name).write_bytes(pickle.dumps(values))
    scene = synthetic_scene(folder / PATH.name, NoMaps(), cameras=True)
    assert [len(frame) for frame in scene.cameras] == [0, 0, 0, 1] and scene.cameras[3][0].name == "CAM_F0"
    assert scene.cameras[3][0].path == str(tmp_path / "two_stage" / "sensor_blobs" / "log" / "CAM_F0" / "a.jpg")
    assert (scene.cameras[3][0].ego_from_lidar == np.eye(4)).all() and scene.cameras[3][0].translation[2] == 1.5
    assert synthetic_scene(folder / PATH.name, NoMaps()).cameras == ((),) * 4


def test_damaged_cameras_matter_only_where_they_are_asked_for(tmp_path, monkeypatch):
    for changes, reason in (({"distortion": None}, "distortion is None"), ({"data_path": "/etc/passwd"}, "not below the sensor blobs")):
        values = with_camera(loaded(monkeypatch, PATH.read_bytes()))
        values["frames"][3]["camera_dict"]["cam_f0"].update(changes)
        (tmp_path / PATH.name).write_bytes(pickle.dumps(values))
        with pytest.raises(ValueError, match=reason):
            synthetic_scene(tmp_path / PATH.name, NoMaps(), cameras=True)
        assert synthetic_scene(tmp_path / PATH.name, NoMaps()).token == TOKEN
    values["frames"][3]["camera_dict"] = {"cam_f0": 3}
    (tmp_path / PATH.name).write_bytes(pickle.dumps(values))
    with pytest.raises(ValueError, match="camera_dict holds 3 for 'cam_f0', no mapping"):
        synthetic_scene(tmp_path / PATH.name, NoMaps(), cameras=True)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_scene_goes_by_its_initial_token_whatever_its_file_is_called(tmp_path, monkeypatch, protocol):
    folder = tmp_path / "navhard" / "synthetic_scene_pickles"
    folder.mkdir(parents=True)
    values = loaded(monkeypatch, PATH.read_bytes())
    values["scene_metadata"] |= {"initial_token": "e" * 17, "scene_token": "a-scene"}
    (folder / "a-scene.pkl").write_bytes(pickle.dumps(values, protocol=protocol))
    (folder / "damaged.pkl").write_bytes(b"nothing")
    paths = synthetic_paths(tmp_path)
    assert paths == {"e" * 17: folder / "a-scene.pkl", "damaged": folder / "damaged.pkl"}
    assert synthetic_scene(paths["e" * 17], NoMaps()).token == "e" * 17
