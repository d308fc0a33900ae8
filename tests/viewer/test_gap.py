import json

import pytest
from PIL import Image

from irlvla.run import metrics_writer
from irlvla.viewer.gap import curve_of, curve_of_probes, gap_figure, gap_stages, probed, write_gap


def stage(folder, gaps, refit=None, stopped=None):
    with metrics_writer(folder) as write:
        write(0, start__epdms=80.0, start__gap=1.0)
        for step, gap in enumerate(gaps):
            write(10 * step + 9, val__epdms=80.0 - gap, val__gap=gap, train__reward=0.5)
            if step == refit:
                write(10 * step + 10, refit__epdms=80.0 - gap, refit__gap=0.0)
    if stopped is not None:
        (folder / "probes.json").write_text(json.dumps({"stopped": stopped}))
    return folder


def test_the_gap_is_told_after_so_many_iterations_and_again_after_a_refit(tmp_path):
    found = probed(stage(tmp_path / "ppo", [2.0, 5.0], refit=0))
    assert found["gap"] == [(0, 1.0), (10, 2.0), (10, 0.0), (20, 5.0)]
    assert found["epdms"] == [(0, 80.0), (10, 78.0), (10, 78.0), (20, 75.0)]


def test_all_runs_of_a_folder_are_drawn_and_those_stopped_early_are_marked(tmp_path):
    stage(tmp_path / "ppo_refit", [2.0], refit=0)
    stage(tmp_path / "ppo", [2.0, 20.0], stopped="the gap grew")
    with metrics_writer(tmp_path / "imitation") as write:
        write(9, val__epdms=80.0)
    stages = gap_stages(tmp_path)
    assert list(stages) == ["ppo", "ppo_refit"]
    fields = gap_figure({name: curve_of(folder) for name, folder in stages.items()}).axes
    crosses = [line.get_xydata().tolist() for line in fields[0].lines if line.get_marker() == "x"]
    assert crosses == [[[20.0, 20.0]]] and fields[1].get_ylabel() == "true EPDMS on val (points)"
    write_gap(tmp_path / "gap.png", stages)
    with Image.open(tmp_path / "gap.png") as picture:
        assert picture.size[0] > 1000


def test_a_stage_without_probes_is_named(tmp_path):
    with metrics_writer(tmp_path / "imitation") as write:
        write(9, val__epdms=80.0)
    with pytest.raises(ValueError, match="no gap is recorded in imitation: only stages of PPO have one"):
        gap_figure({"imitation": curve_of(tmp_path / "imitation")})
    with pytest.raises(ValueError, match="no gap is recorded in any run"):
        gap_figure({})


def test_a_finished_run_s_probes_give_the_same_curve_but_for_refits(tmp_path):
    probes = [{"step": -1, "gap": 1.0, "epdms": 80.0}, {"step": 9, "gap": 2.0, "epdms": 78.0}]
    curve = curve_of_probes({"probes": probes, "stopped": "the gap grew"})
    assert curve.gap == curve_of(stage(tmp_path / "ppo", [2.0])).gap and curve.stopped
