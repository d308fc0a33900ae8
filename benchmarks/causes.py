"""Does a policy act for the right reasons: its cause masked, taken away or its colour changed, against as much masked elsewhere.

python benchmarks/causes.py --run runs/demo [--policy imitation --policy ppo] [--scenes 400] [--sheet build/causes.png] --out build/causes.json
                            [--page docs/causes.md]

Scenes of the run's test split of the embedded world: a vehicle ahead on the ego's way, a red or a green lamp of its traffic light, each
visible. Their pictures are masked or drawn again; ego status stays. An answer moves the right way if the plan gets longer without the
vehicle, without the red lamp, or with the red lamp turned green, and shorter with the green one turned red. Beside what the policy does
("plan") stands what its heads see ("sight": the probability that nothing is ahead) and, where it writes, its longitudinal meta action
("action", from stop to accelerate) and whether it says anything of the cause ("text"). Intervals resample logs. Last, how well each answer
tells red lamps from green ones with the pictures as they are, with lamps masked, and with all of them swapped: who reads lamps turns round.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tables import use_one_thread, write

use_one_thread()

import numpy as np  # noqa: E402  (after the thread settings)
import torch  # noqa: E402

from irlvla.cause_quality import THRESHOLDS, cause_quality, cause_table, told_apart  # noqa: E402
from irlvla.causes import CAUSE_NAMES, Case, CauseConfig, cases, shot  # noqa: E402
from irlvla.data.features import SensorConfig  # noqa: E402
from irlvla.data.store import Store  # noqa: E402
from irlvla.interventions import answers, plans, policy_answer, rig_of, shown_features, versions  # noqa: E402
from irlvla.learned import checkpoint_of  # noqa: E402
from irlvla.model.policy import Policy  # noqa: E402
from irlvla.rollout import chosen_device, load_policy  # noqa: E402
from irlvla.run import config_of  # noqa: E402
from irlvla.viewer.causes import Panel, contact_sheet  # noqa: E402

VERSIONS = ("original", "masked", "swapped")
SHEET_ROWS = 3
"""Scenes of each cause that are drawn."""


def sheet(path: Path, policy: Policy, store: Store, found: dict[str, list[Case]]) -> None:
    """Draws some cases of each cause with the plans of one policy."""
    sensors, rows = config_of(SensorConfig, store.settings["sensors"]), []
    for some in found.values():
        for case in some[:: max(1, len(some) // SHEET_ROWS)][:SHEET_ROWS]:
            rig = rig_of(store, case.index)
            made = versions(shot(store, case.index), case, rig, sensors, 1, np.random.default_rng([0, case.index]))
            pictures = [(name, images) for name, several in made.items() for images in several]
            poses = plans(policy, shown_features(store, [case.index] * len(pictures), [images for _, images in pictures]))
            panels = [
                Panel(
                    title=f"{case.cause} {name}, {case.distance:.0f} m ahead, {case.speed:.0f} m/s",
                    images=images,
                    before=poses[0],
                    after=after,
                )
                for (name, images), after in zip(pictures, poses, strict=True)
            ]
            rows.append((rig, panels))
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(rows).save(path)


def document(told: Mapping[str, Any]) -> str:
    """The tables of what a JSON file holds, as Markdown."""
    found = "; ".join(f"{name}: {one['scenes']} scenes of {one['logs']} logs" for name, one in told["found"].items())
    blocks = []
    for name, what in dict.fromkeys((row["policy"], row["answer"]) for row in told["rows"]):
        rows = [row for row in told["rows"] if (row["policy"], row["answer"]) == (name, what)]
        threshold = THRESHOLDS[what][0]
        blocks.append(f"## {name}: {what}\n\nMoved by more than {threshold}.\n\n```\n{cause_table(rows, threshold)}\n```\n")
    apart = []
    for row in told["lamps"]:
        shown = [
            f"{row[key]['auc']:.3f} ({row[key]['auc_ci95'][0]:.3f} .. {row[key]['auc_ci95'][1]:.3f})" for key in VERSIONS if row[key]["auc"]
        ]
        apart.append(f"| {row['policy']} | {row['answer']} | {' | '.join(shown)} |")
    return f"""# For the right reasons?

Written by `{told["command"]}` (with `--write-only` again from causes.json); do not edit. Commit `{told["commit"][:12]}`; {found}. Test scenes
of the embedded world; what is changed, what counts as the right way and what it is compared with says [method.md](method.md), "Right
reasons". Shares are per cent of scenes, intervals (95 %) resample logs.

## The bars

More scenes in which the plan or the meta action moves the right way than if as much is masked elsewhere: the difference of the shares, the
numbers of scenes behind it, and whether the interval of either is above 0.

| policy | cause | changed | scenes | plan | right, wrong (elsewhere) | meta action | right, wrong (elsewhere) | |
|---|---|---|---:|---:|---:|---:|---:|---|
{chr(10).join(bars(told["rows"]))}

{chr(10).join(blocks)}
## Red lamps told from green ones

AUC with the pictures as they are, with all lamps masked, and with all of them swapped: who reads lamps falls to 0.5, then below.

| policy | answer | as they are | masked | swapped |
|---|---|---:|---:|---:|
{chr(10).join(apart)}
"""


def bars(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of the table of bars."""
    chosen = {
        (row["policy"], row["cause"], row["intervention"], row["answer"]): row
        for row in rows
        if row["control"] == "elsewhere" and row["subset"] == "all" and row["threshold"] == THRESHOLDS[row["answer"]][0]
    }
    lines = []
    for name, cause, changed in dict.fromkeys(key[:3] for key in chosen):
        cells, met, scenes = [], False, 0
        for what in ("plan", "action"):
            row = chosen.get((name, cause, changed, what))
            if row is None:
                cells += ["", ""]
                continue
            low, high = (100 * end for end in row["gain_ci95"])
            count = row["counts"]
            met, scenes = met or low > 0, row["cases"]
            cells.append(f"{100 * row['gain']:+.1f} ({low:+.1f} .. {high:+.1f})")
            cells.append(f"{count['right']:.0f}, {count['wrong']:.0f} ({count['right_control']:.1f}, {count['wrong_control']:.1f})")
        lines.append(f"| {name} | {cause} | {changed} | {scenes} | {' | '.join(cells)} | {'met' if met else '**missed**'} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--policy", action="append", help="rows of the run's table, by default imitation")
    parser.add_argument("--store", type=Path, help="by default RUN/stores/test")
    parser.add_argument("--scenes", type=int, help="at most so many for each cause")
    parser.add_argument("--draws", type=int, default=4, help="places elsewhere that are masked")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", type=Path, help="write some cases with the first policy's plans here")
    parser.add_argument("--out", type=Path, default=Path("build/causes.json"))
    parser.add_argument("--page", type=Path, help="write the tables here, as Markdown")
    parser.add_argument("--write-only", action="store_true", help="only write the page, of what --out holds")
    options = parser.parse_args()
    if options.write_only:
        options.page.write_text(document(json.loads(options.out.read_text())))
        return
    if options.run is None:
        parser.error("--run is needed")
    torch.set_num_threads(1)
    store = Store(options.store or options.run / "stores" / "test")
    names = options.policy or ["imitation"]
    policies = {name: load_policy(checkpoint_of(options.run, name), chosen_device()) for name in names}
    config = CauseConfig()
    found = {
        name: some for name, some in cases(store, np.flatnonzero(store.annotated), config, options.scenes, options.seed).items() if some
    }
    for name in CAUSE_NAMES:
        some = found.get(name, [])
        print(f"{name}: {len(some)} scenes of {len({store.log_names[case.index] for case in some})} logs", flush=True)
    given: dict[tuple[str, str], dict] = {}
    for cause, some in found.items():
        asked = {name: policy_answer(policy, cause) for name, policy in policies.items()}
        for name, by_answer in answers(asked, store, some, options.draws, options.seed).items():
            for what, answer in by_answer.items():
                given.setdefault((name, what), {})[cause] = answer
    rows, lamps = [], []
    for (name, what), of_causes in given.items():
        told = cause_quality(of_causes, store.log_names, THRESHOLDS[what])
        rows += [{"policy": name, "answer": what} | row for row in told]
        table = cause_table(told, THRESHOLDS[what][0])
        print(f"\n{name}, {what}: moved by more than {THRESHOLDS[what][0]}, per cent of scenes\n{table}", flush=True)
        if {"red", "green"} <= set(of_causes):
            apart = told_apart(of_causes["red"], of_causes["green"], store.log_names)
            lamps.append({"policy": name, "answer": what, **apart})
            shown = [f"{version} {row['auc']:.3f}" for version, row in apart.items() if row["auc"] is not None]
            print(f"red lamps told from green ones (AUC): {', '.join(shown)}", flush=True)
    if options.sheet and found:
        sheet(options.sheet, policies[names[0]], store, found)
    counts = {
        name: {
            "scenes": len(some),
            "logs": len({store.log_names[case.index] for case in some}),
            "with_others": sum(bool(case.others) for case in some),
        }
        for name, some in found.items()
    }
    write(options.out, rows, lamps=lamps, scenes=len(store), found=counts, draws=options.draws, seed=options.seed)
    if options.page:
        options.page.write_text(document(json.loads(options.out.read_text())))


if __name__ == "__main__":
    main()
