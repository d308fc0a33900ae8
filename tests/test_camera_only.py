import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from irlvla.camera_only import KEPT_KEYS, write_camera_only
from irlvla.data.frames import ANNOTATION_KEYS
from irlvla.data.maps import Maps
from irlvla.data.navsim import SceneFilter, log_frames, log_paths, log_scenes, scene_filter, windows
from irlvla.halves import log_halves
from irlvla.prepare import prepare
from irlvla.score.prepared import prepared
from tests import tiny
from tests.data.test_store import same
from tests.test_prepare import BLIND, GOLDEN, LOGS, TOKENS, split


@pytest.fixture
def data(tmp_path):
    """Five logs of which four have scenes, one log of another split, and a picture."""
    for number in range(6):
        frames = [tiny.frame(place, log=f"log{number}", token=f"{number}{place:015x}") for place in range(4 if number == 4 else 16)]
        tiny.write_log(tmp_path / "logs", [frame | {"occ_gt_final_path": "x"} for frame in frames], f"log{number}", "trainval")
    tiny.write_log(tmp_path / "logs", [tiny.frame(place, log="other") for place in range(16)], "other", "test")
    (tmp_path / "logs" / "sensor_blobs").mkdir()
    (tmp_path / "logs" / "sensor_blobs" / "picture.jpg").write_bytes(b"jpg")
    tiny.write_maps(tmp_path / "maps")
    tokens = [f"'{number}{3:015x}'" for number in range(5)]
    (tmp_path / "train.yaml").write_text(f"log_names: [log0, log1, log2, log3, log4]\ntokens: [{', '.join(tokens)}]\n")
    return tmp_path


def stripped(data, name="half", **others):
    return write_camera_only(data / "logs", data / "train.yaml", data / name, **others)


def test_half_b_of_the_logs_that_have_scenes_is_stripped_and_the_listing_says_so(data):
    found = stripped(data, seed=3)
    names = ["log0", "log1", "log2", "log3"]
    first, second = log_halves(names, 3)
    assert found["annotated"] == [names[row] for row in first] and found["camera_only"] == [names[row] for row in second]
    assert json.loads((data / "half" / "camera_only.json").read_text()) == found
    assert any(stripped(data, seed=seed)["camera_only"] != found["camera_only"] for seed in range(4))


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.25, 1), (0.3, 2), (1.0, 4)])
def test_any_share_can_be_stripped(data, share, count):
    assert len(stripped(data, share=share)["camera_only"]) == count


def test_of_a_stripped_frame_nothing_is_left_but_ego_command_and_cameras(data):
    found = stripped(data)
    before, after = log_paths(data / "logs"), log_paths(data / "half")
    assert list(before) == list(after)
    for name in before:
        frames = log_frames(after[name])
        if name not in found["camera_only"]:
            assert after[name].samefile(before[name])
            continue
        assert after[name].stat().st_mtime_ns == before[name].stat().st_mtime_ns
        for old, new in zip(log_frames(before[name]), frames, strict=True):
            assert set(new) == {key for key in KEPT_KEYS if key in old} | set(ANNOTATION_KEYS)
            assert all(new[key] is None for key in ANNOTATION_KEYS)
            np.testing.assert_equal({key: new[key] for key in KEPT_KEYS if key in new}, {key: old[key] for key in KEPT_KEYS if key in old})
    assert (data / "half" / "sensor_blobs").is_symlink() and (data / "half" / "sensor_blobs" / "picture.jpg").read_bytes() == b"jpg"


def test_the_same_call_gives_the_same_bytes_and_another_one_leaves_nothing_of_the_first(data):
    def content():
        return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (data / "half").glob("navsim_logs/*/*.pkl")}

    stripped(data)
    once = content()
    assert stripped(data) and content() == once
    stripped(data, share=0.0)
    assert all(path.read_bytes() == (data / "logs" / path.relative_to(data / "half")).read_bytes() for path in content())
    (data / "logs" / "navsim_logs" / "test" / "other.pkl").unlink()
    stripped(data)
    assert len(content()) == 6


def test_stripped_scenes_pass_a_filter_that_asks_for_routes_only_where_it_names_them(data):
    found, chosen, maps = stripped(data), scene_filter(data / "train.yaml"), Maps(data / "maps")
    for name in ("log0", "log1", "log2", "log3"):
        path = log_paths(data / "half")[name]
        (scene,) = log_scenes(path, maps, chosen, data / "half")
        is_bare = name in found["camera_only"]
        assert (scene.objects is None) == (scene.traffic_lights is None) == (scene.lane_map is None) == is_bare
        assert len(scene.ego_poses) == 14 and bool(scene.map_name) != is_bare
        unnamed = SceneFilter(num_future_frames=8)
        assert bool(windows(log_frames(path), unnamed)) != is_bare
        if is_bare:
            with pytest.raises(
                ValueError, match=f"scene {scene.token} of log {name} has no annotations .*boxes, traffic lights, route and map"
            ):
                prepared(scene)


def test_what_cannot_be_stripped_is_an_error(data):
    with pytest.raises(ValueError, match="share is 1.5, not between 0 and 1"):
        stripped(data, share=1.5)
    with pytest.raises(ValueError, match="lies in .*logs, which is to be copied"):
        stripped(data, "logs/half")
    with pytest.raises(ValueError, match="is not empty and holds no camera_only.json"):
        stripped(data, "maps")
    (data / "none.yaml").write_text("log_names: [log4]\n")
    with pytest.raises(ValueError, match="the split is empty"):
        write_camera_only(data / "logs", data / "none.yaml", data / "empty")
    stripped(data, share=1.0)
    with pytest.raises(ValueError, match="frame 0{16} has no annotations that could be taken away"):
        write_camera_only(data / "half", data / "train.yaml", data / "again", share=1.0)
    (data / "half" / "sensor_blobs").unlink()
    (data / "half" / "sensor_blobs").mkdir()
    with pytest.raises(ValueError, match="sensor_blobs is in the way"):
        stripped(data)


def test_where_files_cannot_be_linked_they_are_copied(data, monkeypatch):
    def refused(*_):
        raise OSError("other device")

    monkeypatch.setattr(os, "link", refused)
    stripped(data, share=0.0)
    for name, path in log_paths(data / "half").items():
        assert path.read_bytes() == log_paths(data / "logs")[name].read_bytes() and not path.is_symlink()


def test_a_store_keeps_what_such_scenes_have_and_refuses_what_they_lack(tmp_path, capsys):
    shutil.copytree(GOLDEN / "openscene", tmp_path / "whole")
    found = write_camera_only(tmp_path / "whole", Path(split(tmp_path)), tmp_path / "half", seed=1)
    whole = prepare(tmp_path / "whole", GOLDEN / "maps", split(tmp_path), tmp_path / "store", BLIND, processes=1)
    half = prepare(tmp_path / "half", GOLDEN / "maps", split(tmp_path), tmp_path / "half_store", BLIND, processes=1)
    assert list(half.tokens) == TOKENS and half.log_names == whole.log_names and not half.failed and whole.annotated.all()
    assert sorted({name for name, known in zip(half.log_names, half.annotated) if not known}) == found["camera_only"]
    assert len(found["camera_only"]) == (len(LOGS) + 1) // 2
    every, bare, known = np.arange(len(half)), np.flatnonzero(~half.annotated).tolist(), np.flatnonzero(half.annotated).tolist()
    assert f"{len(bare)} of {len(TOKENS)} scenes have no annotations (cameras only)" in capsys.readouterr().out
    for previous in (False, True):
        rows = every[half.has_previous] if previous else every
        np.testing.assert_array_equal(half.human(rows, previous), whole.human(rows, previous))
        np.testing.assert_array_equal(half.histories(rows, previous), whole.histories(rows, previous))
    np.testing.assert_array_equal(half.has_previous, whole.has_previous)
    np.testing.assert_array_equal(half.targets(known), whole.targets(known))
    for index in known:
        same(half.prepared(index), whole.prepared(index))
    for read in (half.prepared, lambda index: half.targets([index])):
        with pytest.raises(ValueError, match=f"scene {half.tokens[bare[0]]} of log .* has no annotations .cameras only."):
            read(bare[0])
