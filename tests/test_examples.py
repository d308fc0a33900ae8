import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from irlvla.types import SUB_SCORE_NAMES

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def printed(name, *arguments):
    """What an example prints where there is no torch, started from elsewhere."""
    program = f"import sys, runpy; sys.modules['torch'] = None; sys.argv[0] = {name!r}; "
    program += f"runpy.run_path({str(EXAMPLES / name)!r}, run_name='__main__')"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=EXAMPLES.parent).stdout


def test_plans_are_scored():
    text = printed("score_plans.py")
    assert "constant velocity: epdms " in text and "standing still: epdms_unfiltered" in text and "the human: epdms 100.0" in text


def test_a_split_is_scored():
    text = printed("score_split.py")
    assert re.search(r"^\d+ scenes, epdms [\d.]+ \[[\d.]+, [\d.]+\]\ntoken,trajectory,NC", text, re.M) and "failed" not in text


def test_a_vocabulary_is_labelled(tmp_path):
    text = printed("label_vocabulary.py", tmp_path / "labels.npz")
    with np.load(tmp_path / "labels.npz") as labels:
        tokens = set(labels.files) - {"vocabulary", "columns", "definition"}
        assert labels["columns"].tolist() == [*SUB_SCORE_NAMES, "epdms"] and labels["vocabulary"].shape == (256, 8, 3)
        assert f"{len(tokens)} scenes x 256 trajectories" in text
        assert all(labels[token].shape == (256, 10) and labels[token][:, -1].max() > 0 for token in tokens)


def test_an_exact_reward_rises():
    means = [float(value) for value in re.findall(r"mean reward ([\d.]+)", printed("exact_reward.py"))]
    assert len(means) == 5 and means[-1] > means[0] + 10
