import json

import numpy as np
import pytest
import yaml
from PIL import Image

from irlvla.data.mapping import two_stage_split
from irlvla.data.navsim import Maps, log_moments, log_paths, scene_filter
from irlvla.inventory import Look, inventory
from irlvla.make_world import SPLITS, make_world
from irlvla.selection import ROWS, SPACING
from irlvla.world_size import WorldConfig, further_tasks, scaled, tasks, with_test_logs


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    folders = [tmp_path_factory.mktemp(name) for name in ("first", "again")]
    for folder in folders:
        make_world(folder, seed=3, logs=4, cameras=("CAM_L0",), follow_ups=1)
    return folders


def moments(folder, split):
    chosen, paths, maps = scene_filter(folder / "splits" / f"{split}.yaml"), log_paths(folder / "openscene"), Maps(folder / "maps")
    return {name: log_moments(paths[name], maps, chosen, folder / "openscene") for name in chosen.log_names}


def test_the_same_seed_gives_the_same_bytes(worlds):
    first, again = ({path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()} for folder in worlds)
    assert first == again and len(first) > 20


def test_further_test_logs_leave_all_other_logs_as_they_are(worlds, tmp_path):
    make_world(tmp_path, seed=3, logs=4, cameras=("CAM_L0",), test_logs=3)
    first, more = (
        {path.name: path.read_bytes() for path in (folder / "openscene" / "navsim_logs").rglob("*.pkl")} for folder in (worlds[0], tmp_path)
    )
    assert first.items() <= more.items() and len(more) == len(first) + 2
    train = [(folder / "splits" / "train.yaml").read_bytes() for folder in (worlds[0], tmp_path)]
    assert train[0] == train[1]
    summary = json.loads((tmp_path / "world.json").read_text())
    assert summary["logs"]["test"] == 3 and summary["config"]["unseen_towns"] == 3 and len(summary["unseen_logs"]) == 2


def test_a_proof_s_world_has_twice_the_test_logs_half_of_the_further_ones_in_new_towns():
    config = WorldConfig()
    larger = with_test_logs(config, 600)
    further = further_tasks(config, larger)
    assert larger.test_scenes == 3300 and larger.unseen_towns == 8 and further_tasks(config, config) == []
    assert sum(logs for task in further for _, logs, _ in task.quotas) == 300
    assert sum(scenes for task in further for _, _, scenes in task.quotas) == 1650
    assert sum(logs for task in further for _, logs, _ in task.quotas if task.town >= 16) == 150
    with pytest.raises(ValueError, match="has 300 test logs, 299 are fewer"):
        with_test_logs(config, 299)


def test_every_token_of_a_split_is_a_scene_with_its_previous_frame_and_pictures_of_both(worlds):
    for split in SPLITS:
        chosen = scene_filter(worlds[0] / "splits" / f"{split}.yaml")
        found = [pair for pairs in moments(worlds[0], split).values() for pair in pairs]
        assert sorted(scene.token for scene, _ in found) == sorted(chosen.tokens)
        for scene, previous in found:
            for moment in (scene, previous):
                camera = {camera.name: camera for camera in moment.cameras[3]}
                with Image.open(camera["CAM_L0"].path) as picture:
                    assert picture.size == (192, 108)
                assert len(camera) == 8


def test_the_doctor_finds_a_world_whole(worlds):
    splits = tuple(str(worlds[0] / "splits" / f"{split}.yaml") for split in SPLITS)
    look = Look(logs=worlds[0] / "openscene", maps=worlds[0] / "maps", splits=splits, cameras=("CAM_L0",), processes=1)
    found = {one.name: one for one in inventory(look)}
    assert not [one for one in found.values() if one.level == "BAD"]
    scenes = scene_filter(splits[0]).tokens
    pictures = found["split train: pictures"]
    assert found["split train: scenes"].found == len(scenes) and pictures.found == pictures.expected > len(scenes)


def test_scenes_follow_one_of_each_test_log_that_is_long_enough(worlds, monkeypatch):
    folder = worlds[0]
    split = two_stage_split(folder / "splits" / "two_stage.yaml")
    test = scene_filter(folder / "splits" / "test.yaml")
    assert split.chosen.log_names == test.log_names and {pair.now for pair in split.pairs} <= set(test.tokens)
    for pair in split.pairs:
        for token in (pair.now, pair.previous):
            assert len(list((folder / "openscene" / "sensor_blobs" / "test").rglob(f"{token}.jpg"))) == 1
        for token in pair.follow_ups[0]:
            assert len(list((folder / "openscene" / "two_stage" / "sensor_blobs").rglob(f"{token}.jpg"))) == 1
    # Stopped before its follow-ups were all there, a world is not made again.
    (folder / "splits" / "two_stage.yaml").unlink()
    monkeypatch.setattr("irlvla.make_world._made", None)
    assert make_world(folder, seed=3, logs=4, cameras=("CAM_L0",), follow_ups=1) == json.loads((folder / "world.json").read_text())
    assert two_stage_split(folder / "splits" / "two_stage.yaml") == split
    for arguments in ({"seed": 3}, {"seed": 4}):
        with pytest.raises(TypeError, match="not callable"):
            make_world(folder, logs=4, cameras=("CAM_L0",), follow_ups=1, **arguments)


def test_scenes_of_a_log_are_a_second_apart_and_at_most_eight(worlds):
    for split in SPLITS:
        for pairs in moments(worlds[0], split).values():
            times = sorted(scene.time_us[3] for scene, _ in pairs)
            assert len(times) <= 8 and np.diff(times).min(initial=10**7) >= SPACING * 500_000 - 400


def test_splits_share_no_log_and_the_summary_tells_what_is_there(worlds):
    logs = {split: yaml.safe_load((worlds[0] / "splits" / f"{split}.yaml").read_text())["log_names"] for split in SPLITS}
    assert not set(logs["train"]) & (set(logs["val"]) | set(logs["test"])) and not set(logs["val"]) & set(logs["test"])
    summary = json.loads((worlds[0] / "world.json").read_text())
    assert sum(summary["logs"].values()) == 4 and summary["logs"]["test"] == len(logs["test"])
    assert set(summary["unseen_logs"]) <= set(logs["test"])
    assert [row["policy"] for row in summary["baselines"]["after"]] == list(ROWS)
    after = {row["policy"]: row["epdms"] for row in summary["baselines"]["after"]}
    assert after["human"] > 80 > after["constant_velocity"]


def test_the_full_world_has_the_promised_size_and_unseen_towns_give_half_of_test():
    config = WorldConfig()
    quotas = [(task, *quota) for task in tasks(config) for quota in task.quotas]
    total = {
        split: (sum(logs for _, name, logs, _ in quotas if name == split), sum(scenes for _, name, _, scenes in quotas if name == split))
        for split in SPLITS
    }
    assert (
        total["train"][1] >= 3000
        and total["val"][0] == 60
        and total["val"][1] >= 300
        and total["test"][0] == 300
        and total["test"][1] >= 1500
    )
    assert sum(logs for task, name, logs, _ in quotas if name == "test" and task.town >= config.known_towns) == 150
    assert all(name == "test" for task, name, _, _ in quotas if task.town >= config.known_towns)
    assert not {task.name for task, name, _, _ in quotas if name == "train"} & {task.name for task, name, _, _ in quotas if name != "train"}


@pytest.mark.parametrize("logs", [3, 4, 12, 60, 500])
def test_a_smaller_world_has_the_asked_for_number_of_logs(logs):
    assert sum(count for task in tasks(scaled(WorldConfig(), logs)) for _, count, _ in task.quotas) == logs


def test_too_few_logs_and_unknown_cameras_are_refused(tmp_path):
    with pytest.raises(ValueError, match="-1 follow-ups: none at least"):
        make_world(tmp_path, follow_ups=-1)
    with pytest.raises(ValueError, match="at least 3 logs"):
        make_world(tmp_path, logs=2)
    with pytest.raises(ValueError, match="unknown camera 'CAM_X'"):
        make_world(tmp_path, logs=4, cameras=("CAM_X",))
