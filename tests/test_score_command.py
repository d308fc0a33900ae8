from pathlib import Path

import pytest

from irlvla.score_command import score

GOLDEN = Path(__file__).parent / "golden"
SUBMISSION, SPLIT = GOLDEN / "two_stage" / "perturbed.pkl", GOLDEN / "two_stage" / "conf" / "small.yaml"
ROOTS = {"logs": GOLDEN / "openscene", "maps": GOLDEN / "maps"}


def test_a_submission_is_scored_and_its_summary_printed(tmp_path, capsys):
    score(tmp_path / "t.csv", two_stage=SUBMISSION, filter=SPLIT, processes=1, **ROOTS)
    printed = capsys.readouterr().out
    assert "combined  " in printed and str(tmp_path / "t.csv") in printed and "failed" not in printed


def test_metric_caches_need_no_logs(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("OPENSCENE_DATA_ROOT", raising=False)
    with pytest.raises(SystemExit) as ended:
        score(tmp_path / "t.csv", GOLDEN / "trajectories.npz", metric_cache=GOLDEN / "metric_cache", processes=1)
    printed = capsys.readouterr().out
    assert ended.value.code == 1 and "of 2 scenes" in printed and printed.count("failed: ") == 8


def test_options_that_do_not_go_together_are_said(tmp_path):
    with pytest.raises(ValueError, match="pass --trajectories FILE.npz, or --two-stage"):
        score(tmp_path / "t.csv")
    with pytest.raises(ValueError, match="pass --trajectories FILE.npz, or --two-stage"):
        score(tmp_path / "t.csv", GOLDEN / "trajectories.npz", filter=SPLIT)
    with pytest.raises(ValueError, match="--two-stage needs --filter"):
        score(tmp_path / "t.csv", two_stage=SUBMISSION)
    with pytest.raises(ValueError, match="--two-stage does not go with --split and --definition"):
        score(tmp_path / "t.csv", two_stage=SUBMISSION, filter=SPLIT, split="test", definition="epdms_unfiltered")
