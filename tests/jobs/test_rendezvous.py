from __future__ import annotations

import itertools
import socket
from pathlib import Path

from jobs.node import NodeFacts
from jobs.rendezvous import (
    address_towards,
    ephemeral_low,
    find_port,
    is_port_clash,
    port_candidates,
    publish,
    read_rendezvous,
)


def test_ports_lie_outside_of_what_the_kernel_hands_out() -> None:
    ports = list(port_candidates("run", 1, ephemeral_low()))
    assert all(10000 <= port < ephemeral_low() for port in ports)


def test_runs_and_attempts_differ_in_their_ports() -> None:
    first = {
        next(port_candidates(f"run-{k}", attempt, 32768))
        for k, attempt in itertools.product(range(20), range(1, 4))
    }
    assert len(first) > 55  # 60 draws from 22,768: a few may meet


def test_taken_port_is_passed_over() -> None:
    wanted = find_port("busy", 1)
    with socket.socket() as taken:
        taken.bind(("", wanted))
        taken.listen()
        assert find_port("busy", 1) != wanted


def test_next_round_has_another_port_and_id(tmp_path: Path) -> None:
    path, node = tmp_path / "rdzv.json", NodeFacts()
    first = publish(path, node, "run", 1, 0)
    second = publish(path, node, "run", 1, 1)
    assert first.port != second.port
    assert first.id != second.id
    assert (second.host, second.local_address) == ("127.0.0.1", "127.0.0.1")


def test_others_read_what_node_0_published_and_wait_for_a_later_round(tmp_path: Path) -> None:
    path = tmp_path / "rdzv.json"
    assert read_rendezvous(path) is None
    published = publish(path, NodeFacts(), "run", 1, 0)
    assert read_rendezvous(path) == published
    assert read_rendezvous(path, round_=1) is None


def test_address_is_the_interface_that_reaches_the_other_node() -> None:
    assert address_towards("127.0.0.1") == "127.0.0.1"


def test_bind_error_in_a_torchrun_log_is_a_port_clash(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert not is_port_clash(log)
    log.write_text("RuntimeError: something else")
    assert not is_port_clash(log)
    log.write_text("The server socket has failed to bind to [::]:11111 (errno: 98 - Address ...")
    assert is_port_clash(log)
