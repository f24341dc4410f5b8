from __future__ import annotations

import itertools
import socket
from pathlib import Path

import pytest

from jobs.errors import SubmitError
from jobs.node import NodeFacts
from jobs.rendezvous import (
    address_towards,
    ephemeral_low,
    expand_nodes,
    find_port,
    hold_port,
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


def test_first_candidates_that_are_taken_are_passed_over_on_either_address_family() -> None:
    first, second, third, *_ = port_candidates("crowded", 7, ephemeral_low())
    with socket.socket() as v4, socket.socket(socket.AF_INET6) as v6:
        v6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        v4.bind(("", first))
        v6.bind(("::", second))
        assert find_port("crowded", 7) == third


def test_published_port_is_kept_until_it_is_released(tmp_path: Path) -> None:
    rendezvous = publish(tmp_path / "rdzv.json", NodeFacts(), "kept", 1, 0)
    assert hold_port(rendezvous.port) is None
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("", rendezvous.port))
    rendezvous.release()
    free = hold_port(rendezvous.port)
    assert free is not None
    free.close()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("node1", ["node1"]),
        ("node[1-3,07]", ["node1", "node2", "node3", "node07"]),
        ("a[08-11]-ib,login", ["a08-ib", "a09-ib", "a10-ib", "a11-ib", "login"]),
        ("rack[1-2]n[0-1]", ["rack1n0", "rack1n1", "rack2n0", "rack2n1"]),
        ("", []),
    ],
)
def test_slurms_short_form_of_a_node_list_is_read(text: str, names: list[str]) -> None:
    assert expand_nodes(text) == names


def test_nodes_without_slurm_commands_and_names_still_have_an_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    node = NodeFacts(count=2, name="x1.invalid", node_list="x[1-2].invalid")
    try:
        default = address_towards("192.0.2.1")
    except OSError:
        with pytest.raises(SubmitError, match="no default route"):
            publish(tmp_path / "rdzv.json", node, "run", 1, 0)
        return
    published = publish(tmp_path / "rdzv.json", node, "run", 1, 0)
    published.release()
    assert published.host == default


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
