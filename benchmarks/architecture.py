"""What each part of the architecture is worth: imitation with parts added one after the other, with other planners, with other encoders.

python benchmarks/architecture.py                      # all that is missing below runs/architecture, then docs/architecture.md
python benchmarks/architecture.py --seeds 31 --rows imitation_main imitation_birds_eye
python benchmarks/architecture.py --pretrained         # the pretrained encoders too; needs the extra `weights`
python benchmarks/architecture.py --write-only         # only docs/architecture.md and .json, from docs/architecture/

Stages and what becomes of an interrupted one are those of benchmarks/proof.py.
"""

import fcntl
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]  # this checkout, whichever is installed

from proof import Stage, carry_out, evaluated, label, trained  # noqa: E402
from proof_pages import number, pairs_table, rows_table, table, together  # noqa: E402
from proof_record import record, write_compact  # noqa: E402

from irlvla.files import json_mapping  # noqa: E402
from irlvla.recipes import Recipe, recipe_of  # noqa: E402
from irlvla.variants import IMITATION_VARIANTS  # noqa: E402

LADDER = ("no_camera", "imitation_pictures", "imitation_birds_eye", "imitation_elements", "imitation_language")
"""Each has one part more than the one before it: ego status, pictures, bird's-eye view, detection and map tokens, semantic tokens."""
PRETRAINED = ("imitation_lite0", "imitation_dinov2")
CONTROLS = ("human", "constant_velocity", "ego_mlp")
TELLING = ("imitation_elements", "imitation_language", "imitation_meta", "imitation_silent", "imitation")
"""Rows whose policies have parts that tell what is there."""
DETECTION = ("ap", "ap_vehicle", "ap_pedestrian", "ap_bicycle", "ap_0_15", "ap_15_30", "ap_30_56", "velocity_error")
MAP = ("ap", "ap_centre", "ap_boundary", "ap_crossing", "ap_stop")


def main(
    seeds: tuple[int, ...] = (31, 32, 33),
    runs: Path = ROOT / "runs" / "architecture",
    recipe: str = "vla",
    test_logs: int | None = 600,
    pretrained: bool = False,
    rows: tuple[str, ...] = (),
    write_only: bool = False,
    docs: Path = ROOT / "docs" / "architecture",
) -> None:
    """Carries out what is missing, two stages at a time, and writes the tables of all that was evaluated so far.

    Args:
        seeds: one world and one run each.
        runs: one folder a seed below it.
        recipe: a key of RECIPES, of which `ablated` is changed.
        test_logs: of each world, half of them in unseen towns; None for the world's default.
        pretrained: train with pretrained encoders too.
        rows: only these of IMITATION_VARIANTS (default: all).
        write_only: only write the tables of what `docs` holds.
        docs: gets rows and scores; architecture.md and architecture.json are written beside it.
    """
    if write_only:
        write_page(docs)
        return
    unknown = [name for name in rows if name not in IMITATION_VARIANTS]
    if unknown:
        raise SystemExit(f"no rows of IMITATION_VARIANTS: {', '.join(unknown)}; `imitation` and the controls are always there")
    names = rows or tuple(name for name in IMITATION_VARIANTS if pretrained or name not in PRETRAINED)
    runs, recipes = runs.resolve(), {seed: recipe_of(recipe, seed) for seed in seeds}
    stages = [stage for seed in seeds for stage in stages_of_seed(runs / str(seed), recipes[seed], test_logs, names)]
    runs.mkdir(parents=True, exist_ok=True)
    with (runs / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SystemExit(f"another process works in {runs}") from error
        options = ["--recipe", recipe, *([] if test_logs is None else ["--test-logs", str(test_logs)])]
        failed = carry_out(stages, {runs / str(seed): ["--seed", str(seed), *options] for seed in seeds})
    for seed in seeds:
        record(runs / str(seed), seed, docs)
        for path in sorted((runs / str(seed) / "perception").glob("*.json")):
            write_compact(docs / "perception" / f"{seed}-{path.name}", json_mapping(path))
    if any(docs.glob("*.npz")):
        write_page(docs)
    if failed:
        raise SystemExit("not done: " + ", ".join(label(stage) for stage in failed))


def stages_of_seed(run: Path, recipe: Recipe, test_logs: int | None, names: Sequence[str]) -> list[Stage]:
    """All stages of one seed, each after what it needs."""
    sensors = {"cameras": list(recipe.sensors.cameras), "height": recipe.sensors.height, "width": recipe.sensors.width}
    telling = [name for name in (*names, "imitation") if name in TELLING]
    return [
        Stage(run=run, name="world", settings={"seed": recipe.seed, "logs": recipe.logs, "test_logs": test_logs}),
        Stage(run=run, name="prepare", needs=((run, "world"),), settings=sensors),
        trained(run, recipe, "no_camera", "prepare"),
        trained(run, recipe, "ego_mlp", "prepare"),
        *(trained(run, recipe, name, "prepare") for name in names),
        trained(run, recipe, "vision", "prepare"),
        trained(run, recipe, "imitation", "vision"),
        evaluated(run, "evaluate:architecture", (*CONTROLS, "no_camera", *names, "imitation"), "no_camera", "ego_mlp", *names, "imitation"),
        Stage(run=run, name="perceive", needs=tuple((run, name) for name in telling), settings={"rows": telling}),
    ]


def pairs(rows: Sequence[str]) -> list[tuple[str, str]]:
    """Which rows are compared: each step of the ladder with the one before it, everything else with the whole or the default."""
    found = [(after, before) for before, after in zip(LADDER, LADDER[1:])] + [(LADDER[-1], "imitation_birds_eye")]
    found += [(name, "imitation_language") for name in ("imitation_meta", "imitation_silent")]
    found += [("imitation", "imitation_main"), ("imitation_birds_eye", "imitation_main"), ("human", "imitation_main")]
    others = [name for name in IMITATION_VARIANTS if name not in (*LADDER, "imitation_meta", "imitation_silent", "imitation_main")]
    found += [(name, "imitation_birds_eye") for name in others]
    return [pair for pair in found if set(pair) <= set(rows)]


def write_page(docs: Path) -> None:
    """Writes architecture.md and architecture.json beside the folder that `main` recorded.

    Raises:
        SystemExit: nothing was recorded.
    """
    seeds = sorted(int(path.stem) for path in docs.glob("*.npz"))
    if not seeds:
        raise SystemExit(f"nothing is recorded in {docs}")
    rows = (*CONTROLS, *LADDER, "imitation", *(name for name in IMITATION_VARIANTS if name not in LADDER))
    found = together(docs, seeds, rows, pairs)
    found["bars"] = bars(found)
    found["command"] = "benchmarks/architecture.py"
    found["perception"] = perception(docs)
    write_compact(docs.with_suffix(".json"), found)
    docs.with_suffix(".md").write_text(document(found))


def bars(found: Mapping[str, Any]) -> list[list[str]]:
    """Rows of the table of what was asked for: bar, value, interval, met or missed."""
    means = {row["policy"]: row["epdms"] for row in found["rows"]}
    gains = {(pair["policy"], pair["against"]): pair for pair in found["pairs"] if pair["metric"] == "epdms"}
    lines = []
    best = gains.get(("imitation", "imitation_main"))
    if best is not None:
        least = min(3.0, 0.25 * (means["human"] - means["imitation_main"]))
        met = best["difference"] >= least and best["ci95"][0] > 0
        bar = f"imitation - imitation_main >= {least:.1f} (3, or a quarter of the gap to human), interval excluding 0"
        lines.append([bar, number(best["difference"]), f"{best['ci95'][0]:.1f} .. {best['ci95'][1]:.1f}", said(met)])
    for after, before in zip(LADDER, LADDER[1:]):
        if (before, after) in gains:
            gain = gains[before, after]
            low, high = gain["ci95"]
            verdict = "helps" if low > 0 else "hurts" if high < 0 else "no difference shown"
            lines.append([f"{before} - {after}", number(gain["difference"]), f"{low:.1f} .. {high:.1f}", verdict])
    seconds = [one[name] for one in found["wall_seconds"].values() for name in IMITATION_VARIANTS if name in one]
    if seconds:
        lines.append(
            [
                "longest run of an ablation, by the clock and beside other stages: at most 240 s",
                f"{max(seconds):.0f} s",
                "",
                said(max(seconds) <= 240),
            ]
        )
    return lines


def said(met: bool) -> str:
    """Met or missed, in Markdown."""
    return "met" if met else "**missed**"


def perception(docs: Path) -> dict[str, Any]:
    """Reports on perception by row: every number of detection, map and facts as the mean over seeds, those without a value left out."""
    reports: dict[str, list[Mapping[str, Any]]] = {}
    for path in sorted((docs / "perception").glob("*.json")):
        report = json_mapping(path)
        reports.setdefault(report["policy"], []).append(report)
    found: dict[str, Any] = {}
    for name, some in reports.items():
        found[name] = {"seeds": len(some), "scenes": [one["scenes"] for one in some]}
        for part in ("detection", "map"):
            keys = some[0].get(part, {})
            values = {key: [one[part][key]["value"] for one in some if one[part][key]["value"] is not None] for key in keys}
            found[name][part] = {key: float(np.mean(some)) for key, some in values.items() if some}
        if "facts" in some[0]:
            found[name]["facts"] = facts([one["facts"] for one in some])
    return found


def facts(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Precision and recall of each statement over seeds: counts summed, shares averaged."""
    found: dict[str, Any] = {name: float(np.mean([one[name]["value"] for one in reports])) for name in ("malformed", "exact")}
    lines = []
    for same in zip(*(one["statements"] for one in reports), strict=True):
        line = {"name": same[0]["name"], "stated": sum(one["stated"] for one in same), "true": sum(one["true"] for one in same)}
        for measure in ("precision", "recall"):
            values = [one[measure]["value"] for one in same if one[measure] is not None and one[measure]["value"] is not None]
            line[measure] = float(np.mean(values)) if values else None
        lines.append(line)
    return found | {"statements": lines}


def document(found: Mapping[str, Any]) -> str:
    """docs/architecture.md."""
    count = len(found["seeds"])
    commits = ", ".join(f"`{commit[:12]}`" for commit in found["commits"])
    return f"""# What each part is worth

Written by `{found["command"]}` (with `--write-only` again from `docs/architecture/`); do not edit. Commits {commits}. Seeds
{found["seeds"]}, {found["scenes"]} test scenes of {found["logs"]} logs, half of them in towns never seen; definition `{found["definition"]}`.
Imitation alone, no reward world model, no PPO. Intervals (95 %) are paired; they resample logs in each seed, then seeds. What the rows are
says `IMITATION_VARIANTS` in [variants.py](../irlvla/variants.py).

## The bars

{table(["", "value", "95 %", ""], found["bars"])}

## Rows

`imitation` is the recipe's own; the others are those of its `ablated`, which may be shorter. `imitation_main` is that of recipe `default`.

{rows_table(found["rows"], count)}

## Differences

{pairs_table(found["pairs"])}

## What is seen

Average precision (0-100) on test, mean over seeds: objects by centre distance (nuScenes), by class and by distance from the ego; velocity
error in m/s; lines of the map by chamfer distance (MapTR).

{perception_table(found["perception"], "detection", DETECTION)}

{perception_table(found["perception"], "map", MAP)}

## What is said

Precision and recall of every statement (0-100).

{chr(10).join(facts_table(name, one["facts"]) for name, one in found["perception"].items() if "facts" in one) or "Nothing was said."}

## Wall seconds

Whole process, one thread, beside another stage; those that were interrupted are left out.

{wall_seconds(found)}
"""


def perception_table(reports: Mapping[str, Any], part: str, names: Sequence[str]) -> str:
    """Rows of detection or map as Markdown."""
    lines = [[name, *(number(one[part].get(key)) for key in names)] for name, one in reports.items() if one.get(part)]
    return table([part, *names], lines) if lines else "Nothing was found."


def facts_table(name: str, report: Mapping[str, Any]) -> str:
    """What one policy stated, as Markdown."""
    lines = []
    for one in report["statements"]:
        shares = (None if one[measure] is None else 100 * one[measure] for measure in ("precision", "recall"))
        lines.append([one["name"], str(one["true"]), str(one["stated"]), *(number(share) for share in shares)])
    head = f"`{name}`: {100 * report['malformed']:.1f} % malformed, {100 * report['exact']:.1f} % right in every fact.\n\n"
    return head + table(["statement", "true", "stated", "precision", "recall"], lines) + "\n"


def wall_seconds(found: Mapping[str, Any]) -> str:
    """Seconds of training as Markdown."""
    names = [name for name in (*LADDER, *IMITATION_VARIANTS) if any(name in one for one in found["wall_seconds"].values())]
    names = list(dict.fromkeys(names))
    return table(
        ["seed", *names], [[str(seed), *(number(one.get(name), 0) for name in names)] for seed, one in found["wall_seconds"].items()]
    )


if __name__ == "__main__":
    tyro.cli(main)
