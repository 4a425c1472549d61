"""The report as one HTML file: styles and pictures inside it, nothing fetched, nothing run, for a phone or a desk."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from typing import Any

from ftloop.pace import duration
from ftloop.words import printable

TITLES = {
    "accuracy": "Accuracy",
    "f1": "F1",
    "f1_macro": "F1, mean over labels",
    "precision": "Precision",
    "recall": "Recall",
    "balanced_accuracy": "Balanced accuracy",
    "matthews_correlation": "Matthews correlation",
    "roc_auc": "Area under ROC",
    "average_precision": "Average precision",
    "log_loss": "Log loss",
    "brier": "Brier score",
    "calibration_error": "Calibration error",
    "mse": "Mean squared error",
    "mae": "Mean absolute error",
    "r2": "R²",
    "pearson": "Pearson correlation",
    "spearmanr": "Spearman correlation",
}
LESS_IS_BETTER = {"log_loss", "brier", "calibration_error", "mse", "mae"}
LONGEST_TEXT = 400  # characters of a row's text
MATRIX_CLASSES = 12
CLASSES_AT_ONCE = 30  # of more, the table of classes is folded

STYLE = """
:root{color-scheme:light dark;--page:#f5f7f9;--card:#fff;--ink:#1c2733;--soft:#5d6977;--line:#e1e6ec;--blue:#2f6fae;
--tint:59,130,196;--good:#1e7d5a;--bad:#b3402e;--note:#fff6e5;--edge:#e8b04a}
@media (prefers-color-scheme:dark){:root{--page:#0f1317;--card:#171c22;--ink:#e6eaef;--soft:#97a3b0;--line:#2b333d;
--blue:#7db5e8;--good:#5cc49a;--bad:#f08b78;--note:#2a2413;--edge:#8a6a24}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
sans-serif;-webkit-text-size-adjust:100%;overflow-wrap:anywhere}
main{max-width:1120px;margin:0 auto;padding:16px 16px 48px}
header{padding:12px 0 4px}
h1{font-size:1.65rem;line-height:1.2;margin:0 0 8px}
h2{font-size:1.25rem;margin:36px 0 12px}
h3{font-size:1rem;margin:0 0 10px}
p{margin:0 0 10px}
.soft{color:var(--soft);font-size:.9rem}
.lead{font-size:1.05rem;max-width:70ch}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:16px;margin:0 0 16px;min-width:0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(220px,100%),1fr));gap:12px;margin:16px 0}
.tiles .card{margin:0}
.tile b{display:block;font-size:1.9rem;line-height:1.15;font-variant-numeric:tabular-nums}
.tile span{display:block;font-size:.88rem}
.tile span:not([class]){color:var(--soft)}
.two{columns:2 420px;column-gap:16px}
.two .card{display:inline-block;width:100%}
.scroll{overflow-x:auto;max-width:100%;-webkit-overflow-scrolling:touch}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;overflow-wrap:normal}
table.full{width:100%}
th,td{padding:6px 10px 6px 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
tr:last-child td{border-bottom:0}
thead th{color:var(--soft);font-weight:600;white-space:nowrap}
td.n,th.n{text-align:right;white-space:nowrap}
td.name{min-width:6.5rem;max-width:16rem;overflow-wrap:anywhere}
td small,th small{display:block;color:var(--soft);font-weight:400}
.scroll+p{margin-top:10px}
.wide td:last-child{min-width:11rem}
td.text{min-width:15rem;max-width:26rem;overflow-wrap:anywhere}
.good{color:var(--good)}.bad{color:var(--bad)}
table.matrix td,table.matrix th{padding:8px 10px;text-align:center;border:1px solid var(--line)}
table.matrix th[scope=row]{text-align:right}
.advice{background:var(--note);border-left:4px solid var(--edge)}
img{max-width:100%;height:auto;display:block;margin:0 auto;border-radius:4px}
pre{margin:0;font:.84rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;white-space:pre-wrap}
code{font:.88em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
summary{cursor:pointer;font-weight:600}
details[open] summary{margin-bottom:10px}
.bar{position:relative;height:8px;min-width:90px;margin:8px 0 4px;border-radius:4px;background:var(--line)}
.bar i{position:absolute;top:0;bottom:0;border-radius:4px;background:rgba(var(--tint),.55)}
.bar b{position:absolute;top:-3px;bottom:-3px;width:2px;background:var(--ink)}
.bar u{position:absolute;top:-3px;bottom:-3px;border-left:2px dotted var(--bad)}
.mistake{border-top:1px solid var(--line);padding:12px 0}
.mistake:first-of-type{border-top:0}
.mistake p{margin:0 0 4px}
.mistake .texts{padding-left:10px;border-left:3px solid var(--line)}
footer{color:var(--soft);font-size:.85rem;margin-top:28px}
@media (max-width:480px){table{font-size:.82rem}th,td{padding-right:7px}td.name{min-width:5rem}
table.matrix th{max-width:5.2rem;padding:6px;overflow-wrap:anywhere;white-space:normal}}
@media print{body{background:#fff}.card{break-inside:avoid}}
"""


def page(report: dict[str, Any], pictures: dict[str, dict[str, bytes]]) -> str:
    """The whole page. `pictures`: PNGs by style, `light` and `dark`, and name; none where they could not be drawn."""
    title = f"Report of {report['name']}"
    sets = [part for name in report["sets"] for part in _set(report, name, pictures)]
    body = [*_head(report, title), *_advice(report), *sets, *_training(report, pictures), *_details(report)]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{text(title)}</title>",
            f"<style>{STYLE}</style></head><body><main>",
            *body,
            "</main></body></html>\n",
        ]
    )


def text(value: Any, longest: int | None = None) -> str:
    """What comes from files, as it can stand in HTML: shown, never obeyed."""
    value = str(value)
    if longest is not None and len(value) > longest:
        value = f"{value[:longest]}… ({len(value)} characters)"
    return html.escape(printable(value.replace("\n", " ⏎ ")))


def score(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}" if abs(value) < 1000 else f"{value:.4g}"


def rows_of(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: set[int], full: bool = True) -> str:
    """Cells are HTML already. `numbers`: the columns set flush right."""

    def cells(values: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=n' if i in numbers else ' class=name' if i == 0 else ''}>{value}</{tag}>"
            for i, value in enumerate(values)
        )

    lines = "\n".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    head_row = f"<thead><tr>{cells(head, 'th')}</tr></thead>" if any(head) else ""
    return f"<div class=scroll><table{' class=full' if full else ''}>{head_row}<tbody>{lines}</tbody></table></div>"


def _card(title: str, *parts: str) -> str:
    """A picture has its title in it."""
    head = "" if parts[0].startswith("<picture>") else f"<h3>{text(title)}</h3>"
    return f"<section class=card>{head}{''.join(parts)}</section>"


def _picture(pictures: dict[str, dict[str, bytes]], name: str, told: str) -> str:
    if name not in pictures.get("light", {}):
        return ""
    light, dark = (base64.b64encode(pictures[style][name]).decode() for style in ("light", "dark"))
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="data:image/png;base64,{dark}">'
        f'<img alt="{text(told)}" src="data:image/png;base64,{light}"></picture>'
    )


# What comes first


def headline_metrics(scored: dict[str, Any]) -> list[str]:
    """The two or three that say most, of those there are."""
    order = ("accuracy", "f1", "f1_macro", "roc_auc", "r2", "mae", "spearmanr")
    return [name for name in order if name in scored["metrics"]][:3]


def verdict(values: dict[str, Any], metric: str) -> str:
    """How a metric's interval lies to what a constant answer gets: `better`, `worse`, `no different`, or nothing."""
    low, high, baseline = values["low"], values["high"], values["baseline"]
    if None in (low, high, baseline):
        return ""
    above, below = ("worse", "better") if metric in LESS_IS_BETTER else ("better", "worse")
    return above if low > baseline else below if high < baseline else "no different"


def _head(report: dict[str, Any], title: str) -> list[str]:
    facts = report["facts"]
    lines = [f"<header><h1>{text(title)}</h1>"]
    if facts:
        model, data = facts["model"], facts["data"]
        count = f"{model['parameters'] / 1e6:.1f} million parameters"
        kinds = {
            "regression": "predicts a number",
            "multi_label": f"gives any of {len(data['labels'])} labels",
            "classes": f"chooses one of {len(data['labels'])} classes",
        }
        columns = " and ".join(f"<code>{text(name)}</code>" for name in data["text_columns"])
        lines.append(
            f"<p class=lead>{text(model['name'] or model['class'])} ({count}), trained on "
            f"{rows_of(data['sets']['train']['rows'])}; from {columns} it {kinds.get(data['kind'], 'predicts')}.</p>"
        )
    name = "test" if "test" in report["sets"] else next(iter(report["sets"]), None)
    if name is not None and report["sets"][name]["metrics"]:
        scored = report["sets"][name]
        answer = text((scored["baseline"] or {}).get("answer", ""), 60)
        shares = "; of probabilities it gives each class its share" if scored["kind"] == "classes" else ""
        tiles = []
        for metric in headline_metrics(scored):
            values = scored["metrics"][metric]
            how = verdict(values, metric)
            mood = {"better": "good", "worse": "bad"}.get(how, "")
            tiles.append(
                f"<div class='card tile'><span>{TITLES[metric]}, {text(name)}</span><b>{score(values['value'])}</b>"
                f"<span>95 % interval {_interval(values)}</span>"
                + (
                    f"<span class='{mood}'>baseline {score(values['baseline'])}: {how}</span></div>"
                    if how
                    else "</div>"
                )
            )
        lines.append(f"<div class=tiles>{''.join(tiles)}</div>")
        lines.append(
            f"<p class=soft>Over {rows_of(scored['rows'])} of the {text(name)} set. The baseline always answers "
            f"“{answer}”{shares}. The interval says how far the number would move with other rows of the same kind.</p>"
        )
    lines.append("</header>")
    for each in report["missing"]:
        lines.append(f"<p class='card advice'>Not in this report: {text(each)}.</p>")
    return lines


def _advice(report: dict[str, Any]) -> list[str]:
    if not report["advice"]:
        return []
    cards = [
        f"<section class='card advice'><h3>{text(each['topic'].capitalize())}</h3><p>{text(each['text'])}</p></section>"
        for each in report["advice"]
    ]
    return ["<h2>What could be better</h2>", *cards]


# A set


def _set(report: dict[str, Any], name: str, pictures: dict[str, dict[str, bytes]]) -> list[str]:
    scored = report["sets"][name]
    lines = [f"<h2>{text(name.capitalize())} set, {rows_of(scored['rows'])}</h2>"]
    if scored["not_finite"]:
        lines.append(
            f"<p class='card advice'>Of {rows_of(scored['not_finite'])} the model gave no finite numbers. They count "
            "as they were answered, and are left out of everything that needs a probability or a number.</p>"
        )
    cards = []
    if scored["metrics"]:
        cards.append(_metrics(scored))
    if scored.get("classes"):
        cards.append(_classes(scored))
    confusion = scored.get("confusion", {})
    if "counts" in confusion and len(scored["classes"]) <= MATRIX_CLASSES:
        cards.append(_matrix(scored))
    else:
        picture = _picture(pictures, f"{name}_confusion", f"Which classes are confused, {name}")
        table = _pairs(confusion["pairs"]) if confusion.get("pairs") else ""
        if picture or table:
            cards.append(_card("What is taken for what", picture, table))
    for kind, title, told in (
        ("roc", "ROC", ""),
        ("pr", "Precision and recall", ""),
        ("calibration", "Calibration", _calibration_words(scored)),
        ("scatter", "Predictions", ""),
        ("residuals", "Residuals", _residual_words(scored)),
    ):
        picture = _picture(pictures, f"{name}_{kind}", f"{title}, {name}")
        if picture or told:
            cards.append(_card(title, picture, told))
    if scored.get("curves") and not pictures:
        cards.append(_areas(scored["curves"]))
    lines.append(f"<div class=two>{''.join(cards)}</div>")
    if scored["rows"]:
        lines.append(_mistakes(scored, name))
    return lines


def _metrics(scored: dict[str, Any]) -> str:
    rows = []
    for metric, values in scored["metrics"].items():
        rows.append(
            (
                f"{TITLES.get(metric, text(metric))}{_bar(metric, values)}",
                f"{score(values['value'])}<small>{_interval(values)}</small>",
                score(values["baseline"]),
            )
        )
    counts = {values["resamples"] for values in scored["metrics"].values()} - {0}
    drawn = " or ".join(f"{count:,}" for count in sorted(counts, reverse=True)) or "no"
    positive = f" F1, precision and recall are those of “{text(scored['positive'])}”." if "positive" in scored else ""
    none = ""
    if "calibration_error" in scored["metrics"]:
        none = " The calibration error has none: resampled rows alone make it larger."
    note = f"<p class=soft>Intervals: bootstrap, percentiles of {drawn} resamples of the rows.{none}{positive}</p>"
    return _card("Metrics", _table(("", "value<small>95 % interval</small>", "baseline"), rows, {1, 2}), note)


def _interval(values: dict[str, Any]) -> str:
    return "–" if values["low"] is None else f"{score(values['low'])} to {score(values['high'])}"


def _bar(metric: str, values: dict[str, Any]) -> str:
    """Value, interval and baseline on a line from 0 to 1."""
    numbers = [values[name] for name in ("value", "low", "high")]
    if any(each is None or not 0 <= each <= 1 for each in numbers) or metric in LESS_IS_BETTER:
        return ""
    value, low, high = (100 * each for each in numbers)
    bar = f"<i style='left:{low:.1f}%;width:{max(high - low, 0.5):.1f}%'></i><b style='left:{value:.1f}%'></b>"
    baseline = values["baseline"]
    if baseline is not None and 0 <= baseline <= 1:
        bar += f"<u style='left:{100 * baseline:.1f}%'></u>"
    return f"<div class=bar aria-hidden=true>{bar}</div>"


def _classes(scored: dict[str, Any]) -> str:
    rows = [
        (
            text(each["name"], 80),
            score(each["precision"]),
            score(each["recall"]),
            score(each["f1"]),
            f"{each['support']:,}",
            f"{each['predicted']:,}",
        )
        for each in scored["classes"]
    ]
    table = _table(("class", "precision", "recall", "F1", "rows", "predicted"), rows, {1, 2, 3, 4, 5})
    absent = [each["name"] for each in scored["classes"] if not each["support"]]
    named = ", ".join(text(name, 40) for name in absent[:8]) + (", ..." if len(absent) > 8 else "")
    note = f"<p class=soft>Not in this set: {named}.</p>" if absent else ""
    if len(rows) > CLASSES_AT_ONCE:
        table = f"<details><summary>All {len(rows)} classes</summary>{table}</details>"
    return _card("By class", table, note)


def _matrix(scored: dict[str, Any]) -> str:
    names = [text(each["name"], 30) for each in scored["classes"]]
    head = "".join(f"<th scope=col>{name}</th>" for name in names)
    lines = []
    for name, counts in zip(names, scored["confusion"]["counts"], strict=True):
        total = sum(counts)
        cells = "".join(
            f"<td style='background:rgba(var(--tint),{0.75 * count / max(total, 1):.2f})'>{count:,}"
            f"<small>{count / total:.0%}</small></td>"
            if total
            else "<td>0</td>"
            for count in counts
        )
        lines.append(f"<tr><th scope=row>{name}</th>{cells}</tr>")
    table = f"<table class=matrix><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    note = "<p class=soft>A line for each label, a column for each prediction; shares are of the line.</p>"
    return _card("What is taken for what", f"<div class=scroll>{table}</div>", note)


def _pairs(pairs: list[dict[str, Any]]) -> str:
    rows = [
        (text(pair["label"], 60), text(pair["prediction"], 60), f"{pair['rows']:,}", f"{pair['share']:.0%}")
        for pair in pairs
    ]
    return _table(("label", "taken for", "rows", "of its rows"), rows, {2, 3})


def _areas(curves: dict[str, Any]) -> str:
    rows = [(text(name, 60), score(each["roc_auc"]), score(each["ap"])) for name, each in curves["classes"].items()]
    rows.append(("mean", score(curves["mean_roc_auc"]), score(curves["mean_ap"])))
    return _card("Areas under the curves", _table(("class", "ROC", "precision-recall"), rows, {1, 2}))


def _calibration_words(scored: dict[str, Any]) -> str:
    bins = scored.get("calibration")
    if not bins:
        return ""
    total = sum(each["rows"] for each in bins)
    sure = sum(each["confidence"] * each["rows"] for each in bins) / total
    right = sum(each["right"] * each["rows"] for each in bins) / total
    how = "too sure of itself" if sure > right else "less sure than it could be"
    return (
        f"<p class=soft>On average it was {sure:.1%} sure and {right:.1%} right"
        f"{f': {how}' if abs(sure - right) > 0.02 else ''}.</p>"
    )


def _residual_words(scored: dict[str, Any]) -> str:
    residuals = scored.get("residuals")
    if not residuals:
        return ""
    low, high = residuals["quantiles"]["0.05"], residuals["quantiles"]["0.95"]
    told = f"{residuals['mean']:.3g} on average; nine of ten lie between {low:.3g} and {high:.3g}"
    return f"<p class=soft>Prediction minus label: {told}.</p>"


def _mistakes(scored: dict[str, Any], name: str) -> str:
    found = scored["mistakes"]
    is_number = scored["kind"] == "regression"
    title = "Largest errors" if is_number else "Most confident mistakes"
    if not found:
        return _card(title, "<p>None: every row is answered right.</p>")
    items = []
    for each in found:
        if is_number:
            how = f"said {each['prediction']:.4g}, label <b>{each['label']:.4g}</b>: off by {each['error']:.4g}"
        else:
            label = f"label <b class=good>{_names(each['label'])}</b>"
            how = f"<b class=bad>{_names(each['prediction'])}</b> with {each['probability']:.1%}; {label}"
        texts = "".join(f"<p dir=auto>{text(value, LONGEST_TEXT)}</p>" for value in each["texts"].values())
        items.append(
            f"<div class=mistake><p><span class=soft>row {each['row']}</span> {how}</p>"
            f"<div class=texts>{texts}</div></div>"
        )
    few, rest = "".join(items[:5]), "".join(items[5:])
    more = f"<details><summary>{len(items) - 5} more</summary>{rest}</details>" if rest else ""
    return f"<section class=card><h3>{title}, {text(name)}</h3>{few}{more}</section>"


def _names(value: Any) -> str:
    return text(", ".join(value) or "none" if isinstance(value, list) else value, 80)


# The training, and how to do it again


def _training(report: dict[str, Any], pictures: dict[str, dict[str, bytes]]) -> list[str]:
    cards = [
        _card(title, _picture(pictures, name, title))
        for name, title in (
            ("loss", "Loss"),
            ("metrics", "Validation"),
            ("learning_rate", "Learning rate"),
            ("grad_norm", "Gradient norm"),
        )
        if name in pictures.get("light", {})
    ]
    evaluation = _evaluations(report["history"])
    if evaluation:
        cards.append(evaluation)
    lines = ["<h2>Training</h2>", f"<p class=soft>{text(_training_words(report))}</p>"]
    return [*lines, f"<div class=two>{''.join(cards)}</div>"] if cards else lines


def _training_words(report: dict[str, Any]) -> str:
    history, speed, padding = report["history"], report["speed"], report["facts"].get("padding", {})
    words = [f"{history['updates'] or 0:,} updates"]
    if "seconds" in speed:
        seconds = speed["seconds"]
        took = duration(seconds) if round(seconds) >= 60 else f"{seconds:.1f} s"
        words.append(f"{took} in the last start, evaluations and saves included")
    if "tokens_per_second" in speed:
        words.append(f"{speed['tokens_per_second']:,.0f} tokens a second ({speed['rows_per_second']:.3g} rows)")
    if padding.get("share") is not None:
        words.append(f"{padding['share']:.1%} of the computed tokens are padding")
    return "; ".join(words) + "."


def _evaluations(history: dict[str, Any]) -> str:
    curves = history["evaluation"]
    if not curves:
        return ""
    times = sorted({(update, epoch or 0) for points in curves.values() for update, epoch, _ in points})
    values = {name: {update: value for update, _, value in points} for name, points in curves.items()}
    best = (history["best"] or {}).get("update")
    rows = [
        (
            f"{update:,}{' <b class=good>best</b>' if update == best else ''}",
            f"{epoch:.3g}",
            *(score(values[name].get(update)) for name in curves),
        )
        for update, epoch in times
    ]
    head = ("update", "epoch", *(text(name) for name in curves))
    return _card("Evaluations", _table(head, rows, set(range(1, len(head)))))


def _details(report: dict[str, Any]) -> list[str]:
    facts = report["facts"]
    lines = ["<h2>The run</h2>"]
    if report["command"]:
        changes = (
            "<p class=soft>It went on with changed settings; the command is that of its last part.</p>"
            if report["went_on_with_changes"]
            else ""
        )
        lines.append(_card("The command that makes it again", f"<pre>{text_lines(report['command'])}</pre>", changes))
    cards = []
    if report["settings"]:
        rows = [(f"<code>{text(name)}</code>", text(value, 200)) for name, value in report["settings"].items()]
        cards.append(_card("Settings other than the defaults", _table(("", ""), rows, set())))
    if facts:
        cards.append(_data(facts))
        device = facts["device"]
        where = [
            ("device", text(device["name"])),
            ("precision", text(device["precision"])),
            ("processes", str(report["processes"])),
            ("CPU threads", f"{device['threads']}{' each' if report['processes'] > 1 else ''}"),
        ]
        versions = [(text(name), text(version)) for name, version in report["versions"].items()]
        cards.append(_card("Device and versions", _table(("", ""), [*where, *versions], set())))
    if cards:
        lines.append(f"<div class=two>{''.join(cards)}</div>")
    lines.append("<footer>Made by <code>python -m ftloop.report</code>; report.json has every number.</footer>")
    return lines


def _data(facts: dict[str, Any]) -> str:
    rows = []
    for name, each in facts["data"]["sets"].items():
        labels = each["labels"]
        if labels is None:
            told = "without labels"
        elif facts["data"]["kind"] == "regression":
            told = ", ".join(f"{key} {value:.4g}" for key, value in labels.items())
        else:
            most = sorted(labels.items(), key=lambda pair: -pair[1])
            told = ", ".join(f"{text(label, 40)} {count:,}" for label, count in most[:8])
            told += f", ... {len(labels)} in all" if len(labels) > 8 else ""
        rows.append((text(name), f"{each['rows']:,}", f"{each['truncated']:,}", told))
    table = _table(("set", "rows", "truncated", "labels"), rows, {1, 2})
    return _card("Data", f"<div class=wide>{table}</div>")


def text_lines(value: str) -> str:
    """As `text`, with its line ends."""
    return "\n".join(text(line) for line in value.split("\n"))
