"""Many jobs over several processes, here or on a Ray cluster: whoever is killed, nothing hangs and what was finished is kept."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import wait
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from irlvla.cluster import work_off_on_cluster
from irlvla.origin import cores

Job = TypeVar("Job")

POLL = 0.2
"""Seconds between two looks at the workers."""


def work_off(
    jobs: Iterable[Job],
    work: Callable[[Job], None],
    processes: int | None,
    title: str,
    already: int = 0,
    cluster: str | None = None,
    count: int | None = None,
) -> dict[int, str]:
    """Does all jobs, each in the next process that is free, under a progress bar on stderr.

    Processes are forked: they inherit what the caller has read and compiled. A process that dies takes only its job with it,
    another one takes its place. Workers of a caller that was killed end within a second. On a cluster they are
    Ray's, see `irlvla.cluster`: `work` and jobs are pickled, and a job whose process dies is begun again.

    Args:
        jobs: What is to be done; on a cluster, or with one process, drawn one by one.
        work: Does one of them, leaving its result on disk; with one process it is called here.
        processes: How many jobs at once; None: as many as there are cores, or CPUs in the cluster.
        title: What the progress bar says.
        already: Jobs finished by an earlier call, for the progress bar.
        cluster: Address of a Ray cluster, or "local"; None: processes of this machine.
        count: How many jobs there are where `jobs` has no length.

    Returns:
        Jobs that were lost: place in `jobs` -> how, to be read after "the process that did it", as in "ended with exit code -9".

    Raises:
        ValueError: A process died before it took up a job; or the cluster cannot be used.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    # Drawn by this loop and not by rich's thread, so that no process is forked beside a running thread.
    console = Console(stderr=True)
    with Progress(*columns, console=console, auto_refresh=False, transient=True, disable=not console.is_terminal) as bar:
        total = len(jobs) if isinstance(jobs, Sequence) else count
        task = bar.add_task(title, total=None if total is None else already + total, completed=already)

        def show(finished: int) -> None:
            bar.update(task, completed=already + finished, refresh=True)

        if cluster is not None:
            return work_off_on_cluster(jobs, work, cluster, processes, show)
        processes = cores() if processes is None else processes
        if processes < 2 or (total is not None and total < 2):
            for finished, job in enumerate(jobs, 1):
                work(job)
                show(finished)
            return {}
        jobs = list(jobs)
        return _forked(jobs, work, min(processes, len(jobs)), show)


def _forked(jobs: Sequence[Job], work: Callable[[Job], None], processes: int, show: Callable[[int], None]) -> dict[int, str]:
    context = multiprocessing.get_context("fork")
    queue, current, finished = context.Value("q", 0), context.Array("q", processes, lock=False), context.Array("q", processes, lock=False)

    def started(slot: int) -> Any:
        current[slot] = -1
        worker = context.Process(target=_work, args=(slot, os.getpid(), jobs, work, queue, current, finished), daemon=True)
        worker.start()
        return worker

    workers = {slot: started(slot) for slot in range(processes)}
    lost: dict[int, str] = {}
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
                lost[current[slot]] = f"ended with exit code {worker.exitcode}"
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
