"""One evaluation from end to end: all rows planned and scored, results.json, per-scene CSVs, the page, the printed table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from irlvla.acceptance import acceptance
from irlvla.data.store import Store
from irlvla.definitions import EPDMS
from irlvla.evaluate import baseline_plans, privileged_plans, rows_and_pairs, scene_tables, subsets, write_table
from irlvla.files import json_mapping
from irlvla.learned import judged, learned_plans, trained
from irlvla.run import provenance, write_json
from irlvla.viewer.report import write_report

SHOWN = ("nc", "dac", "ddc", "tlc", "ep", "ttc", "lk", "hc", "ec", "ade", "fde")


def assess(folder: Path, store: Store, split: Path, seed: int, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Evaluates a run on a split and leaves results.json, report.html and evaluation/<split>/<policy>.csv in its folder.

    Args:
        folder: the run.
        store: the split's prepared scenes.
        split: the split's scene filter, for its name and for what lies beside it.
        seed: of the run.
        names: rows to evaluate; None evaluates all that the run allows.

    Returns:
        What results.json holds.

    Raises:
        ValueError: a row is not known or not trained.
    """
    indices = np.arange(len(store))
    plans = privileged_plans(store, indices) | baseline_plans(store, indices)
    learned = trained(folder) if names is None else tuple(name for name in names if name not in plans)
    wanted = None if names is None else set(names)
    plans = {name: plan for name, plan in plans.items() if wanted is None or name in wanted}
    plans |= learned_plans(folder, store, indices, learned)
    tables = scene_tables(store, indices, plans)
    with_reward = {"reward", "imitation"} <= {path.parent.parent.name for path in folder.glob("*/checkpoint/checkpoint.json")}
    seen = judged(folder, store, indices) if with_reward and learned else None
    about = provenance(store.key, seed)
    results: dict[str, Any] = {
        "definition": EPDMS,
        "split": split.stem,
        "scenes": len(store),
        "logs": len(set(store.log_names)),
        "commit": about["commit"],
        "command": about["command"],
        "seeds": [seed],
        **rows_and_pairs(tables, seed),
        "reward_world_model": {},
        "wall_seconds": _wall_seconds(folder),
        "subsets": {},
        "provenance": about,
    }
    if seen is not None:
        results["reward_world_model"] = acceptance(
            seen.true, seen.predicted, seen.true_score, seen.predicted_score, seen.confidence, store.log_names
        )
    for name, chosen in subsets(store, indices, split).items():
        logs = {log for log, inside in zip(store.log_names, chosen, strict=True) if inside}
        results["subsets"][name] = {"scenes": int(chosen.sum()), "logs": len(logs), **rows_and_pairs(tables, seed, chosen)}
    for name, table in tables.items():
        write_table(folder / "evaluation" / split.stem / f"{name}.csv", table)
    write_report(folder / "report.html", folder, results, store, indices, plans, tables, seen)
    write_json(folder / "evaluation" / split.stem / "results.json", results)
    write_json(folder / "results.json", results)
    return results


def print_table(results: Mapping[str, Any]) -> None:
    """Prints the rows, the differences in EPDMS, and what the reward world model is worth."""
    console = Console(width=None if Console().is_terminal else 150)
    title = f"{results['split']}: {results['scenes']} scenes of {results['logs']} logs, definition {results['definition']}"
    table = Table(title=title, title_justify="left")
    table.add_column("policy")
    for name in ("EPDMS", "95 %", *SHOWN):
        table.add_column(name, justify="right")
    for row in results["rows"]:
        values = ["" if row[name] is None else f"{row[name]:.{2 if name in ('ade', 'fde') else 1}f}" for name in SHOWN]
        table.add_row(row["policy"], f"{row['epdms']:.1f}", f"{row['ci95'][0]:.1f}..{row['ci95'][1]:.1f}", *values)
    console.print(table)
    differences = Table(title="EPDMS, paired differences", title_justify="left")
    for name in ("", "difference", "95 %"):
        differences.add_column(name, justify="left" if not name else "right")
    for pair in results["pairs"]:
        if pair["metric"] == "epdms":
            ends = f"{pair['ci95'][0]:+.2f}..{pair['ci95'][1]:+.2f}"
            differences.add_row(f"{pair['policy']} - {pair['against']}", f"{pair['difference']:+.2f}", ends)
    if differences.row_count:
        console.print(differences)
    reward = results["reward_world_model"]
    if reward:
        gains = ", ".join(
            f"{name.removeprefix('enrichment').strip('_') or 'reward world model'} {reward[name]:+.2f}"
            for name in ("enrichment", "enrichment_exact", "enrichment_confidence")
        )
        console.print(f"choosing 1 of {reward['group']} proposals, EPDMS over their mean: {gains}")
    wall = results["wall_seconds"]
    if wall:
        console.print("seconds: " + ", ".join(f"{name} {seconds:.0f}" for name, seconds in wall.items()))


def _wall_seconds(folder: Path) -> dict[str, float]:
    path = folder / "stages.json"
    return {} if not path.exists() else seconds_of(json_mapping(path))


def seconds_of(stages: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Wall seconds of the stages recorded so far, and their sum."""
    seconds = {name: float(stage["seconds"]) for name, stage in stages.items()}
    return seconds | {"total": sum(seconds.values())}
