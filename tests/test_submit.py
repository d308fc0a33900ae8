import pickle
import sys
import types

import numpy as np
import pytest

from irlvla.submit import write_submission


class Bare:
    """What the devkit's classes are to pickle: something with a dictionary."""


@pytest.fixture
def devkit(monkeypatch):
    for name, kind in (
        ("navsim.common.dataclasses", "Trajectory"),
        ("nuplan.planning.simulation.trajectory.trajectory_sampling", "TrajectorySampling"),
    ):
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            monkeypatch.setitem(sys.modules, ".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
        setattr(sys.modules[name], kind, type(kind, (Bare,), {"__module__": name}))


def test_the_devkit_reads_its_own_classes(tmp_path, devkit):
    plans = {"a" * 16: np.arange(24.0).reshape(8, 3), "b" * 16: np.ones((8, 3))}
    write_submission(tmp_path / "s.pkl", plans, {"team_name": "irlvla"})
    content = (tmp_path / "s.pkl").read_bytes()
    assert b"irlvla.submit" not in content and b"numpy._core" not in content
    read = pickle.loads(content)
    assert read["team_name"] == "irlvla" and read["country / region"] == "none" and read["second_stage_predictions"] == [{}]
    trajectory = read["first_stage_predictions"][0]["a" * 16]
    assert (type(trajectory).__module__, type(trajectory).__name__) == ("navsim.common.dataclasses", "Trajectory")
    np.testing.assert_array_equal(trajectory.poses, plans["a" * 16].astype(np.float32))
    assert vars(trajectory.trajectory_sampling) == {"num_poses": 8, "time_horizon": 4.0, "interval_length": 0.5}


def test_nothing_to_submit_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="there are no plans to submit"):
        write_submission(tmp_path / "s.pkl", {}, {})
