import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from irlvla.evaluate import write_table
from irlvla.types import SUB_SCORE_NAMES

from .test_compare import table
from .test_proof import benchmark

record, tables, pages = (benchmark(name) for name in ("proof_record", "proof_tables", "proof_pages"))
SCENES = 12
README = f"# x\n{pages.BEGIN}\nold\n{pages.END}\nafter\n"


def scored(name, value, **others):
    """A row that has this EPDMS in every scene, and 1 in every sub-score that is not named."""
    one = table(name, np.full(SCENES, value))
    ones = {metric: np.full(SCENES, float(others.get(metric, 1.0))) for metric in SUB_SCORE_NAMES}
    return replace(one, values={**one.values, **ones})


def rows(**values):
    return {name: scored(name.replace("__", "/"), value) for name, value in values.items()}


def means(*seeds):
    """Means as `means_of` gives them, from constant rows of each seed."""
    found = {}
    for seed, one in enumerate(seeds):
        kept = record.packed(one)
        path_values = {name: one[name].values for name in one}
        found[seed] = tables.means_of(record.Scores(tokens=kept["tokens"], log=kept["log"].astype(int), values=path_values, parts={}))
    return found


def verdicts(seeds, quality=None, stages=None):
    return {one["bar"]: one for one in tables.bars(seeds, quality or {}, stages or {})}


def test_what_is_packed_comes_back(tmp_path):
    random = np.random.default_rng(0)
    one = scored("ppo", 0.5, nc=0.5, dac=0.0)
    comfort = np.where(random.random(SCENES) < 0.5, np.nan, 1.0)
    one = replace(one, values={**one.values, "ep": random.random(SCENES), "epdms": random.random(SCENES), "ec": comfort})
    np.savez(tmp_path / "31.npz", **record.packed({"camera_only/ppo": one}), part_late=comfort > 0)
    kept = record.scores(tmp_path / "31.npz")
    for name, values in kept.values["camera_only/ppo"].items():
        np.testing.assert_allclose(values, one.values[name], atol=0.5 / record.SCALE + 1e-9)
    np.testing.assert_array_equal(kept.parts["late"], comfort > 0)
    with pytest.raises(ValueError, match="neither 0 nor 0.5 nor 1"):
        record.packed({"ppo": replace(one, values={**one.values, "nc": np.full(SCENES, 0.3)})})
    with pytest.raises(ValueError, match="evaluated on different scenes"):
        record.packed({"ppo": one, "imitation": replace(one, tokens=tuple(f"{token}x" for token in one.tokens))})


def test_a_difference_of_constant_rows_is_sure_within_seeds_and_unsure_between_them():
    seeds = means(rows(imitation=0.5, ppo=0.6), rows(imitation=0.5, ppo=0.8))
    found, there = tables.difference(seeds, "ppo", "imitation")
    assert there == [0, 1] and found.value == pytest.approx(20.0) and found.ci95 == pytest.approx([10.0, 30.0])
    assert tables.difference(seeds, "ppo", "nobody") is None
    alone, there = tables.difference({0: seeds[0]}, "ppo", "imitation")
    assert there == [0] and alone.ci95 == pytest.approx([10.0, 10.0])


def test_a_ratio_of_gains_takes_both_from_the_same_draws():
    gained = np.linspace(0.0, 0.4, SCENES)
    bound, half = scored("ppo_exact", 0.0), scored("ppo", 0.0)
    bound = replace(bound, values={**bound.values, "epdms": 0.5 + gained})
    half = replace(half, values={**half.values, "epdms": 0.5 + gained / 2})
    seeds = means({"imitation": scored("imitation", 0.5), "ppo": half, "ppo_exact": bound})
    found = tables.share(seeds, "ppo", "ppo_exact")
    assert found.value == pytest.approx(0.5) and found.ci95 == pytest.approx([0.5, 0.5])
    assert tables.difference(seeds, "ppo", "imitation")[0].ci95[1] > 11 and tables.share(seeds, "ppo", "nobody") is None


def test_bars_are_met_missed_not_judged_or_not_measured():
    good = rows(imitation=0.5, imitation_continued=0.5, ppo=0.56, ppo_exact=0.57, selector=0.6, selector_exact=0.7, ppo_selector=0.61)
    good["ppo"] = scored("ppo", 0.56, lk=0.5)
    found = verdicts(means(good, good))
    met = {name: one["met"] for name, one in found.items()}
    assert met["ppo - imitation >= 3, interval excluding 0"] and met["ppo - imitation_continued: interval above 0"]
    assert met["ppo - best_of_g: interval above 0"] is None and met["NC, ppo - imitation: lower end above -1"]
    assert met["LK, ppo - imitation: lower end above -2"] is False
    ratio = found["gain of ppo / gain of ppo_exact >= 0.8"]
    assert ratio["met"] and ratio["value"] == pytest.approx(6 / 7)
    selector = found["selector (G = 20) - confidence (imitation): interval above 0"]
    assert selector["met"] and selector["note"].startswith("0.50 (0.50 .. 0.50)")
    best = found["ppo_selector best overall (of rows without annotations or an exact reward)"]
    assert best["met"] and best["note"] == "the best other is selector" and best["value"] == pytest.approx(1.0)
    small = verdicts(means(rows(imitation=0.5, ppo=0.51, ppo_exact=0.52)))
    assert small["gain of ppo / gain of ppo_exact >= 0.8"]["met"] is None
    assert small["ppo - imitation >= 3, interval excluding 0"]["met"] is False


def test_seconds_and_the_lead_over_a_model_without_a_camera_are_bars_too():
    lead = {"model": "rwm", "against": "rwm_no_camera", "metric": "auc_dac", "difference": 0.04, "ci95": [0.03, 0.05]}
    marks = {1: {"ppo": {"seconds": 100.0, "interrupted": False}}, 2: {"ppo": {"seconds": 900.0, "interrupted": True}}}
    found = verdicts(means(rows(ppo=0.5)), {1: {"kinds": {"imitation": {"pairs": [lead]}}}}, marks)
    assert found["AUC of DAC above camera-less by 0.05 (imitation's samples)"]["met"] is False
    assert found["AUC of NC above camera-less by 0.05 (imitation's samples)"]["value"] is None
    seconds = found["ppo: at most 150 s from cached tokens"]
    assert seconds["met"] and seconds["value"] == 100.0
    text = "ppo: at most 150 s from cached tokens"
    seconds = next(one for one in tables.bars(means(rows(ppo=0.5)), {}, marks, {"ppo": 160.0, "reward": 80.0}) if one["bar"] == text)
    assert seconds["met"] is False and seconds["value"] == 160.0 and "; 100 s: the longest" in seconds["note"]


@pytest.fixture
def recorded(tmp_path):
    """Two seeds' runs with a few rows, recorded; the folder of docs and README."""
    for seed in (31, 32):
        run = tmp_path / "runs" / str(seed)
        for place, some in (
            (run, rows(imitation=0.5, ppo=0.6, ppo_critic=0.58)),
            (run / "camera_only", rows(ppo_all_logs=0.6, ppo_annotated=0.4)),
        ):
            for name, one in some.items():
                if name == "ppo_critic" and seed == 32:
                    continue
                write_table(place / "evaluation" / "test" / f"{name}.csv", one)
                about = {"policy": name, "run": "" if place == run else "camera_only/", "seed": seed, "commit": "c0ffee", "made": {}}
                command = f"proof_stage.py --run {place} --stage {name} --parent 7"
                about |= {"command": command, "stages": {name: {"command": command}}}
                probed = [{"step": step, "gap": 0.1 * step, "epdms": 80.0} for step in (-1, 19)]
                stopped = "the policy exploits its reward" if name == "ppo_critic" else None
                probes = {"stopped": stopped, "probes": probed} if name.startswith("ppo") else None
                parts = {"all": {"ade": {"mean": 1.0}, "fde": {"mean": 2.0}}}
                path = place / "evaluation" / "test" / f"{name}.json"
                path.write_text(json.dumps(about | {"probes": probes, "parts": parts}))
        np.savez(run / "evaluation" / "subsets.npz", unseen_towns=np.arange(SCENES) < 6)
        (run / "marks").mkdir()
        mark = {"commit": "c0ffee", "changed_since_commit": False, "finished": "now", "seconds": 50.0, "interrupted": False}
        (run / "marks" / "ppo.json").write_text(json.dumps(mark))
        record.record(run, seed, tmp_path / "docs" / "results")
    (tmp_path / "README.md").write_text(README)
    return tmp_path


def test_pages_are_written_from_what_was_recorded_and_again_without_the_runs(recorded):
    docs = recorded / "docs" / "results"
    assert not any(str(recorded) in path.read_text() for path in (docs / "rows").iterdir())
    pages.write_pages(docs, recorded / "README.md")
    text, found = docs.with_suffix(".md").read_text(), json.loads(docs.with_suffix(".json").read_text())
    assert "| ppo | 60.0 | 60.0 .. 60.0 |" in text and "| ppo - imitation | +10.0 (+10.0 .. +10.0) |" in text and "unseen towns" in text
    assert "| ppo_all_logs | 60.0 |" in text and "| ppo_all_logs - ppo_annotated | +20.0" in text
    assert "| ppo_critic | advantage critic | 1 | 58.0 | -2.0 (-2.0 .. -2.0) | +8.0" in text
    assert (
        "- `ppo_critic`, seed 31: the policy exploits its reward" in text
        and "not measured" in text
        and "**missed**" not in text.split("## Rows")[1]
    )
    assert (docs / "gap.png").read_bytes().startswith(b"\x89PNG")
    assert found["commits"] == ["c0ffee"] and found["wall_seconds"]["31"] == {"ppo": 50.0} and found["scenes"] == [SCENES, SCENES]
    readme = (recorded / "README.md").read_text()
    assert readme.startswith("# x\n") and readme.endswith("\nafter\n") and "old" not in readme and "| ppo | 60.0 |" in readme
    (recorded / "runs").rename(recorded / "gone")
    pages.write_pages(docs, recorded / "README.md")
    assert docs.with_suffix(".md").read_text() == text
    kept = record.scores(docs / "31.npz")
    assert set(kept.values) == {"imitation", "ppo", "ppo_critic", "camera_only/ppo_all_logs", "camera_only/ppo_annotated"}
    np.testing.assert_allclose(kept.values["ppo"]["epdms"], 0.6, atol=1e-4)
    assert kept.parts["unseen_towns"].sum() == 6 and len(list((docs / "rows").glob("*.json"))) == 9


def test_what_is_missing_is_told_and_a_demo_is_recorded(tmp_path):
    (tmp_path / "results.json").write_text(
        '{"commit": "c", "command": "irlvla demo", "seeds": [1], "wall_seconds": {"ppo": 9.5}, "rows": []}'
    )
    record.record_demo(tmp_path, tmp_path)
    assert json.loads((tmp_path / "demo.json").read_text())["wall_seconds"] == {"ppo": 9.5}
    with pytest.raises(SystemExit, match="nothing is recorded"):
        pages.write_pages(tmp_path, tmp_path / "README.md")
    with pytest.raises(SystemExit, match="markers"):
        pages.between("text", "table")


def test_the_readme_has_the_markers():
    assert pages.between((Path(__file__).resolve().parents[1] / "README.md").read_text(), "| a |\n").count("| a |") == 1


@pytest.mark.parametrize("place", ["", "/camera_only"])
def test_a_recorded_command_names_no_place_of_one_machine(place):
    command = f"/opt/x/proof_stage.py --run /data/31{place} --stage ppo --seed 31 --parent 77"
    assert record.portable(command, 31) == f"benchmarks/proof_stage.py --run runs/results/31{place} --stage ppo --seed 31"
