"""Where the nodes of an attempt meet: a port that is free, an address that is reached.

Node 0's agent picks and publishes `rdzv.json`; the others wait for it. A port lost to another
process between the choice and torchrun's start shows as a failed bind: node 0 publishes the next
round, with a new port and a new id, and every agent starts its torchrun again.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jobs import slurm
from jobs.errors import SubmitError
from jobs.node import NodeFacts
from jobs.run_folder import read_json, write_json_atomic

MAX_ROUNDS = 3
_LOWEST_PORT = 10000
_USUAL_EPHEMERAL = 32768
_BIND_ERRORS = ("EADDRINUSE", "address already in use", "errno: 98")


@dataclass(frozen=True)
class Rendezvous:
    """Where torchrun's agents meet.

    Attributes:
        local_address: of the interface through which this node reaches the others.
    """

    host: str
    port: int
    id: str
    round: int
    local_address: str


def ephemeral_low() -> int:
    """Return the first port that the kernel hands out by itself on this machine."""
    try:
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii")
        low = int(text.split()[0])
    except (OSError, ValueError):
        return _USUAL_EPHEMERAL
    return low if low > _LOWEST_PORT + 1000 else _USUAL_EPHEMERAL


def port_candidates(run_id: str, attempt: int, below: int) -> Iterator[int]:
    """Yield ports from 10000 to `below`, in an order that differs for every run and attempt."""
    for trial in range(200):
        digest = hashlib.sha256(f"{run_id}/{attempt}/{trial}".encode()).digest()
        yield _LOWEST_PORT + int.from_bytes(digest[:8], "big") % (below - _LOWEST_PORT)


def find_port(run_id: str, attempt: int, skip: int = 0) -> int:
    """Return the first candidate that can be bound now, leaving out the first `skip` free ones.

    Raises:
        SubmitError: if none of the candidates is free.
    """
    for port in port_candidates(run_id, attempt, ephemeral_low()):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        if skip == 0:
            return port
        skip -= 1
    raise SubmitError("200 ports tried for the rendezvous, none is free")


def publish(path: Path, node: NodeFacts, run_id: str, attempt: int, round_: int) -> Rendezvous:
    """Choose and write the meeting place; node 0's act."""
    address = _own_address(node)
    port = find_port(run_id, attempt, skip=round_)
    meeting_id = f"{run_id}-a{attempt}-r{round_}"
    rendezvous = Rendezvous(address, port, meeting_id, round_, address)
    data = {"host": address, "port": port, "id": meeting_id, "round": round_}
    write_json_atomic(path, data)
    return rendezvous


def read_rendezvous(path: Path, round_: int = 0) -> Rendezvous | None:
    """Return the published place if it is at least of this round; None until then."""
    data = read_json(path)
    if data is None or data["round"] < round_:
        return None
    address = address_towards(data["host"])
    return Rendezvous(data["host"], data["port"], data["id"], data["round"], address)


def address_towards(host: str) -> str:
    """Return the address of this machine's interface that reaches `host`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))  # a datagram socket sends nothing on connect
        return str(probe.getsockname()[0])


def is_port_clash(log: Path) -> bool:
    """Return whether a torchrun log tells of a port that was taken."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return any(error.lower() in text.lower() for error in _BIND_ERRORS)


def _own_address(node: NodeFacts) -> str:
    """Return the address under which the other nodes of the job reach this one."""
    if node.count == 1:
        return "127.0.0.1"
    for name in slurm.expand_nodes(node.node_list):
        if name == node.name:
            continue
        for candidate in (name, slurm.node_address(name)):
            try:
                return address_towards(candidate or "")
            except OSError:
                continue  # not a name that resolves here
    raise SubmitError(f"no other node of {node.node_list} has an address that resolves here")
