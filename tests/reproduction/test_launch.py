"""Where rows run: by options, and by what torchrun and Slurm leave in the environment."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
from contextlib import suppress

import pytest

from reproduction.launch import (
    Launch,
    LaunchError,
    add_launch_options,
    environment_of_rows,
    find_launch,
)
from tests.helpers import ROOT

TORCHRUN = {
    "LOCAL_RANK": "0",
    "RANK": "4",
    "WORLD_SIZE": "8",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node0",
    "MASTER_PORT": "29500",
}
SLURM = {
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "node[7-8]",
    "SLURM_JOB_ID": "123456",
}


def launch(*arguments: str, environ: dict[str, str] | None = None, gpus: int = 0) -> Launch | None:
    parser = argparse.ArgumentParser()
    add_launch_options(parser)
    return find_launch(parser.parse_args(arguments), environ or {}, gpus)


def test_without_options_it_is_all_gpus_of_this_machine_or_its_cpu():
    assert launch(gpus=8) == Launch(8)
    assert launch(gpus=0) == Launch(1)
    assert launch("--num-gpus", "2", gpus=8) == Launch(2)


def test_options_name_the_machines():
    found = launch("--num-machines", "3", "--machine-rank", "2", "--dist-url", "tcp://10.0.0.1:2345", gpus=8)
    assert found == Launch(8, 3, 2, "10.0.0.1", 2345)
    assert found.world_size == 24 and not found.is_main


def test_torchrun_gives_one_launch_per_machine_and_a_port_beside_its_own():
    assert launch(environ=TORCHRUN) == Launch(4, 2, 1, "node0", 29501)
    for local in ("1", "3"):
        assert launch(environ={**TORCHRUN, "LOCAL_RANK": local, "RANK": "5"}) is None
    alone = {**TORCHRUN, "RANK": "0", "WORLD_SIZE": "4"}
    assert launch(environ=alone) == Launch(4)


def test_slurm_gives_one_launch_per_node(tmp_path, monkeypatch):
    assert launch(environ={**SLURM, "MASTER_ADDR": "node7"}, gpus=8) == Launch(8, 2, 1, "node7", 20000 + 3456)
    assert launch(environ={**SLURM, "SLURM_LOCALID": "1"}, gpus=8) is None
    assert launch(environ={**SLURM, "SLURM_STEP_NUM_NODES": "1"}, gpus=8) == Launch(8)
    # Slurm's own program says which node is the first.
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\ntest "$*" = "show hostnames node[7-8]" && printf "node7\\nnode8\\n"\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert launch(environ={**SLURM, "MASTER_PORT": "999"}, gpus=1) == Launch(1, 2, 1, "node7", 999)


def test_a_batch_script_that_srun_did_not_start_runs_on_its_own_node():
    batch = {name: value for name, value in SLURM.items() if "STEP" not in name}
    assert launch(environ=batch, gpus=2) == Launch(2)


def test_options_win_over_an_allocation():
    arguments = ("--num-machines", "2", "--machine-rank", "0", "--dist-url", "tcp://a:1")
    assert launch(*arguments, environ=TORCHRUN) == Launch(1, 2, 0, "a", 1)


@pytest.mark.parametrize(
    ("arguments", "environ", "message"),
    [
        (["--num-gpus", "0"], {}, "--num-gpus must be positive, got 0"),
        (["--num-machines", "2"], {}, "--dist-url must be tcp://HOST:PORT of machine 0"),
        (["--machine-rank", "1"], {}, "--machine-rank must be from 0 to 0"),
        (["--dist-url", "node0:1"], {}, "--dist-url must be tcp://HOST:PORT, got node0:1"),
        (["--dist-url", "tcp://node0:x"], {}, "--dist-url must be tcp://HOST:PORT, got tcp://node0:x"),
        ([], {**TORCHRUN, "RANK": ""}, "the environment variable RANK must be set"),
        ([], {**TORCHRUN, "WORLD_SIZE": "many"}, "the environment variable WORLD_SIZE must be a number, got 'many'"),
        ([], {**TORCHRUN, "WORLD_SIZE": "9"}, "torchrun must start as many processes on each machine"),
        (
            [],
            {**SLURM, "MASTER_ADDR": "a", "MASTER_PORT": "x"},
            "the environment variable MASTER_PORT must be a number",
        ),
        ([], SLURM, r"the first of Slurm's nodes node\[7-8\] is not known .*: set MASTER_ADDR"),
    ],
)
def test_what_does_not_fit_is_named(monkeypatch, arguments, environ, message):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(LaunchError, match=message):
        launch(*arguments, environ=environ)


def test_a_rows_processes_do_not_see_the_launcher_of_ours():
    environ = {**TORCHRUN, "GROUP_RANK": "1", "TORCHELASTIC_RUN_ID": "x", "PATH": "/bin", "SLURM_JOB_ID": "1"}
    assert environment_of_rows(environ) == {"PATH": "/bin", "SLURM_JOB_ID": "1"}


# Slurm's programs, as far as the batch script knows them: a step that runs until it is asked to end.
SRUN = """#!/bin/bash
trap 'echo interrupted; exit 143' TERM
echo step
for second in {1..300}; do sleep 0.1; done
"""
SCONTROL = """#!/bin/sh
if [ "$1" = show ]; then echo node7; else echo "scontrol $*"; fi
"""


@pytest.mark.parametrize(("number", "queued_again"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_the_batch_job_comes_back_after_its_time_limit_and_not_after_scancel(tmp_path, number, queued_again):
    for name, program in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (tmp_path / name).write_text(program)
        (tmp_path / name).chmod(0o755)
    script = ROOT / "tools" / "reproduce.sbatch"
    assert f"#SBATCH --signal=B:{signal.SIGUSR1.name.removeprefix('SIG')}@" in script.read_text()
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "node7", "SLURM_JOB_ID": "7"}
    job = subprocess.Popen(
        ["bash", script, "a_row"],
        env=variables,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert job.stdout is not None and job.stdout.readline() == "step\n"
        job.send_signal(number)
        if queued_again:
            assert job.stdout.read() == "interrupted\nscontrol requeue 7\n"
            assert job.wait(30) == 0
        else:
            assert job.wait(30) == -signal.SIGTERM
    finally:
        with suppress(ProcessLookupError):  # all have ended
            os.killpg(job.pid, signal.SIGKILL)
        rest = job.communicate()[0]
    assert "requeue" not in rest
