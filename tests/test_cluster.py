"""Jobs on a real Ray cluster of this machine with two workers: the same bytes as without it, whoever is killed."""

import importlib
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import ray

from irlvla import cluster, score_table
from irlvla.cluster import work_off_on_cluster
from irlvla.data.navsim import Maps
from irlvla.recipes import check_labels
from irlvla.train import labels
from irlvla.workers import work_off

from .test_score_table import FOUR, FOUR_LOGS, GOLDEN, LOGS, MAPS
from .train.test_labels import FEW, NOISE, ROWS, everything, scenes, small_shards  # noqa: F401

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]  # of Ray's own sockets and futures


@pytest.fixture(scope="module")
def two_workers():
    cluster._join("local", 2)
    yield
    ray.shutdown()


def dying_once(place, module, name, marker):
    """A function of a module, but the first process that comes to a certain job is killed with it half done."""

    def dying(job, **others):
        if place(job) and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        getattr(importlib.import_module(module), name)(job, **others)

    return dying


def touch(folder, number):
    (folder / f"{number} {os.getpid()}").touch(exist_ok=False)


def done(folder):
    return sorted(int(path.name.split()[0]) for path in folder.iterdir())


def test_a_job_that_kills_its_worker_or_fails_is_named_and_no_more_are_drawn_than_workers_are_free(two_workers, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "ATTEMPTS", 1)
    ahead, shown = [], []

    def drawn():
        for number in range(9):
            ahead.append(number - len(done(tmp_path)))
            yield number

    def work(number):
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 2:
            raise ValueError("no such scene")
        touch(tmp_path, number)

    lost = work_off_on_cluster(drawn(), work, "local", 2, shown.append)
    assert lost == {1: "was lost 1 times (ActorDiedError)", 2: "ended with ValueError: no such scene"}
    assert done(tmp_path) == [0, 3, 4, 5, 6, 7, 8] and shown[-1] == 9
    assert max(ahead) <= 4, "two are at work, and two of those drawn before leave nothing"
    assert str(os.getpid()) not in {path.name.split()[1] for path in tmp_path.iterdir()}
    assert work_off(iter(()), print, 2, "nothing", cluster="local") == {}


def test_a_split_scored_on_a_cluster_with_a_killed_worker_is_the_same_file(two_workers, tmp_path, monkeypatch):
    with np.load(GOLDEN / "trajectories.npz") as archive:
        np.savez(tmp_path / "plans.npz", **{f"{token}_poses": archive[f"{token}_poses"][:3] for token in FOUR})
    split = tmp_path / "four.yaml"
    split.write_text(json.dumps({"num_future_frames": 8, "tokens": FOUR, "log_names": FOUR_LOGS}))
    score_table.score_split(LOGS, MAPS, split, tmp_path / "plans.npz", tmp_path / "here.csv", 1)
    monkeypatch.setattr(
        score_table, "_score", dying_once(lambda part: part.number == 1, "irlvla.score_table", "_score", tmp_path / "killed")
    )
    monkeypatch.chdir(tmp_path)  # places may be relative
    found = score_table.score_split(LOGS, MAPS, split, Path("plans.npz"), Path("there.csv"), 2, cluster="local")
    assert (tmp_path / "killed").exists() and found["failed"] == {} and found["cluster"] == "local"
    assert Path("there.csv").read_bytes() == Path("here.csv").read_bytes()


def test_labels_from_a_cluster_with_a_killed_worker_are_the_same_files(two_workers, scenes, tmp_path, monkeypatch):  # noqa: F811
    def made(place, cluster=None):
        return labels.labelled(*scenes, ROWS, NOISE, FEW, 5, tmp_path / place, tmp_path / "words", cluster)

    made("here")
    last = dying_once(lambda shard: shard.path.stem.endswith("1"), "irlvla.train.labels", "_label", tmp_path / "killed")
    monkeypatch.setattr(labels, "_label", last)
    made("there", "local")
    assert (tmp_path / "killed").exists()
    for path in sorted((tmp_path / "here").iterdir()):
        assert path.read_bytes() == (tmp_path / "there" / path.name).read_bytes()


def test_a_shard_that_is_lost_is_named(scenes, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(labels, "work_off", lambda *arguments: {1: "was lost 3 times (ActorDiedError)"})
    with pytest.raises(ValueError, match="labelled the 2. of its missing shards was lost 3 times .*; what was finished is kept"):
        labels.labelled(*scenes, ROWS, NOISE, FEW, 5, tmp_path, tmp_path / "words", "local")


def test_machines_with_other_code_are_refused(two_workers, monkeypatch):
    monkeypatch.setattr(cluster.origin, "code_hash", lambda names: "other")
    with pytest.raises(ValueError, match="has another version of irlvla"):
        work_off(range(2), print, 1, "nothing", cluster="local")


def test_workers_that_cannot_start_are_no_endless_loop(two_workers, monkeypatch):
    monkeypatch.setattr(cluster, "STARTS", 1)
    monkeypatch.setattr(cluster.os, "getcwd", lambda: "/nowhere/at/all")
    with pytest.raises(ValueError, match="1 workers on the Ray cluster failed before they took up a job(.|\n)*nowhere"):
        work_off(range(2), print, 1, "nothing", cluster="local")


def test_a_cluster_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **settings: (_ for _ in ()).throw(ConnectionError("could not find any running Ray instance")))
    with pytest.raises(ValueError, match="no Ray cluster can be joined at 10.0.0.1:6379: could not find"):
        work_off(range(2), print, 2, "nothing", cluster="10.0.0.1:6379")


def test_maps_and_stores_travel_as_the_folders_they_are_in():
    assert Maps(MAPS).__reduce__() == (Maps, (MAPS,))


def test_stages_that_label_nothing_need_no_cluster():
    check_labels("reward_members", "local")
    with pytest.raises(ValueError, match="stage 'ppo' labels nothing"):
        check_labels("ppo", "local")
