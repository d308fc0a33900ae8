import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from irlvla import workers
from irlvla.workers import work_off


def test_every_job_is_done_once(tmp_path):
    for processes in (1, 2, 5):
        jobs = [tmp_path / f"{processes}-{number}" for number in range(7)]
        assert work_off(jobs, lambda path: path.touch(exist_ok=False), processes, "touch") == {}
        assert all(path.exists() for path in jobs)
    assert work_off([], lambda job: job.touch(), 2, "nothing") == {}


def test_a_process_that_dies_takes_only_its_job_with_it(tmp_path):
    def touch(number):
        if number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        (tmp_path / str(number)).touch()

    assert work_off(range(8), touch, 2, "touch") == {3: f"ended with exit code {-signal.SIGKILL}"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2", "4", "5", "6", "7"]


def test_processes_that_cannot_start_are_no_endless_loop(monkeypatch):
    monkeypatch.setattr(workers, "_work", lambda *arguments: os._exit(5))
    with pytest.raises(ValueError, match="ended with exit code 5 before it took up a job"):
        work_off(range(4), print, 2, "nothing")


def test_workers_end_with_a_caller_that_was_killed(tmp_path):
    program = "import os, sys, time, pathlib; from irlvla.workers import work_off\n"
    program += "work_off([0, 1], lambda job: pathlib.Path(sys.argv[1], str(os.getpid())).touch() or time.sleep(60), 2, 'sleep')"
    caller = subprocess.Popen([sys.executable, "-c", program, tmp_path], cwd=Path(__file__).parents[1])
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    caller.kill()
    caller.wait()
    wait_until(lambda: not any(Path("/proc", path.name).exists() for path in tmp_path.iterdir()))


def wait_until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
