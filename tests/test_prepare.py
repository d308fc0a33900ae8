import errno
import fcntl
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from irlvla import prepare as module
from irlvla.data import store
from irlvla.data.features import SensorConfig
from irlvla.data.store import Store
from irlvla.prepare import prepare, print_failures

GOLDEN = Path(__file__).parent / "golden"
BLIND = SensorConfig(cameras=())
LOGS = sorted(path.stem for path in (GOLDEN / "openscene" / "navsim_logs").glob("*/*.pkl"))
TOKENS = sorted(line.split(",")[0] for line in (GOLDEN / "scenes.csv").read_text().splitlines()[1:])


def split(folder, tokens=TOKENS, log_names=LOGS):
    lines = ["num_history_frames: 4", "num_future_frames: 8", "frame_interval: 1", "has_route: true", "log_names:"]
    lines += [f"- '{name}'" for name in log_names] + ["tokens:" if tokens else "tokens: []"] + [f"- '{token}'" for token in tokens]
    path = folder / "split.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def prepared(folder, tokens=TOKENS, sensors=BLIND, processes=1, logs=GOLDEN / "openscene"):
    return prepare(logs, GOLDEN / "maps", split(folder, tokens), folder / "store", sensors, processes=processes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    prepared(folder)
    return folder


@pytest.fixture
def kept(whole, tmp_path):
    shutil.copytree(whole / "store", tmp_path / "store")
    return tmp_path


def test_every_scene_of_the_split_is_there_and_ready_to_score(whole):
    opened = Store(whole / "store")
    assert list(opened.tokens) == TOKENS and not opened.failed
    history = opened.histories(np.arange(len(opened)))
    for index in range(len(opened)):
        scene = opened.prepared(index)
        assert scene.token == TOKENS[index] and scene.log_name == opened.log_names[index]
        assert history[index, -1, 3:] == pytest.approx(scene.ego_state[3:]) and not history[index, -1, :3].any()
        assert opened.human([index])[0] == pytest.approx(scene.human_poses, abs=1e-9)


def test_the_previous_moment_is_half_a_second_earlier(whole):
    opened = Store(whole / "store")
    index = np.flatnonzero(opened.has_previous)[:3]
    now, before = opened.histories(index), opened.histories(index, previous=True)
    assert before[:, -1, 3:] == pytest.approx(now[:, -2, 3:])
    way = np.linalg.norm(opened.human(index, previous=True)[:, 0, :2], axis=1)
    assert way == pytest.approx(np.linalg.norm(now[:, -2, :2], axis=1), abs=1e-9)


def test_elements_and_facts_are_those_of_the_moment(whole):
    opened = Store(whole / "store")
    everything = np.arange(len(opened))
    now, facts = opened.elements(everything), opened.facts(everything)
    assert (now.kinds >= 0).any(axis=1).all() and (now.classes >= 0).any() and (facts >= 0).all()
    index = np.flatnonzero(opened.has_previous)
    before = opened.elements(index, previous=True)
    assert (before.kinds >= 0).any(axis=1).all() and not np.array_equal(before.lines, now.lines[index], equal_nan=True)
    assert opened.facts(index, previous=True).shape == (len(index), facts.shape[1])


def test_what_a_map_does_not_show_is_told(tmp_path, capsys):
    maps = tmp_path / "maps"
    shutil.copytree(GOLDEN / "maps", maps)
    for path in maps.rglob("map.gpkg"):
        with closing(sqlite3.connect(path)) as file:
            file.execute("DROP TABLE IF EXISTS crosswalks")
            file.commit()
    prepare(GOLDEN / "openscene", maps, split(tmp_path, TOKENS[:2]), tmp_path / "store", BLIND, processes=1)
    assert "map.gpkg: lacks the layers crosswalks: moments lack these lines" in capsys.readouterr().out


def test_a_store_is_used_again_when_nothing_changed(kept, monkeypatch):
    monkeypatch.setattr(store, "create", lambda *arguments: pytest.fail("built again"))
    assert len(prepared(kept)) == len(TOKENS)


def test_two_processes_write_what_one_writes(whole, tmp_path):
    twice = prepared(tmp_path, processes=2)
    for name in ("human", "targets", "ego_history", "has_previous", "boxes", "classes", "lines", "kinds", "facts"):
        np.testing.assert_array_equal(np.load(tmp_path / "store" / f"{name}.npy"), np.load(whole / "store" / f"{name}.npy"))
    assert twice.key == Store(whole / "store").key


def test_a_stale_store_is_built_again(kept, capsys):
    assert len(prepared(kept, TOKENS[:2])) == 2
    assert "is stale" in capsys.readouterr().out


def test_code_that_changed_makes_a_store_stale(kept, monkeypatch):
    before = Store(kept / "store").key
    monkeypatch.setattr(module, "SOURCES", (*module.SOURCES, "cli.py"))
    assert prepared(kept).key != before


def test_a_half_written_store_is_continued(kept, monkeypatch):
    header = store.read_header(kept / "store")
    (kept / "store" / "shard-0000.json").unlink()
    store._write_json(kept / "store" / "store.json", header | {"complete": False})
    monkeypatch.setattr(store, "create", lambda *arguments: pytest.fail("built from scratch"))
    assert list(prepared(kept).tokens) == TOKENS


def test_the_size_is_told_before_anything_is_written(tmp_path, capsys):
    prepared(tmp_path, TOKENS[:2])
    told = float(capsys.readouterr().out.split(" MB into")[0].split(", ")[-1])
    written = sum(path.stat().st_size for path in (tmp_path / "store").iterdir()) / 1e6
    assert told == pytest.approx(written, rel=0.5, abs=0.6)


def test_a_token_in_no_log_is_listed_by_name(tmp_path, capsys):
    opened = prepared(tmp_path, [TOKENS[0], "00000000000000aa"])
    print_failures(opened)
    assert opened.tokens == (TOKENS[0],) and "failed: 00000000000000aa: the token is in none of the logs" in capsys.readouterr().out


def test_a_missing_picture_fails_its_scene_by_name(tmp_path):
    with pytest.raises(ValueError, match="none of 2 scenes could be prepared; .*CAM_F0"):
        prepared(tmp_path, TOKENS[:2], SensorConfig())


def test_scenes_without_pictures_are_prepared_where_that_is_allowed(tmp_path):
    opened = prepared(tmp_path, TOKENS[:2], SensorConfig(cameras=("CAM_F0", "CAM_B0"), height=6, width=8, missing_cameras=True))
    seen = opened.features([0, 1])
    assert seen.images.shape == (2, 3, 6, 8, 3) and not seen.images.any() and not seen.rig.valid.any()
    assert opened.pictures == ("", "")


def test_a_truncated_log_is_listed_and_the_others_go_on(tmp_path):
    logs = tmp_path / "openscene"
    shutil.copytree(GOLDEN / "openscene", logs)
    first = sorted((logs / "navsim_logs").glob("*/*.pkl"))[0]
    os.truncate(first, first.stat().st_size // 2)
    opened = prepared(tmp_path, logs=logs)
    assert f"log {first.stem}" in opened.failed and 0 < len(opened) < len(TOKENS)
    assert set(opened.failed) - {f"log {first.stem}"} == set(TOKENS) - set(opened.tokens)


def test_a_log_that_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match="1 of 1 logs of the split are not below .*nowhere"):
        prepare(GOLDEN / "openscene", GOLDEN / "maps", split(tmp_path, log_names=["nowhere"]), tmp_path / "store", BLIND)


def test_an_empty_split_is_named(tmp_path):
    with pytest.raises(ValueError, match="the split is empty"):
        prepared(tmp_path, [])


def test_a_store_is_made_by_one_process_at_a_time_and_read_by_any(whole, tmp_path, monkeypatch):
    def other(*arguments):
        raise BlockingIOError(errno.EAGAIN, "held")

    monkeypatch.setattr(fcntl, "lockf", other)
    assert len(prepared(whole)) == len(TOKENS)
    with pytest.raises(ValueError, match="store: another process is at work there"):
        prepared(tmp_path)
