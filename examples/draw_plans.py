"""Draw a policy's plans into the pictures of some scenes: python examples/draw_plans.py runs/demo plans.png [ppo]"""

import sys
from pathlib import Path

from irlvla.data.navsim import scenes_of_tokens
from irlvla.data.store import Store
from irlvla.displacement import proposed
from irlvla.observed import observed
from irlvla.rollout import load_policy
from irlvla.run_data import data_of
from irlvla.viewer.plan_pictures import contact_sheet, shown_scene

run, out, name = Path(sys.argv[1]), sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else "imitation"
data, store, policy = data_of(run), Store(run / "stores" / "val"), load_policy(run / name / "checkpoint")
rows = range(0, len(store), len(store) // 8 or 1)[:8]
found, seen = proposed(policy, store, rows), observed(policy, store, rows)
scenes = scenes_of_tokens(data["logs"], data["maps"], data["val"], [store.tokens[row] for row in rows])
contact_sheet(
    [
        shown_scene(scene, {name: found.plans[place]}, found.proposals[place], found.confidences[place], seen[place])
        for place, scene in enumerate(scenes)
    ]
).save(out)
print(out)
