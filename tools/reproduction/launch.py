"""On how many GPUs and machines rows run: by options, or by the allocation of torchrun or Slurm around this process.

A row's own processes, one per GPU, are started anew for each of its commands: by ``train_net.py --num-gpus`` with
Detectron2, by torchrun with MMSegmentation. So one process of ours per machine is enough. Of several on a machine, the
first (local rank 0) works and the others end at once.
"""

from __future__ import annotations

import argparse
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

# What a launcher leaves in the environment; a row's processes must not take it for theirs.
_OF_LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_OF_LAUNCHERS_PREFIXES = ("GROUP_", "ROLE_", "TORCHELASTIC_", "TORCH_NCCL_ASYNC", "NCCL_ASYNC")
_FIRST_PORT, _PORTS = 20000, 20000  # a Slurm job takes one of these by its number


class LaunchError(ValueError):
    """Options and environment do not say on which machines to run."""


@dataclass(frozen=True)
class Launch:
    """Where rows run.

    Attributes:
        processes: per machine; one per GPU, or one on the CPU.
        num_machines: that take part, each with a process of ours.
        machine_rank: number of this machine, from 0.
        host: name or address of machine 0; "" where there is one machine.
        port: of machine 0, free, as are those after it; 0 where there is one machine.
    """

    processes: int = 1
    num_machines: int = 1
    machine_rank: int = 0
    host: str = ""
    port: int = 0

    def __post_init__(self) -> None:
        if self.processes < 1:
            raise LaunchError(f"--num-gpus must be positive, got {self.processes}")
        if self.num_machines < 1 or not 0 <= self.machine_rank < self.num_machines:
            raise LaunchError(
                f"--machine-rank must be from 0 to {self.num_machines - 1} (--num-machines is {self.num_machines}), "
                f"got {self.machine_rank}"
            )
        if self.num_machines > 1 and not (self.host and self.port):
            raise LaunchError("--dist-url must be tcp://HOST:PORT of machine 0 where there are several machines")

    @property
    def world_size(self) -> int:
        """Processes of a row, on all machines."""
        return self.processes * self.num_machines

    @property
    def is_main(self) -> bool:
        """Whether this machine writes what all have in common."""
        return self.machine_rank == 0


def add_launch_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that ``find_launch`` reads."""
    group = parser.add_argument_group(
        "GPUs and machines",
        "Inside an allocation of torchrun, or of Slurm by srun, machines are taken from there "
        "(see tools/reproduce.sbatch).",
    )
    group.add_argument(
        "--num-gpus", type=int, metavar="N", help="per machine; without GPUs, processes on the CPU (default: all GPUs)"
    )
    group.add_argument("--num-machines", type=int, metavar="M", help="each runs this command (default: 1)")
    group.add_argument("--machine-rank", type=int, metavar="R", help="number of this machine, from 0 (default: 0)")
    group.add_argument("--dist-url", metavar="URL", help="tcp://HOST:PORT of machine 0, the same on all machines")


def find_launch(args: argparse.Namespace, environ: Mapping[str, str], num_gpus_here: int) -> Launch | None:
    """Where to run, by options first, by the environment of torchrun or Slurm otherwise.

    Args:
        args: with the options of ``add_launch_options``.
        environ: the environment variables.
        num_gpus_here: GPUs that this process sees.

    Returns:
        None where another process on this machine does the work.

    Raises:
        LaunchError: they do not fit together, or a variable is missing.
    """
    processes = args.num_gpus if args.num_gpus is not None else max(num_gpus_here, 1)
    if args.num_machines is not None or args.machine_rank is not None or args.dist_url is not None:
        host, port = _host_and_port(args.dist_url)
        return Launch(processes, args.num_machines or 1, args.machine_rank or 0, host, port)
    if "LOCAL_WORLD_SIZE" in environ:
        return _of_torchrun(environ, args.num_gpus)
    if "SLURM_PROCID" in environ and "SLURM_STEP_NUM_NODES" in environ:  # the second only in what srun started
        return _of_slurm(environ, processes)
    return Launch(processes)


def _host_and_port(url: str | None) -> tuple[str, int]:
    if url is None:
        return "", 0
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if host is None or port is None or parts.scheme != "tcp":
        raise LaunchError(f"--dist-url must be tcp://HOST:PORT, got {url}")
    return host, port


def _of_torchrun(environ: Mapping[str, str], num_gpus: int | None) -> Launch | None:
    """Of an agent's ``nproc-per-node`` processes, the first starts as many; its store may hold MASTER_PORT itself."""
    local, size = _number(environ, "LOCAL_RANK"), _number(environ, "LOCAL_WORLD_SIZE")
    machines, rest = divmod(_number(environ, "WORLD_SIZE"), size)
    if rest:
        raise LaunchError(f"torchrun must start as many processes on each machine, got {rest} more than {size} each")
    rank = _number(environ, "RANK") // size
    if local > 0:
        return None
    host, port = _text(environ, "MASTER_ADDR"), _number(environ, "MASTER_PORT") + 1
    return Launch(num_gpus or size, machines, rank, *((host, port) if machines > 1 else ("", 0)))


def _of_slurm(environ: Mapping[str, str], processes: int) -> Launch | None:
    if _number(environ, "SLURM_LOCALID") > 0:
        return None
    machines = _number(environ, "SLURM_STEP_NUM_NODES")
    if machines == 1:
        return Launch(processes)
    host = environ.get("MASTER_ADDR") or _first_host(_text(environ, "SLURM_STEP_NODELIST"))
    if environ.get("MASTER_PORT"):
        port = _number(environ, "MASTER_PORT")
    else:
        port = _FIRST_PORT + _number(environ, "SLURM_JOB_ID") % _PORTS
    return Launch(processes, machines, _number(environ, "SLURM_NODEID"), host, port)


def _first_host(nodes: str) -> str:
    try:
        command = ["scontrol", "show", "hostnames", nodes]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise LaunchError(f"the first of Slurm's nodes {nodes} is not known ({error}): set MASTER_ADDR") from error


def _text(environ: Mapping[str, str], name: str) -> str:
    if not environ.get(name):
        raise LaunchError(f"the environment variable {name} must be set in an allocation, got none")
    return environ[name]


def _number(environ: Mapping[str, str], name: str) -> int:
    text = _text(environ, name)
    if not text.isdecimal():
        raise LaunchError(f"the environment variable {name} must be a number, got {text!r}")
    return int(text)


def environment_of_rows(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """An environment without what a launcher of this process left there."""
    return {
        name: value
        for name, value in environ.items()
        if name not in _OF_LAUNCHERS and not name.startswith(_OF_LAUNCHERS_PREFIXES)
    }
