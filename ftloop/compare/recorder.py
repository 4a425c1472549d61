"""Record what a training run does, update by update, so that it can be compared with another run.

One JSON line per update and process: which rows, how they are padded, the random state before each forward pass, losses
and gradients, the gradient after clipping, the learning rate, the weights after the step; and what the run logs.
`ftloop.compare` reads two such files and says where the runs differ. Recording changes no bit of a run: it draws no
random numbers and writes nothing but its file. It needs torch, and for a Trainer any transformers from 4.40 on, so that
runs of two environments can be compared. Three ways to record:

    record(trainer, "theirs.jsonl"); trainer.train()                  # any transformers.Trainer

    with record(run, "ours.jsonl") as recorder:                       # an ftloop run; or `--record ours.jsonl`
        train(run, recorder.training_step)

    recorder = Recorder("mine.jsonl", model, optimizer)               # a loop of your own: three calls
    for ...:
        recorder.before_forward(inputs)
        loss = ...; loss.backward()
        recorder.after_backward(loss)
        ... clip, optimizer.step(), scheduler.step(), zero_grad
        recorder.log({"loss": ..., "learning_rate": ...})             # and {"eval_loss": ...} after an evaluation
    recorder.close()
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ftloop.compare.digests import KIND, digest_inputs, digest_tensors, named_tensors, random_states, whole_states
from ftloop.compare.facts import AutocastWatch, describe_model, describe_optimizer, loaded_versions, unwrap
from ftloop.errors import UserError
from ftloop.system.gradients import named_gradients, total_norm
from ftloop.system.launcher import launched_rank
from ftloop.system.writable import check_writable

if TYPE_CHECKING:
    from torch.optim import Optimizer

FORMAT = 1
PLAIN = (int, float, str, bool, type(None))


class Recorder(AbstractContextManager["Recorder"]):
    """Write one process's recording. An update is over when the optimizer has stepped; its line is written at the next
    call.

    `model` and `optimizer` may be wrapped by DDP and Accelerate. `full` adds a digest of every parameter and its
    gradient, and the random state of every update. `scaler` is the fp16 GradScaler, whose scale is divided out of the
    gradient norm. `skips_nonfinite`: the loop takes no step where numbers are not finite. `global_step` counts the
    updates before this recording, in a run that is resumed; a recording already at `file` is then continued. `state`
    has the `epoch` and the `log_history` of the run.
    """

    def __init__(
        self,
        file: str | Path,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        full: bool = False,
        scaler: Any = None,
        skips_nonfinite: bool = False,
        global_step: int = 0,
        by: str = "a loop of its own",
        arguments: Mapping[str, Any] | None = None,
        state: Any = None,
        output_dir: str | None = None,
    ) -> None:
        self.model, self.scaler, self.full = model, scaler, full
        self.optimizer: Any = getattr(optimizer, "optimizer", optimizer)  # the one Accelerate has wrapped
        self.global_step = global_step
        self._may_skip_steps = skips_nonfinite or scaler is not None
        self._state, self._output_dir = state, output_dir
        # What the history holds from before a resume was written then.
        self._logged = sum(entry.get("step", 0) < global_step for entry in self._history())
        self._checked_step = global_step  # whose checkpoint has been looked for
        self._micro_batches: list[dict[str, Any]] = []
        self._before_step_values: dict[str, Any] = {}
        self._states: dict[str, str] = {}
        self._update: dict[str, Any] | None = None  # done, and not yet written
        self._handles = [
            self.optimizer.register_step_pre_hook(self._before_step),
            self.optimizer.register_step_post_hook(self._after_step),
            *(watch := AutocastWatch(model)).handles,
        ]
        self._autocast = watch
        self._file = _open(rank_file(Path(file), _rank()), resumed=global_step > 0)
        self._write(self._header(by, arguments or {}))

    def before_forward(self, inputs: Mapping[str, Any]) -> None:
        """Call with the micro-batch before its forward pass: tensors by name, the rows along the first dimension."""
        if self.is_closed:
            return
        if self._may_skip_steps and self._micro_batches and not self._gradient_norm():
            self._after_step()  # the gradients are gone and no step was taken: it was skipped
        self._flush()
        tensors = named_tensors(inputs)
        rows, batch, shape = digest_inputs(tensors)
        entry = {"shape": shape, "rows": rows, "inputs": sorted(tensors), "batch": batch, "rng": random_states()}
        if not self._micro_batches:
            entry["fresh"] = not self._gradient_norm()
            self._states = whole_states() if self.full else {}
        self._micro_batches.append(entry)

    def after_backward(self, loss: Tensor | float) -> None:
        """Call with the loss that was propagated back, after all divisions, before gradients are clipped."""
        if self.is_closed:
            return
        if not self._micro_batches or "loss" in self._micro_batches[-1]:
            raise RuntimeError("after_backward() without a before_forward() of its own")
        scale = float(self.scaler.get_scale()) if self.scaler is not None else 1.0
        gradients = named_gradients(self._unwrapped)
        entry = self._micro_batches[-1]
        entry["loss"] = float(loss.detach() if isinstance(loss, Tensor) else loss)
        entry["training"] = self.model.training
        if self._autocast.type is not None:
            entry["autocast"] = self._autocast.type
        entry["grad"] = digest_tensors(gradients)
        entry["grad_norm"] = total_norm(gradients.values()) / scale
        if scale != 1.0:
            entry["scale"] = scale
        if self.full:
            entry["grads"] = {name: digest_tensors({name: gradient}) for name, gradient in gradients.items()}

    def log(self, values: Mapping[str, Any]) -> None:
        """Call with what the loop logs: `loss`, `learning_rate`, `grad_norm`; `eval_loss` and the metrics."""
        self._flush()
        self._write({"log": dict(values), "step": self.global_step})

    def close(self) -> None:
        """Write what is left. A recording that was not closed is read as one of a run that was cut short."""
        if not self.is_closed:
            self._flush()
            self._write({"end": self.global_step, "weights": digest_tensors(self._weights())})
            self._detach()

    @property
    def is_closed(self) -> bool:
        return bool(self._file.closed)

    def __exit__(self, kind: object, *exception: object) -> None:
        if kind is None:
            self.close()
        self._detach()

    def _detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._file.close()

    def _header(self, by: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        weights = self._weights()
        return {
            "ftloop_record": FORMAT,
            "by": by,
            "rank": _rank(),
            "processes": dist.get_world_size() if _is_distributed() else 1,
            "detail": "full" if self.full else "cheap",
            "global_step": self.global_step,
            "seed": torch.initial_seed(),
            "threads": torch.get_num_threads(),
            "device": str(next(self.model.parameters()).device),
            "versions": loaded_versions(),
            "digests": KIND,
            "model": describe_model(self._unwrapped, len(weights)),
            "weights": digest_tensors(weights),
            "optimizer": describe_optimizer(self.optimizer),
            "find_unused_parameters": getattr(self.model, "find_unused_parameters", None),
            # NaN is never equal to itself, so as an argument it would always differ.
            "arguments": {n: value for n, value in arguments.items() if isinstance(value, PLAIN) and value == value},
        }

    def _before_step(self, *_: Any) -> None:
        if not self._micro_batches:
            return  # a second step on the same gradients belongs to the update before
        self._flush()
        gradients = named_gradients(self._unwrapped)
        self._before_step_values = {
            "lr": [float(group["lr"]) for group in self.optimizer.param_groups if "lr" in group],
            "clipped": digest_tensors(gradients),
            "clipped_norm": total_norm(gradients.values()),
        }

    def _after_step(self, *_: Any) -> None:
        weights = self._weights()
        after_step = {"weights": digest_tensors(weights), "weights_norm": total_norm(weights.values())}
        micro_batches = [entry for entry in self._micro_batches if "loss" in entry]
        if not micro_batches:
            if self._update is not None:
                self._update |= after_step
            return
        self._update = {"update": self.global_step + 1, "micro_batches": micro_batches}
        self._update |= self._before_step_values | after_step
        if self.full:
            self._update["states"] = self._states
            self._update["parameters"] = {name: digest_tensors({name: weight}) for name, weight in weights.items()}
        self._micro_batches, self._before_step_values = [], {}

    def _flush(self) -> None:
        """Write the update that is done, then what has been logged and saved since."""
        if self._update is not None:
            self.global_step = self._update["update"]
            self._write(self._update | {"epoch": getattr(self._state, "epoch", None)})
            self._update = None
        history = self._history()
        for entry in history[self._logged :]:
            values = {name: value for name, value in entry.items() if name != "step"}
            self._write({"log": values, "step": entry.get("step", self.global_step)})
        self._logged = len(history)
        if self._output_dir is not None and self._checked_step != self.global_step:
            self._checked_step = self.global_step
            if (Path(self._output_dir) / f"checkpoint-{self.global_step}").is_dir():
                self._write({"checkpoint": self.global_step})

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, default=_to_json) + "\n")
        self._file.flush()

    def _history(self) -> list[dict[str, Any]]:
        return getattr(self._state, "log_history", [])

    @property
    def _unwrapped(self) -> nn.Module:
        return unwrap(self.model)

    def _gradient_norm(self) -> float:
        return total_norm(named_gradients(self._unwrapped).values())

    def _weights(self) -> dict[str, Tensor]:
        return {name: value for name, value in self._unwrapped.state_dict().items() if isinstance(value, Tensor)}


class StepRecorder(AbstractContextManager["StepRecorder"]):
    """Record every call of a training step, Trainer's or ftloop's. The Recorder is made at the first call: only then
    have the optimizer been made and a checkpoint to resume from been loaded."""

    def __init__(
        self,
        make: Callable[[nn.Module], Recorder],
        step: Callable[..., Tensor],
        inputs_of: Callable[[Any], Mapping[str, Any]] = lambda batch: batch,
    ) -> None:
        self._make, self._step, self._inputs_of = make, step, inputs_of
        self.recorder: Recorder | None = None

    def training_step(self, owner: Any, batch: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Do a training step and record it. `owner` is the model with Trainer, the run with ftloop."""
        if self.recorder is None or self.recorder.is_closed:  # closed: a second training
            self.recorder = self._make(owner if isinstance(owner, nn.Module) else owner.model)
        self.recorder.before_forward(self._inputs_of(batch))
        loss = self._step(owner, batch, *args, **kwargs)
        self.recorder.after_backward(loss)
        return loss

    def close(self) -> None:
        if self.recorder is not None:
            self.recorder.close()

    def __exit__(self, *exception: Any) -> None:
        if self.recorder is not None:
            self.recorder.__exit__(*exception)


def record(run: Any, file: str | Path, full: bool = False) -> StepRecorder:
    """Record an ftloop run or a `transformers.Trainer` into `file`; process r > 0 writes `file` with `.rank<r>`.

    A Trainer records itself from here on, until its training ends: one line before `trainer.train()` is all. An
    ftloop run has to be given the `training_step` of what is returned, which closes the file when left as a context.
    A Trainer's `training_step` is wrapped because callbacks see neither the scaled loss nor the unclipped gradient.

    Raises: UserError when nothing can be written there.
    """
    path = Path(file)
    check_recording(path)
    # What is recorded has been imported by whoever made it; nothing is imported for the sake of the other kind.
    loaded = sys.modules.get("ftloop.run.run")
    is_ftloop = loaded is not None and isinstance(run, loaded.Run)
    if not is_ftloop and not (hasattr(run, "training_step") and hasattr(run, "add_callback")):
        raise TypeError(
            f"record() takes a transformers.Trainer or an ftloop Run, not {type(run).__name__}; use Recorder"
        )
    settings = run.config if is_ftloop else run.args

    def make(model: nn.Module) -> Recorder:
        return Recorder(
            path,
            model,
            run.optimizer,
            full=full,
            scaler=run.accelerator.scaler,
            skips_nonfinite=is_ftloop and settings.on_nonfinite == "skip",
            global_step=run.state.global_step,
            by="ftloop" if is_ftloop else "transformers.Trainer",
            arguments=settings.to_dict(),
            state=run.state,
            output_dir=settings.output_dir,
        )

    if is_ftloop:
        from ftloop.loop import training_step

        if run.state.global_step == 0 and settings.resume_from_checkpoint is None:
            rank_file(path, _rank()).unlink(missing_ok=True)  # an earlier recording must not pass for this run's
        return StepRecorder(make, training_step, lambda batch: batch.inputs)
    from ftloop.compare.trainer_callback import CloseRecording

    recorder = StepRecorder(make, run.training_step)
    run.training_step = recorder.training_step
    run.add_callback(CloseRecording(rank_file(path, _rank()), recorder))
    return recorder


def check_recording(path: Path) -> None:
    """Raises: UserError when no file can be written at `path`."""
    check_writable(str(path.parent), "record")
    if path.is_dir() or (path.exists() and not os.access(path, os.W_OK)):
        raise UserError(
            f"record: {path} cannot be written (it is {'a folder' if path.is_dir() else 'write-protected'})"
        )


def rank_file(path: Path, rank: int) -> Path:
    """Return `path` for process 0, `<name>.rank1<suffix>` for process 1, and so on."""
    return path if rank == 0 else path.with_name(f"{path.stem}.rank{rank}{path.suffix}")


def _to_json(value: Any) -> Any:
    """Convert what JSON cannot hold: tensors, arrays and NumPy's numbers to numbers, all else to text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _rank() -> int:
    return dist.get_rank() if _is_distributed() else launched_rank()


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def _open(path: Path, resumed: bool) -> Any:
    """Open the file. A resumed run continues its recording, without an incomplete last line that a kill has left."""
    if resumed and path.is_file():
        old = path.read_bytes()
        path.write_bytes(old[: old.rfind(b"\n") + 1])
        return path.open("a", encoding="utf-8", newline="\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("w", encoding="utf-8", newline="\n")
