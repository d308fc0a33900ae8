"""How fast scenes are prepared and plans are scored: prints a table and writes JSON.

`python benchmarks/scorer.py [--set tests/golden] [--out build/scorer.json] [--seconds 1.0]`
"""

import argparse
import json
import os
import platform
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np  # noqa: E402  (after the thread settings)

from irlvla.data.navsim import scenes_of_tokens  # noqa: E402
from irlvla.score.epdms import sub_scores  # noqa: E402
from irlvla.score.prepared import prepared  # noqa: E402


def machine():
    model = ""
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else ""
    return {"cpu": model or platform.processor(), "cores": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()[0]}


def commit():
    outcome = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return outcome.stdout.strip() or "unknown"


def rate(work, items, seconds):
    """Items a second of the fastest of the repetitions that fit into the time."""
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return items / best


def repeated(plans, count):
    return np.resize(plans, (count, *plans.shape[1:]))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", type=Path, default=Path("tests/golden"))
    parser.add_argument("--out", type=Path, default=Path("build/scorer.json"))
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    plans = np.load(options.set / "trajectories.npz")
    tokens = [name.removesuffix("_poses") for name in plans.files if name.endswith("_poses") and not name.endswith("_prev_poses")]
    start = time.perf_counter()
    scenes = scenes_of_tokens(options.set / "openscene", options.set / "maps", "test", tokens)
    read = time.perf_counter() - start
    start = time.perf_counter()
    ready = [prepared(scene) for scene in scenes]
    sub_scores(ready[0], plans[f"{tokens[0]}_poses"], plans[f"{tokens[0]}_poses"])
    warm_up = time.perf_counter() - start
    rows = []

    def row(what, value, unit):
        rows.append({"what": what, "value": round(value, 3), "unit": unit})
        print(f"{what:60} {value:12.1f} {unit}", flush=True)

    print(json.dumps(machine()))
    row(f"read {len(tokens)} scenes with their maps", 1e3 * read, "ms")
    row("first preparation and scoring (compiles if the cache is empty)", warm_up, "s")
    row("prepare a scene", 1e3 / rate(lambda: [prepared(scene) for scene in scenes], len(scenes), options.seconds), "ms")
    objects = [scene.object_valid.shape[1] for scene in ready]
    for name, place in (("fewest", int(np.argmin(objects))), ("most", int(np.argmax(objects)))):
        row(f"objects in the scene with {name}", objects[place], "")
        for count in (1, 20, 64, 256):
            poses = repeated(plans[f"{tokens[place]}_poses"], count)
            for label, previous in (("", None), (" with EC", poses)):
                speed = rate(
                    lambda place=place, poses=poses, previous=previous: sub_scores(ready[place], poses, previous), count, options.seconds
                )
                row(f"{count} proposals a scene{label}, {name} objects", speed, "trajectories/s")
    poses = [repeated(plans[f"{token}_poses"], 64) for token in tokens]

    def all_scenes(pool):
        list(pool.map(lambda pair: sub_scores(*pair), zip(ready, poses, strict=True)))

    for threads in (1, 2):
        with ThreadPoolExecutor(threads) as pool:
            speed = rate(lambda pool=pool: all_scenes(pool), 64 * len(ready), options.seconds)
        row(f"64 proposals a scene, all scenes, {threads} thread{'s' * (threads > 1)}", speed, "trajectories/s")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(
        json.dumps({"commit": commit(), "machine": machine(), "threads": 1, "set": str(options.set), "rows": rows}, indent=1)
    )
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
