"""Every way to start several processes on one machine: the same run, or one line that says what is wrong with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from harness.command import BIN, CHECKOUT, TRAIN_PY, WORKERS, run, weights

from ftloop.config.train_config import TrainConfig
from ftloop.errors import ExitCode, LostContact, SaveError, UserError, is_lost_contact
from ftloop.run.accelerator import make_accelerator
from ftloop.system.distributed import new_cpu_group
from ftloop.system.exit import report_error
from ftloop.system.launch_checks import before_the_script, check_launched, launch_problem

WORKER = str(WORKERS / "ranks.py")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
ACCELERATE = (str(BIN / "accelerate"), "launch")
ENDING = """
import atexit, sys
import torch
import torch.distributed as dist
from ftloop.errors import ExitCode
from ftloop.system.exit import hard_exit
hard_exit(ExitCode.STOPPED)  # of one process: it returns
dist.init_process_group("gloo", init_method=sys.argv[1], rank=0, world_size=1)
atexit.register(print, "at exit")
print("said")
hard_exit(ExitCode.STOPPED)
print("not reached")
"""
FINISHING = """
import os, sys, time
from datasets import Dataset
from harness.models import tiny_bert
from harness.rows import tiny_pairs, tiny_tokenizer
import ftloop.job.finish as job
from ftloop import TrainConfig, finish, prepare, train
tokenizer = tiny_tokenizer()
rows = Dataset.from_list(tiny_pairs(9)).map(lambda row: tokenizer(row["sentence1"], row["sentence2"]))
write_card = job.write_card
def slowly(run):
    time.sleep(5)
    write_card(run)
job.write_card = slowly
run = prepare(TrainConfig(output_dir=sys.argv[1], use_cpu=True, max_steps=1), tiny_bert(), rows, rows, tokenizer)
train(run)
finish(run)
if os.environ["RANK"] == "1":
    os.abort()
"""
LEAVING = """
import sys
import torch
import torch.distributed as dist
from ftloop import TrainConfig
from ftloop.run.accelerator import make_accelerator
make_accelerator(TrainConfig(use_cpu=True))
sys.setswitchinterval(10)  # the lock is asked for and not given
for _ in range(3):
    dist.all_gather([torch.ones(10) for _ in range(dist.get_world_size())], torch.ones(10))
"""
CONFIG = """
compute_environment: LOCAL_MACHINE
distributed_type: {kind}
machine_rank: 0
main_process_port: 0
mixed_precision: 'no'
num_machines: 1
num_processes: {processes}
use_cpu: {use_cpu}
"""


def job(tiny_folder: Path, output_dir: Path) -> list[str]:
    files = [f"--{split}_file={tiny_folder / f'{split}.jsonl'}" for split in ("train", "validation")]
    words = ["--model_name_or_path", str(tiny_folder / "model"), *files, "--output_dir", str(output_dir)]
    return [*words, "--max_steps", "12", "--per_device_train_batch_size", "4", "--save_steps", "6", "--eval_steps", "4"]


# --- launched --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_launcher_makes_the_same_run_and_only_main_prints(tiny_folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "two.yaml"
    config.write_text(CONFIG.format(kind="MULTI_GPU", processes=2, use_cpu="false"))
    flags = ("--multi_gpu", "--num_processes", "2", "--main_process_port", "0")
    launchers = {
        "torchrun": (*TORCHRUN, "--redirects", "3", "--log-dir", str(tmp_path / "logs")),
        "accelerate with a config file": (*ACCELERATE, "--config_file", str(config)),
        "accelerate with flags": (*ACCELERATE, *flags),
    }
    found = {}
    for name, launcher in launchers.items():
        output_dir = tmp_path / name.replace(" ", "-")
        words = [*job(tiny_folder, output_dir), "--eval_strategy", "steps", "--disable_tqdm", "false"]
        done = run(*launcher, TRAIN_PY, *words, ACCELERATE_USE_CPU="true")
        found[name] = weights(output_dir)
        printed = done.stdout
        if name == "torchrun":
            ((first, second),) = [
                [logs / rank for rank in ("0", "1")] for logs in (tmp_path / "logs").glob("*/attempt_0")
            ]
            printed = (first / "stdout.log").read_text()
            assert "Training:" in (first / "stderr.log").read_text()
            for stream in ("stdout", "stderr"):
                assert (second / f"{stream}.log").read_text() == ""
        assert printed.count("2 processes, 1 CPU thread each") == 1, printed
        assert "Processes" not in printed
    assert len(set(found.values())) == 1


@pytest.mark.slow
def test_accelerate_that_starts_one_process_instead_of_two_is_warned_of(tiny_folder: Path, tmp_path: Path) -> None:
    launcher = (*ACCELERATE, "--cpu", "--num_processes", "2")
    printed = run(*launcher, TRAIN_PY, *job(tiny_folder, tmp_path / "out")).stdout
    (line,) = [line for line in printed.splitlines() if line.startswith("Processes")]
    assert "one: with --cpu, accelerate launch starts no more" in line
    assert "torchrun --nproc_per_node N" in line
    assert printed.index(line) < printed.index("Model ")


@pytest.mark.slow
def test_what_accelerate_launch_keeps_to_itself_is_told_before_training(tiny_folder: Path, tmp_path: Path) -> None:
    for flags, told in (
        (["--gradient_accumulation_steps", "4", "--gradient-clipping=0.5"], ["accumulation_steps 4", "clipping 0.5"]),
        (["--gradient_accumulation_steps", "2"], []),
    ):
        words = [*job(tiny_folder, tmp_path / f"out{len(told)}"), "--gradient_accumulation_steps", "2"]
        printed = run(*ACCELERATE, "--cpu", *flags, TRAIN_PY, *words).stdout
        lines = [line for line in printed.splitlines() if line.startswith("Warning")]
        assert len(lines) == len(told)
        for line, flag in zip(lines, told, strict=True):
            assert f"accelerate launch hands its --gradient_{flag} to DeepSpeed alone, and this run has " in line
        assert not lines or printed.index(lines[0]) < printed.index("Model ")


@pytest.mark.slow
def test_a_bug_in_one_process_is_torchruns_root_cause(tiny_folder: Path, tmp_path: Path) -> None:
    words = job(tiny_folder, tmp_path / "out")
    done = run(*TORCHRUN, WORKER, "--plant", "in_collator_of_one", *words, expect=1)
    told = done.stderr
    assert told.index("error in process 1: a fault in ftloop") < told.index("Root Cause")
    assert "KeyError: 'planted'" in told[: told.index("error in process 1")]
    summary = told[told.index("Root Cause") :]
    assert "rank      : 1" in summary
    assert "traceback : a fault in ftloop or in a library below it: KeyError: 'planted'" in summary
    assert "contact with another process" not in told


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "flags", "features"),
    [
        ("FSDP", [], ["FSDP"]),
        (None, ["--use_fsdp", "--fsdp_version", "2", "--use_parallelism_config"], ["FSDP", "tensor or context"]),
        (None, ["--use_megatron_lm"], ["Megatron-LM"]),
    ],
)
def test_what_is_not_done_is_refused_however_accelerate_is_asked_for_it(
    config: str | None, flags: list[str], features: list[str], tiny_folder: Path, tmp_path: Path
) -> None:
    """On a CPU, where Accelerate would train by DDP."""
    words = ["--num_processes", "1", "--main_process_port", "0", *flags]
    if config is not None:
        (tmp_path / "config.yaml").write_text(CONFIG.format(kind=config, processes=1, use_cpu="true"))
        words = ["--config_file", str(tmp_path / "config.yaml")]
    done = run(*ACCELERATE, *words, TRAIN_PY, *job(tiny_folder, tmp_path / "out"), expect=1)
    for feature in features:
        assert f"error: Accelerate is asked for {feature}" in done.stderr
    assert f"exitcode  : {int(ExitCode.USER_ERROR)}" in done.stderr
    assert not (tmp_path / "out").exists()


# --- in this process -------------------------------------------------------------------------------------------------


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Without what a launcher has left in it; put back afterwards, also what Accelerate writes into it."""
    before = dict(os.environ)
    for name in before:
        if name.startswith(("ACCELERATE_", "SLURM_", "MASTER_", "OMPI_", "PMI_")) or name == "WORLD_SIZE":
            monkeypatch.delenv(name)
    # set and deleted, so that monkeypatch knows of them
    for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_PARALLELISM_CONFIG"):
        monkeypatch.setenv(name, "false")
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"WORLD_SIZE": "4"}, ["1, and WORLD_SIZE in the environment says 4", "torchrun --nproc_per_node N"]),
        (
            {"SLURM_NTASKS": "2"},
            ["one, and the SLURM job has 2 tasks", "srun starts one a machine, and in it torchrun"],
        ),
        ({"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "3"}, ["SLURM_STEP_NUM_TASKS says 3"]),
        ({"OMPI_COMM_WORLD_SIZE": "8"}, ["OMPI_COMM_WORLD_SIZE says 8"]),
        ({"PMI_SIZE": "2"}, ["PMI_SIZE says 2"]),
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1"}, ["accelerate launch"]),
    ],
)
def test_fewer_processes_than_were_asked_for_are_told_with_the_way_out(
    variables: dict[str, str], words: list[str], environment: pytest.MonkeyPatch
) -> None:
    accelerator = Accelerator(cpu=True)
    for name, value in variables.items():
        environment.setenv(name, value)
    line = launch_problem(accelerator)
    assert line is not None
    assert "\n" not in line
    for each in words:
        assert each in line


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"WORLD_SIZE": "1"},
        {"SLURM_NTASKS": "1"},
        {"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"},
        {"SLURM_NTASKS": "", "PMI_SIZE": "a few"},
        {"MASTER_ADDR": "host"},
        {"ACCELERATE_MIXED_PRECISION": "no"},
        {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "1"},
    ],
)
def test_one_process_that_was_asked_for_is_nothing_to_tell(
    variables: dict[str, str], environment: pytest.MonkeyPatch
) -> None:
    accelerator = Accelerator(cpu=True)
    for name, value in variables.items():
        environment.setenv(name, value)
    assert launch_problem(accelerator) is None


def by_fsdp_plugin() -> dict[str, object]:
    from accelerate import FullyShardedDataParallelPlugin

    return {"fsdp_plugin": FullyShardedDataParallelPlugin()}


def by_parallelism() -> dict[str, object]:
    from accelerate.parallelism_config import ParallelismConfig

    return {"parallelism_config": ParallelismConfig()}


@pytest.mark.parametrize(
    ("plugin", "feature"), [(by_fsdp_plugin, "FSDP"), (by_parallelism, "tensor or context parallelism")]
)
def test_an_accelerator_of_the_users_own_that_carries_a_plugin_is_refused(
    plugin: Callable[[], dict[str, object]], feature: str, environment: pytest.MonkeyPatch
) -> None:
    from accelerate.state import AcceleratorState
    from harness.models import tiny_bert
    from harness.rows import pad, tiny_rows

    from ftloop import TrainConfig, prepare

    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        accelerator = Accelerator(cpu=True, **plugin())
        with pytest.raises(UserError, match=f"Accelerate is asked for {feature} .*plugin"):
            prepare(TrainConfig(), tiny_bert(), tiny_rows(8), data_collator=pad, accelerator=accelerator)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def test_deepspeed_is_refused_as_accelerates_launcher_asks_for_it(environment: pytest.MonkeyPatch) -> None:
    """In the environment that its own function makes; the package itself need not be there."""
    from accelerate.commands.launch import launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env

    from ftloop import TrainConfig
    from ftloop.run.accelerator import make_accelerator

    words = ["--use_deepspeed", "--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", TRAIN_PY]
    args = launch_command_parser().parse_args(words)
    args.deepspeed_fields_from_accelerate_config = ""  # as `launch_command` does without a config file
    _, made = prepare_deepspeed_cmd_env(args)
    assert made["ACCELERATE_USE_DEEPSPEED"] == "true"
    environment.setenv("ACCELERATE_USE_DEEPSPEED", made["ACCELERATE_USE_DEEPSPEED"])
    with pytest.raises(UserError, match="Accelerate is asked for DeepSpeed"):
        make_accelerator(TrainConfig(use_cpu=True))


LAUNCHED: list[tuple[list[str], list[str], str]] = [
    (["python", "/bin/accelerate", "launch", "--x", "4", "a.py", "--x", "2"], ["python", "a.py", "--x", "2"], "--x 4"),
    (["python", "-m", "accelerate.commands.launch", "--x=4", "a.py"], ["python", "-u", "a.py"], "--x=4"),
    (["/bin/accelerate-launch", "a.py", "--x", "2"], ["python", "a.py", "--x", "2"], ""),
    (["python", "/bin/torchrun", "--x", "4", "a.py"], ["python", "-u", "a.py"], ""),
    (["bash", "-c", "accelerate launch --x 4 a.py"], ["python", "a.py"], ""),
    ([], ["python", "a.py"], ""),
]


@pytest.mark.parametrize(("launcher", "own", "flags"), LAUNCHED)
def test_the_launchers_own_flags_are_told_from_the_scripts(launcher: list[str], own: list[str], flags: str) -> None:
    assert " ".join(before_the_script(launcher, own)).endswith(flags)
    assert bool(before_the_script(launcher, own)) == any("accelerate" in word and " " not in word for word in launcher)


def test_what_the_launcher_sets_and_the_run_does_not_is_told(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"gradient_accumulation_steps": "4", "gradient_clipping": "1.0"}
    environment.setattr("ftloop.run.accelerator.launcher_flag", given.get)
    make_accelerator(TrainConfig(use_cpu=True))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith(
        "this run has gradient_accumulation_steps 1; give it to the run: --gradient_accumulation_steps "
        "4 behind train.py, or TrainConfig(gradient_accumulation_steps=4)"
    )
    make_accelerator(TrainConfig(use_cpu=True, gradient_accumulation_steps=4))
    assert capsys.readouterr().out == ""
    environment.setenv("ACCELERATE_DYNAMO_BACKEND", "EAGER")
    given.clear()
    make_accelerator(TrainConfig(use_cpu=True))
    assert "the launcher's --dynamo_backend eager compiles the model" in capsys.readouterr().out
    make_accelerator(TrainConfig(use_cpu=True, torch_compile=True))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [
        (RuntimeError("[/x/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [::1]:5"), True),
        (
            RuntimeError("[..\\gloo\\gloo\\transport\\uv\\pair.cc:9] Timed out waiting 500ms for recv"),
            True,
        ),
        (RuntimeError("Application timeout caused pair closure"), True),
        (RuntimeError("Parent directory /data/igloo/out does not exist."), False),
        (RuntimeError("shape '[2, 3]' is invalid for input of size 5"), False),
        (dist.DistBackendError("NCCL error: ncclRemoteError: A remote process exiting prematurely"), True),
        (dist.DistBackendError("NCCL error: ncclInvalidUsage: Duplicate GPU detected : rank 0 and rank 1"), False),
        (dist.DistStoreError("wait timeout after 5000ms, keys: /default_pg/0//cuda//0"), True),
        (
            dist.DistNetworkError("The server socket has failed to listen, EADDRINUSE"),
            False,
        ),
        (LostContact("the main process failed"), True),
        (SaveError("/data/[x/gloo/x:1]/out could not be saved"), False),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_error_of_the_other_side_is_told_from_one_of_this_side(error: Exception, is_lost: bool) -> None:
    assert is_lost_contact(error) is is_lost


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"WORLD_SIZE": "2"},
            "WORLD_SIZE=2, which a launcher sets, and RANK, LOCAL_RANK, MASTER_ADDR",
        ),
        ({"LOCAL_RANK": "0"}, "LOCAL_RANK=0, which a launcher sets, and RANK, WORLD_SIZE"),
        ({"RANK": "x"}, "RANK=x is no number"),
    ],
    ids=str,
)
def test_half_of_a_launchers_variables_are_told_and_not_a_fault(
    given: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=told):
        check_launched()


def test_one_process_by_itself_is_not_asked_for_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    check_launched()
    monkeypatch.setenv("WORLD_SIZE", "1")
    check_launched()


@pytest.mark.slow
def test_hard_exit_keeps_the_code_and_runs_exit_functions(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDING, f"file://{tmp_path}/meeting"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == ExitCode.STOPPED
    assert done.stdout == "said\nat exit\n"


def launched(script: str, processes: int, tmp_path: Path, *words: str, expect: int | None = 0) -> None:
    path = tmp_path / "script.py"
    path.write_text(script)
    folders = os.pathsep.join([str(CHECKOUT), str(CHECKOUT / "tests")])
    settings = {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": folders}
    run(*TORCHRUN[:-1], f"--nproc_per_node={processes}", str(path), *words, expect=expect, **settings)


@pytest.mark.slow
def test_what_the_main_process_writes_last_is_whole_though_another_fails_at_its_exit(tmp_path: Path) -> None:
    launched(FINISHING, 2, tmp_path, str(tmp_path / "out"), expect=1)
    assert (tmp_path / "out" / "README.md").exists()
    assert json.loads((tmp_path / "out" / "ftloop_manifest.json").read_text())["complete"]


@pytest.mark.slow
def test_no_process_is_aborted_at_its_exit_by_the_threads_of_gloo(tmp_path: Path) -> None:
    for _ in range(3):
        launched(LEAVING, 4, tmp_path)


CANNOT = "[enforce fail at /x/gloo/transport/tcp/device.cc:84] ifa != nullptr. Unable to find address for: eth9"
NO_ANSWER = "[/x/gloo/transport/tcp/pair.cc:144] connect [127.0.0.1]:29500: Connection refused" + 400 * " again"


@pytest.mark.parametrize(("said", "kind"), [(CANNOT, UserError), (NO_ANSWER, LostContact)])
def test_where_gloo_cannot_connect_its_variable_is_named(
    said: str, kind: type[Exception], environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*given: object, **names: object) -> None:
        raise RuntimeError(said)

    class Two:
        num_processes = 2

    environment.setattr(dist, "new_group", fail)
    environment.setattr("ftloop.run.accelerator.Accelerator", fail)
    environment.setenv("GLOO_SOCKET_IFNAME", "eth9")
    for meet in (lambda: new_cpu_group(Two()), lambda: make_accelerator(TrainConfig(use_cpu=True))):  # type: ignore[arg-type]
        with pytest.raises(kind, match="cannot meet by gloo") as caught:
            meet()  # type: ignore[no-untyped-call]
        assert said[:100] in str(caught.value)
        report_error(caught.value, show_traceback=False)
        assert "set GLOO_SOCKET_IFNAME, now eth9, to the network interface" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("devices", "variables", "started"),
    [
        (1, {"LOCAL_WORLD_SIZE": "2"}, "2 processes were started on this machine, which has 1 GPU for them:"),
        (3, {"LOCAL_WORLD_SIZE": "8"}, "8 processes were started on this machine, which has 3 GPUs for them:"),
        # as srun may start them, each with a GPU that is the only one it sees
        (1, {"LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "3"}, "has 1 GPU for them (CUDA_VISIBLE_DEVICES=3):"),
        (0, {"LOCAL_WORLD_SIZE": "2"}, None),
        (2, {"LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"}, None),
        (1, {"LOCAL_WORLD_SIZE": "1", "WORLD_SIZE": "4", "RANK": "3"}, None),
        (1, {"LOCAL_WORLD_SIZE": "2", "ACCELERATE_BYPASS_DEVICE_MAP": "true"}, None),
        (1, {"LOCAL_WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}, None),
    ],
    ids=str,
)
def test_more_processes_than_gpus_are_told_before_they_meet(
    devices: int, variables: dict[str, str], started: str | None, environment: pytest.MonkeyPatch
) -> None:
    """NCCL would say "Duplicate GPU detected", and DDP that it knows no such device."""

    class MetError(Exception):
        pass

    def meet(**given: object) -> None:
        raise MetError

    environment.setattr(torch.cuda, "is_available", lambda: devices > 0)
    environment.setattr(torch.cuda, "device_count", lambda: devices)
    environment.setattr("ftloop.run.accelerator.check_kernels", lambda *_: None)
    environment.setattr("ftloop.run.accelerator.Accelerator", meet)
    launched = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in (launched | variables).items():
        environment.setenv(name, value)
    if started is None:
        with pytest.raises(MetError):
            make_accelerator(TrainConfig())
        return
    with pytest.raises(UserError) as caught:
        make_accelerator(TrainConfig())
    assert started in str(caught.value)
    assert f"torchrun --nproc_per_node {devices} or accelerate launch --num_processes {devices}" in str(caught.value)


def test_a_cache_that_cannot_be_made_is_told_with_the_variable_that_moves_it(
    environment: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a container the home folder is often one that nobody may write into."""

    def told(place: Path | str) -> str:
        assert report_error(PermissionError(13, "Permission denied", str(place)), False) == ExitCode.USER_ERROR
        return capsys.readouterr().err

    environment.setenv("HOME", "/")
    for name in ("HF_HOME", "XDG_CACHE_HOME", "HF_DATASETS_CACHE", "HF_HUB_CACHE"):
        environment.delenv(name, raising=False)
    cache = "The cache of data sets and models, /.cache/huggingface, is wanted there: HF_HOME=/a/writable/folder in the"
    for place in ("/.cache", "/.cache/huggingface", "/.cache/huggingface/datasets/x.lock"):
        assert f"error: {place}: Permission denied. {cache} environment moves it" in told(place)
    environment.setenv("HF_DATASETS_CACHE", str(tmp_path / "sets"))
    assert "HF_DATASETS_CACHE=/a/writable/folder" in told(tmp_path / "sets" / "csv")
    assert told("/data/train.csv") == "error: /data/train.csv: Permission denied\n"
