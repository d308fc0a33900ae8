import csv
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import irlvla
from irlvla import prepare, score_table
from irlvla.data.navsim import log_paths
from irlvla.intervals import mean_interval
from irlvla.score_parts import NAMES, ScoredScene, folder_of, parts_folder, write_part
from irlvla.score_summary import summary
from irlvla.score_table import COLUMNS, score_split, tokens_of
from irlvla.types import SUB_SCORE_NAMES
from tests.golden.compare import COLUMNS as COMPARED
from tests.golden.compare import disagreements

GOLDEN = Path(__file__).parent / "golden"
LOGS, MAPS, PLANS = GOLDEN / "openscene", GOLDEN / "maps", GOLDEN / "trajectories.npz"
TOKEN = "5ae9604062e39a93"
OTHER = "62fc91cc62d26313"
FOUR = ["37d852864deef892", "62fc91cc62d26313", "2d1259603ecb096c", "f0d818f83617d761"]
FOUR_LOGS = ["2021.06.01.12.00.07_veh-30_00100_00130", "2021.08.03.12.08.07_veh-38_00420_00450", "2021.08.08.12.29.07_veh-59_01260_01290"]


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_number_of_the_devkit_is_met(tmp_path):
    found = score_split(LOGS, MAPS, "test", PLANS, tmp_path / "table.csv", processes=2)
    _, _, rows, wrong = disagreements(GOLDEN, tmp_path / "table.csv")
    assert found["failed"] == {} and rows == found["trajectories"] and rows > 600
    assert wrong == []


@pytest.fixture(scope="module")
def plans():
    with np.load(PLANS) as archive:
        return archive[f"{TOKEN}_poses"][:3]


def scored(tmp_path, arrays, split="test"):
    np.savez(tmp_path / "plans.npz", **arrays)
    found = score_split(LOGS, MAPS, split, tmp_path / "plans.npz", tmp_path / "table.csv", processes=1)
    return (found["trajectories"], found["failed"]), table(tmp_path / "table.csv")


def test_a_scene_without_a_frame_before_has_no_ec(tmp_path, plans):
    (count, failures), rows = scored(tmp_path, {f"{TOKEN}_poses": plans, f"{TOKEN}_prev_poses": plans})
    assert count == 3 and not failures and tuple(rows[0]) == COLUMNS
    assert [row["EC"] for row in rows] == ["", "", ""] and float(rows[0]["EPDMS"]) > 0


def test_plans_at_10_hz_are_numbered_from_1000(tmp_path, plans):
    dense = np.repeat(plans, 5, axis=1)
    _, rows = scored(tmp_path, {f"{TOKEN}_poses": plans, f"{TOKEN}_poses_10hz": dense})
    assert [int(row["trajectory"]) for row in rows] == [0, 1, 2, 1000, 1001, 1002]


@pytest.mark.parametrize(
    "arrays, reason",
    [
        (lambda plans: {f"{TOKEN}_poses": plans[:, :7]}, r"has shape \(3, 7, 3\)"),
        (lambda plans: {f"{TOKEN}_poses": plans[0]}, r"has shape \(8, 3\)"),
        (lambda plans: {f"{TOKEN}_poses": plans * np.nan}, "not finite"),
        (lambda plans: {f"{TOKEN}_poses": plans, f"{TOKEN}_prev_poses": plans[:2]}, "3 plans in .* but 2"),
        (lambda plans: {"0123456789abcdef_poses": plans}, "in no readable log"),
    ],
)
def test_a_scene_that_cannot_be_scored_is_named_with_its_reason(tmp_path, plans, arrays, reason):
    import re

    good = "62fc91cc62d26313"
    (count, failures), rows = scored(tmp_path, {**arrays(plans), f"{good}_poses": plans})
    assert count == len(rows) == 3 and {row["token"] for row in rows} == {good}
    assert len(failures) == 1 and re.search(reason, next(iter(failures.values())))


def test_a_log_that_cannot_be_read_is_named(tmp_path, plans):
    logs = tmp_path / "logs"
    shutil.copytree(LOGS, logs)
    path = next(logs.glob("navsim_logs/test/*veh-46*.pkl"))
    path.write_bytes(path.read_bytes()[:1000])
    np.savez(tmp_path / "plans.npz", **{f"{TOKEN}_poses": plans})
    found = score_split(logs, MAPS, "test", tmp_path / "plans.npz", tmp_path / "table.csv", processes=1)
    assert set(found["failed"]) == {str(path), TOKEN}


def test_without_the_filter_every_number_is_the_devkits_unfiltered_one(tmp_path):
    score_split(LOGS, MAPS, "test", PLANS, tmp_path / "table.csv", definition="epdms_unfiltered")
    ours = {(row["token"], row["trajectory"]): row for row in table(tmp_path / "table.csv")}
    expected = [row for row in table(GOLDEN / "expected.csv") if row["traffic"] == "log_replay"]
    assert len(ours) == len(expected)
    for row in expected:
        got = ours[row["token"], row["trajectory"]]
        assert got["definition"] == "epdms_unfiltered"
        for name in COMPARED[:8]:
            assert float(got[name]) == pytest.approx(float(row[f"{name}_raw"]), abs=1e-3 if name == "EP" else 1e-9)
        weights = {"EP": 5, "TTC": 5, "LK": 2, "HC": 2} | ({"EC": 2} if row["EC"] else {})
        product = np.prod([float(row[f"{name}_raw"]) for name in ("NC", "DAC", "DDC", "TLC")])
        parts = [weight * float(row[name if name == "EC" else f"{name}_raw"]) for name, weight in weights.items()]
        assert float(got["EPDMS"]) == pytest.approx(product * sum(parts) / sum(weights.values()), abs=1e-3)


def test_with_reactive_traffic_every_number_is_the_devkits(tmp_path):
    expected = [row for row in table(GOLDEN / "expected.csv") if row["traffic"] == "idm"]
    wanted = {row["token"] for row in expected}
    plans = {name: values[:8] for name, values in np.load(PLANS).items() if name[:16] in wanted and name[17:] in ("poses", "prev_poses")}
    np.savez(tmp_path / "plans.npz", **plans)
    for definition in ("epdms", "epdms_unfiltered"):
        found = score_split(LOGS, MAPS, "test", tmp_path / "plans.npz", tmp_path / "table.csv", 1, definition, traffic="idm")
        assert found["traffic"] == "idm" and not found["failed"] and {row["traffic"] for row in table(tmp_path / "table.csv")} == {"idm"}
        assert disagreements(GOLDEN, tmp_path / "table.csv") == (definition, "idm", 32, [])


def test_stores_have_no_reactive_traffic(tmp_path):
    with pytest.raises(ValueError, match="no traffic that reacts; score from logs and maps"):
        score_split(None, None, None, PLANS, tmp_path / "table.csv", store=tmp_path / "scenes", traffic="idm")


def test_a_definition_that_nobody_knows_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown definition 'pdms'; known: epdms, epdms_unfiltered"):
        score_split(LOGS, MAPS, "test", PLANS, tmp_path / "table.csv", definition="pdms")


def test_the_summary_says_what_was_scored_and_how(tmp_path, plans):
    human = irlvla.load_scenes(LOGS, MAPS, "test", [TOKEN])[0].human_poses
    aside = human + [0.0, 3.0, 0.0]
    scored(tmp_path, {f"{TOKEN}_poses": np.stack([human, aside]), f"{OTHER}_poses": plans, "0123456789abcdef_poses": plans})
    found = json.loads((tmp_path / "table.json").read_text())
    rows = table(tmp_path / "table.csv")
    assert [float(row["ade"]) for row in rows[:2]] == pytest.approx([0.0, 3.0]) and float(rows[1]["fde"]) == pytest.approx(3.0)
    assert (found["definition"], found["scenes"], found["logs"], found["trajectories"]) == ("epdms", 2, 2, 5)
    assert list(found["failed"]) == ["0123456789abcdef"] and {"commit", "command", "machine", "seconds", "split"} <= set(found)
    for name in ("nc", "ep", "epdms", "ade"):
        values = [float(row[name if name == "ade" else name.upper()]) for row in rows]
        about, scale = found["columns"][name], 1 if name == "ade" else 100
        assert about["mean"] == pytest.approx(scale * np.mean(values)) and about["trajectories"] == 5
        low, high = mean_interval(np.array(values), [row["token"] for row in rows])
        assert about["ci95"] == pytest.approx([scale * low, scale * high])
    assert found["columns"]["ec"] == {"mean": None, "ci95": None, "trajectories": 0}


def test_extended_comfort_counts_only_where_it_is_defined():
    def scene(log, rows_with_ec, ec):
        sums = tuple(ec if name == "ec" else 4.0 for name in NAMES)
        return ScoredScene(log_name=log, part=0, start=0, end=0, rows=4, rows_with_ec=rows_with_ec, sums=sums)

    found = summary("epdms", [scene("a", 4, 1.0), scene("b", 2, 2.0), scene("c", 0, 0.0)], {})["columns"]
    assert found["ec"] == {"mean": 50.0, "ci95": [25.0, 100.0], "trajectories": 6} and found["nc"]["mean"] == 100.0


def test_nothing_scored_has_no_means(tmp_path, plans):
    scored(tmp_path, {"0123456789abcdef_poses": plans})
    found = json.loads((tmp_path / "table.json").read_text())
    assert found["scenes"] == 0 and found["columns"]["epdms"]["mean"] is None and table(tmp_path / "table.csv") == []


@pytest.fixture
def small(tmp_path, plans):
    """Plans of four scenes of three logs, and their table."""
    np.savez(tmp_path / "plans.npz", **{f"{token}_poses": plans for token in FOUR})
    split = tmp_path / "four.yaml"
    split.write_text(json.dumps({"num_future_frames": 8, "tokens": FOUR, "log_names": FOUR_LOGS}))
    score_split(LOGS, MAPS, split, tmp_path / "plans.npz", tmp_path / "once.csv", processes=1)
    return tmp_path


def again(folder, processes=1, name="table.csv", split="four.yaml", **arguments):
    return score_split(LOGS, MAPS, folder / split, folder / "plans.npz", folder / name, processes, **arguments)


def test_what_was_finished_before_an_interruption_is_not_scored_again(small, monkeypatch, capsys):
    written = []

    def interrupted(folder, number, *rest):
        if len(written) == 1:
            raise KeyboardInterrupt
        written.append(number)
        write_part(folder, number, *rest)

    monkeypatch.setattr(score_table, "write_part", interrupted)
    with pytest.raises(KeyboardInterrupt):
        again(small)
    assert folder_of(small / "table.csv").exists() and not (small / "table.csv").exists()
    monkeypatch.setattr(
        score_table, "write_part", lambda folder, number, *rest: written.append(number) or write_part(folder, number, *rest)
    )
    assert again(small)["failed"] == {} and sorted(written) == [0, 1, 2]
    assert "1 of 3 parts were finished before" in capsys.readouterr().out
    assert (small / "table.csv").read_bytes() == (small / "once.csv").read_bytes()
    assert not folder_of(small / "table.csv").exists()


def test_other_plans_or_another_definition_do_not_reuse_parts(small, monkeypatch):
    kept = folder_of(small / "table.csv")
    monkeypatch.setattr(shutil, "rmtree", lambda path: None)  # as if it had been killed just before it was done
    again(small)
    again(small, definition="epdms_unfiltered")
    assert {row["definition"] for row in table(small / "table.csv")} == {"epdms_unfiltered"}
    np.savez(small / "plans.npz", **{f"{FOUR[0]}_poses": np.zeros((1, 8, 3))})
    assert again(small)["trajectories"] == 1 and len([path for path in kept.iterdir() if path.is_dir()]) == 3


def test_a_log_whose_process_dies_is_listed_and_the_others_are_scored(small, monkeypatch):
    monkeypatch.setattr(
        score_table, "write_part", lambda folder, number, *rest: os._exit(7) if number == 1 else write_part(folder, number, *rest)
    )
    found = again(small, processes=2)
    assert "ended with exit code 7" in found["failed"][str(log_paths(LOGS)[FOUR_LOGS[1]])] and found["scenes"] >= 2
    assert len(table(small / "table.csv")) == found["trajectories"]
    monkeypatch.setattr(score_table, "write_part", write_part)
    assert again(small, processes=2)["failed"] == {}, "a second call scores only what was lost"
    assert (small / "table.csv").read_bytes() == (small / "once.csv").read_bytes()


def test_one_table_is_written_by_one_process_at_a_time(small):
    program = "import sys, pathlib, irlvla.score_parts as parts\nwith parts.parts_folder(pathlib.Path(sys.argv[1]), 'key'): pass"
    with parts_folder(small / "table.csv", "key"):
        answer = subprocess.run([sys.executable, "-c", program, small / "table.csv"], capture_output=True, text=True, check=False)
    assert "ValueError" in answer.stderr and "another process is writing this table" in answer.stderr


def test_a_store_gives_the_same_table_and_then_needs_no_logs(small):
    assert again(small, store=small / "scenes")["failed"] == {}
    assert (small / "table.csv").read_bytes() == (small / "once.csv").read_bytes()
    found = score_split(None, None, None, small / "plans.npz", small / "later.csv", 2, store=small / "scenes")
    assert (small / "later.csv").read_bytes() == (small / "once.csv").read_bytes() and found["split"].endswith("four.yaml")
    scenes = irlvla.load_scenes(None, None, tokens=FOUR[::-1], store=small / "scenes")
    assert [scene.token for scene in scenes] == FOUR[::-1] and len(irlvla.load_scenes(None, None, store=small / "scenes")) == 4
    with pytest.raises(ValueError, match="1 of 2 scenes cannot be loaded, the first is 0123456789abcdef: it is not in the store"):
        irlvla.load_scenes(None, None, tokens=[FOUR[0], "0123456789abcdef"], store=small / "scenes")
    for roots in ((None, None), (LOGS, MAPS)):
        assert len(irlvla.load_scenes(*roots, store=small / "scenes")) == 4, "the split is that of the store"
        with pytest.raises(ValueError, match="holds the split .*four.yaml, not other.yaml: keep each split in a folder of its own"):
            irlvla.load_scenes(*roots, "other.yaml", store=small / "scenes")


def test_a_store_without_the_name_of_its_split_is_refused(small):
    again(small, store=small / "scenes")
    path = small / "scenes" / "store.json"
    header = json.loads(path.read_text())
    path.write_text(json.dumps(header | {"settings": {"split": 3}}))
    with pytest.raises(ValueError, match="store.json names no split"):
        irlvla.load_scenes(None, None, store=small / "scenes")


def test_scenes_that_a_store_lacks_are_named(small, plans):
    again(small, store=small / "scenes")
    np.savez(small / "plans.npz", **{f"{TOKEN}_poses": plans, f"{FOUR[0]}_poses": plans})
    found = score_split(None, None, None, small / "plans.npz", small / "table.csv", store=small / "scenes")
    assert "not in the store" in found["failed"][TOKEN] and found["scenes"] == 1 and found["scenes_without_trajectories"] == 3


def test_a_damaged_record_of_a_store_is_named_and_the_others_are_scored(small):
    again(small, store=small / "scenes")
    path = next((small / "scenes").glob("prepared-0001.bin"))
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    found = again(small, store=small / "scenes")
    assert [FOUR[2]] == list(found["failed"]) and "is missing or damaged" in found["failed"][FOUR[2]] and found["scenes"] == 3


def test_a_store_of_other_code_is_prepared_again_or_refused(small, monkeypatch, capsys):
    again(small, store=small / "scenes")
    monkeypatch.setattr(prepare, "SOURCES", (*prepare.SOURCES, "cli.py"))
    with pytest.raises(ValueError, match="prepared by another version of irlvla: pass logs and maps"):
        score_split(None, None, None, small / "plans.npz", small / "table.csv", store=small / "scenes")
    again(small, store=small / "scenes")
    assert "is stale" in capsys.readouterr().out


def test_scenes_have_to_come_from_somewhere(tmp_path):
    with pytest.raises(ValueError, match="from logs and maps, or from a store"):
        score_split(LOGS, None, "test", PLANS, tmp_path / "table.csv")
    with pytest.raises(ValueError, match="from logs and maps, or from a store"):
        irlvla.load_scenes(None, MAPS)
    with pytest.raises(ValueError, match="is no store: store.json is missing"):
        irlvla.load_scenes(None, None, store=tmp_path / "absent")
    with pytest.raises(ValueError, match="the table is a CSV"):
        score_split(LOGS, MAPS, "test", PLANS, tmp_path / "table.json")


def test_logs_of_a_split_that_are_missing_are_counted(tmp_path, plans):
    np.savez(tmp_path / "plans.npz", **{f"{FOUR[0]}_poses": plans, "0123456789abcdef_poses": plans})
    split = tmp_path / "split.yaml"
    split.write_text(json.dumps({"num_future_frames": 8, "log_names": [*FOUR_LOGS, "absent"]}))
    found = again(tmp_path, split="split.yaml")
    assert "1 of 4 logs of the split are not below" in found["failed"]["0123456789abcdef"] and found["scenes"] == 1
    split.write_text(json.dumps({"num_future_frames": 8, "log_names": ["absent"]}))
    with pytest.raises(ValueError, match="none of its 1 logs is below"):
        again(tmp_path, split="split.yaml")


@pytest.mark.parametrize("store", [None, "scenes"])
def test_a_damaged_frame_fails_only_the_scenes_that_hold_it(tmp_path, plans, store):
    logs = tmp_path / "logs"
    shutil.copytree(LOGS, logs)
    path = log_paths(logs)[FOUR_LOGS[0]]
    frames = pickle.loads(path.read_bytes())
    place = [frame["token"] for frame in frames].index(FOUR[0])
    frames[place + 2]["ego2global_translation"][0] = np.nan
    path.write_bytes(pickle.dumps(frames))
    np.savez(tmp_path / "plans.npz", **{f"{token}_poses": plans for token in FOUR})
    (tmp_path / "four.yaml").write_text(json.dumps({"num_future_frames": 8, "tokens": FOUR, "log_names": FOUR_LOGS}))
    found = score_split(
        logs, MAPS, tmp_path / "four.yaml", tmp_path / "plans.npz", tmp_path / "table.csv", 1, store=store and tmp_path / store
    )
    assert list(found["failed"]) == FOUR[:1] and f"frame {place + 2}" in found["failed"][FOUR[0]] and found["scenes"] == 3


def test_a_map_that_cannot_be_read_fails_only_its_scenes(tmp_path, plans):
    maps = tmp_path / "maps"
    shutil.copytree(MAPS, maps)
    next(maps.glob("us-pa-*/*/map.gpkg")).write_bytes(b"no map")
    np.savez(tmp_path / "plans.npz", **{f"{token}_poses": plans for token in FOUR})
    found = score_split(LOGS, maps, "test", tmp_path / "plans.npz", tmp_path / "table.csv", processes=2)
    assert found["scenes"] == 2 and set(found["failed"]) == {FOUR[2], FOUR[3]} and "map.gpkg" in found["failed"][FOUR[2]]
    (maps / "nuplan-maps-v1.0.json").write_text("[]")
    assert score_split(LOGS, maps, "test", tmp_path / "plans.npz", tmp_path / "table.csv", processes=2)["scenes"] == 0


def test_no_plans_of_a_scene_are_no_rows(tmp_path, plans):
    (count, failures), rows = scored(tmp_path, {f"{TOKEN}_poses": plans[:0], f"{OTHER}_poses": plans})
    assert count == len(rows) == 3 and not failures


def test_files_that_are_missing_or_hold_nothing_are_refused(tmp_path, plans):
    np.savez(tmp_path / "other.npz", values=plans)
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(ValueError, match="no array is called"):
        tokens_of(tmp_path / "other.npz")
    with pytest.raises(ValueError, match="no readable npz"):
        tokens_of(tmp_path / "broken.npz")
    with pytest.raises(ValueError, match="do not exist"):
        tokens_of(tmp_path / "absent.npz")
    with pytest.raises(ValueError, match="no logs in"):
        score_split(LOGS, MAPS, "nowhere", PLANS, tmp_path / "table.csv")
    with pytest.raises(ValueError, match="is no folder"):
        score_split(LOGS, tmp_path / "absent", "test", PLANS, tmp_path / "table.csv")


def test_the_public_calls_score_scenes_in_the_order_of_their_tokens(plans):
    tokens = [TOKEN, "62fc91cc62d26313"]
    scenes = irlvla.load_scenes(LOGS, MAPS, "test", tokens)
    assert [scene.token for scene in scenes] == tokens
    scores = irlvla.score(scenes[0], plans, human_filter=False)
    assert all(getattr(scores, name).shape == (3,) for name in SUB_SCORE_NAMES)
    assert ((irlvla.epdms(scores) >= 0) & (irlvla.epdms(scores) <= 1)).all()


def test_the_comparison_sees_a_wrong_number_and_a_missing_row(tmp_path):
    rows = [row for row in table(GOLDEN / "expected.csv") if row["token"] == TOKEN]
    rows[0]["NC"] = str(1 - float(rows[0]["NC"]))
    with (tmp_path / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows[:-1])
    *_, found = disagreements(GOLDEN, tmp_path / "table.csv")
    ours = [one for one in found if one[1] == TOKEN]
    assert [one[3] for one in ours] == ["NC", *COMPARED]
