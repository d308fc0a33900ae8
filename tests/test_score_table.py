import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

import irlvla
from irlvla.score_table import COLUMNS, score_split, tokens_of
from irlvla.types import SUB_SCORE_NAMES
from tests.golden.compare import COLUMNS as COMPARED
from tests.golden.compare import disagreements

GOLDEN = Path(__file__).parent / "golden"
LOGS, MAPS, PLANS = GOLDEN / "openscene", GOLDEN / "maps", GOLDEN / "trajectories.npz"
TOKEN = "5ae9604062e39a93"


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_number_of_the_devkit_is_met(tmp_path):
    found = score_split(LOGS, MAPS, "test", PLANS, tmp_path / "table.csv", processes=2)
    rows, wrong = disagreements(GOLDEN, tmp_path / "table.csv")
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
    _, found = disagreements(GOLDEN, tmp_path / "table.csv")
    ours = [one for one in found if one[1] == TOKEN]
    assert [one[3] for one in ours] == ["NC", *COMPARED]
