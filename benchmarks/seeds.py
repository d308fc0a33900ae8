"""The demo's recipe for several seeds, each from scratch, and what they say together: docs/results.md, docs/results.json, README's table.

python benchmarks/seeds.py                      # runs what is missing of seeds 11, 12, 13 into runs/seeds (resumable), then writes
python benchmarks/seeds.py --write-only         # only writes, from the runs that are complete
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from irlvla.definitions import EPDMS
from irlvla.evaluate import METRIC_NAMES, PAIRS, ROW_NAMES, SceneTable, read_table
from irlvla.intervals import mean_interval_over_seeds
from irlvla.run import provenance, write_json
from irlvla.types import SUB_SCORE_NAMES

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- table: begin (make results) -->", "<!-- table: end -->"
TABLE_NAMES = ("nc", "dac", "ddc", "tlc", "ep", "ttc", "lk", "hc", "ec")


def main(
    seeds: tuple[int, ...] = (11, 12, 13), runs: Path = ROOT / "runs" / "seeds", recipe: str = "default", write_only: bool = False
) -> None:
    """Runs what is missing and writes the tables.

    Args:
        seeds: one run each: world, imitation, reward world model and PPO from scratch.
        runs: one folder a seed below it.
        recipe: a recipe of `irlvla demo`.
        write_only: do not run anything.
    """
    for seed in seeds:
        folder = runs / str(seed)
        if not write_only and not complete(folder):
            command = [str(Path(sys.executable).with_name("irlvla")), "demo", "--seed", str(seed), "--run", str(folder), "--recipe", recipe]
            subprocess.run(command, check=True)
    done = [seed for seed in seeds if complete(runs / str(seed))]
    if not done:
        raise SystemExit(f"no complete run in {runs}")
    found = together([runs / str(seed) for seed in done], done)
    write_json(ROOT / "docs" / "results.json", found)
    (ROOT / "docs" / "results.md").write_text(document(found))
    readme = ROOT / "README.md"
    readme.write_text(between(readme.read_text(), readme_table(found)))
    print(f"wrote docs/results.json, docs/results.md and README.md's table from seeds {done}")


def complete(folder: Path) -> bool:
    """Whether a run's demo went to its end on the test split."""
    path = folder / "evaluation" / "test" / "results.json"
    return path.exists() and json.loads((folder / "stages.json").read_text())["evaluate"]["done"]


def together(folders: Sequence[Path], seeds: Sequence[int]) -> dict[str, Any]:
    """Results of all seeds in the shape of `results.json`, with intervals that resample seeds and logs."""
    results = [json.loads((folder / "evaluation" / "test" / "results.json").read_text()) for folder in folders]
    names = [name for name in ROW_NAMES if all((folder / "evaluation" / "test" / f"{name}.csv").exists() for folder in folders)]
    tables = {name: [read_table(folder / "evaluation" / "test" / f"{name}.csv") for folder in folders] for name in names}
    about = provenance()
    rows = [{"policy": name, "seed": "all", **row(tables[name])} for name in names]
    pairs = [
        {"policy": policy, "against": against, "metric": metric, **difference(tables[policy], tables[against], metric)}
        for policy, against in PAIRS
        if policy in tables and against in tables
        for metric in METRIC_NAMES
        if defined(tables[policy], tables[against], metric)
    ]
    reward = {}
    for name in (
        *SUB_SCORE_NAMES[:-1],
        "spearman",
        "enrichment",
        "enrichment_exact",
        "enrichment_confidence",
        "enrichment_over_confidence",
    ):
        values = [result["reward_world_model"][name] for result in results]
        reward[name] = {key: mean([value[key] for value in values]) for key in values[0]} if isinstance(values[0], dict) else mean(values)
    return {
        "definition": EPDMS,
        "split": "test",
        "scenes": [result["scenes"] for result in results],
        "logs": [result["logs"] for result in results],
        "commit": about["commit"],
        "command": "make results",
        "seeds": list(seeds),
        "rows": rows,
        "pairs": pairs,
        "reward_world_model": reward,
        "each_seed": [{"seed": seed, "rows": result["rows"], "pairs": result["pairs"], "reward_world_model": result["reward_world_model"],
                       "subsets": result["subsets"], "wall_seconds": result["wall_seconds"]} for seed, result in zip(seeds, results, strict=True)],
        "wall_seconds": {name: mean([result["wall_seconds"][name] for result in results]) for name in results[0]["wall_seconds"]},
    }  # fmt: skip


def padded(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Columns of different length as rows of one array, NaN at the end."""
    longest = max(len(column) for column in columns)
    return np.stack([np.pad(column, (0, longest - len(column)), constant_values=np.nan) for column in columns])


def interval(columns: Sequence[np.ndarray], logs: Sequence[Sequence[str]]) -> list[float]:
    """95 % interval of the mean over seeds, 0-100; values that are not defined are left out."""
    kept = [~np.isnan(column) for column in columns]
    names = [[name for name, keep in zip(log, mask, strict=True) if keep] for log, mask in zip(logs, kept, strict=True)]
    values = padded([column[mask] for column, mask in zip(columns, kept, strict=True)])
    return [100 * end for end in mean_interval_over_seeds(values, names)]


def row(tables: Sequence[SceneTable]) -> dict[str, Any]:
    """One policy over all seeds."""
    found: dict[str, Any] = {
        name: 100 * mean([np.nanmean(table.values[name]) for table in tables]) for name in ("epdms", *TABLE_NAMES[:-1])
    }
    found["ci95"] = interval([table.values["epdms"] for table in tables], [table.log_names for table in tables])
    comfort = [table.values["ec"] for table in tables]
    found["ec"] = None if any(np.isnan(values).all() for values in comfort) else 100 * mean([np.nanmean(values) for values in comfort])
    return found | {name: mean([table.values[name].mean() for table in tables]) for name in ("ade", "fde")}


def defined(left: Sequence[SceneTable], right: Sequence[SceneTable], metric: str) -> bool:
    """Whether the difference exists for some scene of every seed."""
    return all(not np.isnan(a.values[metric] - b.values[metric]).all() for a, b in zip(left, right, strict=True))


def difference(left: Sequence[SceneTable], right: Sequence[SceneTable], metric: str) -> dict[str, Any]:
    """One paired difference over all seeds, 0-100."""
    columns = [a.values[metric] - b.values[metric] for a, b in zip(left, right, strict=True)]
    logs = [table.log_names for table in left]
    ends = interval(columns, logs)
    return {
        "difference": 100 * mean([np.nanmean(column) for column in columns]),
        "ci95": ends,
        "logs": sum(len(set(names)) for names in logs),
    }


def mean(values: Sequence[Any]) -> float | None:
    """Mean of numbers; None where one is missing."""
    return None if any(value is None for value in values) else float(np.mean(values))


def readme_table(found: dict[str, Any]) -> str:
    """The README's table."""
    return (
        rows_table(found)
        + f"\n\nTest split of the embedded world, seeds {found['seeds']}, definition `{EPDMS}`; more in [docs/results.md](docs/results.md).\n"
    )


def rows_table(found: dict[str, Any]) -> str:
    """Rows as Markdown."""
    head = ["policy", "EPDMS", "95 %", *(name.upper() for name in TABLE_NAMES)]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for one in found["rows"]:
        values = ["" if one[name] is None else f"{one[name]:.1f}" for name in TABLE_NAMES]
        cells = [one["policy"], f"{one['epdms']:.1f}", f"{one['ci95'][0]:.1f} .. {one['ci95'][1]:.1f}", *values]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def pairs_table(found: dict[str, Any]) -> str:
    """Paired differences in EPDMS, NC and DAC as Markdown."""
    lines = ["| difference | EPDMS | NC | DAC | EP | EC |", "|---|---:|---:|---:|---:|---:|"]
    cells: dict[str, dict[str, str]] = {}
    for pair in found["pairs"]:
        text = f"{pair['difference']:+.1f} ({pair['ci95'][0]:+.1f} .. {pair['ci95'][1]:+.1f})"
        cells.setdefault(f"{pair['policy']} - {pair['against']}", {})[pair["metric"]] = text
    for name, values in cells.items():
        lines.append(f"| {name} | " + " | ".join(values.get(metric, "") for metric in ("epdms", "nc", "dac", "ep", "ec")) + " |")
    return "\n".join(lines)


def seeds_table(found: dict[str, Any]) -> str:
    """Each seed's main numbers as Markdown."""
    wanted = [("ppo", "imitation"), ("ppo", "imitation_continued"), ("imitation", "no_camera"), ("imitation", "ego_mlp")]
    lines = ["| seed | " + " | ".join(f"{policy} - {against}" for policy, against in wanted) + " |", "|---|" + "---:|" * len(wanted)]
    for one in found["each_seed"]:
        pairs = {(pair["policy"], pair["against"]): pair for pair in one["pairs"] if pair["metric"] == "epdms"}
        values = [pairs.get(name) for name in wanted]
        texts = ["" if pair is None else f"{pair['difference']:+.1f} ({pair['ci95'][0]:+.1f} .. {pair['ci95'][1]:+.1f})" for pair in values]
        lines.append(f"| {one['seed']} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def subsets_table(found: dict[str, Any]) -> str:
    """EPDMS in parts of the split, averaged over seeds, as Markdown."""
    names = [name for name in found["each_seed"][0]["subsets"] if all(name in one["subsets"] for one in found["each_seed"])]
    lines = ["| policy | " + " | ".join(name.replace("_", " ") for name in names) + " |", "|---|" + "---:|" * len(names)]
    for policy in (one["policy"] for one in found["rows"]):
        cells = []
        for name in names:
            values = [line["epdms"] for one in found["each_seed"] for line in one["subsets"][name]["rows"] if line["policy"] == policy]
            cells.append(f"{np.mean(values):.1f}")
        lines.append(f"| {policy} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def reward_table(found: dict[str, Any]) -> str:
    """The reward world model on test as Markdown."""
    reward = found["reward_world_model"]
    lines = ["| | " + " | ".join(name.upper() for name in TABLE_NAMES[:-1]) + " |", "|---|" + "---:|" * (len(TABLE_NAMES) - 1)]
    for key, title in (("auc", "AUC"), ("ece", "calibration error")):
        values = ["" if reward[name][key] is None else f"{reward[name][key]:.3f}" for name in TABLE_NAMES[:-1]]
        lines.append(f"| {title} | " + " | ".join(values) + " |")
    spearman = "undefined" if reward["spearman"] is None else f"{reward['spearman']:.3f}"
    gains = ", ".join(
        f"{name.replace('_', ' ')} {reward[name]:+.2f}" for name in ("enrichment", "enrichment_exact", "enrichment_confidence")
    )
    return (
        "\n".join(lines)
        + f"\n\nSpearman with true EPDMS within a scene {spearman}; {gains} (EPDMS of the chosen proposal minus the mean of its group)."
    )


def wall_table(found: dict[str, Any]) -> str:
    """Seconds of each part of each seed's run as Markdown."""
    names = list(found["wall_seconds"])
    lines = ["| seed | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for one in found["each_seed"]:
        lines.append(f"| {one['seed']} | " + " | ".join(f"{one['wall_seconds'][name]:.0f}" for name in names) + " |")
    return "\n".join(lines)


def document(found: dict[str, Any]) -> str:
    """docs/results.md."""
    size = f"{found['scenes']} scenes of {found['logs']} logs"
    return f"""# Results of the default recipe

Written by `{found["command"]}` (`benchmarks/seeds.py`) at commit {found["commit"]}; do not edit. Seeds {found["seeds"]}: world, imitation,
reward world model and PPO from scratch each. Test split of the embedded world: {size} (per seed), definition `{found["definition"]}`,
human filter on. EPDMS and sub-scores 0-100; 95 % intervals resample seeds, then logs. What the rows are says [method.md](method.md).
PDM-Closed sees map and boxes and has no EC (left out of its EPDMS).

{rows_table(found)}

## Paired differences

{pairs_table(found)}

Seed by seed (EPDMS; intervals resample logs):

{seeds_table(found)}

## Parts of the split

EPDMS, mean over seeds. `late onset`: braking or turning starts after t0, so that ego status does not give the answer away.

{subsets_table(found)}

## The reward world model on test scenes

{reward_table(found)}

## Wall seconds

On two cores; a run beside other work on the machine, or one that was interrupted, takes longer.

{wall_table(found)}
"""


def between(text: str, table: str) -> str:
    """A text with what stands between the two markers replaced."""
    if BEGIN not in text or END not in text:
        raise SystemExit(f"the markers {BEGIN} and {END} are missing")
    return text[: text.index(BEGIN) + len(BEGIN)] + "\n" + table + text[text.index(END) :]


if __name__ == "__main__":
    tyro.cli(main)
