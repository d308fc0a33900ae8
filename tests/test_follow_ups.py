"""What may follow a logged scene: where egos are, that all else is as it was, and that files are those of the devkit."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from irlvla.data.mapping import has_two_stages, two_stage_split
from irlvla.data.maps import Maps
from irlvla.data.navsim import log_frames
from irlvla.data.pickles import Made, unpickled
from irlvla.data.synthetic import synthetic_paths, synthetic_scene
from irlvla.data.tracks import CLASSES
from irlvla.follow_ups import FollowUpConfig, follow_up_poses, write_follow_ups
from irlvla.score.prepared import prepared
from irlvla.world.camera import EGO_FROM_LIDAR, mounting

from .followed_world import CAMERA, NOW, followed_world, logged, made_world
from .tiny import ORIGIN

GOLDEN = Path(__file__).parent / "golden" / "openscene" / "navhard_two_stage" / "synthetic_scene_pickles"
STILL = FollowUpConfig(tries=1)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return followed_world(tmp_path_factory.mktemp("world"))


def scenes(folder, pairs, side=0, cameras=True):
    paths, maps = synthetic_paths(folder / "openscene"), Maps(folder / "maps")
    return [synthetic_scene(paths[pair[side]], maps, cameras) for pair in pairs]


def test_the_way_to_a_shifted_place_keeps_its_shape_but_for_its_size():
    turn = np.pi / 2
    bend = np.array([[0.0, 0.0, 0.0], [4.0, 0.0, turn], [4.0, 2.0, turn]])
    moved = follow_up_poses(bend, np.array([1.0, 0.5, 0.0]), 1.5)
    np.testing.assert_allclose(moved[-1], [3.5, 3.0, turn])
    np.testing.assert_allclose(moved[1], [3.5, 0.0, turn], atol=1e-12)
    np.testing.assert_allclose(moved[0], [-2.5, 0.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(follow_up_poses(bend, np.zeros(3), 1.0), bend, atol=1e-12)
    assert (np.abs(follow_up_poses(bend, np.array([0.0, 0.0, 3.0]), 1.0)[:, 2]) <= np.pi).all()


def test_the_first_pair_begins_where_the_human_was_and_others_around_it(world):
    folder, pairs = world
    assert [(pair.now[:1], len(pair.follow_ups)) for pair in pairs] == [("1", 3), ("2", 3)]
    for side, x in ((0, 2.5 * (NOW + 8)), (1, 2.5 * (NOW + 7))):
        found = scenes(folder, pairs[0].follow_ups, side)
        offsets = np.array([scene.ego_poses[3] - (*ORIGIN, 0.0) for scene in found]) - (x, 0.0, 0.0)
        np.testing.assert_allclose(offsets[0], 0.0, atol=1e-9)
        assert (np.abs(offsets[1:, :2]).max(axis=1) > 0.1).all() and (np.abs(offsets) <= (4.2, 1.3, 0.09)).all()
        assert {len(token) for scene in found for token in scene.frame_tokens[:4]} == {17}


def test_an_ego_moves_as_fast_as_it_says_and_both_scenes_of_a_pair_are_of_one_way(world):
    folder, pairs = world
    for now, before in zip(*(scenes(folder, pairs[1].follow_ups, side) for side in (0, 1)), strict=True):
        assert (np.diff(now.time_us[:4]) == 500_000).all() and now.time_us[3] - before.time_us[3] == 500_000
        np.testing.assert_allclose(now.ego_poses[:3], before.ego_poses[1:4], atol=1e-9)
        speed = np.hypot(*np.diff(now.ego_poses[:4, :2], axis=0).T) / 0.5
        np.testing.assert_allclose(speed, now.ego_velocities[:4].max(), rtol=1e-6)
        assert 4.0 <= speed[0] <= 6.0


def test_all_but_the_ego_is_where_the_log_has_it(world):
    folder, pairs = world
    frames = logged("one")
    for scene in scenes(folder, pairs[0].follow_ups):
        for place in range(12):
            x, y, heading = scene.ego_poses[place]
            turn = np.array([[np.cos(heading), -np.sin(heading)], [np.sin(heading), np.cos(heading)]])
            boxes = scene.objects[place].boxes
            own = frames[NOW + 5 + place]
            wanted = own["anns"]["gt_boxes"][:, :2] + own["ego2global_translation"][:2]
            np.testing.assert_allclose(boxes[:, :2] @ turn.T + (x, y), wanted, atol=1e-5)
            np.testing.assert_allclose(boxes[:, 6] + heading, 0.1, atol=1e-6)
            assert scene.objects[place].track_tokens == ("t",)
        assert prepared(scene).reference_multiplier > 0 and scene.log_name == "one"


def test_files_have_the_structure_of_the_devkits(world):
    folder, pairs = world

    def shape(value):
        if isinstance(value, Made):
            state = value.state if not isinstance(value.state, tuple) else ("slots", value.state[1])
            return value.name, len(value.arguments), shape(list(state) if isinstance(state, tuple) else state)
        if isinstance(value, dict):
            return {key: shape(item) for key, item in value.items() if key != "camera_dict"}
        if isinstance(value, list | tuple):
            return type(value).__name__, shape(value[0]) if len(value) and not isinstance(value[0], str) else None
        if isinstance(value, np.ndarray) and value.shape:
            return value.dtype, value.ndim
        return "number" if isinstance(value, float | np.floating) else type(value).__name__

    paths = synthetic_paths(folder / "openscene")[pairs[0].follow_ups[0][0]], next(GOLDEN.glob("*.pkl"))
    ours, theirs = (unpickled(path.read_bytes(), CLASSES) for path in paths)
    for values in (ours, theirs):
        for key in ("extended_traffic_light_data", "frames"):
            values[key] = values[key][:1]
        values["frames"][0]["traffic_lights"] = []
        del values["extended_traffic_light_data"][0].state["traffic_lights"][:]
        tracks = [track.state["tracked_objects"].state["tracked_objects"] for track in values["extended_detections_tracks"]]
        for track in tracks:
            track[:] = [one for one in track if one.name.endswith("Agent")][:1]
    assert shape(ours) == shape(theirs)
    assert list(ours) == list(theirs) and list(ours["frames"][0]["camera_dict"]) == list(theirs["frames"][0]["camera_dict"])


def tracks_of(path):
    """What a pickle has of road users half a second after its last frame."""
    values = unpickled(path.read_bytes(), CLASSES)
    return values["extended_detections_tracks"][0].state["tracked_objects"].state["tracked_objects"]


def test_things_that_cannot_move_are_nuplans_too(tmp_path):
    folder, followed = made_world(tmp_path, anns=logged("one")[0]["anns"] | {"gt_names": np.array(["barrier"])})
    pairs = write_follow_ups(folder, {"one": followed["one"]}, 1, (), 1, 1)
    track = tracks_of(synthetic_paths(folder / "openscene")[pairs[0].follow_ups[0][0]])[0]
    theirs = next(one for path in sorted(GOLDEN.glob("*.pkl")) for one in tracks_of(path) if one.name.endswith("StaticObject"))
    assert (track.name, list(track.state)) == (theirs.name, list(theirs.state))
    assert track.state["_tracked_object_type"].arguments == (4,) and track.state["velocity"].state[1]["_array"].tolist() == [0.0, 0.0]


def test_pictures_are_drawn_from_where_the_ego_is_now_and_calibrated_to_the_ego_frame(world):
    folder, pairs = world
    found = scenes(folder, pairs[0].follow_ups)
    assert [[camera.name for camera in frame] for frame in found[0].cameras] == [[], [], [], [CAMERA]]
    camera, rig = found[0].cameras[3][0], mounting(CAMERA)
    np.testing.assert_allclose(camera.translation, rig.translation + EGO_FROM_LIDAR)
    assert (camera.ego_from_lidar == np.eye(4)).all() and (camera.intrinsics == rig.intrinsics).all()
    images = [np.asarray(Image.open(scene.cameras[3][0].path)).astype(int) for scene in found]
    assert images[0].shape == (216, 384, 3) and all(np.abs(images[0] - other).max() > 20 for other in images[1:])
    assert scenes(folder, pairs[0].follow_ups, cameras=False)[0].cameras == ((),) * 4


def test_the_split_is_read_as_it_was_written(world):
    folder, pairs = world
    path = folder / "splits" / "two_stage.yaml"
    for place in (path, path.parent / "scene_filter" / path.name):
        split = two_stage_split(place)
        assert split.pairs == pairs and split.chosen.tokens == tuple(token for pair in pairs for token in (pair.now, pair.previous))
        assert split.chosen.log_names == ("one", "two") and split.chosen.num_future_frames == 8 and has_two_stages(place)
    assert split.synthetic_tokens == tuple(token for pair in pairs for couple in pair.follow_ups for token in couple)
    frames = log_frames(folder / "openscene" / "navsim_logs" / "test" / "one.pkl")
    values = unpickled(synthetic_paths(folder / "openscene")[pairs[0].follow_ups[1][1]].read_bytes(), CLASSES)["scene_metadata"]
    assert values["corresponding_original_scene"] == frames[NOW + 7]["token"]
    assert values["corresponding_original_initial_token"] == pairs[0].previous == frames[NOW - 1]["token"]


def test_what_was_interrupted_goes_on_and_gives_the_same_bytes(world):
    folder, pairs = world
    made = folder / "openscene" / "two_stage"

    def everything():
        return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in made.rglob("*") if path.is_file()}

    before = everything()
    (made / "entries" / "two.json").unlink()
    (folder / "splits" / "two_stage.yaml").unlink()
    tokens = dict(zip(("one", "two"), (pair.now for pair in pairs), strict=True))
    assert write_follow_ups(folder, tokens, 3, (CAMERA,), seed=1, processes=1) == pairs
    after = everything()
    assert {path: value[0] for path, value in after.items()} == {path: value[0] for path, value in before.items()}
    kept = [path for path in before if "/one/" in str(path) or path.name == "one.json"]
    assert kept and all(after[path] == before[path] for path in kept) and not (made / "tried").exists()


def test_what_cannot_be_followed_is_said(tmp_path):
    folder, followed = made_world(tmp_path)
    late = {"one": f"1{NOW + 1:015x}"}
    with pytest.raises(ValueError, match="log one: scene 1.*5 is frame 5 of 21; 4 before and 16 after it are needed"):
        write_follow_ups(folder, late, 1, (CAMERA,), 1, 1)
    (folder / "openscene" / "sidecar" / "two.npz").replace(folder / "openscene" / "sidecar" / "one.npz")
    with pytest.raises(ValueError, match="log one: the sidecar has no footage of frame 1"):
        write_follow_ups(folder, {"one": followed["one"]}, 1, (CAMERA,), 1, 1)


def test_an_ego_that_is_hemmed_in_is_followed_by_nothing(tmp_path):
    around = logged("one")[0]["anns"] | {"gt_boxes": np.array([(0.0, 0.0, 0.0, 9.0, 9.0, 1.5, 0.0)], np.float32)}
    folder, followed = made_world(tmp_path, anns=around)
    with pytest.raises(ValueError, match="nothing can follow any of 2 scenes"):
        write_follow_ups(folder, followed, 2, (CAMERA,), 1, 1, STILL)
    assert json.loads((folder / "openscene" / "two_stage" / "entries" / "one.json").read_text())[2] == []


def test_a_process_that_dies_and_logs_of_two_folders_are_named(tmp_path, monkeypatch):
    folder, followed = made_world(tmp_path)
    logs = folder / "openscene" / "navsim_logs"
    (logs / "other").mkdir()
    (logs / "test" / "two.pkl").replace(logs / "other" / "two.pkl")
    with pytest.raises(ValueError, match="logs of 2 folders, other, test, cannot be in one split"):
        write_follow_ups(folder, followed, 1, (), 1, 1)
    monkeypatch.setattr("irlvla.follow_ups.work_off", lambda *_, **__: {0: "ended with exit code 3"})
    (folder / "openscene" / "two_stage" / "entries" / "two.json").unlink()
    with pytest.raises(ValueError, match="the process that followed two ended with exit code 3"):
        write_follow_ups(folder, followed, 1, (), 1, 1)
