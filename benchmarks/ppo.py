"""Where a PPO iteration's time goes, and how the reward world model's reward compares with the exact scorer's on the same plans.

python benchmarks/ppo.py --run runs/demo [--scenes 48] [--group 16] [--repeats 5] [--out build/ppo.json]

The run needs its imitation and reward checkpoints and its prepared stores; scene tokens are read from its caches (made if they are
missing), nothing is trained or kept.
"""

import argparse
from pathlib import Path

from tables import row, seconds, use_one_thread, write

use_one_thread()

import numpy as np  # noqa: E402  (after the thread settings)
import torch  # noqa: E402

from irlvla.acceptance import enrichment, rank_correlation  # noqa: E402
from irlvla.data.store import Store  # noqa: E402
from irlvla.files import json_mapping  # noqa: E402
from irlvla.learned import checkpoint_of  # noqa: E402
from irlvla.rollout import (  # noqa: E402
    Chain,
    chain_log_probs,
    chosen_device,
    chosen_scenes,
    load_policy,
    load_reward_world_model,
    sampled_chains,
    two_frame_comfort,
)
from irlvla.scene_cache import remembered, stage_caches  # noqa: E402
from irlvla.score.epdms import epdms  # noqa: E402
from irlvla.train.loop import batch_rows, step_generator  # noqa: E402
from irlvla.train.ppo import PpoConfig, iteration, learner_of  # noqa: E402
from irlvla.train.rewards import Scenes, reward_function  # noqa: E402

MOST_SECONDS = 150.0
"""A PPO run from cached tokens shall take no longer."""


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a run's folder")
    parser.add_argument("--scenes", type=int, default=PpoConfig().scenes)
    parser.add_argument("--group", type=int, default=PpoConfig().group)
    parser.add_argument("--repeats", type=int, default=5, help="iterations; the median counts")
    parser.add_argument("--out", type=Path, default=Path("build/ppo.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = PpoConfig(scenes=options.scenes, group=options.group)
    names = json_mapping(options.run / "data.json")
    stores = [Store(options.run / "stores" / Path(names[part]).stem) for part in ("split", "val")]
    device = chosen_device()
    start, checkpoint = load_policy(checkpoint_of(options.run, "imitation"), device), checkpoint_of(options.run, "reward")
    caches = stage_caches(start, *stores, options.run / "stores" / "tokens")
    scenes = Scenes(stores[0], caches.train, caches.train_before)
    half = chosen_scenes("unjudged", checkpoint, stores[0])
    judges = {
        kind: reward_function(kind, checkpoint, scenes, device, config.pessimism, config.temperature)
        for kind in ("model", "exact", "nearest")
    }
    learner = learner_of(config, start, scenes)
    spent: dict[str, list[float]] = {}
    scores: dict[str, list[np.ndarray]] = {}

    def timed(name: str, work):
        answer = []
        spent.setdefault(name, []).append(seconds(lambda: answer.append(work())))
        return answer[0]

    for step in range(options.repeats + 1):
        rows = half[batch_rows(len(half), config.scenes, step, config.seed)]
        generator = step_generator(config.seed, step)
        with torch.no_grad():
            memory = timed("read tokens", lambda rows=rows: remembered(learner.policy, scenes.now, rows))
            chain = timed(
                "rollout",
                lambda memory=memory, generator=generator: sampled_chains(
                    learner.policy, memory, learner.exploration, config.group, generator
                ),
            )
            clone = timed(
                "chains to clone",
                lambda rows=rows, generator=generator: sampled_chains(
                    learner.frozen, remembered(learner.frozen, scenes.now, rows), learner.exploration, config.clone_samples, generator
                ),
            )
            both = Chain(torch.cat([chain.anchor, clone.anchor], dim=1), torch.cat([chain.states, clone.states], dim=1))
            timed(
                "log-probabilities of all chains",
                lambda memory=memory, both=both: chain_log_probs(learner.policy, memory, both, learner.exploration),
            )
            poses = learner.policy.in_metres(chain.states[:, :, -1])
            before = timed("plans of 0.5 s earlier", lambda rows=rows: learner.policy.plan(remembered(learner.policy, scenes.before, rows)))
        earlier, metres = before.cpu().numpy().astype(np.float64), poses.cpu().numpy().astype(np.float64)
        timed("EC of all plans", lambda rows=rows, a=metres, b=earlier: two_frame_comfort(scenes.now, scenes.before, rows, a, b))
        for kind, judge in judges.items():
            found = timed(f"reward {kind}", lambda judge=judge, rows=rows, poses=poses: judge(scenes, rows, poses, None))
            scores.setdefault(kind, []).append(epdms(found).cpu().numpy())
        for kind in ("model", "exact"):
            state = step_generator(config.seed, step)
            timed(f"iteration {kind}", lambda kind=kind, rows=rows, state=state: iteration(learner, judges[kind], rows, state))
    median = {name: float(np.median(values[1:])) for name, values in spent.items()}  # the first one compiles and warms up
    count = config.scenes * config.group
    table: list[dict] = []
    print(f"{config.scenes} scenes, groups of {config.group}: {count} trajectories an iteration, on {device}")
    parts = ("read tokens", "rollout", "chains to clone", "log-probabilities of all chains", "plans of 0.5 s earlier", "EC of all plans")
    for name in parts:
        row(table, name, 1e3 * median[name], "ms")
    for kind in judges:
        row(table, f"reward {kind}, EC left out", 1e3 * median[f"reward {kind}"], "ms")
        row(table, f"  {kind} judges", count / median[f"reward {kind}"], "trajectories/s")
    for kind in ("model", "exact"):
        whole, own = median[f"iteration {kind}"], median[f"reward {kind}"]
        rest = whole - own - sum(median[name] for name in parts)
        row(table, f"whole iteration, reward {kind}", 1e3 * whole, "ms")
        row(table, f"  of it the critic's and {config.passes} updates of the policy (what is left)", 1e3 * rest, "ms")
        row(table, f"  trajectories learned from, reward {kind}", count / whole, "trajectories/s")
        row(table, f"  {config.iterations} iterations, reward {kind}, projected", config.iterations * whole, "s", MOST_SECONDS)
    true = np.concatenate(scores["exact"]).astype(np.float64)
    for kind in ("model", "nearest"):
        said = np.concatenate(scores[kind]).astype(np.float64)
        agreement = rank_correlation(true, said)
        row(table, f"{kind} against exact: Spearman within a scene", 0.0 if agreement is None else agreement, "")
        row(table, f"  {kind}: mean absolute difference of EPDMS", 100 * np.abs(said - true).mean(), "points")
        row(table, f"  {kind}: predicted - true EPDMS", 100 * (said - true).mean(), "points")
        row(table, f"  {kind}: its choice over the group's mean", 100 * enrichment(true, said).mean(), "points")
    row(table, "  exact: its choice over the group's mean", 100 * enrichment(true, true).mean(), "points")
    size = sum(value.numel() for value in load_reward_world_model(checkpoint, "cpu").parameters())
    row(table, "parameters of the reward world model", size / 1e3, "thousand")
    write(options.out, table, run=str(options.run), scenes=config.scenes, group=config.group, repeats=options.repeats, device=str(device))


if __name__ == "__main__":
    main()
