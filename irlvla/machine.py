"""Is this machine fit: numerics against stored answers, threads, memory, disk, packages, numba's cache."""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from irlvla.origin import cores

Level = Literal["ok", "note", "BAD"]

DEMO_DISK, DEMO_MEMORY, LEAST_MEMORY = 6e9, 8 * 2**30, 2**30
"""Bytes: what the demo needs where its run lies and at most in memory, and the memory below which nothing works."""
TOLERANCE = 1e-6
"""Between a stored answer and this machine's: processors differ in the last digits only."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
EXTRAS = ("train", "world")
"""Optional parts of the package; scoring does without."""

START_US = 1_600_000_000_000_000
START_STATE = (100.0, 50.0, 0.5, 6.0, 0.0, 0.4, 0.0)
STATE_COLUMNS = (0, 1, 2, 3, 5, 7, 9)
"""x, y, heading, vx, ax, steering angle and yaw rate, of a simulated state."""
STORED_STATES = {
    "tracker": {
        10: (105.381102584, 53.271432815, 0.664928207, 6.724858158, 0.789229548, 0.156695106, 0.343950243),
        20: (110.057052801, 58.537158607, 1.074514875, 7.535177173, 0.786409697, 0.174842174, 0.430902514),
        40: (112.376479282, 74.556572763, 1.724005571, 8.791005519, 0.265966036, 0.091330610, 0.260643490),
    },
    "velocity fit": {
        10: (105.388019622, 52.943488535, 0.5, 5.891302391, -1.212586160, 0.0, 0.0),
        20: (109.766620942, 55.335529338, 0.5, 3.744163802, -2.267124284, 0.0, 0.0),
        40: (114.336981950, 57.832328936, 0.5, 2.183804846, -0.053662068, 0.0, 0.0),
    },
    "curvature fit": {
        10: (105.255634290, 52.991986790, 0.555349759, 6.049599369, -0.038096675, 0.032178994, 0.063042163),
        20: (110.360862446, 56.222987347, 0.541822280, 6.044404429, 0.020976005, -0.057288396, -0.112221934),
        40: (121.417519492, 61.088976594, 0.326160717, 6.056370118, -0.003268844, 0.016528426, 0.032408993),
    },
}
"""Plan -> step -> simulated state, from the slow twin of the tests (tests/score/slow_twin.py), which knows only textbook formulas."""
STORED_FILTERS = {
    (5, 2, 1): (-2 / 10, -1 / 10, 0.0, 1 / 10, 2 / 10),
    (5, 2, 2): (2 / 7, -1 / 7, -2 / 7, -1 / 7, 2 / 7),
    (5, 3, 2): (2 / 7, -1 / 7, -2 / 7, -1 / 7, 2 / 7),
    (15, 2, 1): tuple(k / 280 for k in range(-7, 8)),
}
"""Savitzky-Golay weights of the inner samples from the tables, for steps of 1: window, degree, derivative."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at. `BAD` makes the doctor fail, a `note` does not; `missing` names files, logs or tokens."""

    name: str
    level: Level
    seen: str
    expected: int | None = None
    found: int | None = None
    missing: tuple[str, ...] = ()


def machine_findings(places: Mapping[str, Path]) -> list[Finding]:
    """What can be said of the machine without any data.

    Args:
        places: What lies where (run, logs, maps ...), to look at the disks below.
    """
    found = [outcome("numba cache", numba_cache), outcome("numerics: least squares", least_squares)]
    found += [outcome(f"numerics: {name}", lambda name=name: stored_plan_answer(name)) for name in STORED_STATES]
    found += [outcome("numerics: savgol weights", savgol_answer), *python_packages(), *threads(), memory()]
    return found + disks(places)


def outcome(name: str, look: Callable[[], str]) -> Finding:
    """What `look` says; BAD with its complaint where it raises."""
    try:
        return Finding(name=name, level="ok", seen=look())
    except (ValueError, OSError, RuntimeError, ImportError, np.linalg.LinAlgError) as error:
        return Finding(name=name, level="BAD", seen=str(error))


def least_squares() -> str:
    """NumPy's least squares and pseudo-inverse on a matrix like the tracker's.

    Raises:
        ValueError: They miss an answer that is known.
    """
    matrix = np.tril(np.full((40, 40), 0.1))
    matrix = np.concatenate([matrix, 0.01 * np.eye(38, 40, 1)])
    wanted = np.sin(np.arange(40.0))
    errors = [np.abs(np.linalg.lstsq(matrix, matrix @ wanted, rcond=None)[0] - wanted).max()]
    errors += [np.abs(np.linalg.pinv(matrix) @ matrix - np.eye(40)).max()]
    if not max(errors) < 1e-8:
        raise ValueError(f"off by {max(errors):.1e}: the BLAS of this NumPy ({np.__version__}) is broken on this processor")
    return f"off by {max(errors):.0e}"


def stored_plan(name: str) -> Float[np.ndarray, "8 3"]:
    """A fixed plan in the ego frame: through a bend while speeding up, straight on while slowing down, or winding."""
    k = np.arange(1.0, 9.0)
    if name == "tracker":
        turn = (3.0 * k + 0.1 * k**2) / 25.0
        return np.column_stack([25.0 * np.sin(turn), 25.0 * (1.0 - np.cos(turn)), turn])
    if name == "velocity fit":
        return np.column_stack([2.7 * k + 4.0 * np.sin(k / 2.0), np.zeros((8, 2))])
    return np.column_stack([3.0 * k, np.sin(k / 2.0), np.arctan(np.cos(k / 2.0) / 6.0)])


def stored_plan_answer(name: str) -> str:
    """How far this machine's simulated states of a fixed plan are from the stored ones.

    Raises:
        ValueError: Further than `TOLERANCE`.
    """
    from irlvla.score.states import reference_poses
    from irlvla.vehicle import simulated

    state = np.array(START_STATE)
    states = simulated(state, reference_poses(state, START_US, stored_plan(name)[None]))[0]
    rows = STORED_STATES[name]
    worst, step = max((float(np.abs(states[step, STATE_COLUMNS] - row).max()), step) for step, row in rows.items())
    if not worst < TOLERANCE:
        raise ValueError(f"the states of a stored plan are off by {worst:.1e} at {0.1 * step:.1f} s (allowed: {TOLERANCE:.0e})")
    return f"the states of a stored plan are off by {worst:.0e} (allowed: {TOLERANCE:.0e})"


def savgol_answer() -> str:
    """How far the comfort filters' weights are from the tables.

    Raises:
        ValueError: Further than 1e-9 of their size.
    """
    from irlvla.score.comfort import savgol_weights

    worst = 0.0
    for (window, degree, derivative), row in STORED_FILTERS.items():
        weights = savgol_weights(window, degree, derivative)[window // 2] * 0.1**derivative
        worst = max(worst, float(np.abs(weights - row).max()))
    if not worst < 1e-9:
        raise ValueError(f"off by {worst:.1e} from the tables")
    return f"off by {worst:.0e} from the tables"


def python_packages() -> list[Finding]:
    """Versions of Python and of the packages against what pyproject.toml asks for."""
    try:
        about = importlib.metadata.metadata("irlvla")
    except importlib.metadata.PackageNotFoundError:
        return [Finding(name="packages", level="note", seen="irlvla is not installed (pip install -e .): versions are not checked")]
    wanted = str(about["Requires-Python"] or ">=0")
    fine = _suffices(platform.python_version(), wanted)
    found = [Finding(name="python", level="ok" if fine else "BAD", seen=f"{platform.python_version()}, wanted {wanted}")]
    groups: dict[str, list[tuple[str, str]]] = {"": [], **{extra: [] for extra in EXTRAS}}
    for line in about.get_all("Requires-Dist") or ():
        match = re.match(r"([\w.-]+)(?:\[[\w,]*\])?\s*\(?([^;)]*)\)?\s*(?:;.*extra\s*==\s*['\"](\w+)['\"])?", line)
        if match and (match[3] or "") in groups:
            groups[match[3] or ""].append((match[1], match[2].strip()))
    for extra, rows in groups.items():
        wrong = tuple(complaint for complaint in (_complaint(*row) for row in rows) if complaint)
        seen = f"{len(rows) - len(wrong)} of {len(rows)} as pyproject.toml asks for"
        if wrong and extra:
            seen += f"; scoring does without, else: pip install 'irlvla[{extra}]'"
        level: Level = "ok" if not wrong else "note" if extra else "BAD"
        name = f"packages of irlvla[{extra}]" if extra else "packages"
        found.append(Finding(name=name, level=level, seen=seen, expected=len(rows), found=len(rows) - len(wrong), missing=wrong))
    return found


def _complaint(package: str, wanted: str) -> str:
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return f"{package} is not installed, wanted {wanted or 'any version'}"
    return "" if _suffices(version, wanted) else f"{package} is {version}, wanted {wanted}"


def _suffices(version: str, wanted: str) -> bool:
    """Whether a version meets a list of conditions such as `>=1.26,<3`."""
    own = _numbers(version)
    for condition in filter(None, wanted.split(",")):
        sign, other = re.match(r"\s*([<>=!~]*)\s*(.*)", condition).groups()
        bound = _numbers(other)
        width = max(len(own), len(bound))
        order = [(*part, *[0] * (width - len(part))) for part in (own, bound)]
        meets = {">=": order[0] >= order[1], "~=": order[0] >= order[1], ">": order[0] > order[1], "<=": order[0] <= order[1]}
        meets |= {"<": order[0] < order[1], "!=": order[0] != order[1]}
        if not meets.get(sign, order[0] == order[1]):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.match(r"\d*(?:\.\d+)*", version)[0].split(".") if part)


def numba_cache() -> str:
    """Where compiled kernels are kept.

    Raises:
        ValueError: Nowhere: each process would compile them anew, or numba refuses to.
    """
    own, home = Path(__file__).parent / "__pycache__", os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    asked = os.environ.get("NUMBA_CACHE_DIR")
    places = [Path(asked)] if asked else [own, Path(home).expanduser() / "numba"]
    reasons = []
    for place in places:
        try:
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=place):
                return f"{place} can be written"
        except OSError as error:
            reasons.append(f"{place}: {error.strerror or error}")
    raise ValueError(f"kernels cannot be kept: {'; '.join(reasons)}; set NUMBA_CACHE_DIR to a folder that can be written")


def threads() -> list[Finding]:
    """Cores and thread settings, and whether two threads score faster than one. Never BAD: other work may keep cores busy."""
    count = cores()
    values = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    told = ", ".join(f"{name}={value}" for name, value in values.items() if value) or "no thread variable is set"
    wrong = [name for name, value in values.items() if value and not (value.isdigit() and 1 <= int(value) <= count)]
    if wrong:
        advice = f"; {wrong[0]} should be a number from 1 to {count}"
    else:
        advice = "" if count == 1 or values["OMP_NUM_THREADS"] else "; several processes at once are faster with OMP_NUM_THREADS=1"
    found = [Finding(name="threads", level="note" if advice else "ok", seen=f"{count} cores, {told}{advice}")]
    if importlib.util.find_spec("torch") is not None:
        found.append(outcome("torch", _torch))
    if count > 1:
        found.append(outcome("two threads", _two_threads))
    return found


def _torch() -> str:
    import torch

    return f"{torch.__version__} with {torch.get_num_threads()} threads, {'with' if torch.cuda.is_available() else 'without'} a GPU"


def _two_threads() -> str:
    from irlvla.score.states import reference_poses
    from irlvla.vehicle import simulated

    state = np.array(START_STATE)
    references = np.repeat(reference_poses(state, START_US, stored_plan("tracker")[None]), 2000, axis=0)
    seconds = {}
    for count in (1, 2):
        parts = np.array_split(references, count)
        with ThreadPoolExecutor(count) as pool:
            seconds[count] = min(_seconds(lambda: list(pool.map(lambda part: simulated(state, part), parts))) for _ in range(4))  # noqa: B023
    return f"{seconds[1] / seconds[2]:.1f} times as fast as one on the tracker (2.0 on idle cores)"


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def memory() -> Finding:
    """Memory that is free, cut to the container's share."""
    sizes = []
    info = Path("/proc/meminfo")
    if info.is_file():
        lines = dict(line.split(":", 1) for line in info.read_text().splitlines())
        sizes.append(int(lines.get("MemAvailable", lines["MemFree"]).split()[0]) * 1024)
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and limit.read_text().strip() != "max":
        sizes.append(int(limit.read_text()) - int(used.read_text()))
    if not sizes:
        return Finding(name="memory", level="note", seen="this system does not say how much is free")
    level: Level = "BAD" if min(sizes) < LEAST_MEMORY else "note" if min(sizes) < DEMO_MEMORY else "ok"
    return Finding(name="memory", level=level, seen=f"{min(sizes) / 2**30:.1f} GiB free; the demo needs up to {DEMO_MEMORY / 2**30:.0f}")


def disks(places: Mapping[str, Path]) -> list[Finding]:
    """Free space where the run and the data lie; BAD only where the run has too little."""
    found = []
    for name, place in places.items():
        there = next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.exists())
        free = shutil.disk_usage(there).free
        level: Level = "BAD" if name == "run" and free < DEMO_DISK else "ok"
        needs = f"; the demo needs {DEMO_DISK / 1e9:.0f}" if name == "run" else ""
        found.append(Finding(name=f"disk of {name}", level=level, seen=f"{free / 1e9:.0f} GB free at {there}{needs}"))
    return found
