"""The rows of a recording are dealt to any loop, and the next difference shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from harness.handwritten_loop import handwritten_loop
from harness.models import tiny_bert
from harness.pages import BOOK, blocks
from harness.recordings import record_trainer
from harness.rows import pad
from harness.side_by_side import Job
from torch.utils.data import DataLoader

from ftloop import UserError
from ftloop.compare import Recorder, Recording, Replay, compare, explain, read, replay
from ftloop.compare.description import describe

JOB = Job(tiny_bert, train_rows=17)
ROWS = JOB.data()[0]
K3 = {"gradient_accumulation_steps": 3, "eval_strategy": "no", "save_strategy": "no"}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("theirs") / "theirs.jsonl"
    record_trainer(JOB, file, **K3)
    return file


@pytest.mark.parametrize(
    ("faults", "stage", "cause"), [("", "", ""), ("decay on everything", "weights", "decay-groups")]
)
def test_with_trainers_rows_the_next_difference_shows(
    faults: str, stage: str, cause: str, theirs: Path, tmp_path: Path
) -> None:
    """A shuffle of its own is no difference then: without another fault, the run is Trainer's."""
    mine = tmp_path / "mine.jsonl"
    handwritten_loop(JOB, mine, f"plain shuffle + {faults}", accumulation=3, eval_steps=0, replayed=theirs)
    comparison = compare(read(theirs), read(mine))
    if not cause:
        assert comparison.same, describe(comparison)
        assert len(comparison.updates) == 4
    else:
        assert (comparison.first.stage, [each.name for each in explain(comparison)]) == (stage, [cause])


def test_epochs_are_told_apart_with_and_without_what_the_recording_says_of_them(theirs: Path, tmp_path: Path) -> None:
    handwritten_loop(JOB, tmp_path / "mine.jsonl", accumulation=3, eval_steps=0)
    handwritten_loop(JOB, tmp_path / "short.jsonl", "drop last", accumulation=3, eval_steps=0)
    said, unsaid = replay(theirs, ROWS, pad), replay(tmp_path / "mine.jsonl", ROWS, pad)
    assert said.recording.updates[1][0]["epoch"] is not None
    assert unsaid.recording.updates[1][0]["epoch"] is None
    assert said.epochs == unsaid.epochs
    assert [[len(rows) for rows in epoch] for epoch in said.epochs] == [[4, 4, 4, 4, 1]] * 2
    assert said.epochs[0] != said.epochs[1]
    assert [len(epoch) for epoch in replay(tmp_path / "short.jsonl", ROWS, pad).epochs] == [4, 4]


def test_every_row_is_dealt_once_in_an_epoch_and_a_look_costs_none(theirs: Path) -> None:
    rows = replay(theirs, ROWS, pad)
    state = torch.get_rng_state()
    look = next(iter(rows))
    epochs = []
    for _ in range(2):
        assert len(rows) == 5
        dealing = iter(rows)
        epochs.append([next(dealing) for _ in range(len(rows))])  # and is never asked for one more
    assert torch.equal(torch.get_rng_state(), state)
    assert epochs[0][0] == look
    assert all(sorted(index for batch in epoch for index in batch) == list(range(17)) for epoch in epochs)
    with pytest.raises(UserError, match=r"theirs.jsonl: all its 2 epoch\(s\) have been dealt, and the loop asks for"):
        next(iter(rows))


def test_equal_rows_are_each_dealt(tmp_path: Path) -> None:
    twice = [*ROWS.select(range(4)), *ROWS.select(range(4))]
    model = tiny_bert()
    optimizer = torch.optim.AdamW(model.parameters())
    with Recorder(tmp_path / "mine.jsonl", model, optimizer) as recorder:
        for _ in range(2):
            step(recorder, model, optimizer, twice)
    rows = replay(tmp_path / "mine.jsonl", twice, pad)
    assert [sorted(next(iter(rows))) for _ in rows.epochs] == [list(range(8))] * 2


def test_rows_that_the_data_lack_are_an_error_that_says_what_to_look_at(theirs: Path) -> None:
    with pytest.raises(UserError, match=r"5 of its 17 different rows are not in the data set .*is it the same data"):
        replay(theirs, ROWS.select(range(12)), pad)
    bare = ROWS.remove_columns("token_type_ids")
    with pytest.raises(
        UserError, match=r"17 of .* called with attention_mask, .*token_type_ids, and collate_fn makes .*s:"
    ):
        replay(theirs, bare, pad)


def test_an_empty_recording_is_an_error(tmp_path: Path) -> None:
    model = tiny_bert()
    Recorder(tmp_path / "mine.jsonl", model, torch.optim.AdamW(model.parameters())).close()
    with pytest.raises(UserError, match="holds no update"):
        replay(tmp_path / "mine.jsonl", ROWS, pad)


@pytest.mark.parametrize("said", [True, False])
def test_several_processes_get_their_own_rows(said: bool) -> None:
    """Two processes, 7 rows in micro-batches of 2: the last round is filled up with the epoch's first row."""
    dealt = [[("ab", "cd"), ("ef", "ga")], [("gf", "ed"), ("cb", "ag")]]
    recording = Recording(Path("theirs.jsonl"), headers=[{}, {}])
    for epoch, rounds in enumerate(dealt):
        for place, micros in enumerate(rounds, 1):
            lines = [
                {"micro_batches": [{"rows": list(m)}], "epoch": epoch + place / 2 if said else None} for m in micros
            ]
            recording.updates[2 * epoch + place] = lines
    rows = Replay(recording, {letter: [index] for index, letter in enumerate("abcdefg")})
    shards = [list(BatchSamplerShard(Replay(recording, rows._places), 2, process)) for process in (0, 1)]
    assert rows.epochs == [[list(micro) for micros in rounds for micro in micros] for rounds in dealt]
    assert shards == [[[0, 1], [4, 5]], [[2, 3], [6, 0]]]


def step(recorder: Recorder, model: Any, optimizer: Any, rows: Any) -> None:
    inputs = pad(list(rows))
    recorder.before_forward(inputs)
    loss = model(**inputs).loss
    loss.backward()
    recorder.after_backward(loss)
    optimizer.step()
    optimizer.zero_grad()


def test_the_recorded_random_state_takes_the_difference_of_dropout_away(tmp_path: Path) -> None:
    def trained(name: str, seed: int, state_of: Replay | None = None) -> Recording:
        model = tiny_bert()
        optimizer = torch.optim.AdamW(model.parameters())
        torch.manual_seed(seed)
        with Recorder(tmp_path / name, model, optimizer, full=True) as recorder:
            for update in range(1, 4):
                if state_of is not None:
                    torch.rand(update)  # whatever else draws
                    state_of.set_random_state(update)
                step(recorder, model, optimizer, ROWS.select(range(4)))
        return read(tmp_path / name)

    whole = trained("a.jsonl", 1)
    rows = replay(tmp_path / "a.jsonl", ROWS, pad)
    assert compare(whole, trained("b.jsonl", 2)).first.stage == "random state"
    assert compare(whole, trained("c.jsonl", 2, rows)).same
    with pytest.raises(UserError, match="has no update 4"):
        rows.set_random_state(4)


def test_a_random_state_that_was_not_recorded_is_an_error_with_the_way_out(theirs: Path) -> None:
    with pytest.raises(UserError, match=r"theirs.jsonl: holds digests .*record it with --record_full \(from Python"):
        replay(theirs, ROWS, pad).set_random_state(1)


def test_the_pages_example_runs(theirs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(theirs.parent)
    (code,) = (block for block in blocks(BOOK["why-not-trainer.md"], "python") if "replay(" in block)
    names: dict[str, Any] = {"dataset": ROWS, "collate_fn": pad, "DataLoader": DataLoader}
    exec(code, names)
    assert [len(batch["labels"]) for batch in names["loader"]] == [4, 4, 4, 4, 1]
