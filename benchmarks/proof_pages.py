"""docs/results.md, docs/results.json and README's table, from what docs/results holds."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from proof_record import CAMERA_ONLY, scores, write_compact
from proof_tables import BARE, BARE_PAIRS, PAIRS, SHOWN, Seeds, bars, difference, means_of, table_pairs, table_row

from irlvla.definitions import EPDMS
from irlvla.files import json_mapping
from irlvla.variants import PPO_VARIANTS
from irlvla.viewer.gap import Curve, curve_of_probes, gap_figure

Pairs = Sequence[tuple[str, str]]
"""A row and the one from which it is told apart."""
BEGIN, END = "<!-- table: begin (make results) -->", "<!-- table: end -->"
MAIN_ROWS = (
    "human", "pdm_closed", "constant_velocity", "ctra", "stand_still", "ego_mlp", "no_camera", "images_zeroed", "imitation",
    "imitation_continued", "best_of_g", "selector", "selector_exact", "ppo", "ppo_by_predicted", "ppo_selector", "ppo_exact", "ppo_nearest",
    "ppo_no_camera_reward",
)  # fmt: skip
GAP_ROWS = (
    "ppo", "ppo_untempered", "ppo_refit", "ppo_pessimistic", "ppo_unheld", "ppo_unheld_refit", "ppo_unheld_pessimistic", "ppo_unheld_guarded",
)  # fmt: skip
TIMED = ("world", "prepare", "vision", "imitation", "no_camera", "reward", "ppo", "ppo_exact", "imitation_continued", "best_of_g")
AUCS = ("nc", "dac", "ddc", "tlc", "ep", "ttc", "lk", "hc")


def write_pages(docs: Path, readme: Path | None, command: str = "make results") -> dict[str, Any]:
    """Writes results.md and results.json beside the folder, and the table of a README; gives what the JSON holds.

    Args:
        docs: the folder that `proof_record.record` wrote.
        readme: with the table's two markers; None for no README.
        command: what the pages say they were made by.

    Raises:
        SystemExit: nothing was recorded, or the markers are missing.
    """
    seeds = sorted(int(path.stem) for path in docs.glob("*.npz"))
    if not seeds:
        raise SystemExit(f"nothing is recorded in {docs}")
    found = proof_numbers(docs, seeds) | {"command": command, "folder": docs.name}
    write_compact(docs.with_suffix(".json"), found)
    gaps = gap_curves(rows_about(docs))
    if gaps:
        gap_figure(gaps).savefig(docs / "gap.png")
    docs.with_suffix(".md").write_text(document(found))
    if readme is not None:
        readme.write_text(between(readme.read_text(), readme_table(found)))
    return found


def together(docs: Path, seeds: Sequence[int], wanted: Sequence[str], pairs_of: Callable[[Sequence[str]], Pairs]) -> dict[str, Any]:
    """Numbers of some rows, as many as were recorded: means, paired differences, seconds, where they come from.

    Args:
        docs: the folder that `proof_record.record` wrote.
        seeds: which of them.
        wanted: rows, in this order.
        pairs_of: from the rows that there are to those that are compared.
    """
    kept = {seed: scores(docs / f"{seed}.npz") for seed in seeds}
    about = rows_about(docs)
    stages = {seed: json_mapping(docs / f"{seed}-stages.json") for seed in seeds}
    means: Seeds = {seed: means_of(found, seed=seed) for seed, found in kept.items()}
    every = {row for found in means.values() for row, _ in found}
    rows = [name for name in wanted if name in every]
    marks = [mark for one in stages.values() for mark in one.values()]
    return {
        "definition": EPDMS,
        "split": "test",
        "scenes": [len(found.log) for found in kept.values()],
        "logs": [int(found.log.max()) + 1 for found in kept.values()],
        "commits": sorted({str(mark["commit"]) for mark in marks} | {str(row["commit"]) for row in about}),
        "changed_since_commit": sorted({name for one in stages.values() for name, mark in one.items() if mark["changed_since_commit"]}),
        "seeds": list(seeds),
        "rows": [with_distances(table_row(means, name), about) for name in rows],
        "pairs": table_pairs(means, pairs_of(rows)),
        "wall_seconds": {
            seed: {name: round(mark["seconds"], 1) for name, mark in one.items() if not mark["interrupted"]} for seed, one in stages.items()
        },
    }


def proof_numbers(docs: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """All numbers of the proof's tables."""
    found = together(docs, seeds, MAIN_ROWS, lambda rows: PAIRS)
    kept = {seed: scores(docs / f"{seed}.npz") for seed in seeds}
    about = rows_about(docs)
    stages = {seed: json_mapping(docs / f"{seed}-stages.json") for seed in seeds}
    quality = {seed: json_mapping(docs / f"{seed}-reward.json") for seed in seeds if (docs / f"{seed}-reward.json").exists()}
    demo = json_mapping(docs / "demo.json")["wall_seconds"] if (docs / "demo.json").exists() else None
    means: Seeds = {seed: means_of(one, seed=seed) for seed, one in kept.items()}
    every = {row for one in means.values() for row, _ in one}
    bare = sorted(name for name in every if name.startswith(BARE))
    ablations = [name for name in PPO_VARIANTS if name in every and name not in MAIN_ROWS]
    names = sorted({name for one in kept.values() for name in one.parts})
    parts = {name: {seed: means_of(one, name, seed) for seed, one in kept.items() if name in one.parts} for name in names}
    return found | {
        "bars": bars(means, quality, stages, demo),
        "demo_seconds": demo,
        "each_seed": [
            {"seed": seed, "pairs": table_pairs({seed: one}, (*PAIRS[:6], ("selector", "imitation")))} for seed, one in means.items()
        ],
        "subsets": {
            name: {
                "scenes": [int(kept[seed].parts[name].sum()) for seed in some],
                "rows": [table_row(some, row["policy"]) for row in found["rows"]],
                "pairs": table_pairs(some, PAIRS),
            }
            for name, some in parts.items()
        },
        CAMERA_ONLY: {"rows": [table_row(means, name) for name in bare], "pairs": table_pairs(means, BARE_PAIRS, BARE)},
        "ablations": [ablation(means, name) for name in ablations],
        "reward_models": [model for kind in ("imitation", "ppo", "vocabulary") for model in reward_rows(quality, kind)],
        "stopped": [
            {"policy": row["policy"], "seed": row["seed"], "run": row.get("run", ""), "reason": row["probes"]["stopped"]}
            for row in about
            if row["probes"] and row["probes"]["stopped"] and not row["policy"].endswith("_by_predicted")
        ],
    }


def rows_about(docs: Path) -> list[dict[str, Any]]:
    """What is recorded of each row of each seed."""
    return [json_mapping(path) for path in sorted((docs / "rows").glob("*.json"))]


def gap_curves(about: Sequence[Mapping[str, Any]]) -> dict[str, Curve]:
    """Curves of the hacking gap of the first seed that has a provoked run, else of the first seed."""
    there = {(row["seed"], row["policy"]): row["probes"] for row in about if row["probes"] and not row.get("run")}
    seeds = sorted({seed for seed, _ in there}, key=lambda seed: ((seed, "ppo_unheld") not in there, seed))
    return {name: curve_of_probes(there[seeds[0], name]) for name in GAP_ROWS if seeds and (seeds[0], name) in there}


def with_distances(row: dict[str, Any], about: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A row with its displacement errors, mean over seeds."""
    own = [one["parts"]["all"] for one in about if one["policy"] == row["policy"] and not one.get("run")]
    return row | {name: float(np.mean([part[name]["mean"] for part in own])) if own else None for name in ("ade", "fde")}


def ablation(means: Seeds, name: str) -> dict[str, Any]:
    """One variant of PPO beside PPO and imitation of the same seeds."""
    found: dict[str, Any] = table_row(means, name) | {"judge": PPO_VARIANTS[name][1], "change": PPO_VARIANTS[name][0]}
    for against in ("ppo", "imitation"):
        one = difference(means, name, against)
        found[f"minus_{against}"] = None if one is None else {"difference": one[0].value, "ci95": one[0].ci95}
    return found


def reward_rows(quality: Mapping[int, Mapping[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Numbers of the reward models on one kind of candidates, mean over the seeds that have the model."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for report in quality.values():
        for row in report["kinds"].get(kind, {"rows": []})["rows"]:
            found.setdefault(row["model"], []).append(row)
    rows = []
    for model, some in found.items():
        row: dict[str, Any] = {"kind": kind, "model": model, "seeds": len(some), "parameters": some[0]["parameters"]}
        row["milliseconds_per_1000"] = some[0]["milliseconds_per_1000"]
        for name in (key for key, value in some[0].items() if isinstance(value, Mapping)):
            values = [one[name]["value"] for one in some if one.get(name, {"value": None})["value"] is not None]
            row[name] = float(np.mean(values)) if values else None
        rows.append(row)
    return rows


def table(head: Sequence[str], lines: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table whose first columns are left-aligned."""
    rule = "|" + "---|" * left + "---:|" * (len(head) - left)
    return "\n".join(["| " + " | ".join(head) + " |", rule, *("| " + " | ".join(line) + " |" for line in lines)])


def number(value: float | None, digits: int = 1, sign: bool = False) -> str:
    """A number, or nothing."""
    return "" if value is None else f"{value:{'+' if sign else ''}.{digits}f}"


def interval(ends: Sequence[float] | None, digits: int = 1, sign: bool = False) -> str:
    """An interval, or nothing."""
    return "" if ends is None else f"{number(ends[0], digits, sign)} .. {number(ends[1], digits, sign)}"


def signed(pair: Mapping[str, Any] | None) -> str:
    """A difference with its interval."""
    return "" if pair is None else f"{pair['difference']:+.1f} ({interval(pair['ci95'], 1, True)})"


def rows_table(rows: Sequence[Mapping[str, Any]], seeds: int, prefix: str = "") -> str:
    """Rows as Markdown; those that fewer seeds have say so."""
    lines = []
    for row in rows:
        name = row["policy"].removeprefix(prefix) + ("" if len(row["seeds"]) == seeds else f" ({len(row['seeds'])} of {seeds} seeds)")
        lines.append([name, number(row["epdms"]), interval(row["ci95"]), *(number(row[metric]) for metric in SHOWN)])
    return table(["policy", "EPDMS", "95 %", *(name.upper() for name in SHOWN)], lines)


def pairs_table(pairs: Sequence[Mapping[str, Any]], prefix: str = "") -> str:
    """Paired differences as Markdown."""
    cells: dict[str, dict[str, Mapping[str, Any]]] = {}
    for pair in pairs:
        name = f"{pair['policy'].removeprefix(prefix)} - {pair['against'].removeprefix(prefix)}"
        cells.setdefault(name, {})[pair["metric"]] = pair
    shown = ("epdms", "nc", "dac", "ddc", "tlc", "ep", "ttc", "lk", "hc", "ec")
    lines = [[name, *(signed(some.get(one)) for one in shown)] for name, some in cells.items()]
    return table(["difference", *(name.upper() for name in shown)], lines)


def bars_table(found: Sequence[Mapping[str, Any]]) -> str:
    """The bars as Markdown."""
    lines = []
    for one in found:
        verdict = {True: "met", False: "**missed**", None: "not measured" if one["value"] is None else "not judged"}[one["met"]]
        digits = one["digits"]
        lines.append([one["bar"], number(one["value"], digits), interval(one["ci95"], digits), verdict, one["note"]])
    return table(["bar", "value", "95 %", "", "note"], lines)


def ablations_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Variants of PPO as Markdown."""
    lines = []
    for row in rows:
        parts = [f"{name} {value}" for name, value in row["change"].items()]
        parts += [] if row["judge"] == "reward" else [f"judged by {row['judge']}"]
        values = [str(len(row["seeds"])), number(row["epdms"]), signed(row["minus_ppo"]), signed(row["minus_imitation"])]
        lines.append([row["policy"], ", ".join(parts), *values, *(number(row[metric]) for metric in ("nc", "dac", "ep", "ec"))])
    return table(["variant", "change", "seeds", "EPDMS", "- ppo", "- imitation", "NC", "DAC", "EP", "EC"], lines, 2)


def reward_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Reward models as Markdown: AUC with calibration error in brackets."""
    lines = []
    for row in rows:
        predicted = ["" if row.get(f"auc_{name}") is None else f"{row[f'auc_{name}']:.3f} ({row[f'ece_{name}']:.3f})" for name in AUCS]
        cost = ["" if row["parameters"] is None else f"{row['parameters']:,}", number(row["milliseconds_per_1000"])]
        gains = [number(row.get(f"enrichment_{group}")) for group in (8, 20, 64)]
        lines.append([row["kind"], row["model"], str(row["seeds"]), *predicted, number(row.get("spearman"), 3), *gains, *cost])
    head = ["candidates", "reward model", "seeds", *(name.upper() for name in AUCS), "Spearman", "G = 8", "20", "64", "parameters", "ms"]
    return table(head, lines, 2)


def subsets_table(found: Mapping[str, Any]) -> str:
    """EPDMS in parts of the split as Markdown."""
    names = list(found["subsets"])
    values = {
        (name, row["policy"]): f"{row['epdms']:.1f} ({interval(row['ci95'])})" for name in names for row in found["subsets"][name]["rows"]
    }
    pairs = {
        (name, pair["policy"], pair["against"]): pair
        for name in names
        for pair in found["subsets"][name]["pairs"]
        if pair["metric"] == "epdms"
    }
    lines = [[row["policy"], *(values[name, row["policy"]] for name in names)] for row in found["rows"]]
    for left, right in PAIRS[:2]:
        if any((name, left, right) in pairs for name in names):
            lines.append([f"{left} - {right}", *(signed(pairs.get((name, left, right))) for name in names)])
    return table(["policy", *(name.replace("_", " ") for name in names)], lines)


def seeds_table(found: Mapping[str, Any]) -> str:
    """Each seed's main differences as Markdown."""
    names = list(dict.fromkeys((pair["policy"], pair["against"]) for one in found["each_seed"] for pair in one["pairs"]))
    lines = []
    for one in found["each_seed"]:
        pairs = {(pair["policy"], pair["against"]): pair for pair in one["pairs"] if pair["metric"] == "epdms"}
        lines.append([str(one["seed"]), *(signed(pairs.get(name)) for name in names)])
    return table(["seed", *(f"{policy} - {against}" for policy, against in names)], lines)


def wall_table(found: Mapping[str, Any]) -> str:
    """Seconds of stages as Markdown; those of a stage that was interrupted are left out."""
    lines = [[str(seed), *(number(one.get(name), 0) for name in TIMED)] for seed, one in found["wall_seconds"].items()]
    return table(["seed", *TIMED], lines)


def demo_text(found: Mapping[str, Any]) -> str:
    """What `make demo` took, in words."""
    if found["demo_seconds"] is None:
        return "No `make demo` was recorded."
    parts = ", ".join(f"{name} {seconds:.0f}" for name, seconds in found["demo_seconds"].items())
    return f"`make demo` alone on the machine, the method's stages on two threads or beside their controls: {parts}."


def readme_table(found: Mapping[str, Any]) -> str:
    """README's table."""
    rows = [row for row in found["rows"] if row["policy"] not in ("images_zeroed", "ppo_by_predicted")]
    met = [one["met"] for one in found["bars"]]
    text = (
        f"Test split of the embedded world, seeds {found['seeds']}, {found['scenes']} scenes of {found['logs']} logs, definition "
        f"`{found['definition']}`. Of {len(met)} bars set beforehand {met.count(True)} are met, {met.count(False)} missed, {met.count(None)} "
        "not judged: [docs/results.md](docs/results.md) names each, with intervals, alternatives, and training on logs without annotations."
    )
    return f"{rows_table(rows, len(found['seeds']))}\n\n{text}\n"


def document(found: Mapping[str, Any]) -> str:
    """docs/results.md."""
    count = len(found["seeds"])
    commits = ", ".join(f"`{commit[:12]}`" for commit in found["commits"])
    size = f"{found['scenes']} scenes of {found['logs']} logs"
    stopped = [f"- `{one['run']}{one['policy']}`, seed {one['seed']}: {one['reason']}" for one in found["stopped"]]
    changed = f" Made from a changed checkout: {', '.join(found['changed_since_commit'])}." if found["changed_since_commit"] else ""
    empty = "Not run yet."
    recipe = re.search(r"--recipe (\S+)", found["command"])
    return f"""# Results{f" of recipe {recipe[1]}" if recipe else ""}

Written by `{found["command"]}` (`benchmarks/proof.py`; with `--write-only` again from the folder beside this page, which holds the
scores of every scene); do not edit. Commits {commits}.{changed}
Seeds {found["seeds"]}: world, imitation, reward world model and PPO from scratch each. Test split of the embedded world: {size}
(per seed), half of the logs in towns never seen; definition `{found["definition"]}`, human filter on. EPDMS and sub-scores 0-100.
Intervals (95 %) are paired; they resample logs in each seed, then seeds, with one set of draws for all rows. What the rows are says
[method.md](method.md).

## The bars

{bars_table(found["bars"])}

## Rows

{rows_table(found["rows"], count)}

PDM-Closed sees map and boxes and has no EC (left out of its EPDMS). `selector_exact` takes the exact scorer's pick among the proposals of `selector`;
`ppo_by_predicted` is the candidate of `ppo` that its own reward would have chosen; `images_zeroed` is imitation shown black pictures.

## Paired differences

{pairs_table(found["pairs"])}

Seed by seed (EPDMS; intervals resample logs):

{seeds_table(found)}

## Logs without annotations

Half of the training logs are stripped of boxes, traffic lights, routes and map places before anything sees them; all stages are
trained anew. `ppo_annotated` is PPO with the exact reward on the annotated half alone, `ppo_all_logs` adds the camera-only half with the
reward world model's reward, `ppo` drives on that half alone, `ppo_annotated_model` takes the reward world model's reward on the
annotated half.

{rows_table(found[CAMERA_ONLY]["rows"], count, BARE) if found[CAMERA_ONLY]["rows"] else empty}

{pairs_table(found[CAMERA_ONLY]["pairs"], BARE)}

## Parts of the split

EPDMS. `late onset`: braking or turning starts after t0, so that ego status does not give the answer away.

{subsets_table(found)}

## Alternatives

`ppo` with one thing changed, on the seeds that were run.

{ablations_table(found["ablations"]) if found["ablations"] else empty}

## Reward models

On test, mean over seeds: AUC of each sub-score with its calibration error in brackets, Spearman with true EPDMS within a scene,
enrichment in points of EPDMS at G = 8, 20, 64, parameters, and milliseconds for 1,000 candidates. Rows and candidates as in
[reward.md](reward.md); `rwm_no_camera` and the like are the stages `reward_no_camera` and so on.

{reward_table(found["reward_models"]) if found["reward_models"] else empty}

## The hacking gap

What the reward says of the deployed plans less what is true, and the truth, on val: PPO as it is; without the temperature; with
refits, with pessimism; and provoked (`ppo_unheld`: no cloning, five times the learning rate), alone, with each remedy, and with the
guards on.

![The hacking gap over PPO's iterations]({found["folder"]}/gap.png)

## Guards

{chr(10).join(stopped) or "No PPO run was stopped early."}

## Wall seconds

On two cores, two stages side by side with one thread each, with the start of the process; stages that were
interrupted are left out.

{wall_table(found)}

{demo_text(found)}
"""


def between(text: str, inside: str) -> str:
    """A text with what stands between the two markers replaced.

    Raises:
        SystemExit: a marker is missing.
    """
    if BEGIN not in text or END not in text:
        raise SystemExit(f"the markers {BEGIN} and {END} are missing")
    return text[: text.index(BEGIN) + len(BEGIN)] + "\n" + inside + text[text.index(END) :]
