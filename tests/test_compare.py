import dataclasses

import numpy as np
import pytest

from irlvla.compare import comparison
from irlvla.evaluate import SceneTable, pair, read_table, row, rows_and_pairs, write_table
from irlvla.types import SUB_SCORE_NAMES

TOKENS = tuple(f"{index:016x}" for index in range(12))
LOGS = tuple(f"log{index // 3}" for index in range(12))


def table(policy, epdms, tokens=TOKENS):
    values = {name: np.ones(len(tokens)) for name in (*SUB_SCORE_NAMES, "ade", "fde")}
    values["ec"] = np.where(np.arange(len(tokens)) % 2, 1.0, np.nan)
    return SceneTable(
        policy=policy, tokens=tokens, log_names=LOGS[: len(tokens)], values=values | {"epdms": np.asarray(epdms, dtype=float)}
    )


def test_a_row_is_in_percent_and_leaves_undefined_comfort_out():
    found = row(table("ppo", np.linspace(0, 1, 12)), seed=3)
    assert found["epdms"] == pytest.approx(50.0) and found["ec"] == 100.0 and found["seed"] == 3 and found["ade"] == 1.0
    assert found["ci95"][0] < 50.0 < found["ci95"][1]


def test_a_constant_gain_is_sure():
    base = np.linspace(0, 0.9, 12)
    found = pair(table("ppo", base + 0.05), table("imitation", base), "epdms")
    assert found["difference"] == pytest.approx(5.0) and found["ci95"] == pytest.approx([5.0, 5.0]) and found["logs"] == 4


def test_pairs_are_made_of_the_rows_that_exist():
    found = rows_and_pairs({"imitation": table("imitation", np.zeros(12)), "ppo": table("ppo", np.ones(12))}, seed=0)
    assert [line["policy"] for line in found["rows"]] == ["imitation", "ppo"]
    assert {(line["policy"], line["against"]) for line in found["pairs"]} == {("ppo", "imitation")} and len(found["pairs"]) == 10


def test_a_metric_that_is_nowhere_defined_gives_no_pair():
    empty = table("ppo", np.ones(12))
    empty.values["ec"][:] = np.nan
    assert pair(empty, table("imitation", np.ones(12)), "ec") is None


def test_a_table_comes_back_as_it_was_written(tmp_path):
    written = table("ppo", np.linspace(0, 1, 12) / 3)
    write_table(tmp_path / "ppo.csv", written)
    read = read_table(tmp_path / "ppo.csv")
    assert read.policy == "ppo" and read.tokens == TOKENS and read.log_names == LOGS
    for name, values in written.values.items():
        np.testing.assert_array_equal(values, read.values[name])
    assert "no_at_fault_collisions" in (tmp_path / "ppo.csv").read_text().splitlines()[0]


def test_comparing_lists_what_got_worse_whatever_the_order(tmp_path):
    scores = np.full(12, 0.5)
    write_table(tmp_path / "a.csv", table("a", scores))
    scores[4] = 0.9
    turned = table("b", scores[::-1], tokens=TOKENS[::-1])
    write_table(tmp_path / "b.csv", turned)
    found = comparison(tmp_path / "a.csv", tmp_path / "b.csv")
    assert [line["token"] for line in found["worst"]] == [TOKENS[4]] and found["scenes"] == 12
    assert found["pairs"][0]["difference"] == pytest.approx(-40 / 12)


def test_files_of_different_scenes_are_refused(tmp_path):
    write_table(tmp_path / "a.csv", table("a", np.ones(12)))
    write_table(tmp_path / "b.csv", table("b", np.ones(11), tokens=TOKENS[:11]))
    with pytest.raises(ValueError, match="not of the same scenes: 1 are in one file only"):
        comparison(tmp_path / "a.csv", tmp_path / "b.csv")


def test_scores_of_two_definitions_are_not_compared(tmp_path):
    write_table(tmp_path / "a.csv", table("a", np.ones(12)))
    write_table(tmp_path / "b.csv", dataclasses.replace(table("b", np.ones(12)), definition="epdms_unfiltered"))
    with pytest.raises(ValueError, match="definition epdms, .* of epdms_unfiltered"):
        comparison(tmp_path / "a.csv", tmp_path / "b.csv")
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines[0].endswith(",definition")
    (tmp_path / "c.csv").write_text("\n".join([*lines, lines[1].replace("epdms", "other")]))
    with pytest.raises(ValueError, match="of 2 definitions of the score, not of one: epdms, other"):
        read_table(tmp_path / "c.csv")


def test_a_file_without_scores_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("token,log_name\n1,2\n")
    with pytest.raises(ValueError, match="columns .*'score'.* are missing"):
        read_table(tmp_path / "a.csv")


def test_tables_lack_nothing():
    with pytest.raises(ValueError, match="columns \\['ade', 'fde'\\] are missing"):
        values = {name: np.ones(1) for name in (*SUB_SCORE_NAMES, "epdms")}
        SceneTable(policy="x", tokens=("a",), log_names=("l",), values=values)


def test_different_scenes_are_no_pair():
    with pytest.raises(ValueError, match="evaluated on different scenes"):
        pair(table("a", np.ones(12)), table("b", np.ones(11), tokens=TOKENS[:11]), "epdms")
