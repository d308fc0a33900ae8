"""Score two plans of one scene exactly: python examples/score_plans.py (needs no torch, no download)"""

from pathlib import Path

import numpy as np

import irlvla
from irlvla.baselines import constant_velocity, stand_still

golden = Path(__file__).resolve().parents[1] / "tests" / "golden"
scene = irlvla.load_scenes(golden / "openscene", golden / "maps", "test", ["37d852864deef892"])[0]
poses = np.stack([constant_velocity(scene.past_states), stand_still(scene.past_states)])
scores = irlvla.score(scene, poses)
for name, total, progress in zip(("constant velocity", "standing still"), irlvla.epdms(scores), scores.ep, strict=True):
    print(f"{name}: EPDMS {100 * total:.1f}, progress {100 * progress:.1f}")
