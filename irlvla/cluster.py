"""Many jobs over a Ray cluster, one machine or many: a worker that is killed takes nothing with it, and memory stays bounded.

All machines see the same files under the same paths: jobs read what they need there and leave their results there. Through Ray travels
what a job is, never what comes of it. A worker holds one job at a time and gets the next when that is done.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, TypeVar

from irlvla import origin

Job = TypeVar("Job")

LOCAL = "local"
"""In place of a cluster's address: a cluster of this machine alone, which ends with the call."""
ATTEMPTS = 3
"""How often a job is begun whose worker dies before it is given up."""
STARTS = 8
"""Workers that may fail one after the other before they have taken up a job."""
POLL = 1.0
"""Seconds between two looks at the workers, for the progress bar."""
STORE = 100 << 20
"""Bytes of shared memory that a local cluster may take: only jobs pass through it."""


def work_off_on_cluster(
    jobs: Iterable[Job], work: Callable[[Job], None], cluster: str, processes: int | None, show: Callable[[int], None]
) -> dict[int, str]:
    """Does all jobs, each in the next worker of a Ray cluster that is free; a job whose worker dies is begun again in another one.

    Args:
        jobs: What is to be done, drawn one by one when a worker is free.
        work: Does one of them, leaving its result on disk; goes to every worker once, as a pickle.
        cluster: Ray's address of the cluster, such as "auto" or "10.0.0.1:6379", or `LOCAL`.
        processes: How many workers; None for one on each of the cluster's CPUs.
        show: Is told how many jobs are finished.

    Returns:
        Jobs that were given up: place in `jobs` -> how, to be read after "the process that did it".

    Raises:
        ValueError: There is no such cluster, its machines have other code than this one, or no worker can be started there.
    """
    import ray

    own = not ray.is_initialized()
    if own:
        _join(cluster, processes)
    try:
        count = max(1, int(ray.cluster_resources().get("CPU", 1))) if processes is None else processes
        return _worked_off(jobs, work, min(count, len(jobs)) if isinstance(jobs, Sequence) else count, show)
    finally:
        if own:
            ray.shutdown()


def _join(cluster: str, processes: int | None) -> None:
    import ray

    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": True}
    if cluster == LOCAL:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(num_cpus=processes or origin.cores(), include_dashboard=False, object_store_memory=STORE, **quiet)
        return
    try:
        ray.init(address=cluster, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ValueError(f"no Ray cluster can be joined at {cluster}: {str(error)[:300]}") from error


class _Worker:
    """What runs in a process somewhere in the cluster: its own copy of what is to be done."""

    def __init__(self, work: Callable[[Any], None], folder: str) -> None:
        # Relative paths mean what they mean to the caller.
        os.chdir(folder)
        self._work = work

    def code(self) -> tuple[str, str]:
        """This machine's name, and a hash of its code."""
        return os.uname().nodename, origin.code_hash(("",))

    def do(self, job: Any) -> None:
        """Does one job."""
        self._work(job)


def _worked_off(jobs: Iterable[Job], work: Callable[[Job], None], processes: int, show: Callable[[int], None]) -> dict[int, str]:
    import ray
    from ray.exceptions import RayError, RayTaskError

    # A worker has one CPU: Ray tells OpenMP and BLAS, too.
    kind = ray.remote(_Worker).options(num_cpus=1, max_restarts=0, max_task_retries=0)
    source, kept, own_code = enumerate(jobs), ray.put(work), origin.code_hash(("",))
    again: list[tuple[int, Job]] = list(islice(source, 1))
    if not again:
        return {}
    starting, busy = dict[Any, Any](), dict[Any, tuple[Any, int, Job]]()
    free: list[Any] = []
    begun: Counter[int] = Counter()
    lost: dict[int, str] = {}
    finished = failed_starts = 0

    def start() -> None:
        worker = kind.remote(kept, os.getcwd())
        # Nothing is given to a worker before it runs: where the cluster has no room for it, it waits alone.
        starting[worker.code.remote()] = worker

    try:
        for _ in range(processes):
            start()
        while True:
            while free and (job := again.pop() if again else next(source, None)) is not None:
                worker = free.pop()
                begun[job[0]] += 1
                busy[worker.do.remote(job[1])] = (worker, *job)
            if free and not busy:
                return lost
            for answer in ray.wait([*starting, *busy], num_returns=1, timeout=POLL)[0]:
                if answer in starting:
                    worker = starting.pop(answer)
                    try:
                        machine, code = ray.get(answer)
                    except RayError as error:
                        failed_starts += 1
                        if failed_starts == STARTS:
                            raise ValueError(f"{STARTS} workers on the Ray cluster failed before they took up a job: {error}") from error
                        start()
                        continue
                    if code != own_code:
                        raise ValueError(f"machine {machine} of the Ray cluster has another version of irlvla, its results would differ")
                    failed_starts = 0
                    free.append(worker)
                    continue
                worker, place, job = busy.pop(answer)
                try:
                    ray.get(answer)
                    finished += 1
                    free.append(worker)
                except RayTaskError as error:
                    lost[place] = f"ended with {type(error.cause).__name__}: {error.cause}"
                    free.append(worker)
                except RayError as error:
                    # The process, or its whole machine, is gone: another one does what it had begun.
                    if begun[place] < ATTEMPTS:
                        again.append((place, job))
                    else:
                        lost[place] = f"was lost {ATTEMPTS} times ({type(error).__name__})"
                    start()
            show(finished + len(lost))
    finally:
        for worker in [*starting.values(), *free, *(worker for worker, _, _ in busy.values())]:
            ray.kill(worker)
