"""Kills, a full disk, damaged files and two processes on one folder: what is lost or wrong afterwards. Writes docs/faults.md and its JSON.

`python benchmarks/faults.py [--only kills disk damage] [--work build/faults] [--flips 200] [--out docs/faults]`

Every command is the real one, in a process of its own, on the embedded world and the recipe `tiny`. A child that is to be disturbed gets a
hook on one function of the package: at its n-th call the whole process is killed with SIGKILL (worker processes and all), or stands still.
Whatever was disturbed is done again by the same command, and must then be the same, byte for byte, as what was never disturbed.
"""

import argparse
import functools
import hashlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.fault_formats import damage  # noqa: E402  (after the thread settings and the path)
from benchmarks.fault_tasks import FULL, TASKS, Task  # noqa: E402
from irlvla import origin  # noqa: E402

SETTINGS = {"irlvla.train.labels:SCENES_A_SHARD": 4}
"""Changed in every child, so that a tiny split has several shards of labels."""
UNNAMED = (
    "provenance",
    "sum",
    "wall_seconds",
    "command",
    "commit",
    "seconds",
    "seconds_scenes",
    "seconds_per_1000_trajectories",
    "machine",
    "trajectories_file",
)
"""Keys of JSON files that say when, by what command and where something was made."""
PASSED_OVER = (".*", "*.log")
SECONDS = 300.0


def child(plan: dict[str, Any], arguments: list[str]) -> None:
    """What a disturbed process runs: the command, with a hook on one function."""
    from irlvla import cli

    for name, value in SETTINGS.items() if arguments[0] == "train" else ():
        module, attribute = name.split(":")
        setattr(importlib.import_module(module), attribute, value)
    if plan.get("at"):
        module, attribute = plan["at"].split(":")
        hook(importlib.import_module(module), attribute, plan, os.getpid())
    sys.argv = ["irlvla", *arguments]
    cli.main()


def hook(module: Any, attribute: str, plan: dict[str, Any], main: int) -> None:
    original, calls = getattr(module, attribute), [0]

    @functools.wraps(original)
    def hooked(*arguments, **others):
        calls[0] += 1
        if calls[0] == plan["call"]:
            marker = Path(plan["marker"])
            marker.touch()
            if plan["do"] == "kill":
                os.kill(main, signal.SIGKILL)
                os.kill(os.getpid(), signal.SIGKILL)
            while marker.exists():
                time.sleep(0.05)
        return original(*arguments, **others)

    setattr(module, attribute, hooked)


def command(arguments: list[Any], plan: dict[str, Any] | None = None) -> list[str]:
    return [sys.executable, str(Path(__file__).resolve()), "--child", json.dumps(plan or {}), *map(str, arguments)]


def done(arguments: list[Any], plan: dict[str, Any] | None = None) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.run(command(arguments, plan), capture_output=True, text=True, check=False, env=environment, timeout=SECONDS * 4)


def killed(arguments: list[Any], at: str, call: int, folder: Path) -> str | None:
    """Runs a command until it is killed; what is wrong with that, if anything."""
    marker = folder / "marker"
    marker.unlink(missing_ok=True)
    answer = done(arguments, {"at": at, "call": call, "do": "kill", "marker": str(marker)})
    if answer.returncode != -signal.SIGKILL or not marker.exists():
        return f"the {call}. call of {at} was not reached: exit code {answer.returncode} {answer.stderr[-300:]}"
    time.sleep(1.5)  # its workers notice within a moment
    return None


def with_company(arguments: list[Any], task: Task, folder: Path) -> tuple[str, subprocess.CompletedProcess]:
    """Runs a command; while it stands still in the middle, a second process tries the same. What that said, and how the first ended."""
    marker = folder / "marker"
    marker.unlink(missing_ok=True)
    plan = {"at": task.pause[0], "call": task.pause[1], "do": "pause", "marker": str(marker)}
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    with subprocess.Popen(command(arguments, plan), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment) as first:
        end = time.monotonic() + SECONDS
        while not marker.exists() and first.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        second = done(arguments)
        marker.unlink(missing_ok=True)
        _, errors = first.communicate()
    said = second.stderr.strip().splitlines()[-1:] if second.returncode else ["it was not refused"]
    return (said or [""])[0], subprocess.CompletedProcess(arguments, first.returncode, "", errors)


def content(path: Path) -> str:
    """A file's hash, without what says when and by what command it was made."""
    if path.suffix == ".json":
        return hashlib.sha256(json.dumps(stripped(json.loads(path.read_text())), sort_keys=True).encode()).hexdigest()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def stripped(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: stripped(inner) for key, inner in value.items() if key not in UNNAMED}
    return [stripped(inner) for inner in value] if isinstance(value, list) else value


def files(place: Path, leaves: tuple[str, ...]) -> dict[str, str]:
    """Hashes of all that a task leaves, by name."""
    found = {}
    for leaf in leaves:
        paths = [place / leaf] if (place / leaf).is_file() else sorted((place / leaf).rglob("*"))
        for path in paths:
            inner = path.relative_to(place / leaf) if path != place / leaf else Path(path.name)
            if path.is_file() and "tensorboard" not in inner.parts and not any(inner.match(name) for name in PASSED_OVER):
                found[str(path.relative_to(place))] = content(path)
    return found


def compared(whole: Path, faulty: Path, leaves: tuple[str, ...]) -> tuple[str, bool]:
    """How a disturbed task's files compare with those of an undisturbed one."""
    first, second = files(whole, leaves), files(faulty, leaves)
    wrong = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
    if wrong or not first:
        return f"{len(wrong)} of {len(first)} files differ, the first is {wrong[0] if wrong else 'none there'}", False
    return f"{len(first)} files, all the same", True


def make(task: Task, world: Path, place: Path) -> None:
    """The undisturbed run of a task."""
    answer = done(task.arguments(world, place))
    if answer.returncode:
        raise RuntimeError(f"{task.title} without any fault ended with {answer.returncode}: {answer.stderr[-2000:]}")


def plans_of(world: Path) -> None:
    """Plans of every scene of the world's training split, beside the world."""
    from irlvla.data.navsim import scene_filter

    rng, tokens = np.random.default_rng(0), scene_filter(world / "splits" / "train.yaml").tokens or ()
    ahead = np.linspace(0.5, 4.0, 8)[None, :, None] * rng.uniform(0.0, 12.0, (len(tokens), 6, 1, 1)) * np.array([1.0, 0.05, 0.0])
    np.savez(world.parent / "plans.npz", **{f"{token}_poses": ahead[place] for place, token in enumerate(tokens)})


def kills(names: list[str], work: Path) -> Iterator[dict[str, Any]]:
    """Each task killed in the middle, several times, and finished by the same command while a second process tries to join in."""
    whole, faulty = work / "whole", work / "faulty"
    world = whole / "world"
    for name in names:
        task = TASKS[name]
        make(task, world, whole)
        if name == "world":
            plans_of(world)
        (faulty / "run").mkdir(parents=True, exist_ok=True)
        for number, (at, call) in enumerate(task.kills):
            arguments = task.arguments(world, faulty) + list(task.again if number else ())
            wrong = killed(arguments, at, call, work)
            if wrong is not None:
                raise RuntimeError(f"{task.title}: {wrong}")
        arguments, said = [*task.arguments(world, faulty), *task.again], ""
        if task.pause[0]:
            said, answer = with_company(arguments, task, work)
        else:
            answer = done(arguments)
        seen, good = compared(whole, faulty, task.leaves)
        places = ", ".join(f"`{at.removeprefix('irlvla.').replace(':', '.')}` (call {call})" for at, call in task.kills)
        ended = "" if answer.returncode == 0 else f"exit code {answer.returncode}: {answer.stderr[-300:]}; "
        yield {
            "kind": "killed", "what": task.title, "tried": f"kill -9 in {places}, each time begun again", "seen": ended + seen,
            "good": good and answer.returncode == 0,
        }  # fmt: skip
        if task.pause[0]:
            refused = "another process" in said
            kept = "the first one's result is the same" if good else "the first one's result differs"
            yield {
                "kind": "two processes", "what": task.title, "tried": "the same command while the first is at work",
                "seen": f"refused: {plain(said, work)}; {kept}", "good": refused and good,
            }  # fmt: skip


def plain(text: str, work: Path) -> str:
    return text.replace(str(work), "WORK").replace(str(ROOT) + "/", "")[:300]


@contextmanager
def small_disk(place: Path) -> Iterator[Callable[[int], None] | None]:
    """A file system of its own in a folder, and a function that sets its size (KiB); None where that is not allowed."""
    place.mkdir(parents=True, exist_ok=True)

    def mount(*options: str) -> bool:
        return subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(place)], capture_output=True, check=False).returncode == 0

    if not mount("-o", "size=1g"):
        yield None
        return
    try:
        yield lambda size: mount("-o", f"remount,size={size}k") or None
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


def disk(names: list[str], work: Path) -> Iterator[dict[str, Any]]:
    """Each task on a disk that is full in the middle of it, and again when there is room."""
    whole = work / "whole"
    world = whole / "world"
    for name in [name for name in names if name in FULL]:
        task = TASKS[name]
        for what, room, removed in FULL[name]:
            with small_disk(work / "small") as resize:
                if resize is None:
                    yield {
                        "kind": "disk full",
                        "what": f"{task.title}: {what}",
                        "tried": "nothing",
                        "seen": "no right to mount",
                        "good": True,
                    }
                    continue
                place = work / "small" / "place"
                place.mkdir()
                if removed:
                    shutil.copytree(whole / "run", place / "run", ignore=shutil.ignore_patterns(".*", "tensorboard"))
                for leaf in removed:
                    shutil.rmtree(place / leaf) if (place / leaf).is_dir() else (place / leaf).unlink()
                used = sum(path.stat().st_blocks for path in (work / "small").rglob("*")) // 2
                resize(used + room)
                arguments = task.arguments(world, place)
                answer = done(arguments)
                said = answer.stderr.strip().splitlines()[-1:] or [""]
                clear = (
                    answer.returncode == 1 and said[0].startswith("irlvla:") and ("full?" in said[0] or "No space left" in answer.stderr)
                )
                resize(1 << 20)
                second = done([*arguments, *task.again])
                seen, good = compared(whole, place, task.leaves)
                yield {
                    "kind": "disk full", "what": f"{task.title}: {what}", "tried": f"{room} KiB left, then more room and the same command",
                    "seen": f"{plain(said[0], work)}; then {seen}", "good": clear and good and second.returncode == 0,
                }  # fmt: skip


TITLES = {
    "killed": "Killed and begun again",
    "two processes": "Two processes on one folder",
    "disk full": "A disk that is full",
    "damaged": "Damaged files",
}


def page(found: dict[str, Any]) -> str:
    """docs/faults.md, from the JSON beside it."""
    lines = ["# Faults", "", f"`{found['command']}` tried all this (commit {found['commit']}) and wrote this page. {found['about']}", ""]
    for kind, title in TITLES.items():
        rows = [row for row in found["rows"] if row["kind"] == kind]
        if rows:
            lines += [f"## {title}", "", "| what | tried | seen | |", "|---|---|---|---|"]
            cells = [[str(row[key]).replace("|", "\\|").replace("\n", " ") for key in ("what", "tried", "seen")] for row in rows]
            lines += [f"| {' | '.join(cell)} | {'ok' if row['good'] else 'WRONG'} |" for cell, row in zip(cells, rows, strict=True)]
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


ABOUT = (
    "*The same* means byte for byte what the undisturbed run leaves, but for times, command lines and commits in JSON files. "
    "A kill takes the command's worker processes with it; power cuts, which may lose what the kernel has not written yet, were not tried. "
    "Bits changed in files of formats without sums may change a value into another sensible one; checkpoints, training states, labels and the "
    "scenes of a store have sums. Their mapped arrays (pictures and what goes with them, scene tokens) have none: size, shape and sense are checked."
)


def main() -> int:
    if "--child" in sys.argv[1:2]:
        child(json.loads(sys.argv[2]), sys.argv[3:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("kills", "disk", "damage"), default=["kills", "disk", "damage"])
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--work", type=Path, default=Path("build/faults"))
    parser.add_argument("--flips", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("docs/faults"))
    options = parser.parse_args()
    rows, work = [], options.work.resolve()

    def add(row: dict[str, Any]) -> None:
        rows.append(row)
        print(f"{'ok   ' if row['good'] else 'WRONG'} {row['kind']}: {row['what']}: {row['seen']}", flush=True)

    if "kills" in options.only:
        if "world" in options.tasks:
            shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True, exist_ok=True)
        for row in kills(options.tasks, work):
            add(row)
    if "disk" in options.only:
        for row in disk(options.tasks, work):
            add(row)
    if "damage" in options.only:
        for row in damage(options.flips):
            add(row)
    found = {"command": "python benchmarks/faults.py", "commit": origin.commit(), "machine": origin.machine(), "about": ABOUT, "rows": rows}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(page(found))
    return int(not all(row["good"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
