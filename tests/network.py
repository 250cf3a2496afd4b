"""Two machines on one: network namespaces, joined by a cable, each with an address and nothing else in common."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

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
