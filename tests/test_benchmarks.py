"""The benchmarks run: small numbers of everything, times not looked at."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from tests.test_pandaset import write_sequence

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"


def run(script, *arguments):
    command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), *map(str, arguments)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT)})
    assert answer.returncode == 0, answer.stderr[-2000:]
    return answer.stdout


def rows(path):
    values = json.loads(path.read_text())
    assert {"commit", "machine", "threads", "command"} <= set(values)
    return {row["what"]: row["value"] for row in values["rows"]}


def test_preparation_is_measured_by_part_in_both_maps(tmp_path):
    printed = run("preparation", "--repeats", 1, "--lanes", 40, "--profile", "--out", tmp_path / "out.json")
    found = rows(tmp_path / "out.json")
    assert found["prepare a scene, mean of 1, own map"] > 0 and found["prepare a scene, mean of 1, enlarged map"] > 0
    assert "  objects, enlarged map" in found and "tottime" in printed


def test_encoders_are_timed_and_those_that_cannot_be_made_are_named(tmp_path):
    small = ("--pictures", 4, "--height", 32, "--width", 48, "--repeats", 1, "--encoders", "small", "nobody")
    assert "nobody is left out: unknown encoder 'nobody'" in run("encoders", *small, "--out", tmp_path / "out.json")
    found = rows(tmp_path / "out.json")
    assert found["small, forward"] > 0 and found["small, forward and backward"] > 0
    assert found["where cells appear, 1 scenes of different cameras"] > 0


@pytest.mark.parametrize("kind", [[], ["--processes", "--dtype", "uint8"]])
def test_labels_are_written_for_every_scene_and_trajectory(tmp_path, kind):
    run("labelling", "--scenes", 3, "--trajectories", 10, "--batch", 4, "--out", tmp_path / "out.json", *kind)
    labels = np.load(tmp_path / "labelling" / "labels.npy")
    assert labels.shape == (3, 10, 8) and (labels.astype(float).max(axis=(1, 2)) == (200 if kind else 1)).all()
    assert rows(tmp_path / "out.json")["rate"] > 0


def test_splits_of_two_sizes_are_scored_and_watched(tmp_path):
    world = tmp_path / "world"
    (world / "splits").mkdir(parents=True)
    for name in ("openscene", "maps"):
        (world / name).symlink_to(GOLDEN / name)
    with (GOLDEN / "scenes.csv").open() as file:
        tokens = [line["token"] for line in csv.DictReader(file)]
    (world / "splits" / "test.yaml").write_text(json.dumps({"tokens": tokens}))
    (world / "world.json").write_text("{}")
    run("split", "--world", world, "--scenes", 2, 4, "--out", tmp_path / "out.json")
    found = rows(tmp_path / "out.json")
    assert found["score 4 scenes from raw logs"] > 0 and found["  its memory (4 scenes from raw logs), shared pages counted once"] > 10


def test_policies_are_compared_on_a_pandaset_sequence_and_drawn(tmp_path):
    sequence = write_sequence(tmp_path / "011", turning=0.01)
    count = 2
    cuboids = {"frame": [34] * count, "cuboids.sensor_id": [-1, 1], "stationary": [True] * count, "yaw": [0.0] * count}
    cuboids |= {f"position.{axis}": [1.0] * count for axis in "xyz"} | {f"dimensions.{axis}": [2.0] * count for axis in "xyz"}
    pyarrow.parquet.write_table(pyarrow.table(cuboids), sequence / "cuboids.parquet")
    page = tmp_path / "page.md"
    page.write_text((ROOT / "docs" / "pandaset.md").read_text())
    printed = run("pandaset", sequence, "--untrained", 2, "--out", tmp_path / "out", "--page", page)
    head, told, rest = re.split("<!-- table: .* -->", page.read_text())
    assert "| untrained | 2 |" in told and "imitation" not in told and head.startswith("# Real pictures") and "What can be said" in rest
    assert json.loads((tmp_path / "page.json").read_text())["scenes"] == 5 and (tmp_path / "page.jpg").stat().st_size < 500_000
    found = json.loads((tmp_path / "out" / "pandaset.json").read_text())
    assert found["scenes"] == 5 and found["sequence"] == "011" and found["world"] == []
    means = {row["row"]: row["ade_4s"] for row in found["pandaset"]}
    assert set(means) == {"constant_velocity", "ctra", "stand_still", "untrained"} and "untrained" in printed
    # 2 m ahead of constant velocity at 2 s: 1 m/s2 of speeding; standing still is worse, and ctra hardly wrong.
    assert means["ctra"]["mean"] < 1.0 < means["constant_velocity"]["mean"] < means["stand_still"]["mean"]
    assert means["untrained"]["least"] <= means["untrained"]["mean"] <= means["untrained"]["most"]
    for name in ("pandaset.png", "pandaset-sheet.png", "pandaset-page.png", "pandaset-boxes.png"):
        with Image.open(tmp_path / "out" / name) as picture:
            assert picture.width > 1000


def test_the_scorer_is_measured_by_proposals_threads_and_parts_and_the_page_shows_it(tmp_path):
    run("scorer", "--seconds", 0.001, "--most", 20, "--out", tmp_path / "scorer.json")
    found = rows(tmp_path / "scorer.json")
    assert found["20 proposals a scene with EC, all scenes"] > 0 and found["two threads over one"] > 0
    assert sum(value for name, value in found.items() if name.startswith("  ")) > 0
    run("page", "--from", tmp_path, "--out", tmp_path / "docs" / "speed.md")
    page = (tmp_path / "docs" / "speed.md").read_text()
    assert "## Scoring" in page and "## Preparing" not in page and "| two threads over one |" in page
    assert (tmp_path / "docs" / "speed" / "scorer.json").exists()
