"""Does a large model learn to write rationales from a few scenes in a few minutes on one thread: adapters and connector, all else frozen.

python benchmarks/lora.py STORE [--scenes 500] [--others 100] [--seconds 300] [--out docs/lora.json] [--page docs/lora.md]

STORE is a prepared store with annotations (`irlvla prepare`). DINOv2-S looks at every picture once, what it makes of them is kept;
SmolLM2-135M reads it through a new connector and is taught the texts of the log's facts (`VisionLanguageModel.loss`). Other scenes, of other
logs, show what is written before and after, and after with black pictures. `--write-only` writes the page again from the JSON file.
"""

import argparse
import json
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from tables import use_one_thread, write

use_one_thread()

import numpy as np  # noqa: E402  (after the thread settings)
import torch  # noqa: E402
from jaxtyping import Int  # noqa: E402

from irlvla.data.store import Store  # noqa: E402
from irlvla.fact_quality import fact_quality, statements  # noqa: E402
from irlvla.model.vision_language import (  # noqa: E402
    PACKAGED,
    VisionLanguageConfig,
    VisionLanguageModel,
    learned,
    trainable,
    vision_language_model,
)
from irlvla.rationale import FIELDS, parsed, prompts, rationale  # noqa: E402

WRITING = 20
"""Scenes of which texts are written at a time."""
WARM_UP = 10
"""Steps in which the rate grows."""
SHOWN = 5
"""Texts that are kept, with what would be right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lessons:
    """Scenes with what is asked and answered about them; `seen` are their pictures, or what frozen eyes made of them."""

    seen: torch.Tensor
    prompts: list[str]
    texts: list[str]
    facts: Int[np.ndarray, "scenes fields"]
    log_names: list[str]


def main() -> None:
    """Teaches, asks, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, nargs="?")
    parser.add_argument("--scenes", type=int, default=500, help="to learn from")
    parser.add_argument("--others", type=int, default=100, help="to be asked about")
    parser.add_argument("--seconds", type=float, default=300.0, help="of the processor, for learning")
    parser.add_argument("--steps", type=int, help="at most so many")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--views", type=int, default=2, help="the first of a scene: by default the front camera's two")
    parser.add_argument("--longest", type=int, default=32, help="tokens of a text")
    parser.add_argument("--rank", type=int, default=8, help="of the adapters")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default=PACKAGED)
    parser.add_argument("--out", type=Path, default=Path("docs/lora.json"))
    parser.add_argument("--page", type=Path, default=Path("docs/lora.md"))
    parser.add_argument("--write-only", action="store_true")
    options = parser.parse_args()
    if not options.write_only:
        if options.store is None:
            parser.error("a store is needed")
        try:
            measure(options)
        except ValueError as error:
            raise SystemExit(str(error)) from error
    options.page.parent.mkdir(parents=True, exist_ok=True)
    options.page.write_text(document(json.loads(options.out.read_text())))
    print(f"written to {options.page}")


def measure(options: argparse.Namespace) -> None:
    """Teaches and asks as the command line says.

    Raises:
        ValueError: the model cannot be loaded, or the store has too few scenes.
    """
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    store, seconds = Store(options.store), {}
    taught, asked = scenes_of(store, options.scenes, options.others, options.seed)
    begin = perf_counter()
    model = vision_language_model(VisionLanguageConfig(model=options.model, rank=options.rank, longest=options.longest))
    parameters = trainable(model)
    seconds["load"] = perf_counter() - begin
    begin = perf_counter()
    lessons, exam = (lessons_of(model, store, rows, options.views) for rows in (taught, asked))
    seconds["look"] = perf_counter() - begin
    begin = perf_counter()
    found = {"before": answers(model, exam, options.seed)}
    seconds["write before"] = perf_counter() - begin
    print(f"before: loss {found['before']['loss']:.3f}", flush=True)
    begin, begin_cpu = perf_counter(), process_time()
    losses = learn(model, parameters, lessons, options)
    seconds["learn"], seconds["learn, processor"] = perf_counter() - begin, process_time() - begin_cpu
    begin = perf_counter()
    found["after"] = answers(model, exam, options.seed)
    seconds["write after"] = perf_counter() - begin
    black = lessons_of(model, store, asked, options.views, black=True)
    found["after, black pictures"] = answers(model, black, options.seed)
    for name, one in found.items():
        print(f"{name}: loss {one['loss']:.3f}, malformed {one['quality']['malformed']['value']:.2f}, right {one['right']}", flush=True)
    about = {
        "scenes": len(taught), "others": len(asked), "views": options.views, "batch": options.batch, "rank": options.rank,
        "rate": options.rate, "seed": options.seed, "model": options.model, "view_tokens": view_tokens(model, lessons),
        "picture": [model.config.picture_height, model.config.picture_width], "longest": options.longest,
        "parameters": sum(value.numel() for value in model.parameters()), "learned": sum(value.numel() for value in learned(model).values()),
        "seconds": seconds, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "losses": [round(one, 4) for one in losses],
        "likeliest": likeliest(lessons, exam), "found": found,
    }  # fmt: skip
    write(options.out, [], **about)


def scenes_of(store: Store, scenes: int, others: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Annotated scenes to learn from and others, drawn at random; the two have no log in common.

    Raises:
        ValueError: there are too few.
    """
    random = np.random.default_rng(seed)
    known = np.flatnonzero(store.annotated & (store.facts(np.arange(len(store))) >= 0).all(axis=1))
    names = np.array(store.log_names)[known]
    logs = random.permutation(np.unique(names))
    is_other = np.isin(names, logs[: int(np.ceil(len(logs) * others / (scenes + others)))])
    chosen = []
    for what, pool, count in (("to learn from", known[~is_other], scenes), ("of other logs", known[is_other], others)):
        if len(pool) < count:
            raise ValueError(f"{store.folder}: {len(pool)} annotated scenes {what}, {count} are asked for")
        chosen.append(np.sort(random.choice(pool, count, replace=False)))
    return chosen[0], chosen[1]


def lessons_of(model: VisionLanguageModel, store: Store, rows: np.ndarray, views: int, black: bool = False) -> Lessons:
    """Scenes of a store as lessons. A frozen pair of eyes that can keep what it sees looks once, at every picture."""
    seen, told = [], []
    for part in np.array_split(rows, max(1, len(rows) // 16)):
        features = store.features(part)
        images = torch.from_numpy(np.ascontiguousarray(features.images[:, :views]))
        images = torch.zeros_like(images) if black else images
        seen.append(model.features(images) if model.model.config.model_type == "llava" else images)
        told += prompts(features.ego_history, features.command)
    facts = store.facts(rows)
    texts, log_names = [rationale(row) for row in facts], [store.log_names[row] for row in rows]
    return Lessons(seen=torch.cat(seen), prompts=told, texts=texts, facts=facts, log_names=log_names)


def learn(model: VisionLanguageModel, parameters: list[torch.nn.Parameter], lessons: Lessons, options: argparse.Namespace) -> list[float]:
    """Teaches until time or steps are over, and gives every step's loss; the rate follows a cosine over the time.

    The time is the processor's: other work on the machine takes no lesson away.
    """
    optimiser = torch.optim.AdamW(parameters, options.rate, weight_decay=0.01)
    random, order, losses = np.random.default_rng(options.seed), np.zeros(0, int), []
    begin = process_time()
    while (spent := process_time() - begin) < options.seconds and (options.steps is None or len(losses) < options.steps):
        if len(order) < options.batch:
            order = np.concatenate([order, random.permutation(len(lessons.texts))])
        rows, order = order[: options.batch], order[options.batch :]
        for group in optimiser.param_groups:
            group["lr"] = options.rate * min(1.0, (len(losses) + 1) / WARM_UP) * 0.5 * (1 + np.cos(np.pi * spent / options.seconds))
        loss = loss_of(model, lessons, rows)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
        if len(losses) % 20 == 0:
            print(f"step {len(losses)}, {spent:.0f} s: loss {np.mean(losses[-20:]):.3f}", flush=True)
    return losses


def loss_of(model: VisionLanguageModel, lessons: Lessons, rows: Sequence[int]) -> torch.Tensor:
    """Cross-entropy of the texts of some scenes."""
    return model.loss(lessons.seen[rows], [lessons.prompts[row] for row in rows], [lessons.texts[row] for row in rows])[0]


def answers(model: VisionLanguageModel, exam: Lessons, seed: int) -> dict[str, Any]:
    """What is written of scenes: loss of the right texts, share of scenes in which each fact is right, quality of every statement, examples."""
    losses, texts = [], []
    with torch.no_grad():
        for rows in np.array_split(np.arange(len(exam.texts)), max(1, len(exam.texts) // WRITING)):
            losses += [float(loss_of(model, exam, rows))] * len(rows)
            texts += model.texts(model.write(exam.seen[rows], [exam.prompts[row] for row in rows]))
    facts = np.full_like(exam.facts, -1)
    for row, text in zip(facts, texts, strict=True):
        stated = parsed(text)
        if stated is not None:
            row[:] = stated
    return {
        "loss": float(np.mean(losses)),
        "right": right(facts, exam.facts),
        "quality": fact_quality(statements(facts, exam.facts, exam.log_names), seed),
        "examples": [{"written": text, "right": wanted} for text, wanted in list(zip(texts, exam.texts))[:SHOWN]],
    }


def right(stated: Int[np.ndarray, "scenes fields"], logged: Int[np.ndarray, "scenes fields"]) -> dict[str, float]:
    """Share of scenes in which each field is what the log says."""
    return {name: float(share) for name, share in zip(FIELDS, (stated == logged).mean(axis=0), strict=True)}


def likeliest(lessons: Lessons, exam: Lessons) -> dict[str, float]:
    """`right` for an answer that is always the same: each field's most frequent value."""
    values = [int(np.bincount(column).argmax()) for column in lessons.facts.T]
    return right(np.tile(values, (len(exam.facts), 1)), exam.facts)


def view_tokens(model: VisionLanguageModel, lessons: Lessons) -> int | None:
    """Image tokens of a view, where its features are kept: the connector makes one of four patches."""
    return lessons.seen.shape[2] // 4 if lessons.seen.is_floating_point() else None


def document(found: Mapping[str, Any]) -> str:
    """docs/lora.md."""
    machine, seconds, steps, asked = found["machine"], found["seconds"], len(found["losses"]), found["others"]
    commit = f"`{found['commit'][:7]}`{' with changes' if found['changed'] else ''}"
    some = max(1, min(20, steps // 4))
    first, last = (float(np.mean(part)) for part in (found["losses"][:some], found["losses"][-some:]))
    tokens = "" if found["view_tokens"] is None else f", {found['view_tokens']} image tokens each"
    height, width = found["picture"]
    learning = f"{seconds['learn']:.0f} to learn ({seconds['learn, processor']:.0f} of the processor's"
    writing = f"{seconds['write before']:.0f} and {seconds['write after']:.0f} to write {asked} texts before and after"
    return f"""# Teaching a large model a little

Written by `{found["command"]}` (with `--write-only` again from lora.json); do not edit.
Commit {commit}, {machine["cpu"]}, one thread, load {machine["load"]:.2f} at the end.
A smoke test, one seed: it shows that adapters and connector learn, not how far they get.

`{found["model"]}`: {found["parameters"] / 1e6:.0f} million weights, of which {found["learned"] / 1e6:.2f} million learn, low-rank adapters
(rank {found["rank"]}) beside the attention of the language model, and the new connector. It is taught the texts of {found["scenes"]} annotated
scenes of the embedded world, of each the first {found["views"]} views (front, and its middle half) at {height} x {width}{tokens}. Its frozen eyes
looked once; what they saw was kept. {steps} steps of {found["batch"]} scenes ({steps * found["batch"] / found["scenes"]:.2f} times through them),
AdamW at {found["rate"]:g}. Then it was asked about {asked} scenes of other logs.

- Seconds: {seconds["load"]:.0f} to load, {seconds["look"]:.0f} to look at all pictures, {learning},
  {seconds["learn, processor"] / max(1, steps):.2f} a step), {writing}.
- Memory: {found["memory"] / 1e9:.1f} GB at most.
- Loss of a step: {first:.2f} over the first {some}, {last:.2f} over the last.

## What is right

Per cent of the {asked} scenes in which a written text says the same of a field as the log; a malformed text is wrong in all.
"always the same" says each field's most frequent value of the training scenes.

{right_table(found)}

## What is stated

{stated_table(found["found"])}

## Texts

{texts_table(found["found"])}
"""


def right_table(found: Mapping[str, Any]) -> str:
    """What is right before and after, as Markdown."""
    by_name = found["found"]
    lines = [["", "always the same", *by_name]]
    for name in FIELDS:
        lines.append([name, f"{100 * found['likeliest'][name]:.0f}", *(f"{100 * one['right'][name]:.0f}" for one in by_name.values())])
    for name, measure in (("text malformed", "malformed"), ("every fact right", "exact")):
        lines.append([name, "", *(f"{100 * one['quality'][measure]['value']:.0f}" for one in by_name.values())])
    lines.append(["loss of the right text", "", *(f"{one['loss']:.2f}" for one in by_name.values())])
    return table(lines)


def stated_table(by_name: Mapping[str, Any]) -> str:
    """Every statement before and after, as Markdown."""
    lines = [["statement", "true", "stated before", "stated after", "precision after (95 %)", "recall after (95 %)"]]
    for before, after in zip(by_name["before"]["quality"]["statements"], by_name["after"]["quality"]["statements"], strict=True):
        counts = [str(count) for count in (after["true"], before["stated"], after["stated"])]
        lines.append([after["name"], *counts, percent(after["precision"]), percent(after["recall"])])
    return table(lines)


def texts_table(by_name: Mapping[str, Any]) -> str:
    """Some texts, as Markdown."""
    pairs = zip(by_name["before"]["examples"], by_name["after"]["examples"], strict=True)
    lines = [[after["right"], cell(before["written"]), cell(after["written"])] for before, after in pairs]
    return table([["right", "before", "after"], *lines], right=False)


def table(lines: Sequence[Sequence[str]], right: bool = True) -> str:
    """Lines as a Markdown table, the first its head; all columns but the first aligned to the right."""
    head, *rest = ("| " + " | ".join(line) + " |" for line in lines)
    return "\n".join([head, "|---|" + ("---:|" if right else "---|") * (len(lines[0]) - 1), *rest])


def percent(share: Mapping[str, Any]) -> str:
    """A share with its interval, or nothing where it is not defined."""
    if share["value"] is None:
        return ""
    ends = "" if share["ci95"] is None else f" ({100 * share['ci95'][0]:.0f} .. {100 * share['ci95'][1]:.0f})"
    return f"{100 * share['value']:.0f}{ends}"


def cell(text: str) -> str:
    """A text of a model in one cell of a table."""
    text = " ".join(text.replace("|", "/").split())
    return text if len(text) < 90 else f"{text[:85]} ..."


if __name__ == "__main__":
    main()
