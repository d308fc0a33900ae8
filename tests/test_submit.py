import os
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from irlvla.data.pickles import unpickled
from irlvla.submit import CLASSES, read_submission, write_submission

GOLDEN = Path(__file__).parent / "golden" / "two_stage" / "constant_velocity.pkl"
TOKENS = ("a" * 16, "b" * 16)
TRAJECTORY = "navsim.common.dataclasses"
SAMPLING = "nuplan.planning.simulation.trajectory.trajectory_sampling"


class Bare:
    """What the devkit's classes are to pickle: something with a dictionary."""


@pytest.fixture
def devkit(monkeypatch):
    for name, kind in ((TRAJECTORY, "Trajectory"), (SAMPLING, "TrajectorySampling")):
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            monkeypatch.setitem(sys.modules, ".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
        setattr(sys.modules[name], kind, type(kind, (Bare,), {"__module__": name}))


def trajectory(poses, interval=0.5):
    """A plan as the devkit pickles it."""
    made = sys.modules[TRAJECTORY].Trajectory()
    sampling = sys.modules[SAMPLING].TrajectorySampling()
    vars(sampling).update(num_poses=len(poses), time_horizon=len(poses) * interval, interval_length=interval)
    vars(made).update(poses=poses, trajectory_sampling=sampling)
    return made


def written(path, first, second=None, **others):
    values = {"team_name": "t", "first_stage_predictions": [first], "second_stage_predictions": [second or {}], **others}
    path.write_bytes(pickle.dumps(values))
    return path


def plans(value=1.0):
    return {TOKENS[0]: np.arange(24.0).reshape(8, 3), TOKENS[1]: np.full((8, 3), value)}


def test_the_devkit_reads_its_own_classes(tmp_path, devkit):
    write_submission(tmp_path / "s.pkl", plans(), {"team_name": "irlvla"})
    content = (tmp_path / "s.pkl").read_bytes()
    assert b"irlvla.submit" not in content and b"numpy._core" not in content
    read = pickle.loads(content)
    assert read["team_name"] == "irlvla" and read["country / region"] == "none" and read["second_stage_predictions"] == [{}]
    made = read["first_stage_predictions"][0]["a" * 16]
    assert (type(made).__module__, type(made).__name__) == (TRAJECTORY, "Trajectory")
    np.testing.assert_array_equal(made.poses, plans()["a" * 16].astype(np.float32))
    assert vars(made.trajectory_sampling) == {"num_poses": 8, "time_horizon": 4.0, "interval_length": 0.5}


def test_what_is_written_has_the_structure_of_the_devkits_own_file(tmp_path):
    devkits = unpickled(GOLDEN.read_bytes(), CLASSES)
    read = read_submission(GOLDEN)
    poses = [{token: plan.poses for token, plan in stage.items()} for stage in (read.stage_one, read.stage_two)]
    write_submission(tmp_path / "s.pkl", poses[0], read.team, poses[1])
    ours = unpickled((tmp_path / "s.pkl").read_bytes(), CLASSES)
    assert list(ours) == list(devkits) and {key: ours[key] for key in list(ours)[:5]} == {key: devkits[key] for key in list(ours)[:5]}
    for key in list(ours)[5:]:
        assert list(ours[key][0]) == list(devkits[key][0]) and len(ours[key]) == len(devkits[key]) == 1
        for one, other in zip(ours[key][0].values(), devkits[key][0].values(), strict=True):
            assert (one.name, list(one.state), one.arguments) == (other.name, list(other.state), other.arguments)
            assert one.state["poses"].dtype == other.state["poses"].dtype
            np.testing.assert_array_equal(one.state["poses"], other.state["poses"])
            sampling, theirs = one.state["trajectory_sampling"], other.state["trajectory_sampling"]
            assert (sampling.name, sampling.state) == (theirs.name, theirs.state)


def test_a_submission_comes_back_as_it_was_written(tmp_path):
    write_submission(tmp_path / "s.pkl", plans(), {"team_name": "us"}, second={"c" * 17: np.ones((8, 3))})
    read = read_submission(tmp_path / "s.pkl")
    assert (read.team["team_name"], read.refused) == ("us", {}) and read.stage_one[TOKENS[0]].interval == 0.5
    np.testing.assert_array_equal(read.stage_one[TOKENS[0]].poses, plans()[TOKENS[0]])
    assert list(read.stage_two) == ["c" * 17]


def test_nothing_to_submit_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="there are no plans to submit"):
        write_submission(tmp_path / "s.pkl", {}, {})


def test_a_plan_that_cannot_be_read_back_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="not finite.*cannot be submitted"):
        write_submission(tmp_path / "s.pkl", plans(np.nan), {})
    assert not (tmp_path / "s.pkl").exists()


@pytest.mark.parametrize(
    ("poses", "others", "reason"),
    [
        (np.full((8, 3), np.inf), {}, "not finite"),
        (np.ones((8, 2)), {}, r"shape \(8, 2\)"),
        (np.ones((0, 3)), {}, "without poses"),
        (np.ones((8, 3)), {"num_poses": 9}, "8 poses where its sampling says 9"),
        (np.ones((8, 3)), {"interval_length": 0.0}, "interval_length is 0.0"),
        (np.ones((8, 3)), {"interval_length": "0.5"}, "interval_length is '0.5'"),
        (None, {}, "None stands where a Trajectory belongs"),
    ],
)
def test_of_plans_that_cannot_be_used_only_the_tokens_fail(tmp_path, devkit, poses, others, reason):
    bad = None if poses is None else trajectory(poses)
    if bad is not None:
        vars(bad.trajectory_sampling).update(others)
    read = read_submission(written(tmp_path / "s.pkl", {TOKENS[0]: trajectory(np.ones((8, 3))), TOKENS[1]: bad}))
    assert list(read.stage_one) == [TOKENS[0]] and list(read.refused) == [TOKENS[1]]
    with pytest.raises(ValueError, match=reason):
        raise ValueError(read.refused[TOKENS[1]])


def test_plans_of_another_sampling_are_read(tmp_path, devkit):
    read = read_submission(written(tmp_path / "s.pkl", {TOKENS[0]: trajectory(np.ones((40, 3)), 0.1)}))
    assert (len(read.stage_one[TOKENS[0]].poses), read.stage_one[TOKENS[0]].interval) == (40, 0.1)


def test_files_that_are_no_submission_are_named(tmp_path, devkit):
    path = tmp_path / "s.pkl"
    with pytest.raises(ValueError, match=r"submission .*s\.pkl cannot be read"):
        read_submission(path)
    whole = GOLDEN.read_bytes()
    for content, reason in (
        (b"", "not a readable pickle"),
        (whole[:1000], "not a readable pickle"),
        (pickle.dumps([1]), "holds list, no mapping"),
        (pickle.dumps({"first_stage_predictions": [{}]}), "second_stage_predictions is missing"),
        (pickle.dumps({"first_stage_predictions": [{}, {}]}), "no list of one mapping .*2 of them"),
        (pickle.dumps({"first_stage_predictions": {}}), r"no list of one mapping .*\(dict\)"),
        (pickle.dumps({"first_stage_predictions": [{1: 2}]}), "has the token 1"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"submission .*s\.pkl: .*{reason}"):
            read_submission(path)


class Hostile:
    def __reduce__(self):
        return os.system, ("touch hostile_was_here",)


@pytest.mark.parametrize("protocol", range(6))
def test_a_hostile_pickle_runs_nothing(tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.pkl").write_bytes(pickle.dumps({"first_stage_predictions": [{"a": Hostile()}]}, protocol))
    with pytest.raises(ValueError, match=r"submission .*s\.pkl: .*class .*system is not allowed"):
        read_submission(tmp_path / "s.pkl")
    assert not (tmp_path / "hostile_was_here").exists()
