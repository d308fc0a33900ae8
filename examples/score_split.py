"""Score a file of plans for a whole split: python examples/score_split.py

The same as a command: irlvla score --logs DIR --maps DIR --split test --trajectories plans.npz --out table.csv --store scenes
"""

import tempfile
from pathlib import Path

import numpy as np

from irlvla.baselines import constant_velocity
from irlvla.prepare import scene_store
from irlvla.score_table import score_split

golden = Path(__file__).resolve().parents[1] / "tests" / "golden"
roots = (golden / "openscene", golden / "maps")

if __name__ == "__main__":  # the work is spread over processes
    with tempfile.TemporaryDirectory() as folder:
        # Prepared once; a second call would only open it. Scenes come one at a time, so a split of any size fits into memory.
        store = scene_store(Path(folder, "scenes"), *roots, "test")
        plans = {}
        for index, token in enumerate(store.tokens):
            plans[f"{token}_poses"] = constant_velocity(store.prepared(index).past_states)[None]
        np.savez(Path(folder, "plans.npz"), **plans)

        found = score_split(*roots, "test", Path(folder, "plans.npz"), Path(folder, "table.csv"), store=Path(folder, "scenes"))
        low, high = found["columns"]["epdms"]["ci95"]
        print(f"{found['scenes']} scenes, {found['definition']} {found['columns']['epdms']['mean']:.1f} [{low:.1f}, {high:.1f}]")
        print(Path(folder, "table.csv").read_text().splitlines()[0])
        for token, reason in found["failed"].items():
            print(f"failed: {token}: {reason}")
