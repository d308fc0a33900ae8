"""The page that people look at: one self-contained HTML file about a run."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from irlvla.acceptance import PREDICTED_NAMES, Judged, calibration
from irlvla.data.store import Indices, Store
from irlvla.definitions import DEFINITIONS
from irlvla.evaluate import METRIC_NAMES, Plans, SceneTable
from irlvla.files import replaced
from irlvla.run import metrics
from irlvla.viewer.birds_eye import PLANS, birds_eye
from irlvla.viewer.gap import curve_of, gap_figure, gap_stages

SHOWN = 8
"""Scenes of each kind."""
TRAINED = ("imitation", "no_camera", "ego_mlp", "reward", "ppo", "imitation_continued", "best_of_g")
"""Folders of a run in the order in which their curves are shown."""
CURVES = ("/loss", "/epdms", "/reward", "/value_loss", "approx_kl", "clip_fraction", "/gap")
"""Endings of the metrics that are drawn."""
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1180px; padding: 0 1rem; color: #1c1e21; background: #fff }
h1 { font-size: 1.7rem } h2 { margin-top: 2.2rem; border-bottom: 1px solid #d6d9dd; padding-bottom: .2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px } td, th { padding: .22rem .55rem; text-align: right }
th { border-bottom: 2px solid #1c1e21 } td:first-child, th:first-child { text-align: left } tr:nth-child(even) td { background: #f4f5f7 }
.scenes { display: grid; grid-template-columns: repeat(auto-fill, minmax(540px, 1fr)); gap: 1.1rem }
figure { margin: 0; border: 1px solid #d6d9dd; border-radius: 6px; padding: .6rem }
figure .pair { display: flex; gap: .5rem; align-items: flex-start }
figure img { max-width: 100% } figure .pair img:first-child { width: 58% } figure .pair img:last-child { width: 42% }
figcaption { font-size: 12px; margin-top: .3rem } .note { color: #5a6068; font-size: 13px } .key { font-weight: 600 }
"""


def write_report(
    path: Path,
    run: Path,
    results: Mapping[str, Any],
    store: Store,
    indices: Indices,
    plans: Mapping[str, Plans],
    tables: Mapping[str, SceneTable],
    judged: Judged | None,
) -> None:
    """Writes the page.

    Args:
        path: of the HTML file.
        run: the run's folder, for the metrics of its stages.
        results: what `results.json` holds.
        store: the evaluated scenes.
        indices: which of them were evaluated.
        plans: plans by row name.
        tables: scores by row name.
        judged: candidates for the calibration figure; None leaves it out.
    """
    about = f"{results['scenes']} scenes of {results['logs']} logs, split {results['split']}"
    meaning = f"Definition {results['definition']}: {DEFINITIONS[results['definition']]}."
    parts = [
        "<h1>irlvla: a driving policy from a learned reward</h1>",
        f"<p>{html.escape(about)}.<br><span class=note>{html.escape(str(results['command']))} · commit {results['commit']}</span></p>",
        f"<h2>Scores</h2><p class=note>{html.escape(meaning)} EPDMS and sub-scores 0-100; intervals (95 %) resample logs; distances in m.</p>",
        _rows_table(results["rows"]),
        "<h2>Paired differences</h2>" + _pairs_table(results["pairs"]),
    ]
    for name, part in results.get("subsets", {}).items():
        parts.append(f"<h2>Only {html.escape(name.replace('_', ' '))}: {part['scenes']} scenes</h2>" + _rows_table(part["rows"]))
    parts.append("<h2>Learning curves</h2>" + _figure(_curves(run)))
    stages = gap_stages(run)
    if len(stages) > 1:
        about = "What each run's reward says of the deployed plans less what is true: a gap that grows while the truth falls is hacking."
        parts.append(
            f"<h2>Hacking gap</h2><p class=note>{about}</p>"
            + _figure(gap_figure({name: curve_of(folder) for name, folder in stages.items()}))
        )
    if judged is not None:
        parts.append("<h2>Reward world model</h2>" + _reward_table(results["reward_world_model"]) + _figure(_reliability(judged)))
    parts += _scenes(store, indices, plans, tables)
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>irlvla</title><style>{STYLE}</style><body>{''.join(parts)}</body></html>"
    )
    with replaced(path) as beside:
        beside.write_text(page)


def chosen_scenes(tables: Mapping[str, SceneTable], seed: int = 0, count: int = SHOWN) -> dict[str, list[int]]:
    """Positions of the scenes to show: some at random, those that PPO improved most, and those that it harmed most."""
    tables = dict(tables)
    number = len(next(iter(tables.values())).tokens)
    order = np.random.default_rng(seed).permutation(number)
    chosen = {"random": sorted(order[:count].tolist())}
    if "ppo" in tables and "imitation" in tables:
        gain = tables["ppo"].values["epdms"] - tables["imitation"].values["epdms"]
        ranked = np.argsort(gain, kind="stable")
        chosen["most improved by PPO"] = [int(index) for index in ranked[::-1][:count] if gain[index] > 0]
        chosen["most harmed by PPO"] = [int(index) for index in ranked[:count] if gain[index] < 0]
    return chosen


def _scenes(store: Store, indices: Indices, plans: Mapping[str, Plans], tables: Mapping[str, SceneTable]) -> list[str]:
    shown = [name for name in PLANS if name in plans]
    legend = ", ".join(f"<span class=key style='color:rgb{PLANS[name]}'>{name}</span>" for name in shown)
    parts = [
        f"<h2>Scenes</h2><p>Plans: {legend}; dots every 0.5 s. Blue-grey: route; red: lanes whose light is red; faint boxes: in 2 and 4 s.</p>"
    ]
    for title, positions in chosen_scenes(tables).items():
        figures = []
        for position in positions:
            index = int(indices[position])
            picture = birds_eye(store.prepared(index), {name: plans[name].poses[position] for name in shown})
            caption = "".join(f"<tr><td style='color:rgb{PLANS[name]}'>{name}</td>{_cells(tables[name], position)}</tr>" for name in shown)
            header = "".join(f"<th>{name}</th>" for name in ("", *METRIC_NAMES))
            name = f"{store.tokens[index]} · {html.escape(store.log_names[index])}"
            figures.append(
                f"<figure><div class=pair>{_camera(store, index)}{_image(picture)}</div>"
                f"<figcaption>{name}<table><tr>{header}</tr>{caption}</table></figcaption></figure>"
            )
        parts.append(f"<h3>{title}</h3><div class=scenes>{''.join(figures)}</div>")
    return parts


def _cells(table: SceneTable, position: int) -> str:
    values = [table.values[name][position] for name in METRIC_NAMES]
    return "".join(f"<td>{'' if np.isnan(value) else f'{100 * value:.0f}'}</td>" for value in values)


def _camera(store: Store, index: int) -> str:
    path = Path(store.pictures[index])
    if not store.pictures[index] or not path.exists():
        return "<span class=note>no picture</span>"
    with Image.open(path, formats=("JPEG", "PNG")) as picture:
        picture.draft("RGB", (480, 270))
        whole = picture.convert("RGB")
    whole.thumbnail((640, 360))
    return _image(whole, "JPEG")


def _image(picture: Image.Image, kind: str = "PNG") -> str:
    stream = io.BytesIO()
    if kind == "PNG":
        picture = picture.quantize(64)
    picture.save(stream, kind, **({"quality": 85} if kind == "JPEG" else {"optimize": False}))
    return f'<img alt="" src="data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}">'


def _figure(figure: Any) -> str:
    if figure is None:
        return "<p class=note>nothing recorded</p>"
    stream = io.StringIO()
    figure.savefig(stream, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = stream.getvalue()
    return f"<div>{text[text.index('<svg') :]}</div>"


def _curves(run: Path) -> Any:
    from matplotlib.figure import Figure

    found: list[tuple[str, str, np.ndarray]] = []
    for path in (run / stage / "metrics.csv" for stage in TRAINED if (run / stage / "metrics.csv").exists()):
        series: dict[str, list[tuple[int, float]]] = {}
        for step, name, value in metrics(path):
            series.setdefault(name, []).append((step, value))
        wanted = [name for name in series if name.endswith(CURVES) and not name.startswith("start/")]  # one value is no curve
        found += [(path.parent.name, name, np.array(series[name])) for name in wanted]
    if not found:
        return None
    columns = 4
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(3.1 * columns, 2.1 * rows), layout="constrained")
    for place, (stage, name, values) in enumerate(found):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.plot(values[:, 0], values[:, 1], color="#145fd7", linewidth=1.1, marker="." if len(values) < 12 else None)
        axes.set_title(f"{stage}: {name}", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
    return figure


def _reliability(judged: Judged) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.4, 5.2), layout="constrained")
    for place, name in enumerate(PREDICTED_NAMES):
        axes = figure.add_subplot(2, 4, place + 1)
        truth = np.asarray(getattr(judged.true, name)).ravel()
        guess = np.asarray(getattr(judged.predicted, name), dtype=np.float64).ravel()
        means, truths, shares = calibration(truth, guess)
        axes.plot([0, 1], [0, 1], color="#b0b4ba", linewidth=0.8)
        axes.bar(np.arange(0.05, 1, 0.1), shares, width=0.095, color="#d9dde3")
        axes.plot(means, truths, "o-", color="#145fd7", markersize=3.5, linewidth=1.1)
        axes.set_title(f"{name}: predicted (x), measured (y), share (bars)", fontsize=8)
        axes.tick_params(labelsize=7)
    return figure


def _rows_table(rows: Sequence[Mapping[str, Any]]) -> str:
    names = ("nc", "dac", "ddc", "tlc", "ep", "ttc", "lk", "hc", "ec", "ade", "fde")
    head = "".join(f"<th>{name}</th>" for name in ("policy", "EPDMS", "95 %", *names))
    lines = []
    for row in rows:
        cells = [row["policy"], f"<b>{row['epdms']:.1f}</b>", f"{row['ci95'][0]:.1f} .. {row['ci95'][1]:.1f}"]
        cells += ["" if row[name] is None else f"{row[name]:.{2 if name in ('ade', 'fde') else 1}f}" for name in names]
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"


def _pairs_table(pairs: Sequence[Mapping[str, Any]]) -> str:
    found: dict[tuple[str, str], dict[str, str]] = {}
    for pair in pairs:
        sure = pair["ci95"][0] > 0 or pair["ci95"][1] < 0
        text = f"{pair['difference']:+.1f}<br><span class=note>{pair['ci95'][0]:+.1f} .. {pair['ci95'][1]:+.1f}</span>"
        found.setdefault((pair["policy"], pair["against"]), {})[pair["metric"]] = f"<b>{text}</b>" if sure else text
    head = "".join(f"<th>{name}</th>" for name in ("", *METRIC_NAMES))
    lines = []
    for (policy, against), values in found.items():
        cells = "".join(f"<td>{values.get(name, '')}</td>" for name in METRIC_NAMES)
        lines.append(f"<tr><td>{policy} - {against}</td>{cells}</tr>")
    return f"<table><tr>{head}</tr>{''.join(lines)}</table><p class=note>Bold: the interval excludes 0.</p>"


def _reward_table(report: Mapping[str, Any]) -> str:
    lines = ""
    for name in PREDICTED_NAMES:
        ranked = report[name]["auc"]
        lines += f"<tr><td>{name}</td><td>{'' if ranked is None else f'{ranked:.3f}'}</td><td>{report[name]['ece']:.3f}</td></tr>"
    gains = "".join(
        f"<li>{name.replace('_', ' ')}: <b>{report[name]:+.2f}</b> ({report[name + '_ci95'][0]:+.2f} .. {report[name + '_ci95'][1]:+.2f})</li>"
        for name in ("enrichment", "enrichment_exact", "enrichment_confidence", "enrichment_over_confidence")
    )
    spearman = "undefined" if report["spearman"] is None else f"{report['spearman']:.3f}"
    return (
        f"<table><tr><th>sub-score</th><th>AUC</th><th>calibration error</th></tr>{lines}</table>"
        f"<ul>{gains}<li>Spearman within a scene: {spearman}</li></ul>"
    )
