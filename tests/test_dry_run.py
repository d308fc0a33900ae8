"""The recipe for GPUs, rehearsed by two processes on the CPU with the command that the documents name."""

import csv
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from irlvla import run
from irlvla.dry_run import SCENES, dried, first_scenes
from irlvla.export import export_run
from irlvla.prepare import scene_filter_of
from irlvla.recipes import check_together, navtrain

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"


def golden_split(folder):
    """All scenes of the golden set; its tokens in quotes, as some are numbers to yaml."""
    with (GOLDEN / "scenes.csv").open() as stream:
        tokens = [row["token"] for row in csv.DictReader(stream)]
    (folder / "split.yaml").write_text("has_route: false\ntokens:\n" + "".join(f"- '{token}'\n" for token in tokens))
    return set(tokens)


def test_navtrain_passes_its_dry_run_by_two_processes(tmp_path):
    golden_split(tmp_path)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "--",
        "irlvla.cli",
        "train",
        "imitation",
    ]
    data = ["--logs", GOLDEN / "openscene", "--maps", GOLDEN / "maps", "--split", tmp_path / "split.yaml"]
    options = ["--run", tmp_path / "run", "--recipe", "navtrain", "--dry-run"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    answer = subprocess.run(
        [*command, *data, *options], cwd=ROOT, capture_output=True, text=True, check=False, timeout=600, env=environment
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    assert "dry run: imitation of navtrain, processes: 2, saved and resumed" in answer.stdout
    folder = tmp_path / "run" / "dry"
    assert json.loads((folder / "recipe.json").read_text())["sensors"]["width"] == 448
    steps = {(step, name) for step, name, _ in run.metrics(folder / "imitation" / "metrics.csv")}
    assert {(0, "train/maps"), (3, "train/loss"), (3, "val/epdms")} <= steps
    with pytest.raises(ValueError, match="a policy with a language model writes word by word"):
        export_run(folder)
    assert (folder / "imitation" / "checkpoint" / "policy.safetensors").exists() and not (tmp_path / "run" / "data.json").exists()


def test_a_dry_run_keeps_architecture_and_pictures(capsys):
    full, dry = navtrain(), dried(navtrain(), 2)
    assert capsys.readouterr().out == "dry run: the small encoder stands for hf:microsoft/resnet-34\n"
    assert dry.sensors == dataclasses.replace(full.sensors, missing_cameras=True)
    assert (dry.imitation.steps, dry.imitation.batch, dry.imitation.policy.width) == (2, 4, full.imitation.policy.width)
    assert dry.imitation.bfloat16 and dry.no_camera.policy.perception is None


def test_the_first_scenes_of_a_split_are_those_of_its_first_logs(tmp_path):
    (tmp_path / "split.yaml").write_text("num_future_frames: 8\n")
    chosen = scene_filter_of(first_scenes(GOLDEN / "openscene", tmp_path / "split.yaml", tmp_path))
    assert chosen.num_future_frames == 8 and chosen.max_scenes == SCENES and len(chosen.log_names) == 4 and chosen.tokens is None
    tokens = golden_split(tmp_path)
    chosen = scene_filter_of(first_scenes(GOLDEN / "openscene", tmp_path / "split.yaml", tmp_path))
    assert 0 < len(chosen.tokens) <= SCENES and set(chosen.tokens) <= tokens and len(chosen.log_names) <= 4


def test_navtrain_sees_as_many_moments_as_what_it_is_taken_from():
    config = navtrain().imitation
    assert config.steps * config.batch == pytest.approx(100 * 103_288, rel=0.01)


@pytest.mark.parametrize(("dry_run", "why"), [(False, "torchrun started 2"), (True, "there is no dry run of it")])
def test_stages_of_one_process_say_so(dry_run, why):
    check_together("imitation", 2, dry_run)
    check_together("ppo", 1, False)
    with pytest.raises(ValueError, match=f"stage 'ppo' is trained by one process, {why}; several train: vision, imitation, no_camera"):
        check_together("ppo", 2, dry_run)
