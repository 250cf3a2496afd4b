"""Two machines on one: network namespaces, joined by a cable, each with an address and nothing else in common."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.helpers import wait_for

NETWORK = "10.213.77"


@dataclass(frozen=True)
class Machine:
    """What begins a command line that runs there, its address, and what its environment needs."""

    prefix: tuple[str, ...]
    address: str
    environment: dict[str, str]


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextlib.contextmanager
def two_machines() -> Iterator[list[Machine]]:
    """Two namespaces where the system lets us make them (root, iproute2); else the loopback address twice."""
    names = [f"resnest{os.getpid()}{letter}" for letter in "ab"]
    cables = [f"rn{os.getpid() % 100000}{letter}" for letter in "ab"]
    made: list[str] = []
    try:
        try:
            for name in names:
                _ip("netns", "add", name)
                made.append(name)
            _ip("link", "add", cables[0], "type", "veth", "peer", "name", cables[1])
            for number, (name, cable) in enumerate(zip(names, cables, strict=True), start=1):
                _ip("link", "set", cable, "netns", name)
                _ip("-n", name, "addr", "add", f"{NETWORK}.{number}/24", "dev", cable)
                _ip("-n", name, "link", "set", cable, "up")
                _ip("-n", name, "link", "set", "lo", "up")
        except (FileNotFoundError, PermissionError, subprocess.CalledProcessError):
            yield [Machine((), "127.0.0.1", {})] * 2
        else:
            yield [
                # Gloo takes the address of the host's name, which is the loopback here: hence the interface.
                Machine(("ip", "netns", "exec", name), f"{NETWORK}.{number}", {"GLOO_SOCKET_IFNAME": cable})
                for number, (name, cable) in enumerate(zip(names, cables, strict=True), start=1)
            ]
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


Start = Callable[[int, list[Machine], int], subprocess.Popen]  # of rank, machines, and the port where they meet


def send(process: subprocess.Popen, how: signal.Signals) -> None:
    """Send a signal to a process and its children, of which torchrun's have sessions of their own."""
    command = ["ps", "-o", "pid=", "--ppid", str(process.pid)]
    children = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    for pid in [*map(int, children), process.pid]:
        os.kill(pid, how)


@contextlib.contextmanager
def running_on_two_machines(start: Start) -> Iterator[list[subprocess.Popen]]:
    """A process on each, which do not outlive the block."""
    with two_machines() as machines, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        processes = [start(rank, machines, port) for rank in range(2)]
        try:
            yield processes
        finally:
            for process in processes:
                if process.poll() is None:
                    send(process, signal.SIGKILL)
                process.wait()


def train_until_one_is_lost(start: Start, checkpoint: Path, how: signal.Signals) -> str:
    """Lose the second machine after a checkpoint; what the first one printed, which must end with an error."""
    with running_on_two_machines(start) as (first, second):
        wait_for(checkpoint, first)
        send(second, how)
        printed, _ = first.communicate(timeout=120)  # far less than the half hour of the frameworks' time-outs
        assert first.returncode != 0
        assert re.search(r"Connection closed by peer|[Tt]imed out|Connection reset", printed), printed[-3000:]
    return printed


def train_to_the_end(start: Start) -> str:
    """Train on both machines; what the first one printed."""
    with running_on_two_machines(start) as processes:
        printed = [process.communicate(timeout=240)[0] for process in processes]
        assert [process.returncode for process in processes] == [0, 0], printed
    return printed[0]
