"""Write down what a training run does, update by update, so that it can be compared with another.

One JSON line per update and process: which rows, padded how, the random state before each forward pass, losses and
gradients, what clipping left of them, the learning rate, the weights after; and what the run logs. `ftloop.compare`
reads two such files and says where they part. Recording changes no bit of a run: it draws nothing and writes nothing
but its file. Three ways in:

    record(trainer, "theirs.jsonl"); trainer.train()                  # anyone's transformers.Trainer

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
import math
import os
import platform
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import xxhash
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from ftloop.errors import UserError

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from ftloop.run import Run

FORMAT = 1


class Recorder:
    """One process's recording. An update is over when the optimizer has stepped; its line is written at the next call.

    `model` and `optimizer` may be wrapped by DDP and Accelerate. `full` adds a digest of every parameter and its
    gradient. `scaler` is the fp16 GradScaler, whose scale is taken out of the gradient norm. `leaves_out`: the loop
    takes no step where numbers are not finite. `global_step` counts the updates before this recording, in a run that
    is resumed; a recording already at `file` is then continued.
    """

    def __init__(
        self,
        file: str | Path,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        full: bool = False,
        scaler: Any = None,
        leaves_out: bool = False,
        global_step: int = 0,
        by: str = "a loop of its own",
        arguments: Mapping[str, Any] | None = None,
        epoch: Callable[[], float | None] = lambda: None,
        history: Callable[[], list[dict[str, Any]]] = list,
        output_dir: str | None = None,
    ) -> None:
        self.model, self.scaler, self.full = model, scaler, full
        self._leaves_out = leaves_out or scaler is not None
        self.optimizer: Any = getattr(optimizer, "optimizer", optimizer)  # the one Accelerate has wrapped
        self.global_step = global_step
        self._epoch, self._history, self._output_dir = epoch, history, output_dir
        # What the history holds from before a resume was written down then.
        self._logged = sum(entry.get("step", 0) < global_step for entry in history())
        self._looked_at = global_step  # for the checkpoint of this update
        self._micro_batches: list[dict[str, Any]] = []
        self._update: dict[str, Any] | None = None
        self._handles = [
            self.optimizer.register_step_pre_hook(self._before_step),
            self.optimizer.register_step_post_hook(self._after_step),
        ]
        self._file = _open(rank_file(Path(file), _rank()), resumed=global_step > 0)
        self._write(self._header(by, dict(arguments or {})))

    def before_forward(self, inputs: Mapping[str, Any]) -> None:
        """Call with the micro-batch before its forward pass: tensors by name, the rows along the first dimension."""
        if self._leaves_out and self._micro_batches and not _norm(self._gradients()):
            self._after_step()  # the gradients are gone and no step was taken: it was left out
        if self._file.closed:
            return
        self._flush()
        tensors = _named_tensors(inputs)
        rows, batch, shape = digest_inputs(tensors)
        entry = {"shape": shape, "rows": rows, "inputs": sorted(tensors), "batch": batch, "rng": random_states()}
        if not self._micro_batches:
            entry["fresh"] = not _norm(self._gradients())
        self._micro_batches.append(entry)

    def after_backward(self, loss: Tensor | float) -> None:
        """Call with the loss that was propagated back, after all divisions, before gradients are clipped."""
        if self._file.closed:
            return
        if not self._micro_batches or "loss" in self._micro_batches[-1]:
            raise RuntimeError("after_backward() without a before_forward() of its own")
        scale = float(self.scaler.get_scale()) if self.scaler is not None else 1.0
        gradients = self._gradients()
        entry = self._micro_batches[-1]
        entry["loss"] = float(loss.detach() if isinstance(loss, Tensor) else loss)
        entry["training"] = self.model.training
        entry["grad"] = digest_tensors(gradients)
        entry["grad_norm"] = _norm(gradients) / scale
        if scale != 1.0:
            entry["scale"] = scale
        if self.full:
            entry["grads"] = {name: digest_tensors({name: gradient}) for name, gradient in gradients.items()}

    def log(self, values: Mapping[str, Any]) -> None:
        """Call with what the loop logs: `loss`, `learning_rate`, `grad_norm`; `eval_loss` and the metrics."""
        self._flush()
        self._write({"log": {name: _plain(value) for name, value in values.items()}, "step": self.global_step})

    def close(self) -> None:
        """Write what is left. A recording that was not closed is read as one of a run that was cut short."""
        if self._file.closed:
            return
        if self._micro_batches and self._update is None:
            self._micro_batches.clear()  # of an update that was never made
        self._flush()
        self._write({"end": self.global_step, "weights": digest_tensors(self._weights())})
        self._remove_hooks()
        self._file.close()

    @property
    def is_closed(self) -> bool:
        return bool(self._file.closed)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        if kind is None:
            self.close()
        else:
            self._remove_hooks()
            self._file.close()

    def _remove_hooks(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _header(self, by: str, arguments: dict[str, Any]) -> dict[str, Any]:
        weights = self._weights()
        return {
            "ftloop_record": FORMAT,
            "by": by,
            "rank": _rank(),
            "processes": _processes(),
            "detail": "full" if self.full else "cheap",
            "global_step": self.global_step,
            "seed": torch.initial_seed(),
            "threads": torch.get_num_threads(),
            "device": str(next(self.model.parameters()).device),
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            "model": {
                "class": type(_unwrapped(self.model)).__name__,
                "parameters": sum(p.numel() for p in self.model.parameters()),
                "tensors": len(weights),
            },
            "weights": digest_tensors(weights),
            "optimizer": _optimizer_facts(self.optimizer),
            "find_unused_parameters": getattr(self.model, "find_unused_parameters", None),
            "arguments": {name: value for name, value in arguments.items() if _is_plain(value)},
        }

    def _before_step(self, *_: Any) -> None:
        if not self._micro_batches:
            return  # a second step on the same gradients belongs to the update before
        self._flush()
        gradients = self._gradients()
        self._update = {
            "lr": [float(group["lr"]) for group in self.optimizer.param_groups if "lr" in group],
            "clipped": digest_tensors(gradients),
            "clipped_norm": _norm(gradients),
        }

    def _after_step(self, *_: Any) -> None:
        weights = self._weights()
        done = {"weights": digest_tensors(weights), "weights_norm": _norm(weights)}
        if not any("loss" in entry for entry in self._micro_batches):
            if self._update is not None and "update" in self._update:
                self._update |= done
            return
        self._update = {
            "update": self.global_step + 1,
            "micro_batches": [entry for entry in self._micro_batches if "loss" in entry],
            **(self._update or {}),
            **done,
        }
        if self.full:
            self._update["parameters"] = {name: digest_tensors({name: weight}) for name, weight in weights.items()}
        self._micro_batches = []

    def _flush(self) -> None:
        """Write the update that is over, then what has been logged and saved since."""
        if self._update is not None and "update" in self._update:
            self.global_step = self._update["update"]
            self._write(self._update | {"epoch": self._epoch()})
            self._update = None
        history = self._history()
        for entry in history[self._logged :]:
            values = {name: _plain(value) for name, value in entry.items() if name != "step"}
            self._write({"log": values, "step": entry.get("step", self.global_step)})
        self._logged = len(history)
        if self._output_dir is not None and self._looked_at != self.global_step:
            self._looked_at = self.global_step
            if (Path(self._output_dir) / f"checkpoint-{self.global_step}").is_dir():
                self._write({"checkpoint": self.global_step})

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, default=str) + "\n")
        self._file.flush()

    def _gradients(self) -> dict[str, Tensor]:
        parameters = _unwrapped(self.model).named_parameters()
        return {name: p.grad.to_dense() for name, p in parameters if p.grad is not None}

    def _weights(self) -> dict[str, Tensor]:
        return {name: value for name, value in _unwrapped(self.model).state_dict().items() if isinstance(value, Tensor)}


class Recording:
    """A Trainer or an ftloop run that is being recorded. The Recorder is made at the first training step: only then
    are the optimizer made and a checkpoint to resume from loaded."""

    def __init__(self, make: Callable[[nn.Module], Recorder], step: Callable[..., Tensor]) -> None:
        self._make, self._step = make, step
        self.recorder: Recorder | None = None

    def training_step(self, model_or_run: Any, inputs: Mapping[str, Any], *others: Any, **named: Any) -> Tensor:
        """What a training step does, written down. Takes the arguments of Trainer's or of ftloop's."""
        if self.recorder is None or self.recorder.is_closed:  # closed: a second training
            self.recorder = self._make(model_or_run if isinstance(model_or_run, nn.Module) else model_or_run.model)
        self.recorder.before_forward(inputs)
        loss = self._step(model_or_run, inputs, *others, **named)
        self.recorder.after_backward(loss)
        return loss

    def close(self) -> None:
        if self.recorder is not None:
            self.recorder.close()

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *exception: Any) -> None:
        if self.recorder is not None:
            self.recorder.__exit__(*exception)


def record(run: Any, file: str | Path, full: bool = False) -> Recording:
    """Record an ftloop run or a `transformers.Trainer` into `file`; process r > 0 writes `file` with `.rank<r>`.

    A Trainer records itself from here on, until its training ends: one line before `trainer.train()` is all. An
    ftloop run has to be given the `training_step` of what is returned, which closes the file when left as a context.

    Raises: UserError when nothing can be written there.
    """
    path = Path(file)
    check_recording(path)
    if hasattr(run, "accelerator") and hasattr(run, "train_loader"):
        return _record_ftloop(run, path, full)
    if hasattr(run, "training_step") and hasattr(run, "add_callback"):
        return _record_trainer(run, path, full)
    raise TypeError(f"record() takes a transformers.Trainer or an ftloop Run, not {type(run).__name__}; use Recorder")


def _record_ftloop(run: Run, path: Path, full: bool) -> Recording:
    from ftloop.loop import training_step

    if run.state.global_step == 0 and run.config.resume_from_checkpoint is None:
        rank_file(path, _rank()).unlink(missing_ok=True)  # an old one must not pass for this run's

    def make(model: nn.Module) -> Recorder:
        return Recorder(
            path,
            model,
            run.optimizer,
            full=full,
            scaler=run.accelerator.scaler,
            leaves_out=run.config.on_nonfinite == "skip",
            global_step=run.state.global_step,
            by="ftloop",
            arguments=run.config.to_dict(),
            epoch=lambda: run.state.epoch,
            history=lambda: run.state.log_history,
            output_dir=run.config.output_dir,
        )

    return Recording(make, training_step)


def _record_trainer(trainer: Any, path: Path, full: bool) -> Recording:
    """Callbacks see neither the scaled loss nor the gradient before clipping; its `training_step` has both."""
    from transformers import TrainerCallback

    def make(model: nn.Module) -> Recorder:
        return Recorder(
            path,
            model,
            trainer.optimizer,
            full=full,
            scaler=trainer.accelerator.scaler,
            global_step=trainer.state.global_step,
            by="transformers.Trainer",
            arguments=trainer.args.to_dict(),
            epoch=lambda: trainer.state.epoch,
            history=lambda: trainer.state.log_history,
            output_dir=trainer.args.output_dir,
        )

    recording = Recording(make, trainer.training_step)

    class CloseRecording(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 0:
                rank_file(path, _rank()).unlink(missing_ok=True)  # an old one must not pass for this run's

        def on_train_end(self, *_: Any, **__: Any) -> None:
            recording.close()

    trainer.training_step = recording.training_step
    trainer.add_callback(CloseRecording())
    return recording


def check_recording(path: Path) -> None:
    """Raises: UserError when no file can be written at `path`."""
    try:
        if path.is_dir():
            raise IsADirectoryError(21, "it is a folder")
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(13, "it is not writable")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(f"record: {path} cannot be written ({error.strerror})") from None


def rank_file(path: Path, rank: int) -> Path:
    """Process 0 writes `path`, process 1 `<name>.rank1<suffix>`, and so on."""
    return path if rank == 0 else path.with_name(f"{path.stem}.rank{rank}{path.suffix}")


def digest_inputs(inputs: Mapping[str, Any]) -> tuple[list[str], str, list[int]]:
    """A digest of each row without its padding, one of the whole batch with it, and the batch's shape.

    A row's digest does not depend on what it was padded to or on which side, so the same row is known again anywhere.
    """
    tensors = {name: value.detach().cpu() for name, value in inputs.items()}
    if not tensors:
        return [], "", []
    mask = tensors.get("attention_mask")
    main = next((tensors[name] for name in ("input_ids", "inputs_embeds") if name in tensors), None)
    if main is None:
        main = next(iter(tensors.values()))
    rows = []
    for i in range(len(main)):
        kept = {}
        for name, value in tensors.items():
            if len(value) != len(main):
                kept[name] = value  # not by row, as positions that all rows share
                continue
            padded = mask is not None and value.ndim > 1 and value.shape[:2] == mask.shape
            kept[name] = value[i][mask[i].bool()] if padded and mask is not None else value[i]
        kept.pop("attention_mask", None)
        rows.append(digest_tensors(kept)[:12])
    return rows, digest_tensors(tensors), list(main.shape)


def _named_tensors(inputs: Any) -> dict[str, Tensor]:
    """The tensors with rows of what a model is called with: a mapping, one tensor, or several by position."""
    if not isinstance(inputs, Mapping):
        several = inputs if isinstance(inputs, (tuple, list)) else [inputs]
        inputs = {str(position): value for position, value in enumerate(several)}
    return {str(name): value for name, value in inputs.items() if isinstance(value, Tensor) and value.ndim}


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Of names, shapes and every bit, in the order of the names."""
    digest = xxhash.xxh3_64()
    for name in sorted(tensors):
        tensor = tensors[name].detach().to_dense().cpu().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def random_states() -> dict[str, list[Any]]:
    """Per generator that dropout may draw from, a digest of its state and how far it is within its present block.

    Two generators of one seed whose positions are 2 apart are one 64-bit number apart: what a DataLoader's iterator
    draws. The place of the position in torch's state is no promise of torch's; it only serves explanations.
    """
    cpu = torch.get_rng_state().numpy().tobytes()
    states: dict[str, list[Any]] = {"cpu": [xxhash.xxh3_64_hexdigest(cpu), int.from_bytes(cpu[16:24], "little")]}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        cuda = torch.cuda.get_rng_state().numpy().tobytes()
        states["cuda"] = [xxhash.xxh3_64_hexdigest(cuda), int.from_bytes(cuda[8:16], "little")]
    return states


def _norm(tensors: Mapping[str, Tensor]) -> float:
    """The norm over all tensors that have one, the function that `clip_grad_norm_` uses."""
    floating = [tensor for tensor in tensors.values() if tensor.is_floating_point()]
    return float(get_total_norm(floating)) if floating else 0.0


def _optimizer_facts(optimizer: Any) -> dict[str, Any]:
    names = ("lr", "initial_lr", "betas", "eps", "weight_decay", "amsgrad", "fused", "momentum")
    groups = []
    for group in optimizer.param_groups:
        facts: dict[str, Any] = {"tensors": len(group["params"]), "elements": sum(p.numel() for p in group["params"])}
        groups.append(facts | {name: _plain(group[name]) for name in names if name in group})
    return {"class": type(optimizer).__name__, "groups": groups}


def _unwrapped(model: nn.Module) -> nn.Module:
    """Without DDP's and torch.compile's wrappers."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor) or hasattr(value, "item"):
        return value.tolist() if hasattr(value, "tolist") else value.item()
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (int, float, str, bool, list, type(None))) else str(value)


def _is_plain(value: Any) -> bool:
    return value is None or (
        isinstance(value, (int, float, str, bool)) and not (isinstance(value, float) and math.isnan(value))
    )


def _rank() -> int:
    return torch.distributed.get_rank() if _distributed() else int(os.environ.get("RANK", "0"))


def _processes() -> int:
    return torch.distributed.get_world_size() if _distributed() else 1


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _open(path: Path, resumed: bool) -> Any:
    """A resumed run continues its recording; a line that a kill has cut short goes."""
    if resumed and path.is_file():
        kept = path.read_bytes()
        path.write_bytes(kept[: kept.rfind(b"\n") + 1])
        return path.open("a", encoding="utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("w", encoding="utf-8")
