"""How long `irlvla score` takes for whole splits, one plan a scene, on 2 processes, from raw logs and from a store, and in how much memory.

python benchmarks/split.py [--world build/split/world] [--scenes 1000 3000 10000]

The world is made if it is not there (1,900 logs without pictures give about 10,600 scenes). Plans go on at constant velocity
with some noise. Memory shall not grow with the number of scenes.
"""

import argparse
import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

from tables import row, seconds, use_one_thread, watched, write

use_one_thread()

import numpy as np  # noqa: E402  (after the thread settings)

from irlvla.data.navsim import log_frames, log_paths, scene_filter, windows  # noqa: E402

LOGS = 1900
FULL, FULL_SECONDS_LOGS, FULL_SECONDS_STORE = 10_000, 300.0, 60.0
"""A split of so many scenes shall take at most so long, s."""
GROWTH = 1.25
"""Memory with the largest split shall be at most this many times that with the smallest."""
IRLVLA = [sys.executable, "-m", "irlvla.cli"]


def make_world(folder: Path, logs: int) -> float | None:
    """Makes the world unless it is there; wall seconds, None if it was."""
    if (folder / "world.json").exists():
        return None
    command = [*IRLVLA, "world", str(folder), "--cameras", "none", "--logs", str(logs)]
    return seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))


def all_scenes(world: Path) -> dict[str, list[str]]:
    """Log -> scene tokens, of all splits, logs sorted by name."""
    paths, found = log_paths(world / "openscene"), {}
    for path in sorted((world / "splits").glob("*.yaml")):
        chosen = scene_filter(path)
        for name in chosen.log_names or paths:
            frames = log_frames(paths[name])
            tokens = [str(frames[place]["token"]) for place in windows(frames, chosen)]
            found[name] = list(dict.fromkeys([*found.get(name, []), *tokens]))
    return dict(sorted(found.items()))


def write_inputs(world: Path, scenes: dict[str, list[str]], count: int, folder: Path) -> int:
    """Writes a filter of `count` scenes, of logs drawn from all towns, and a plan for each; how many there are."""
    chosen: dict[str, list[str]] = {}
    for place in np.random.default_rng(1).permutation(len(scenes)):
        name, tokens = list(scenes.items())[place]
        left = count - sum(map(len, chosen.values()))
        if left > 0 and tokens:
            chosen[name] = tokens[:left]
    paths, rng, plans = log_paths(world / "openscene"), np.random.default_rng(0), {}
    times = 0.5 * np.arange(1, 9)
    for name, tokens in chosen.items():
        frames = {str(frame["token"]): frame for frame in log_frames(paths[name])}
        for token in tokens:
            speed = float(frames[token]["ego_dynamic_state"][0]) * rng.uniform(0.8, 1.1)
            turn = rng.normal(0.0, 0.02)
            poses = np.column_stack([speed * times, 0.5 * turn * speed * times**2, turn * times])
            plans[f"{token}_poses"] = poses[None]
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "plans.npz", **plans)
    values = {"num_history_frames": 4, "num_future_frames": 10, "frame_interval": 1, "has_route": True, "max_scenes": None}
    values |= {"log_names": list(chosen), "tokens": [token for tokens in chosen.values() for token in tokens]}
    (folder / "scenes.yaml").write_text(json.dumps(values))  # which is yaml
    return len(plans)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=Path, default=Path("build/split/world"))
    parser.add_argument("--logs", type=int, default=LOGS, help="of the world, if it has to be made")
    parser.add_argument("--scenes", type=int, nargs="+", default=[1000, 3000, FULL])
    parser.add_argument("--out", type=Path, default=Path("build/split.json"))
    options = parser.parse_args()
    rows: list[dict] = []
    spent = make_world(options.world, options.logs)
    if spent is not None:
        row(rows, f"make a world of {options.logs} logs without pictures", spent, "s")
    scenes = all_scenes(options.world)
    there = sum(map(len, scenes.values()))
    print(f"{there} scenes of {len(scenes)} logs in {options.world}")
    if there < max(options.scenes):
        raise SystemExit(f"{options.world} has {there} scenes, {max(options.scenes)} are asked for: make a world with more logs")
    can_store = "--store" in subprocess.run([*IRLVLA, "score", "--help"], capture_output=True, text=True, check=True).stdout
    memories: dict[str, list[float]] = {}
    roots = ["--logs", str(options.world / "openscene"), "--maps", str(options.world / "maps")]
    for count in (min(10, there), *sorted(options.scenes)):
        folder = options.out.parent / "split" / str(count)
        shutil.rmtree(folder, ignore_errors=True)
        write_inputs(options.world, scenes, count, folder)
        score = [*IRLVLA, "score", "--split", str(folder / "scenes.yaml"), "--trajectories", str(folder / "plans.npz")]
        if count not in options.scenes:  # the first call may compile
            watched([*score, *roots, "--out", str(folder / "scores.csv")])
            shutil.rmtree(folder)
            continue
        kinds = [("raw logs", roots)]
        if can_store:
            kinds += [("logs while the store is made", [*roots, "--store", str(folder / "store")])]
            kinds += [("the store", ["--store", str(folder / "store")])]
        for number, (source, arguments) in enumerate(kinds):
            table = folder / f"{number}" / "scores.csv"
            wall, resident, shared, _ = watched([*score, *arguments, "--out", str(table)])
            with table.open() as file:
                written = sum(1 for _ in csv.DictReader(line for line in file if not line.startswith("#")))
            if written != count:
                raise SystemExit(f"{table} has {written} rows, {count} plans were given")
            bar = {"raw logs": FULL_SECONDS_LOGS, "the store": FULL_SECONDS_STORE}.get(source) if count >= FULL else None
            row(rows, f"score {count} scenes from {source}", wall, "s", bar=bar)
            row(rows, f"  its memory ({count} scenes from {source}), shared pages counted once", shared, "MB")
            row(rows, f"  its memory ({count} scenes from {source}), sum over processes", resident, "MB")
            memories.setdefault(source, []).append(resident)
        shutil.rmtree(folder)
    for source, sizes in memories.items():
        if len(sizes) > 1:
            what = f"memory of all processes with {max(options.scenes)} scenes over that with {min(options.scenes)}, from {source}"
            row(rows, what, sizes[-1] / sizes[0], "times", bar=GROWTH)
    if not can_store:
        print("this version of `irlvla score` has no --store: not measured")
    world = json.loads((options.world / "world.json").read_text()) if (options.world / "world.json").exists() else {}
    write(
        options.out, rows, world=str(options.world), scenes=there, logs=len(scenes), seed=world.get("config", {}).get("seed"), processes=2
    )


if __name__ == "__main__":
    main()
