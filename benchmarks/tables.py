"""What the benchmarks share: rows that are printed as they come and end up as JSON with commit, machine and threads."""

import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def use_one_thread() -> None:
    """One thread for each process, unless the caller set it; to be called before NumPy comes in."""
    for name in THREADS:
        os.environ.setdefault(name, "1")


def row(rows: list[dict], what: str, value: float, unit: str, bar: float | None = None, is_least: bool = False) -> None:
    """Print one measurement and keep it; `bar` is the most (or the least) that it shall be."""
    rows.append({"what": what, "value": round(float(value), 4), "unit": unit})
    told = ""
    if bar is not None:
        met = value >= bar if is_least else value <= bar
        rows[-1] |= {"bar": bar, "met": bool(met)}
        told = f"  (bar: {'at least' if is_least else 'at most'} {bar:g}: {'met' if met else 'MISSED'})"
    print(f"{what:84} {value:12.2f} {unit}{told}", flush=True)


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    begin = perf_counter()
    work()
    return perf_counter() - begin


def write(path: Path, rows: list[dict], **about: object) -> None:
    """Write the rows, a line each, with commit, machine, threads and what else is to be said about them."""
    from irlvla.origin import changed_since_commit, command, commit, machine

    threads = {name: os.environ.get(name) for name in THREADS}
    values = {"command": command(), "commit": commit(), "changed": changed_since_commit(), "machine": machine(), "threads": threads}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(with_rows(values | about, rows))
    print(f"{path}: commit {values['commit']}{' with changes' if values['changed'] else ''}, {values['machine']['cores']} cores")


def with_rows(values: dict, rows: list[dict]) -> str:
    """JSON of the values, indented, and below "rows" of the rows, one a line."""
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    return f'{json.dumps(values, indent=1)[:-2]},\n "rows": [\n{lines}\n ]\n}}\n'


def watched(command: list[str], interval: float = 0.1) -> tuple[float, float, float, str]:
    """Run a command and watch it with all its descendants.

    Returns:
        Wall seconds, the largest sum of resident memory (pages that processes share count once each), the largest
        proportional sum (shared pages count once), both MB, and what it printed.

    Raises:
        RuntimeError: The command failed; with what it printed.
    """
    begin, most, most_shared = perf_counter(), 0.0, 0.0
    with tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT, text=True)
        while process.poll() is None:
            sizes = [memory(one) for one in family(process.pid)]
            most = max(most, sum(size for size, _ in sizes))
            most_shared = max(most_shared, sum(size for _, size in sizes))
            try:
                process.wait(interval)
            except subprocess.TimeoutExpired:
                continue
        spent = perf_counter() - begin
        printed.seek(0)
        text = printed.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{text[-4000:]}")
    return spent, most, most_shared, text


def family(process: int) -> list[int]:
    """A process and all its descendants."""
    found, waiting = [], [process]
    while waiting:
        one = waiting.pop()
        found.append(one)
        for file in Path(f"/proc/{one}/task").glob("*/children"):
            waiting += [int(child) for child in _text(file).split()]
    return found


def memory(process: int) -> tuple[float, float]:
    """Resident memory of a process and its share of it (shared pages divided), MB; 0 if it has ended."""
    sizes = {"Rss": 0.0, "Pss": 0.0}
    for line in _text(Path(f"/proc/{process}/smaps_rollup")).splitlines():
        name, _, rest = line.partition(":")
        if name in sizes:
            sizes[name] = int(rest.split()[0]) / 1024.0
    return sizes["Rss"], sizes["Pss"]


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # it ended meanwhile
        return ""
