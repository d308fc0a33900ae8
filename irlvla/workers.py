"""Many jobs over several processes: whoever is killed, nothing hangs and what was finished is kept."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Job = TypeVar("Job")

POLL = 0.2
"""Seconds between two looks at the workers."""


def work_off(jobs: Sequence[Job], work: Callable[[Job], None], processes: int, title: str, already: int = 0) -> dict[int, int]:
    """Does all jobs, each in the next process that is free, under a progress bar on stderr.

    Processes are forked: they inherit what the caller has read and compiled. A process that dies takes only its job with it,
    another one takes its place. Workers of a caller that was killed end within a second.

    Args:
        jobs: What is to be done.
        work: Does one of them, leaving its result on disk; with one process it is called here.
        processes: How many jobs at once.
        title: What the progress bar says.
        already: Jobs finished by an earlier call, for the progress bar.

    Returns:
        Jobs whose process died: place in `jobs` -> exit code, negative for a signal.

    Raises:
        ValueError: A process died before it took up a job.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    # Drawn by this loop and not by rich's thread, so that no process is forked beside a running thread.
    console = Console(stderr=True)
    with Progress(*columns, console=console, auto_refresh=False, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=already + len(jobs), completed=already)
        if processes < 2 or len(jobs) < 2:
            for job in jobs:
                work(job)
                bar.update(task, advance=1, refresh=True)
            return {}
        return _forked(jobs, work, min(processes, len(jobs)), lambda count: bar.update(task, completed=already + count, refresh=True))


def _forked(jobs: Sequence[Job], work: Callable[[Job], None], processes: int, show: Callable[[int], None]) -> dict[int, int]:
    context = multiprocessing.get_context("fork")
    queue, current, finished = context.Value("q", 0), context.Array("q", processes, lock=False), context.Array("q", processes, lock=False)

    def started(slot: int) -> Any:
        current[slot] = -1
        worker = context.Process(target=_work, args=(slot, os.getpid(), jobs, work, queue, current, finished), daemon=True)
        worker.start()
        return worker

    workers = {slot: started(slot) for slot in range(processes)}
    lost: dict[int, int] = {}
    try:
        while workers:
            wait([worker.sentinel for worker in workers.values()], POLL)
            for slot, worker in list(workers.items()):
                if worker.exitcode is None:
                    continue
                del workers[slot]
                if worker.exitcode == 0:
                    continue
                if current[slot] < 0:
                    raise ValueError(f"a worker process ended with exit code {worker.exitcode} before it took up a job")
                lost[current[slot]] = worker.exitcode
                workers[slot] = started(slot)
            show(sum(finished) + len(lost))
    finally:
        for worker in workers.values():
            worker.terminate()
        for worker in workers.values():
            worker.join()
    return lost


def _work(slot: int, parent: int, jobs: Sequence[Job], work: Callable[[Job], None], queue: Any, current: Any, finished: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    leave_with(parent)
    while True:
        with queue.get_lock():
            place = queue.value
            queue.value = place + 1
        if place >= len(jobs):
            return
        current[slot] = place
        work(jobs[place])
        finished[slot] += 1
        current[slot] = -1


def leave_with(parent: int) -> None:
    """Lets this process end as soon as its parent is gone, even if that was killed.

    Args:
        parent: its process id.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
