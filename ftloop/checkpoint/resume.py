"""Put a run where a checkpoint was saved, ours or Trainer's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

import torch

from ftloop.checkpoint.changed_settings import check_same_data, describe_changes, in_words, refuse_another_run
from ftloop.checkpoint.folders import FTLOOP_STATE, delete_surplus, list_checkpoints
from ftloop.checkpoint.save import OPTIMIZER, SCALER, SCHEDULER
from ftloop.checkpoint.trainer_state import TRAINER_STATE, read_trainer_state
from ftloop.checkpoint.verify import refuse_broken
from ftloop.errors import UserError, summarize
from ftloop.models.weights import load_weights, saved_config, weights_file
from ftloop.run.state import Phase, ResumePoint, init_from_plan, is_out_of_patience
from ftloop.system.console import say, write
from ftloop.system.manifest import read_json, read_manifest
from ftloop.system.rng import own_rng_state, rng_files

if TYPE_CHECKING:
    from ftloop.run.run import Run


def load_checkpoint(run: Run, folder: Path, is_whole: bool = False) -> None:
    """Put a prepared run where the checkpoint was saved, ours or Trainer's. Every process calls it. Its files are held
    against its manifest, unless it is known that it `is_whole`.

    The random number generators are not restored here but by the loop, at the one moment that makes the continuation
    exact: after the first batches are fetched in mid-epoch, before the iterator is made at an epoch's beginning.

    Raises: UserError naming every file that is missing, or what makes this another run than the one that was saved.
    Trainer starts a new optimizer or schedule there in silence.
    Mirrors: Trainer._load_from_checkpoint, _init_training_state, _load_optimizer_and_scheduler, _load_rng_state.
    """
    folder = Path(folder)
    accelerator, config = run.accelerator, run.config
    if is_whole and config.resume_from_checkpoint == "last" and folder == Path(config.output_dir):
        from ftloop.checkpoint.finished import load_finished  # only where there is nothing to train

        load_finished(run)
        return
    if not is_whole:
        refuse_broken(folder)
    refuse_another_run(config, folder, accelerator.num_processes)
    manifest = read_manifest(folder)
    with _way_out(folder, is_ours=manifest is not None):
        own, rng_state = _load_parts(run, folder, manifest)
    run.state = read_trainer_state(folder / TRAINER_STATE)
    run.train_loader.fetches.resume(folder, rng_state)
    run.resume = ResumePoint(folder, rng_state)
    if not run.follows_settings:
        from ftloop.run.optim import check_length  # nobody else who resumes needs it

        check_length(run.scheduler, max(run.plan.max_steps - run.state.global_step, 0), folder)
    is_here = folder.parent.resolve() == Path(config.output_dir).resolve()
    if is_here:
        run.saved_at = run.state.global_step
    state = run.state
    init_from_plan(state, config, run.plan, accelerator.is_local_main_process, accelerator.is_main_process)
    if (best := state.best_model_checkpoint) is not None:
        state.best_model_checkpoint = find_best(run, folder.parent, best)
        if state.best_model_checkpoint is None and config.load_best_model_at_end:
            told = f"the best checkpoint so far, {best}, is neither there nor beside {folder}: stop, put it there and"
            say("Warning", f"{told} resume again, or, unless a later one is better, the last weights are the result")
    if not run.rules.resumes_exactly:
        run.meter.logged_at = run.meter.epoch_began_at = state.global_step
        state.evaluations_without_better = 0  # Trainer's early stopping starts counting anew
    else:
        if run.follows_settings:
            _follow_settings(run)
        if own is None:
            from ftloop.checkpoint.log_history import read_own_state  # no checkpoint of ours needs it

            own = read_own_state(run)
        _restore_own_state(run, own)
    if is_here and folder.name == list_checkpoints(folder.parent)[-1].name:
        delete_surplus(run, folder)  # the process may have died before it did
    say("Resuming", f"after update {state.global_step} of {run.plan.max_steps}, from {folder}")
    for line in describe_changes(run, folder):
        write(line)


def _load_parts(run: Run, folder: Path, manifest: dict[str, Any] | None) -> tuple[dict[str, Any] | None, Any]:
    """Load weights, optimizer and schedule. Returns: our own state, None for Trainer's, and that of the generators."""
    own, processes = _check_resumable(run, folder, manifest)
    load_saved_weights(run, folder)
    take_problem_type(run, folder)
    follows = run.follows_settings and run.rules.resumes_exactly
    _restore(run.optimizer, folder / OPTIMIZER, settings=_groups(run) if follows else [])
    _restore(run.scheduler, folder / SCHEDULER)
    if run.accelerator.scaler is not None:
        _restore(run.accelerator.scaler, folder / SCALER)
    rank = run.accelerator.process_index % processes
    rng_file = folder / rng_files(processes)[rank]
    rng_state = own_rng_state(_load(rng_file), rank)
    if rng_state is None:
        raise UserError(f"{rng_file}: is not what its name says (no state of random number generators)")
    return own, rng_state


@contextmanager
def _way_out(folder: Path, is_ours: bool) -> Iterator[None]:
    """Add to what is wrong with another trainer's checkpoint how its weights can be used all the same."""
    try:
        yield
    except UserError as error:
        if is_ours or not (folder / "config.json").is_file():
            raise
        *others, last = error.problems
        raise UserError(*others, f"{last}. {_start_anew(folder)}") from error.__cause__


def _start_anew(folder: Path) -> str:
    return f"To start from its weights: --model_name_or_path {folder}, and no --resume_from_checkpoint"


def load_saved_weights(run: Run, folder: Path) -> None:
    """Load all weights of a checkpoint. Differs: Trainer, when it resumes or goes back to the best one, silently leaves
    out those that transformers has saved under other names; that is not reproduced, but said."""
    old = load_weights(run.unwrapped_model, folder)
    if old and run.config.trainer_compat:
        theirs = f"leaves out those of {folder.name} with other names, {len(old)} such as {old[0]}, and does not say so"
        say("Differs", f"from Trainer's weights, from here on: it {theirs}")


def find_best(run: Run, root: Path, best: str) -> str | None:
    """Find the best checkpoint: in the folder resumed from, wherever it has been moved to, or as it was.

    Differs: Trainer, and trainer_compat, look where it was alone.
    """
    beside = root / PureWindowsPath(best).name  # which reads the paths of every system
    places = [beside, Path(best)] if run.rules.resumes_exactly else [Path(best)]
    return next((str(place) for place in places if place.is_dir()), None)


def take_problem_type(run: Run, folder: Path) -> None:
    """The model has found it out in its first forward pass; a run that is over makes none before it saves."""
    config: Any = getattr(run.unwrapped_model, "config", None)
    saved = saved_config(folder)
    if config is not None and saved:
        config.problem_type = saved.get("problem_type")


def _groups(run: Run) -> list[dict[str, Any]]:
    return run.optimizer.param_groups  # type: ignore[no-any-return]


def _follow_settings(run: Run) -> None:
    """What the schedule has loaded, but with this configuration's learning rate: the same values to the bit, unless it
    has been changed. Differs: Trainer goes on with those of the checkpoint, whatever is asked.
    """
    scheduler: Any = run.scheduler
    scheduler.base_lrs = [group["initial_lr"] for group in _groups(run)]
    if hasattr(scheduler, "lr_lambdas"):
        scheduler._last_lr = [
            base * rate(scheduler.last_epoch)
            for base, rate in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        ]
        for group, learning_rate in zip(_groups(run), scheduler._last_lr, strict=True):
            group["lr"] = learning_rate


def _check_resumable(run: Run, folder: Path, manifest: dict[str, Any] | None) -> tuple[dict[str, Any] | None, int]:
    """Our own state of a checkpoint (None for Trainer's), and how many processes saved it. Every process looks at all
    files, so all of them agree.

    Raises: UserError naming what is missing, or what differs from the run that saved it.
    """
    there = len(list(folder.glob("rng_state_*.pth")))
    processes = run.plan.num_processes if manifest is None else manifest["num_processes"]
    needed = [weights_file(run.unwrapped_model), TRAINER_STATE, OPTIMIZER, SCHEDULER, *rng_files(processes)]
    needed += [SCALER] if run.accelerator.scaler is not None else []
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder}: not a checkpoint to resume from: {', '.join(missing)} missing "
            "(saved with save_only_model, or by another number of processes, or only in part)"
        )
    if manifest is not None:
        check_same_data(run, folder)
    state = read_trainer_state(folder / TRAINER_STATE)
    if state.global_step > run.plan.max_steps:
        way = "raise num_train_epochs or max_steps to train on"
        if manifest is None:
            way = "only the run that saved it, with its rows and settings, can be resumed from it"
        raise UserError(f"{folder}: is at update {state.global_step}, and this run ends at {run.plan.max_steps}; {way}")
    if manifest is not None:
        return read_json(folder / FTLOOP_STATE), processes
    from ftloop.checkpoint.log_history import warn_of_other_epochs  # as above

    warn_of_other_epochs(run, folder, state, _start_anew(folder))
    changed = {}
    if max(there, 1) != processes:
        changed["num_processes"] = (max(there, 1), processes)
    if state.train_batch_size not in (None, run.plan.per_device_train_batch_size):
        changed["per_device_train_batch_size"] = (state.train_batch_size, run.plan.per_device_train_batch_size)
    if changed:
        raise UserError(f"{folder}: saved by a run with other {in_words(changed)}; resume with the same")
    return None, processes


def _restore(part: Any, path: Path, settings: Sequence[dict[str, Any]] = ()) -> None:
    """Load a part. An optimizer gets this run's `settings` into its groups before that: torch goes by them when it
    chooses the device of a parameter's `step`, which is not the same for the fused AdamW and the other."""
    state = _load(path)
    try:
        for group, wanted in zip(state["param_groups"] if settings else [], settings, strict=False):
            group |= {name: value for name, value in wanted.items() if name not in ("params", "lr")}
        part.load_state_dict(state)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(f"{path}: is not what its name says ({error!r})") from error


def _restore_own_state(run: Run, own: dict[str, Any]) -> None:
    meter, processes = run.meter, run.accelerator.num_processes
    for total, losses in ((meter.since_log, own["window_losses"]), (meter.since_epoch, own["epoch_losses"])):
        # What is logged is the mean over processes: another number of them goes on from that.
        same = len(losses) == processes
        total.fill_(losses[run.accelerator.process_index] if same else sum(losses) / len(losses))
    flos = own.get("current_flos", [0.0])
    run.current_flos = flos[run.accelerator.process_index] if len(flos) == processes else sum(flos) / processes
    meter.logged_at, meter.epoch_began_at = own["logged_at"], own["epoch_began_at"]
    meter.logged_sum, meter.unlogged_updates = own["total_loss"], own["lost_updates"]
    meter.grad_norm, meter.learning_rate = own["grad_norm"], own["learning_rate"]
    # Absent in what Trainer's checkpoint gives.
    meter.skipped_since_log = own.get("left_out_of_window", 0)
    meter.skipped_since_epoch = own.get("left_out_of_epoch", 0)
    run.counters.restore(own.get("mishaps", {}))
    if own["eval_workers_persist"]:
        for rows in run.eval_sets().values():
            for _ in run.eval_loaders.loader(rows):
                pass  # as in the run that was interrupted, its workers are there now, and no evaluation draws a number
    state, plan = run.state, run.plan
    stopped = is_out_of_patience(run.config, state) or state.global_step >= plan.max_steps
    state.should_training_stop = stopped
    run.phase = Phase(own["phase"])


def _load(path: Path) -> Any:
    """A checkpoint file, without running any code it may hold. NumPy's state needs four harmless names."""
    from transformers.trainer_pt_utils import safe_globals

    try:
        with safe_globals():
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path}: not readable ({summarize(error)})") from error
