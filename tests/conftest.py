"""Every test runs offline and quietly."""

from __future__ import annotations

import os
import shutil
import signal
import string
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ftloop.errors import ExitCode

if TYPE_CHECKING:
    from harness.kill_harness import ForkedRuns
    from transformers import PreTrainedTokenizerFast

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tiny models are faster on one thread, and two test processes then do not fight over two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# As in a terminal, also where the tests were started by nohup: processes inherit what is ignored.
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


# Files of slow tests that take minutes. They begin first, so that none is left to run alone at the end.
LONGEST_FIRST = (
    "test_kill_and_resume",
    "test_notebook",
    "test_disk_faults",
    "test_real",
    "test_benchmarks",
    "test_untrusted_files",
    "test_untrusted_models",
    "test_untrusted_config",
    "test_untrusted_commands",
    "test_untrusted_checkpoints",
    "test_resume",
    "test_break_it",
    "test_processes",
    "test_matrix",
    "test_command",
    "test_large_model",
    "test_stopping",
    "test_distributed",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))  # a stable sort: within a file nothing moves


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how often each value of the parity matrix ran, how many kills hit in each stage and how many inputs were
    tried, whichever process of pytest-xdist did it."""
    counted: dict[str, Counter[str]] = {name: Counter() for name in ("ran", "kills", "tried")}
    for report in [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]:
        for name, counts in report.user_properties:
            if name in counted:
                counted[name].update(counts)
    ran, kills, tried = counted.values()
    if kills:
        from harness.kill_points import table

        terminalreporter.section(f"killed by SIGKILL, {kills.total()} times")
        for line in table(kills):
            terminalreporter.write_line(line)
    if tried:
        terminalreporter.section("inputs nobody trusts: how many were tried")
        told = ", ".join(f"{kind} {count}" for kind, count in sorted(tried.items()))
        terminalreporter.write_line(f"{tried.total()}: {told}")
    if not ran:
        return
    terminalreporter.section("the parity matrix: how often each value ran")
    axes: dict[str, list[str]] = {}
    for name, count in ran.items():
        axis, _, value = name.partition("=")
        axes.setdefault(axis, []).append(f"{value} {count}".strip())
    for axis, values in axes.items():
        terminalreporter.write_line(f"{axis:<15} {', '.join(sorted(values))}")


@pytest.fixture(scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An empty cache of data sets, so that no test reads what an earlier run of the tests has left."""
    import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield


@pytest.fixture
def word_tokenizer() -> PreTrainedTokenizerFast:
    """A fast tokenizer with BERT's special tokens whose words are the letters a to z; at most 16 tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *string.ascii_lowercase]
    tokenizer = Tokenizer(models.WordLevel({word: id for id, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=16, **special)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny `model/` and its tokenizer, and `train`, `validation` and `test.jsonl` of pairs."""
    from harness.models import write_tiny_folder

    return write_tiny_folder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def forked_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkedRuns]:
    """Fork servers, and a folder in which the runs that they fork are killed and their files made to fail."""
    from harness.kill_harness import start_fork_servers

    with start_fork_servers(tmp_path_factory.mktemp("killed")) as runs:
        yield runs


@pytest.fixture(scope="module")
def quiet_data() -> Iterator[None]:
    """No progress bars of `datasets`."""
    import datasets

    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture
def tried(record_property: Callable[[str, Any], None]) -> dict[str, int]:
    """How many inputs of each kind a test has tried; `conftest.py` prints the sums."""
    # a plain dictionary is all that pytest-xdist sends
    counts = dict.fromkeys(("configurations", "data files", "model folders", "planted code", "planted pickles"), 0)
    record_property("tried", counts)
    return counts


@pytest.fixture
def model_folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to be damaged."""
    shutil.copytree(tiny_folder / "model", tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def stderr_of(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must end with a code, and gives what it wrote to stderr."""

    def run(command: Callable[[list[str]], int], words: list[str], code: ExitCode = ExitCode.USER_ERROR) -> str:
        capsys.readouterr()
        assert command(words) == code
        return capsys.readouterr().err

    return run
