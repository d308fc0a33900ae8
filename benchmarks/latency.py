"""How long a policy takes from pictures to a plan, by part, on one thread, and the memory of a process that plans.

python benchmarks/latency.py [--models default vla] [--batches 1 32] [--repeats 100] [--seconds 20] [--out docs/latency.json] [--page docs/latency.md]

Every line is measured in a fresh process (`latency_alone.py`), after a warm-up. Weights are random: they change nothing about the time but
by how many words a language model writes, so that it is made to write as many as it ever can. What needs packages that are not installed
says so. A line that other work disturbed, so that the clock shows much more than what the thread had of the processor, is measured again;
the least disturbed try counts. `--write-only` writes the page again from the JSON file.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from tables import row, use_one_thread, write

use_one_thread()

import numpy as np  # noqa: E402  (after the thread settings)

from irlvla.rationale import FIELDS, rationale, words  # noqa: E402

ALONE = Path(__file__).with_name("latency_alone.py")
POLICIES = ("default", "vla", "vla, text off", "vla, no language")
LARGE = ("dinov2-s+smollm2", "dinov2-s+smollm2, text off")
PARTS = ("encoder", "bird's-eye view", "elements", "language", "planner", "rest")
LARGE_PARTS = ("eyes", "connector", "decoder", "word head", "rest")
BAR = 60.0
"""Most ms that `default` shall take for one plan from three pictures."""
PLAIN = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
"""What makes torch do without a processor's bfloat16 and matrix units, and with them many machines' speed."""
ARITHMETIC = {"all": "", "AVX2": ", AVX2 alone"}


DISTURBED = 1.1
"""A line is measured again if the clock shows so many times what the thread had of the processor."""
TRIES, TRIES_SECONDS = 5, 90.0
"""How often, and for how long at most."""


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=[*POLICIES, *LARGE], help=f"of {POLICIES}, or a large model's name")
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 32])
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=20.0, help="of a line's repeats at most, but for the first three")
    parser.add_argument("--out", type=Path, default=Path("docs/latency.json"))
    parser.add_argument("--page", type=Path, default=Path("docs/latency.md"))
    parser.add_argument("--write-only", action="store_true")
    options = parser.parse_args()
    if not options.write_only:
        measure(options.models, options.batches, ("--repeats", str(options.repeats), "--seconds", str(options.seconds)), options.out)
    options.page.parent.mkdir(parents=True, exist_ok=True)
    options.page.write_text(document(json.loads(options.out.read_text())))
    print(f"written to {options.page}")


def measure(models: Sequence[str], batches: Sequence[int], limits: Sequence[str], out: Path) -> None:
    """Measures every line in a process of its own, prints it and writes all of them."""
    rows: list[dict] = []
    nothing = alone("nothing", limits)
    row(rows, "packages alone, peak memory", nothing["memory"] / 1e6, "MB")
    decoded = alone("pictures", limits)["pictures"]
    for what, one in decoded.items():
        row(rows, f"three JPEG pictures of {what} size to four views, median", milliseconds(one), "ms")
    lines = []
    for batch in batches:
        for views in (3, 4):
            for model in models:
                lines.append(line(rows, model, views, batch, limits))
    for model in models:
        if model in ("default", "vla"):
            lines.append(line(rows, model, 3, 1, limits, "AVX2"))
    about = {"torch": nothing["torch"], "capability": nothing["capability"], "packages_memory": nothing["memory"]}
    write(out, rows, **about, pictures=decoded, lines=lines)


def line(rows: list[dict], model: str, views: int, batch: int, limits: Sequence[str], arithmetic: str = "all") -> dict[str, Any]:
    """One model's measurement, printed and kept; one that cannot be made says why."""
    options = (*limits, "--views", str(views), "--batch", str(batch))
    begin, tries = perf_counter(), [alone(model, options, PLAIN if arithmetic == "AVX2" else {})]
    while disturbed(tries[-1]) > DISTURBED and len(tries) < TRIES and perf_counter() - begin < TRIES_SECONDS:
        tries.append(alone(model, options, PLAIN if arithmetic == "AVX2" else {}))
    found = min(tries, key=disturbed)
    what = f"{model}{ARITHMETIC[arithmetic]}, {views} views, batch {batch}"
    if "left_out" in found:
        print(f"{what} is left out: {found['left_out']}", flush=True)
    else:
        judged = model == "default" and batch == 1 and arithmetic == "all"
        row(rows, f"{what}, median", milliseconds(found), "ms", BAR if judged else None)
        row(rows, f"{what}, median of the processor's", milliseconds(found, part="processor"), "ms")
        row(rows, f"{what}, 90th percentile", milliseconds(found, "p90"), "ms")
        row(rows, f"{what}, least", milliseconds(found, "least"), "ms")
        row(rows, f"{what}, peak memory", found["memory"] / 1e6, "MB")
    return found | {"arithmetic": arithmetic, "tries": len(tries)}


def disturbed(found: Mapping[str, Any]) -> float:
    """How many times what the thread had of the processor the clock shows."""
    return milliseconds(found) / milliseconds(found, part="processor") if "seconds" in found else 1.0


def alone(model: str, options: Sequence[str], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What `latency_alone.py` found.

    Raises:
        RuntimeError: it failed; with what it printed.
    """
    command = [sys.executable, str(ALONE), model, *options]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | (environment or {}))
    if answer.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {answer.returncode}:\n{answer.stderr[-4000:]}")
    return json.loads(answer.stdout.splitlines()[-1])


def milliseconds(found: Mapping[str, Any], measure: str = "median", part: str = "wall") -> float:
    """A measure of a part's time; a part that a model lacks takes none."""
    return 1e3 * found["seconds"].get(part, {measure: 0.0})[measure]


def document(found: Mapping[str, Any]) -> str:
    """docs/latency.md."""
    machine, lines = found["machine"], found["lines"]
    commit = f"`{found['commit'][:7]}`{' with changes' if found['changed'] else ''}"
    policies, large = ([one for one in lines if (one["model"] in POLICIES) == wanted] for wanted in (True, False))
    most = max([one["words"] for one in policies if "words" in one], default=0)
    plain = ", ".join(f"`{name}={value}`" for name, value in PLAIN.items())
    return f"""# How long a plan takes

Written by `{found["command"]}` (with `--write-only` again from latency.json); do not edit.
Commit {commit}, {machine["cpu"]}, {machine["cores"]} cores, one thread, torch {found["torch"]} ({found["capability"]}),
load {machine["load"]:.2f} at the end. Milliseconds of a call, each line in a fresh process after a warm-up: median, 90th percentile and least
of the repeats by the clock; "processor": median of what the thread had of the processor, parts are medians of that. Other work may have run
on the machine meanwhile ("load" when the line began): then the clock shows more. Of a line that was disturbed the best of up to {TRIES} tries
counts.

{bars([one for one in found["rows"] if "bar" in one])}

## Policies

From pictures in memory to the plan, pictures of 96 x 176. 3 views: front, left, right; 4 views: what a store holds by default, the front
picture's enlarged middle half too. A batch's moments have the same cameras. Weights are random, which changes nothing
about the time but by the number of words: `vla` writes {most} here, as many as it ever does (`irlvla.rationale.LONGEST`). The shortest text
has {least_text()}.
"text off": `LanguageConfig(write=False)`, semantic tokens from the prompt's states alone; "no language": `Policy.see(reason=False)`, no
semantic tokens at all. "AVX2 alone": the same processor made to do without bfloat16 and matrix units ({plain}).
Memory: the most that the process held; its packages alone take {found["packages_memory"] / 1e6:,.0f} MB.

{table(policies, PARTS)}

{per_word(policies)}

## Pictures

Three JPEG files, decoded and resized to four views (`irlvla.data.features.pictures`); comes on top of the times above.

| pictures | pixels | kB | median | 90 % | least |
|---|---|---:|---:|---:|---:|
{pictures_rows(found["pictures"])}

## Large models

`VisionLanguageModel.states`: from pictures and prompt to the hidden states that stand in the tiny language model's place; encoder,
bird's-eye view and planner come on top. The text goes on to its bound (`VisionLanguageConfig.longest` tokens), which that of a trained
model does not; what was written is then read once more, so that states are those of teacher forcing. Peak memory is that of loading,
where four-bit weights become single precision.

{table(large, LARGE_PARTS)}

{per_word(large)}
"""


def bars(judged: Sequence[Mapping[str, Any]]) -> str:
    """The bar and whether it is met, a sentence for each way of giving it three pictures."""
    texts = [f"{one['what']} {one['value']:.1f} ms, {'met' if one['met'] else 'MISSED'}" for one in judged]
    return f"Bar: `default` plans in at most {BAR:g} ms from three pictures, batch 1, one thread. {'; '.join(texts) or 'Not measured'}."


def least_text() -> str:
    """The shortest text and how many words it has, its end included."""
    text = rationale(np.zeros(len(FIELDS), int))
    return f'{len(words(text)) + 1}: "{text}", and its end'


def table(lines: Sequence[Mapping[str, Any]], parts: Sequence[str]) -> str:
    """Measurements as Markdown; a line that is left out says why."""
    head = ["model", "views", "batch", "ms", "90 %", "least", "processor", "ms a moment", *parts, "MB", "million weights", "load"]
    rows = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for one in lines:
        name = one["model"] + ARITHMETIC[one["arithmetic"]]
        cells = [name, str(one["views"]), str(one["batch"])]
        if "left_out" in one:
            cells += [f"left out: {one['left_out']}", *[""] * (len(head) - 4)]
        else:
            cells += [figure(milliseconds(one, measure)) for measure in ("median", "p90", "least")]
            cells += [figure(milliseconds(one, part="processor")), figure(milliseconds(one, part="processor") / one["batch"])]
            cells += [figure(milliseconds(one, part=part)) if part in one["seconds"] else "" for part in parts]
            cells += [f"{one['memory'] / 1e6:,.0f}", f"{one['parameters'] / 1e6:.1f}", f"{one['load']:.1f}"]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def per_word(lines: Sequence[Mapping[str, Any]]) -> str:
    """What a written word costs: a model with its text against the same without, divided by the words."""
    found = {(one["model"], one["views"], one["batch"]): one for one in lines if "seconds" in one and one["arithmetic"] == "all"}
    texts = []
    for (model, views, batch), one in found.items():
        silent = found.get((f"{model}, text off", views, batch))
        if silent is not None and batch == 1 and one["words"]:
            cost = (milliseconds(one, part="processor") - milliseconds(silent, part="processor")) / one["words"]
            texts.append(f"{figure(cost)} ms ({model}, {views} views)")
    return f"A written word costs, of a batch of 1: {', '.join(texts)}." if texts else ""


def pictures_rows(found: Mapping[str, Any]) -> str:
    """Lines of the table of pictures."""
    rows = []
    for what, one in found.items():
        pixels = ", ".join(f"{width} x {height}" for width, height in one["sizes"])
        size = sum(one["bytes"]) / 1e3
        cells = [what, pixels, f"{size:,.0f}", *(figure(milliseconds(one, measure)) for measure in ("median", "p90", "least"))]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def figure(value: float) -> str:
    """A number of ms with as many digits as it deserves."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


if __name__ == "__main__":
    main()
