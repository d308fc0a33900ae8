"""The benchmark of reward models from end to end: candidates, answers, JSON, reliability plots, printed tables (docs/reward.md)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from irlvla.acceptance import PREDICTED_NAMES
from irlvla.data.store import Store
from irlvla.definitions import EPDMS
from irlvla.learned import checkpoint_of
from irlvla.reward_models import answers, loaded, own_models, policy_candidates, vocabulary_candidates
from irlvla.reward_quality import quality
from irlvla.run import provenance, write_json
from irlvla.viewer.reliability import write_reliability


def benchmark(folder: Path, store_train: Store | Path, store: Store, name: str, seed: int, others: Sequence[str] = ()) -> dict[str, Any]:
    """Compares reward models on a split and leaves reward_quality/<name>.json and a reliability plot for each kind of candidates.

    Args:
        folder: the run.
        store_train: its training scenes, or the folder of their store.
        store: the split's scenes.
        name: the split's.
        seed: of the vocabulary and of the resampling.
        others: further reward models, each as package.module:function.

    Returns:
        What the JSON holds.

    Raises:
        ValueError: imitation or the reward world model is not trained, or a further reward model cannot be had.
    """
    for needed in ("imitation", "reward"):
        if not (checkpoint_of(folder, needed) / "checkpoint.json").exists():
            raise ValueError(f"{folder} has no checkpoint of {needed}: train it first")
    torch.set_num_threads(1)
    store_train = Store(store_train) if isinstance(store_train, Path) else store_train
    # Theirs first: a wrong name is known before anything is computed.
    theirs = {other: loaded(other) for other in others}
    models = own_models(folder, store, store_train) | theirs
    policies = [policy for policy in ("imitation", "ppo") if (checkpoint_of(folder, policy) / "checkpoint.json").exists()]
    about = provenance(store.key, seed)
    report: dict[str, Any] = {"definition": EPDMS, "split": name, "scenes": len(store), "logs": len(set(store.log_names))}
    report |= {"commit": about["commit"], "command": about["command"], "seed": seed, "kinds": {}}
    place = folder / "reward_quality"
    place.mkdir(exist_ok=True)
    for kind in (*policies, "vocabulary"):
        drawn = vocabulary_candidates(store_train, store, seed) if kind == "vocabulary" else policy_candidates(folder, kind, store)
        found = quality(drawn, answers(models, store, drawn), store.log_names, seed)
        report["kinds"][kind] = found
        write_reliability(place / f"{name}-{kind}.png", f"{name}, {kind}", found)
    write_json(place / f"{name}.json", report)
    print(place / f"{name}.json")
    return report


def print_quality(report: Mapping[str, Any]) -> None:
    """Prints a benchmark: for each kind of candidates how sub-scores are predicted, what choosing gains, and the first model's lead."""
    console = Console(width=None if Console().is_terminal else 170)
    print(f"{report['split']}: {report['scenes']} scenes of {report['logs']} logs, definition {report['definition']} (EC left out)")
    for kind, found in report["kinds"].items():
        title = f"{kind}: {found['candidates']} candidates a scene, mean EPDMS {found['mean_epdms']:.1f}; AUC, and calibration error in brackets"
        predicted = Table(title=title, title_justify="left")
        for column in ("reward model", *PREDICTED_NAMES):
            predicted.add_column(column, justify="left" if column == "reward model" else "right")
        predicted.add_row("share below 1", *(f"{found['below_one'][name]:.3f}" for name in PREDICTED_NAMES))
        for row in found["rows"]:
            if row["reliability"] and row["model"] != "exact":
                predicted.add_row(
                    row["model"], *(f"{_text(row, f'auc_{name}', 3)} ({_text(row, f'ece_{name}', 3)})" for name in PREDICTED_NAMES)
                )
        console.print(predicted)
        console.print(_choices(kind, found))
        console.print(_leads(found))


def _choices(kind: str, found: Mapping[str, Any]) -> Table:
    table = Table(
        title=f"{kind}: EPDMS of the choice among G over their mean (95 %), and below the best (in brackets)", title_justify="left"
    )
    table.add_column("reward model")
    headings = [f"G = {group}" for group in found["groups"]]
    for column in ("Spearman", *headings, f"share of exact, G = {found['groups'][-1]}", "parameters", "ms per 1,000"):
        table.add_column(column, justify="right")
    for row in found["rows"]:
        cells = [_text(row, "spearman", 3)]
        for group in found["groups"]:
            low, high = row[f"enrichment_{group}"]["ci95"]
            cells.append(f"{_text(row, f'enrichment_{group}', 2)} {low:.1f}..{high:.1f} ({_text(row, f'regret_{group}', 2)})")
        parameters = "" if row["parameters"] is None else f"{row['parameters']:,}"
        speed = "" if row["milliseconds_per_1000"] is None else f"{row['milliseconds_per_1000']:.1f}"
        table.add_row(row["model"], *cells, _text(row, f"share_{found['groups'][-1]}", 2), parameters, speed)
    return table


def _leads(found: Mapping[str, Any]) -> Table:
    """The first model minus the others in what matters most: AUC of NC, DAC, TLC, and enrichment."""
    names = ("auc_nc", "auc_dac", "auc_tlc", "spearman", *(f"enrichment_{group}" for group in found["groups"]))
    table = Table(title="paired differences (95 %)", title_justify="left")
    for column in ("", *names):
        table.add_column(column, justify="right" if column else "left")
    values = {(pair["against"], pair["metric"]): pair for pair in found["pairs"]}
    for row in found["rows"][1:]:
        cells = []
        for name in names:
            pair = values.get((row["model"], name))
            digits = 1 if name.startswith("enrichment") else 3
            interval = "" if pair is None or pair["ci95"] is None else f" {pair['ci95'][0]:+.{digits}f}..{pair['ci95'][1]:+.{digits}f}"
            cells.append("" if pair is None else f"{pair['difference']:+.{digits}f}{interval}")
        table.add_row(f"{found['rows'][0]['model']} - {row['model']}", *cells)
    return table


def _text(row: Mapping[str, Any], name: str, digits: int) -> str:
    value = row[name]["value"] if name in row else None
    return "" if value is None or not np.isfinite(value) else f"{round(value, digits) + 0.0:.{digits}f}"
