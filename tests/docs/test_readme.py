"""The README and the book show what the code is."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import json
import keyword
import re
from collections import Counter
from pathlib import Path

import accelerate
import datasets
import pytest
import torch
import transformers
import yaml
from harness import house
from harness.command import CHECKOUT
from harness.models import tiny_bert
from harness.pages import BOOK, PAGES, README, WALKTHROUGH, blocks
from harness.rows import pad, tiny_pairs, tiny_rows
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

import ftloop.loop
from benchmarks import hyperparameters as choices
from ftloop.compare import read
from ftloop.config.train_config import SETTINGS


def python_block(page: str, with_word: str) -> str:
    (block,) = (block for block in blocks(PAGES[page], "python") if with_word in block)
    return block


def test_the_loop_quoted_is_the_loop() -> None:
    assert inspect.getsource(ftloop.loop.updates).strip() == blocks(README, "python")[0].strip()


def test_the_annotated_loop_is_the_loop() -> None:
    loop = ftloop.loop
    shown = "\n".join(blocks(BOOK["walkthrough/the-loop.md"], "python"))
    functions = (loop.forward_backward, loop.updates, loop.gradient_sync, loop.train)
    source = "\n".join(inspect.getsource(function) for function in functions)
    assert [line for line in shown.splitlines() if line] == [line for line in source.splitlines() if line]


@pytest.fixture
def without_a_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An example's data set is one of tiny pairs, and its working directory an empty one."""
    rows = {name: datasets.Dataset.from_list(tiny_pairs(count)) for name, count in SIZES.items()}
    monkeypatch.setattr(datasets, "load_dataset", lambda *names: datasets.DatasetDict(rows))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("without_a_hub")
def test_the_readmes_python_example_runs(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the body done at every second update, of which the example has too few for its own."""
    example = python_block("README.md", "load_dataset")
    assert example.count("bert-base-uncased") == 2
    assert example.count("% 100") == 1
    exec(example.replace("bert-base-uncased", str(tiny_folder / "model")).replace("% 100", "% 2"), {})
    printed = capsys.readouterr().out
    assert len(re.findall(r"^[246] 0\.\d+ 0\.\d+$", printed, re.MULTILINE)) == 3
    left = {path.name for path in (tmp_path / "runs" / "python").iterdir()}
    assert {"model.safetensors", "README.md", "all_results.json"} <= left


@pytest.mark.usefixtures("without_a_hub")
def test_the_python_example_runs(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The example as printed, but for the names of the model and the data set, which would need the hub."""
    guide = "docs/guides/python.md"
    example, body = python_block(guide, "load_dataset"), python_block(guide, "for update in updates(run):")
    assert example.count("bert-base-uncased") == 2
    names: dict[str, object] = {}
    exec(example.replace("bert-base-uncased", str(tiny_folder / "model")), names)
    printed = capsys.readouterr().out
    assert "Epoch 3/3" in printed
    assert "'test_accuracy'" in printed
    assert "(11, 2)" in printed
    left = {path.name for path in (tmp_path / "runs" / "python").iterdir()}
    assert {"model.safetensors", "README.md", "test_results.json", "test_predictions.parquet"} <= left
    exec(body, names)  # a run that is over yields no more updates
    exec(python_block(guide, "compute_loss_func="), names)
    update = next(ftloop.updates(names["run"]))  # type: ignore[arg-type]
    assert 0.4 < update.loss.item() < 0.9


def test_the_three_calls_of_a_loop_of_ones_own_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = tiny_rows(8)
    model = tiny_bert()
    args = TrainingArguments(output_dir="out", use_cpu=True, max_steps=1, save_strategy="no", disable_tqdm=True)
    names: dict[str, object] = {
        "trainer": Trainer(model=tiny_bert(), args=args, train_dataset=rows, data_collator=pad),
        "model": model,
        "optimizer": torch.optim.AdamW(model.parameters()),
        "loader": DataLoader(rows, batch_size=4, collate_fn=pad),
    }
    block = python_block("docs/why-not-trainer.md", "...  ")
    assert block.count("...  ") == 1
    exec(block.replace("...  ", "optimizer.step(); optimizer.zero_grad()  "), names)
    names["trainer"].train()  # type: ignore[attr-defined]
    assert [list(read(tmp_path / f"{who}.jsonl").updates) for who in ("theirs", "mine")] == [[1], [1, 2]]


def test_the_prediction_example_runs(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(tiny_folder / "model")
    monkeypatch.chdir(tmp_path)
    exec(python_block("docs/guides/predict.md", "load_classifier"), {})
    assert capsys.readouterr().out.count("{'LABEL_0': 0.") == 2


SIZES = {"train": 29, "validation": 13, "test": 11}


def test_every_root_file_and_every_folder_is_in_the_tree() -> None:
    """Each with a line of its own; and nothing in it that is not there."""
    tree = BOOK["reference/layout.md"].split("```")[1]
    named, root = set(), ""
    for line in tree.strip().splitlines():
        name = line.split()[0]
        root = root if line.startswith(" ") else name
        named.add(root + name if line.startswith(" ") else name)
    assert all((CHECKOUT / name).exists() for name in named), named
    there = {f"{folder.name}/{path.name}" for folder in ROOTS for path in folder.glob("*.py")}
    there |= {f"{folder.name}/{path.parent.name}/" for folder in ROOTS for path in folder.glob("*/*.py")}
    unsaid = {"ftloop/__init__.py", "tests/conftest.py", "tests/loop/"}
    unsaid |= {name.replace("ftloop/", "tests/") for name in there if name.startswith("ftloop/")}  # as their wings
    assert there - unsaid <= named
    assert len(named) > 35


def test_the_readme_names_every_wing_and_nothing_that_is_not_there() -> None:
    lines = README.split("## Layout")[1].split("```")[1].strip().splitlines()
    wings = {path.parent.name for path in (CHECKOUT / "ftloop").glob("*/__init__.py")}
    assert {line.split()[0].rstrip("/") for line in lines if line.startswith("  ")} == wings
    assert all((CHECKOUT / line.split()[0]).is_dir() for line in lines if not line.startswith("  "))


ROOTS = [CHECKOUT / name for name in ("ftloop", "tests", "benchmarks")]


OF_OTHERS = {
    "num_cpu_threads_per_process",
    "num_processes",
    "nproc_per_node",
    "nnodes",
    "rdzv_backend",
    "rdzv_id",
    "rdzv_endpoint",
    "config_file",
    "nodes",
    "ntasks",
    "gpus",
    "cpus",
    "multi_gpu",
    "cpu",
    "help",
    "model",
    "pairs",
    "png",
    "tensorboard",
    "fuzz",
    "show",
    "seed",
    "plant",
    "choice",
    "signal",
    "requeue",
    "number",
    "advise",
    "curves",
    "set",
    "sort",
    "metric",
    "input",
    "output",
    "input_format",
    "output_format",
    "all_probabilities",
    "continue",
    "no",
    "exclude",
    "private",
    "task",
}
"""Flags of launchers, of make's benchmarks and of the other commands."""


def test_every_flag_named_is_a_setting() -> None:
    flags = set(re.findall(r"--(\w+)", "\n".join(PAGES.values()))) - OF_OTHERS
    assert {"train_file", "trainer_compat", "resume_from_checkpoint"} <= flags
    assert flags - {"strict"} <= set(SETTINGS)


def fenced_and_not(text: str) -> tuple[str, str]:
    """The lines of code blocks and diagrams, and all others."""
    parts = re.split(r"^```.*$", text, flags=re.MULTILINE)
    return "\n".join(parts[1::2]), "\n".join(parts[::2])


def code_spans(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", fenced_and_not(text)[1])


@functools.cache
def names_of_tests() -> set[str]:
    return {
        node.name
        for path in (CHECKOUT / "tests").rglob("test_*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }


@functools.cache
def words_of_the_source() -> set[str]:
    """Every name, field, argument and string constant of ftloop and its benchmarks, one word each."""
    words: set[str] = set()
    for path in [*(CHECKOUT / "ftloop").rglob("*.py"), *(CHECKOUT / "benchmarks").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            value = getattr(node, NAMED_BY.get(type(node), ""), None)
            if isinstance(value, str) and len(value) < 200:  # longer ones are prose
                words.update((value, *re.split(r"[^\w.-]+", value)))
    return words


NAMED_BY = {
    **dict.fromkeys((ast.FunctionDef, ast.ClassDef, ast.alias), "name"),
    **dict.fromkeys((ast.arg, ast.keyword), "arg"),
    ast.Name: "id",
    ast.Attribute: "attr",
    ast.Constant: "value",
}


# What is named of other libraries: each has to have it.
THEIRS = (
    *(transformers, transformers.trainer, transformers.trainer_utils, Trainer, TrainingArguments),
    *(transformers.DefaultFlowCallback, transformers.BertModel),
    *(torch, torch.nn, torch.nn.parallel.DistributedDataParallel, torch.utils.data, DataLoader),
    *(torch.utils.data.distributed, datasets, accelerate.Accelerator, accelerate.data_loader.DataLoaderShard),
)


# What pages call by a variable's name.
VARIABLES = {
    "model": torch.nn.Module,
    "optimizer": torch.optim.Optimizer,
    "scheduler": torch.optim.lr_scheduler.LRScheduler,
    "trainer": Trainer,
}


def missing_names(spans: list[str]) -> list[str]:
    """Which of the spans name something that is not there: a test, file, flag, command, module.name or plain name."""
    tests, words = names_of_tests(), words_of_the_source()
    flags = set(SETTINGS) | OF_OTHERS
    targets = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    modules = MODULES

    def is_there(name: str) -> bool:
        if name.startswith("test_") and not name.endswith(".py"):
            return name in tests
        if re.search(r"\.(py|md|yaml|ipynb|png)$", name) or "/" in name:
            roots = (CHECKOUT, CHECKOUT / "ftloop", CHECKOUT / "tests", CHECKOUT / "benchmarks")
            return any(list(root.glob(f"**/{name}")) for root in roots)
        if name.startswith("mine."):  # a file of the reader's
            return True
        if name.endswith("-N"):
            return all({f"{part}-", f".{part}-"} & words for part in name.removesuffix("-N").split("-"))
        first, _, rest = name.partition(".")
        module = next((prefix for prefix in prefixes(name) if prefix in modules), None)
        if module is not None and name not in words:
            return has(importlib.import_module(modules[module]), name.removeprefix(f"{module}."))
        if first in VARIABLES and rest and has(VARIABLES[first], rest):
            return True
        if "." in name and name not in words:  # a class of ours, or something of theirs
            ours = [vars(importlib.import_module(module)).get(first) for module in sorted(set(modules.values()))]
            return any(has(owner, rest) for owner in ours if owner) or any(has(owner, name) for owner in THEIRS)
        return bool({name, f".{name}-"} & words) or any(has(owner, name) for owner in THEIRS)

    missing = []
    for span in spans:
        if span.startswith("make "):
            wanted, there = {span.split()[1]}, targets
        elif span.startswith("--"):
            wanted, there = {span.split()[0].removeprefix("--")}, flags
        else:
            found = set(re.findall(r"(?<![\w-])[\w./*-]*[A-Za-z_][\w./*-]*", span))
            names = {name.strip(".*/-") for name in found if not name.startswith("--")}
            wanted = {name for name in names if len(name) > 1 and name not in KEYWORDS and not is_there(name)}
            wanted |= set(re.findall(r"--(\w+)", span)) - flags
            there = set()
        missing += [f"{name} in {span!r}" for name in wanted - there]
    return missing


def _modules() -> dict[str, str]:
    """Modules of ours as a page may name them: with their wing, and by their file alone where it is the only one."""
    dotted = [name for name in house.files() if name and not name.endswith("__main__")]
    alone = Counter(name.split(".")[-1] for name in dotted)
    short = {name.split(".")[-1]: name for name in dotted if alone[name.split(".")[-1]] == 1}
    return {name: f"ftloop.{full}" for name, full in (short | {name: name for name in dotted}).items()}


MODULES = _modules()
KEYWORDS = {*keyword.kwlist, "python", "torchrun"}


def prefixes(dotted: str) -> list[str]:
    """`a.b` and `a` for `a.b.c`."""
    parts = dotted.split(".")
    return [".".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]


def has(owner: object, dotted: str) -> bool:
    for name in dotted.split("."):
        fields = getattr(owner, "__dataclass_fields__", {})
        if not hasattr(owner, name) and name not in fields:
            return False
        owner = getattr(owner, name, None)
    return True


def test_every_name_in_the_walkthrough_exists() -> None:
    spans = code_spans(WALKTHROUGH)
    assert len(spans) > 300
    missing = missing_names(spans)
    assert not missing, missing


OF_READERS = {
    *("train.csv", "shards/*.parquet", "aclImdb/train/pos/0_9.txt", "output.manifest", "part-00000", "rt-polarity.pos"),
    *(
        "train_text.txt",
        "train_labels.txt",
        "Fake.csv",
        "True.csv",
        "passage",
        "DESC",
        "manner",
        "NULL",
        "predicted_label",
    ),
    *(
        "runs/mine",
        "runs/mine/report",
        "runs/guide",
        "runs/compare-versions",
        "_accuracy",
        "gamma",
        "my_loss",
        "teacher",
    ),
}
"""Files, columns and folders of a reader's own."""
OF_RUNS = {
    *("test_results.json", "test_predictions.tsv", "validation_predictions.parquet", "test_predictions.parquet"),
    *("report.json", "report.html", "comparison.json", "comparison.html"),
    *("seed-N", "fold-N", "fold-1", "fold-5", "runs/folds", "runs/folds/fold-N"),
}
"""Files and folders whose names hold that of a set, of a kind of page, or a number."""
OUTSIDE = {
    *(
        "YOU/NAME",
        "model.onnx",
        "optimum-onnx",
        "venv",
        "venv/bin/activate",
        "wheel",
        "exec",
        "OLD",
        "NEW",
        "FTLOOP_CASES",
        "test.jsonl",
        "training_args.bin",
        "bin",
        "strict",
        "help-all",
    ),
    *(
        "SEP",
        "extra_special_tokens",
        "logits.argmax",
        "outputs.loss",
        "batchmean",
        "ConstantLR",
        "terminationGracePeriodSeconds",
    ),
}
"""What shells, make, tokenizers and schedulers call so."""


def test_every_name_in_readme_and_guides_exists() -> None:
    known = OF_READERS | OF_RUNS | OUTSIDE
    spans = {page: code_spans(text) for page, text in PAGES.items()}
    assert sum(map(len, spans.values())) > 1000
    missing = {
        page: [name for name in missing_names(each) if name.split(" in ")[0] not in known]
        for page, each in spans.items()
    }
    assert {page: names for page, names in missing.items() if names} == {}


def test_every_name_in_the_walkthroughs_diagrams_and_code_exists() -> None:
    """Within a block that may be printed output, what looks like a name of ours, a test, a file, a flag, a call."""
    chapters = [text for name, text in BOOK.items() if name.startswith("walkthrough/") and "the-loop" not in name]
    fenced = fenced_and_not("\n".join(chapters))[0]
    names = re.findall(r"test_\w+(?:\.py)?|[\w/]+\.(?:py|md|yaml)|--\w+|\b[\w.]*[a-z_]\(\)", fenced)
    assert {"run/prepare.py", "prepare()", "training_step()", "due_after_epoch()"} <= set(names)
    assert missing_names(names) == []


def test_a_name_that_is_not_there_is_found() -> None:
    wrong = ("loop.upgrades", "test_that_is_not_there", "updatez()", "loops.py", "--lerning_rate", "make parityy")
    wrong += (
        "ModelShape.flops",
        "Trainer.training_stepp",
        "on_nonfinte=raise",
        "python benchmarks/scale.py",
        "globl += 1",
    )
    assert len(missing_names(list(wrong))) == len(wrong)
    right = ("loop.updates", "updates()", "ModelShape.training_flops", "on_nonfinite=raise", "TrainerState.global_step")
    assert missing_names(list(right)) == []


def test_every_step_names_trainers_method_our_function_and_a_test() -> None:
    lines = re.findall(
        r"^\| \d+ \|.*\|$", BOOK["walkthrough/run.md"].split("\n## Step by step")[1].split("\n## ")[0], re.MULTILINE
    )
    steps = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert [int(row[0]) for row in steps] == list(range(1, len(steps) + 1))
    assert len(steps) >= 17
    of_trainer = (Trainer, transformers, transformers.DefaultFlowCallback, transformers.trainer_utils)
    for number, _, trainers, ours, held_by in steps:
        theirs = code_spans(trainers)
        assert theirs or trainers == "– (the user's script)", number
        assert all(any(has(owner, name) for owner in of_trainer) for name in theirs), (number, theirs)
        for name in code_spans(ours):
            module = next(prefix for prefix in prefixes(name) if prefix in MODULES)
            assert has(importlib.import_module(MODULES[module]), name.removeprefix(f"{module}.")), (number, name)
        assert code_spans(ours), number
        assert all((CHECKOUT / "tests" / name).is_file() for name in code_spans(held_by)), number
        assert code_spans(held_by), number


def test_the_diagrams_fit_a_console_and_their_large_boxes_are_closed() -> None:
    diagrams = [
        block.splitlines()
        for page in PAGES.values()
        for block in re.findall(r"^```\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
        if "---+" in block
    ]
    assert len(diagrams) >= 2
    boxes = 0
    for lines in diagrams:
        assert max(map(len, lines)) <= 100
        edges = [i for i, line in enumerate(lines) if re.fullmatch(r" \+-{50,}\+", line)]
        for top, bottom in zip(edges[::2], edges[1::2], strict=True):
            boxes += 1
            assert {len(line) for line in lines[top : bottom + 1]} == {len(lines[top])}
            assert {line[1] + line[-1] for line in lines[top + 1 : bottom]} == {"||"}
    assert boxes == 2


def test_every_cause_is_planted_by_a_test_and_in_the_walkthrough() -> None:
    texts = yaml.safe_load((CHECKOUT / "ftloop/compare/causes/texts.yaml").read_text(encoding="utf-8"))
    causes = {"fused", "eps", "betas", *(name for name in texts if not name.endswith(" by Trainer"))}
    assert len(causes) > 55
    by_symptom = BOOK["why-not-trainer.md"].split("## By symptom")[1].split("\n## ")[0]
    assert {name for name in causes if not re.search(rf"[|,;. ]{name}[,;. ]", by_symptom)} == set()
    tests = "".join(path.read_text(encoding="utf-8") for path in (CHECKOUT / "tests" / "compare").glob("test_*.py"))
    traps = BOOK["why-not-trainer.md"].split("### The traps")[1]
    for cause in causes:
        assert re.search(rf"[|, ]{cause}[|,;. ]", traps), cause
        assert re.search(rf'["\s]{cause}["\s]', tests), cause


def test_every_link_leads_somewhere_and_nothing_is_left_to_fill_in() -> None:
    pages = [*(CHECKOUT / name for name in PAGES), *(CHECKOUT / "benchmarks").rglob("*.md")]
    links = 0
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"^[A-Z_]{5,}$", text, re.MULTILINE), page
        for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]+))?\)", text):
            if "://" in target:
                continue
            links += 1
            linked = page.parent / target if target else page
            assert linked.exists(), (page, target)
            assert not anchor or anchor in anchors(linked), (page, target, anchor)
    assert links > 30


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", fenced_and_not(page.read_text(encoding="utf-8"))[1], re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_tables_of_choices_are_those_of_the_last_result() -> None:
    """`benchmarks/hyperparameters.py` writes them; after `make bench-choices` the walkthrough wants the new ones."""
    results = CHECKOUT / "benchmarks" / "results"
    found = json.loads((results / "choices.json").read_text(encoding="utf-8"))
    tables = (results / "choices.md").read_text(encoding="utf-8")
    assert tables == choices.tables(found)
    lines = tables.splitlines()
    assert len(lines) > 6
    for line in lines:
        assert line in WALKTHROUGH, line
    runs = [json.loads(line) for line in (results / "choices.runs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert choices.summarized(runs, list(found["choices"])) == found["choices"]


def test_a_majority_scores_what_scikit_learn_says_it_scores() -> None:
    from sklearn.metrics import accuracy_score, f1_score

    for ones in (3, 5, 7):
        labels = [1] * ones + [0] * (10 - ones)
        named = [int(ones >= 5)] * 10
        scores = {"accuracy": accuracy_score(labels, named), "f1": f1_score(labels, named)}
        assert choices.majority([{"label": label} for label in labels]) == pytest.approx(scores)
