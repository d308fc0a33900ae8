"""Label a vocabulary of trajectories for each scene, as selectors are trained on: python examples/label_vocabulary.py [OUT.npz]"""

import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import irlvla
from irlvla.prepare import scene_store
from irlvla.types import SUB_SCORE_NAMES

golden = Path(__file__).resolve().parents[1] / "tests" / "golden"

# The vocabulary: 16 speeds x 16 curvatures, driven for 4 s. Real ones are clustered from human drives.
speed, curvature = (values.ravel() for values in np.meshgrid(np.linspace(0, 15, 16), np.linspace(-0.1, 0.1, 16)))
way = speed[:, None] * np.arange(1, 9) * 0.5
heading = way * curvature[:, None]
middle = heading / 2  # an arc's chord points half as far to the side as the arc has turned
chord = way * np.sinc(middle / np.pi)
vocabulary = np.stack([chord * np.cos(middle), chord * np.sin(middle), heading], axis=2)

with tempfile.TemporaryDirectory() as folder:
    store = scene_store(Path(folder), golden / "openscene", golden / "maps", "test")

    def labels(index):
        """Nine sub-scores and EPDMS of all trajectories, (256, 10)."""
        scores = irlvla.score(store.prepared(index), vocabulary)
        return np.stack([getattr(scores, name) for name in SUB_SCORE_NAMES] + [irlvla.epdms(scores)], axis=1).astype(np.float32)

    # Threads suffice: the kernels run outside Python's lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = dict(zip(store.tokens, pool.map(labels, range(len(store))), strict=True))

out = Path(sys.argv[1]) if len(sys.argv) > 1 else None
if out is not None:
    np.savez_compressed(out, vocabulary=vocabulary, columns=np.array([*SUB_SCORE_NAMES, "epdms"]), definition=np.array("epdms"), **found)
best = np.stack([values[:, -1] for values in found.values()]).max(axis=1)
print(f"{len(found)} scenes x {len(vocabulary)} trajectories, the best of each scene has epdms {100 * best.mean():.1f} on average")
