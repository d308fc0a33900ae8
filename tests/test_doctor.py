import json
import shutil
import sys

import numpy as np
import pytest

from irlvla import machine
from irlvla.cli import main
from irlvla.data.frames import ANNOTATION_KEYS
from irlvla.doctor import examination, printed, write_findings
from irlvla.inventory import Look, inventory
from irlvla.machine import STATE_COLUMNS, STORED_STATES, machine_findings, stored_plan
from irlvla.score import states
from tests import tiny
from tests.score import slow_twin

FRAMES = 16
CAMERAS = ("CAM_F0", "CAM_L0")
CAMERA = {
    "cam_intrinsic": np.eye(3),
    "distortion": np.zeros(5),
    "sensor2lidar_rotation": np.eye(3),
    "sensor2lidar_translation": np.zeros(3),
}
LOGS = {"a": "trainval", "b": "trainval", "c": "test"}


def token(log, place):
    return f"{ord(log):02x}{place:014x}"


def write(root, name, split, cameras=CAMERAS, **changes):
    """A log of 16 frames with pictures of frames 2 .. 5; its scenes are the frames 3, 4 and 5."""
    frames = []
    for place in range(FRAMES):
        cams = {camera: CAMERA | {"data_path": f"{name}/{camera}/{token(name, place)}.jpg"} for camera in cameras}
        frames.append(tiny.frame(place, log=name, token=token(name, place), cams=cams, **changes))
        for camera in cameras if 2 <= place <= 5 else ():
            picture = root / "openscene" / "sensor_blobs" / split / cams[camera]["data_path"]
            picture.parent.mkdir(parents=True, exist_ok=True)
            picture.write_bytes(b"jpg")
    tiny.write_log(root / "openscene", frames, name, split)


def write_split(root, name, logs, tokens):
    path = root / f"{name}.yaml"
    path.write_text(json.dumps({"num_future_frames": 10, "log_names": logs, "tokens": tokens}))
    return str(path)


@pytest.fixture
def data(tmp_path):
    for name, split in LOGS.items():
        write(tmp_path, name, split)
    tiny.write_maps(tmp_path / "maps")
    return tmp_path


def splits_of(data):
    train = write_split(data, "train", ["a", "b"], [token("a", 3), token("a", 4), token("b", 5)])
    return train, write_split(data, "test", ["c"], [token("c", 3)])


def found(data, *splits, **changes):
    values = {"logs": data / "openscene", "maps": data / "maps", "cameras": CAMERAS, "processes": 1} | changes
    return {one.name: one for one in inventory(Look(splits=tuple(splits), **values))}


def bad(findings):
    return {name: one.missing for name, one in findings.items() if one.level == "BAD"}


@pytest.mark.parametrize("processes", [1, 2])
def test_a_whole_data_set_is_counted_and_fine(data, processes):
    seen = found(data, *splits_of(data), processes=processes)
    assert not bad(seen) and seen["split train and test logs (splits and folders called test)"].found == 0
    counts = {name: (seen[name].expected, seen[name].found) for name in seen if name.startswith("split train: ")}
    assert counts == {
        "split train: logs": (2, 2),
        "split train: opened logs": (2, 2),
        "split train: scenes": (3, 3),
        "split train: pictures": (10, 10),
    }
    assert (seen["routes"].expected, seen["routes"].found) == (3, 3)
    assert seen["map us-nv-las-vegas-strip"].level == "ok" and seen["map us-ma-boston"].level == "note"


def test_a_missing_log_is_named_and_its_scenes_too(data):
    splits = splits_of(data)
    (data / "openscene/navsim_logs/trainval/b.pkl").unlink()
    missing = bad(found(data, *splits))
    assert missing == {"split train: logs": ("b",), "split train: scenes": (token("b", 5),)}


def test_a_missing_and_an_empty_picture_are_named(data):
    blobs = data / "openscene/sensor_blobs/trainval/a/CAM_L0"
    (blobs / f"{token('a', 2)}.jpg").unlink()
    (blobs / f"{token('a', 4)}.jpg").write_bytes(b"")
    (blobs / f"{token('a', 5)}.jpg").unlink()
    splits = splits_of(data)
    wanted = tuple(str(blobs / f"{token('a', place)}.jpg") for place in (2, 4))
    assert bad(found(data, *splits)) == {"split train: pictures": wanted}
    assert not bad(found(data, *splits, cameras=("CAM_F0",))) and not bad(found(data, *splits, cameras=()))
    assert bad(found(data, *splits, picture_frames=1)) == {"split train: pictures": wanted[1:]}


def test_pictures_that_a_log_does_not_name_are_counted(data):
    write(data, "b", "trainval", cameras=("CAM_F0",))
    pictures = found(data, *splits_of(data))["split train: pictures"]
    assert (pictures.level, pictures.expected, pictures.found) == ("BAD", 10, 8) and "do not name 2" in pictures.seen


def test_logs_without_any_picture_are_fit_for_scoring(data):
    for name, split in LOGS.items():
        write(data, name, split, cameras=())
    seen = found(data, *splits_of(data))
    assert not bad(seen) and seen["split train: pictures"].level == "note"


def test_scenes_without_annotations_are_counted_and_need_no_map(data):
    for log in ("a", "b"):
        write(data, log, "trainval", **dict.fromkeys(ANNOTATION_KEYS))
    shutil.rmtree(data / "maps" / tiny.CITY)
    seen = found(data, splits_of(data)[0])
    assert not bad({name: one for name, one in seen.items() if not name.startswith("map ")})
    note = seen["split train: annotations"]
    assert note.level == "note" and "3 of 3 scenes have none" in note.seen and "routes" not in seen


def test_an_unreadable_log_is_named_with_its_reason(data):
    (data / "openscene/navsim_logs/trainval/a.pkl").write_bytes(b"no pickle")
    missing = bad(found(data, *splits_of(data)))
    assert set(missing) == {"split train: opened logs", "split train: scenes"} and "a.pkl" in missing["split train: opened logs"][0]


def test_a_log_with_a_frame_that_the_reader_refuses_is_named(data):
    write(data, "b", "trainval", driving_command=np.array([0, 2, 0, 0]))
    missing = bad(found(data, *splits_of(data)))["split train: opened logs"]
    assert len(missing) == 1 and "b.pkl: frame 2 " in missing[0] and "driving_command" in missing[0]


def test_an_empty_log_is_seen_without_opening_it(data):
    (data / "openscene/navsim_logs/trainval/a.pkl").write_bytes(b"")
    missing = bad(found(data, quick=True))
    assert missing[f"logs {data / 'openscene'}"] == (str(data / "openscene/navsim_logs/trainval/a.pkl"),)


def test_tokens_in_no_log_and_frames_that_are_no_scene_are_told_apart(data):
    split = write_split(data, "train", ["a"], [token("a", 3), token("a", 2), token("c", 3)])
    missing = bad(found(data, split))["split train: scenes"]
    assert missing == (token("c", 3), f"{token('a', 2)} (in a log, but too near its ends or without a route)")


def test_overlapping_splits_are_named_with_what_they_share(data):
    train = write_split(data, "train", ["a", "b"], [token("a", 3), token("b", 3)])
    val = write_split(data, "val", ["b"], [token("b", 3), token("b", 4)])
    missing = bad(found(data, train, val))
    assert missing == {"split train and split val: logs": ("b",), "split train and split val: scenes": (token("b", 3),)}
    assert bad(found(data, train, val, quick=True)).keys() >= missing.keys()


def test_a_training_split_with_a_test_log_is_named(data):
    train = write_split(data, "navtrain", ["a", "c"], [token("a", 3), token("c", 4)])
    test = write_split(data, "navtest", ["c"], [token("c", 3)])
    name = "split navtrain and test logs (splits and folders called test)"
    assert bad(found(data, train, test)) == {"split navtrain and split navtest: logs": ("c",), name: ("c",)}
    assert bad(found(data, train)) == {name: ("c",)}


def test_filters_without_log_names_are_compared_by_the_logs_of_their_scenes(data):
    train = write_split(data, "train", None, [token("a", 3), token("b", 3)])
    val = write_split(data, "val", None, [token("b", 5)])
    assert bad(found(data, train, val)) == {"split train and split val: logs": ("b",)}
    assert found(data, train, val, quick=True)["split train and split val: logs"].level == "note"


def test_a_log_for_training_and_for_testing_is_named(data):
    write(data, "c", "trainval")
    assert "c: test, trainval" in bad(found(data, quick=True))["logs in several folders"]
    write(data, "a", "mini")
    assert "a: mini, trainval" in found(data, quick=True)["logs in several folders"].missing


def test_a_missing_map_matters_where_a_scene_needs_it(data):
    splits = splits_of(data)
    write(data, "b", "trainval", map_location="us-ma-boston")
    missing = bad(found(data, *splits))
    assert set(missing) == {"map us-ma-boston"}
    assert {name for name in bad(found(data, *splits, quick=True)) if name.startswith("map")} == {
        "map sg-one-north",
        "map us-ma-boston",
        "map us-pa-pittsburgh-hazelwood",
    }


def test_a_map_that_does_not_fit_the_logs_is_named(data):
    write(data, "b", "trainval", roadblock_ids=["1", "77"])
    assert bad(found(data, *splits_of(data))) == {"routes": (f"{tiny.CITY}: roadblock 77",)}
    assert found(data)["routes"].level == "note"


def test_a_map_file_that_cannot_be_read_is_named(data):
    next((data / "maps").rglob("map.gpkg")).write_bytes(b"no map")
    assert set(bad(found(data, *splits_of(data)))) == {f"map {tiny.CITY}"}


def test_without_a_split_all_that_can_be_said_is_said(data):
    (data / "openscene/sensor_blobs/test/c/CAM_F0" / f"{token('c', 4)}.jpg").unlink()
    seen = found(data)
    assert seen["all logs: scenes"].found == 9 and seen["all logs: pictures"].level == "note"
    assert seen["all logs: pictures"].missing[0].endswith(f"{token('c', 4)}.jpg")
    assert {name for name in bad(seen) if not name.startswith("map ")} == set()


def test_a_folder_of_logs_is_a_split_too(data):
    assert found(data, "trainval")["split trainval: scenes"].found == 6
    assert "no logs in" in found(data, "nowhere")["split nowhere"].seen


def test_wrong_paths_are_told(data, tmp_path):
    seen = found(data, str(tmp_path / "absent.yaml"), logs=tmp_path / "nothing", maps=tmp_path / "nothing")
    assert "does not exist" in seen["split absent"].seen
    assert "is no OPENSCENE_DATA_ROOT" in seen[f"logs {tmp_path / 'nothing'}"].seen
    assert "is no NUPLAN_MAPS_ROOT" in seen["map us-ma-boston"].seen


def test_senseless_wishes_are_refused():
    with pytest.raises(ValueError, match="pictures of 5 frames"):
        Look(logs=None, maps=None, picture_frames=5)
    with pytest.raises(ValueError, match="0 processes"):
        Look(logs=None, maps=None, processes=0)


@pytest.mark.parametrize("name", STORED_STATES)
def test_the_stored_answers_are_those_of_the_slow_twin(name):
    state = np.array(machine.START_STATE)
    reference = states.reference_poses(state, machine.START_US, stored_plan(name)[None])[0]
    simulated = slow_twin.simulated(state, reference)
    for step, row in STORED_STATES[name].items():
        assert simulated[step, list(STATE_COLUMNS)] == pytest.approx(row, abs=1e-9)


def bad_names(folder):
    return {one.name for one in machine_findings({"run": folder}) if one.level == "BAD"}


def test_a_machine_that_passes_its_tests_is_fit_but_for_its_size(tmp_path):
    assert bad_names(tmp_path) <= {"disk of run", "memory"}


def broken_least_squares(monkeypatch):
    monkeypatch.setattr(np.linalg, "pinv", lambda matrix: np.zeros(matrix.shape[::-1]))


def broken_tracker(monkeypatch):
    from irlvla import vehicle

    sound = vehicle.simulated
    monkeypatch.setattr(vehicle, "simulated", lambda state, references: sound(state, references) + 2e-6)


def broken_filter(monkeypatch):
    from irlvla.score import comfort

    sound = comfort.savgol_weights
    monkeypatch.setattr(comfort, "savgol_weights", lambda *arguments: 1.001 * sound(*arguments))


def old_package(monkeypatch):
    versions = machine.importlib.metadata.version
    monkeypatch.setattr(machine.importlib.metadata, "version", lambda name: "0.59.1" if name == "numba" else versions(name))


def unwritable_cache(monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/proc/nowhere")


def no_disk(monkeypatch):
    monkeypatch.setattr(machine, "DEMO_DISK", 1e18)


def no_memory(monkeypatch):
    monkeypatch.setattr(machine, "LEAST_MEMORY", 2**60)


@pytest.mark.parametrize(
    ("breakage", "names"),
    [
        (broken_least_squares, {"numerics: least squares", "numerics: savgol weights"}),
        (broken_tracker, {f"numerics: {name}" for name in STORED_STATES}),
        (broken_filter, {"numerics: savgol weights"}),
        (old_package, {"packages"}),
        (unwritable_cache, {"numba cache"}),
        (no_disk, {"disk of run"}),
        (no_memory, {"memory"}),
    ],
)
def test_what_is_broken_is_named(monkeypatch, tmp_path, breakage, names):
    before = bad_names(tmp_path)
    breakage(monkeypatch)
    assert bad_names(tmp_path) == before | names


def test_thread_settings_beyond_the_cores_are_noted(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    assert machine.threads()[0].level == "note" and "OMP_NUM_THREADS should be" in machine.threads()[0].seen


@pytest.mark.parametrize(
    ("version", "wanted", "fits"),
    [
        ("1.26", ">=1.26", True),
        ("1.9.3", ">=1.26", False),
        ("2.0.0rc1", ">=1.26,<3", True),
        ("3.0", "<3", False),
        ("2.13.0+cpu", "==2.13", True),
    ],
)
def test_versions_are_compared_by_their_numbers(version, wanted, fits):
    assert machine._suffices(version, wanted) == fits


def test_twenty_missing_files_are_printed_and_all_are_in_the_json(tmp_path):
    one = machine.Finding(name="files", level="BAD", seen="none", missing=tuple(f"file {k}" for k in range(30)))
    text = printed([one], 20)
    assert "file 19" in text and "file 20" not in text and "and 10 more" in text and "file 29" in printed([one])
    write_findings(tmp_path / "deep" / "out.json", [one])
    kept = json.loads((tmp_path / "deep" / "out.json").read_text())
    assert not kept["fit"] and len(kept["findings"][0]["missing"]) == 30


def test_the_verb_takes_several_splits_and_fails_when_something_is_bad(monkeypatch, data, capsys):
    train, test = splits_of(data)
    arguments = ["--logs", data / "openscene", "--maps", data / "maps", "--cameras", "F0,L0", "--processes", 1, "--run", data]
    monkeypatch.setattr(sys, "argv", ["irlvla", "doctor", *map(str, arguments), "--split", train, "--split", test])
    main()
    assert "split train and split test: logs: share no logs" in capsys.readouterr().out
    (data / "openscene/navsim_logs/trainval/b.pkl").unlink()
    with pytest.raises(SystemExit, match="1"):
        main()
    assert "BAD  split train: logs: 1 of 2 logs are there\n       b\n" in capsys.readouterr().out


def test_without_data_only_the_machine_is_examined(tmp_path):
    names = [one.name for one in examination(Look(logs=None, maps=None), tmp_path)]
    assert names[-2:] == ["logs", "maps"] and "numerics: tracker" in names
