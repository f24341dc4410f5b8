"""Where the nodes of an attempt meet: a port that is free, an address that is reached.

Node 0's agent picks a port, keeps it until just before torchrun starts, and publishes `rdzv.json`;
the others wait for it. A port lost to another process between then and torchrun's own bind shows as
a failed bind: node 0 publishes the next round, with a new port and a new id, and every agent starts
its torchrun again.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from jobs import slurm
from jobs.errors import SubmitError
from jobs.node import NodeFacts
from jobs.run_folder import read_json, write_json_atomic

logger = logging.getLogger(__name__)

MAX_ROUNDS = 3
_LOWEST_PORT = 10000
_USUAL_EPHEMERAL = 32768
# Documentation's own network (RFC 5737): no host has it, so the way there is the default route.
_ANYWHERE = "192.0.2.1"
_BIND_ERRORS = ("EADDRINUSE", "address already in use", "errno: 98")


@dataclass(frozen=True)
class Rendezvous:
    """Where torchrun's agents meet.

    Attributes:
        local_address: of the interface through which this node reaches the others.
        held: on node 0, what keeps the port from others.
    """

    host: str
    port: int
    id: str
    round: int
    local_address: str
    held: socket.socket | None = field(default=None, compare=False, repr=False)

    def release(self) -> None:
        """Give the port up: torchrun binds it next."""
        if self.held is not None:
            self.held.close()


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
        held = hold_port(port)
        if held is None:
            continue
        held.close()
        if skip == 0:
            return port
        skip -= 1
    raise SubmitError(
        f"200 ports between {_LOWEST_PORT} and {ephemeral_low()} tried for the rendezvous, none is "
        "free on this node: `ss -tln` there says who has them"
    )


def hold_port(port: int) -> socket.socket | None:
    """Return a socket that keeps a port, IPv4 and IPv6 as torch's store does; None if it is taken.

    Nobody can connect to it, and closing it frees the port at once.
    """
    for family, address in ((socket.AF_INET6, "::"), (socket.AF_INET, "")):
        try:
            held = socket.socket(family, socket.SOCK_STREAM)
        except OSError:
            continue  # a kernel without IPv6
        try:
            if family == socket.AF_INET6:
                held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            held.bind((address, port))
        except OSError as error:
            held.close()
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                return None
            continue
        return held
    return None


def publish(path: Path, node: NodeFacts, run_id: str, attempt: int, round_: int) -> Rendezvous:
    """Choose and write the meeting place; node 0's act."""
    address = _own_address(node)
    port = find_port(run_id, attempt, skip=round_)
    held = hold_port(port)
    meeting_id = f"{run_id}-a{attempt}-r{round_}"
    rendezvous = Rendezvous(address, port, meeting_id, round_, address, held)
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


def expand_nodes(node_list: str) -> list[str]:
    """Return the names in Slurm's short form of a node list, such as `a[1-3,07],rack[1-2]n[0-1]`.

    Done here, not by scontrol: some sites have no Slurm commands on their nodes.
    """
    names: list[str] = []
    for part in re.findall(r"(?:[^,\[\]]|\[[^\]]*\])+", node_list):
        grown = [""]
        for piece in re.findall(r"\[[^\]]*\]|[^\[\]]+", part):
            options = _numbers(piece[1:-1]) if piece.startswith("[") else [piece]
            grown = [name + option for name in grown for option in options]
        names += grown
    return names


def _numbers(ranges: str) -> list[str]:
    """Return `01-03,7` as 01, 02, 03, 7: zeros before a number are part of the name."""
    numbers: list[str] = []
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        width = len(first)
        numbers += [f"{n:0{width}d}" for n in range(int(first), int(last or first) + 1)]
    return numbers


def _own_address(node: NodeFacts) -> str:
    """Return the address under which the other nodes of the job reach this one."""
    if node.count == 1:
        return "127.0.0.1"
    for name in expand_nodes(node.node_list):
        if name == node.name:
            continue
        for find in (str, _slurm_address):
            try:
                return address_towards(find(name))
            except (OSError, SubmitError) as error:
                logger.debug("no way to node %s: %s", name, error)
    logger.warning("no other node of %s has a known address: using the default", node.node_list)
    try:
        return address_towards(_ANYWHERE)
    except OSError as error:
        raise SubmitError(
            f"node {node.name} finds no way to the others of {node.node_list}: their names do not "
            f"resolve here, Slurm does not say, and there is no default route ({error})"
        ) from error


def _slurm_address(name: str) -> str:
    address = slurm.node_address(name)
    if address is None:
        raise SubmitError(f"Slurm knows no address of {name}")
    return address
