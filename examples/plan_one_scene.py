"""Load a checkpoint and plan one scene: python examples/plan_one_scene.py runs/demo"""

import sys
from pathlib import Path

from irlvla.data.store import Store
from irlvla.rollout import load_policy, plans

run = Path(sys.argv[1])
store = Store(run / "stores" / "test")
policy = load_policy(run / "ppo" / "checkpoint")
poses = plans(policy, store, [0])[0]
print(store.tokens[0], poses.round(2).tolist())
