"""Score plans of one scene exactly: python examples/score_plans.py (needs no torch, no download)"""

from pathlib import Path

import numpy as np

import irlvla
from irlvla.baselines import constant_velocity, stand_still

golden = Path(__file__).resolve().parents[1] / "tests" / "golden"
[scene] = irlvla.load_scenes(golden / "openscene", golden / "maps", "test", ["37d852864deef892"])

# A plan is 8 poses (x forward, y left, heading) at 0.5, 1.0 .. 4.0 s in the ego frame, or 40 at 10 Hz.
plans = {
    "constant velocity": constant_velocity(scene.past_states),
    "standing still": stand_still(scene.past_states),
    "the human": scene.human_poses,
}
poses = np.stack(list(plans.values()))

for definition, human_filter in (("epdms", True), ("epdms_unfiltered", False)):
    scores = irlvla.score(scene, poses, human_filter=human_filter)
    for row, (name, total) in enumerate(zip(plans, irlvla.epdms(scores), strict=True)):
        parts = ", ".join(f"{part} {getattr(scores, part)[row]:.2f}" for part in ("nc", "dac", "ddc", "tlc", "ep", "ttc", "lk", "hc"))
        print(f"{name}: {definition} {100 * total:.1f} ({parts})")
