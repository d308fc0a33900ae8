"""Draw a policy's plans into the pictures of some scenes: python examples/draw_plans.py runs/demo plans.png"""

import sys
from pathlib import Path

from irlvla.data.navsim import scenes_of_tokens
from irlvla.data.store import Store
from irlvla.displacement import proposed
from irlvla.rollout import load_policy
from irlvla.run_data import data_of
from irlvla.viewer.plan_pictures import contact_sheet, shown_scene

run, out = Path(sys.argv[1]), sys.argv[2]
data, store = data_of(run), Store(run / "stores" / "val")
found = proposed(load_policy(run / "ppo" / "checkpoint"), store, range(8))
scenes = scenes_of_tokens(data["logs"], data["maps"], data["val"], store.tokens[:8])
contact_sheet(
    [shown_scene(scene, {"ppo": found.plans[row]}, found.proposals[row], found.confidences[row]) for row, scene in enumerate(scenes)]
).save(out)
