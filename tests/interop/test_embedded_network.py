"""All-pelure networks (``pelure net up``) as C tor sees and uses them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from interop.commands import Command, pelure
from interop.ctor import Client, CTorNetwork, FileServer, Service, curl, free_port, payload

pytestmark = [pytest.mark.ctor, pytest.mark.timeout(400)]

RELAYS = 8
LARGE = 100_000_000
ALL_FLAGS = {"Exit", "Fast", "Guard", "HSDir", "Running", "Stable", "V2Dir", "Valid"}


@dataclass
class Embedded:
    """A running embedded network, and C tor clients and services in it."""

    folder: Path
    network_file: Path
    ctor: CTorNetwork
    client: Client


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    folder = tmp_path_factory.mktemp("embedded")
    with Command(
        "net", "up", "--dir", str(folder / "net"), "--relays", str(RELAYS), log=folder / "net.log"
    ) as network:
        network_file = Path(network.wait("up")["network"])
        lines = [line for line in network_file.read_text().splitlines() if line.startswith("DirAuthority")]
        ctor = CTorNetwork(authorities=0, relays=0, outside_authorities=lines)
        try:
            yield Embedded(folder / "net", network_file, ctor, ctor.client())
        finally:
            ctor.stop()


@pytest.fixture(scope="module")
def service(embedded: Embedded, file_server: FileServer) -> Service:
    return embedded.ctor.service({80: file_server.port})


def test_c_tor_bootstraps_without_complaint(embedded: Embedded, file_server: FileServer) -> None:
    fetched = curl(file_server.url(1_000_000), embedded.client.socks)
    assert fetched.sha256 == payload(1_000_000)[1]
    assert "Bootstrapped 100%" in embedded.client.node.log()
    assert embedded.client.node.document_warnings() == []


def test_c_tor_bootstraps_without_microdescriptors(embedded: Embedded, file_server: FileServer) -> None:
    """From the consensus of flavour ns and router descriptors, of whatever directory it asks for them."""
    client = embedded.ctor.client(extra="UseMicrodescriptors 0")
    assert curl(file_server.url(1000), client.socks).sha256 == payload(1000)[1]
    assert client.node.document_warnings() == []
    client.stop()


def test_c_tor_meets_c_tor(embedded: Embedded, service: Service, file_server: FileServer) -> None:
    fetched = curl(file_server.url(LARGE, service.address), embedded.client.socks, timeout=180)
    assert (fetched.size, fetched.sha256) == (LARGE, payload(LARGE)[1])
    assert service.node.document_warnings() == []
    assert embedded.client.node.document_warnings() == []


@pytest.fixture(scope="module")
def proxy(embedded: Embedded) -> Iterator[int]:
    """The port of a ``pelure proxy`` in the network."""
    port = free_port()
    with Command(
        *("--network", str(embedded.network_file), "--state", str(embedded.folder.parent / "proxy")),
        *("proxy", "--socks", f"127.0.0.1:{port}"),
        log=embedded.folder.parent / "proxy.log",
    ) as command:
        command.wait("bootstrapped")
        yield port


@pytest.fixture(scope="module")
def pelure_service(embedded: Embedded, file_server: FileServer) -> Iterator[str]:
    """The address of a ``pelure onion serve`` in the network."""
    with Command(
        *("--network", str(embedded.network_file), "--state", str(embedded.folder.parent / "serve")),
        *("onion", "serve", "--port", f"80:127.0.0.1:{file_server.port}"),
        *("--dir", str(embedded.folder.parent / "service")),
        log=embedded.folder.parent / "serve.log",
    ) as command:
        yield str(command.wait("published")["address"])


def test_pelure_meets_c_tor(proxy: int, service: Service, file_server: FileServer) -> None:
    fetched = curl(file_server.url(LARGE, service.address), proxy, timeout=180)
    assert (fetched.size, fetched.sha256) == (LARGE, payload(LARGE)[1])


def test_c_tor_meets_pelure(embedded: Embedded, pelure_service: str, file_server: FileServer) -> None:
    fetched = curl(file_server.url(LARGE, pelure_service), embedded.client.socks, timeout=180)
    assert (fetched.size, fetched.sha256) == (LARGE, payload(LARGE)[1])


def test_pelure_meets_pelure(proxy: int, pelure_service: str, file_server: FileServer) -> None:
    fetched = curl(file_server.url(LARGE, pelure_service), proxy, timeout=180)
    assert (fetched.size, fetched.sha256) == (LARGE, payload(LARGE)[1])


def test_an_exit_stream_of_pelure(proxy: int, file_server: FileServer) -> None:
    fetched = curl(file_server.url(LARGE), proxy, timeout=180)
    assert (fetched.size, fetched.sha256) == (LARGE, payload(LARGE)[1])


def test_status_lists_every_node_with_its_flags(embedded: Embedded) -> None:
    done = pelure("net", "status", "--dir", str(embedded.folder), "--json")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    nodes = [event for event in events if event["event"] == "node"]
    assert len(nodes) == RELAYS + 1
    assert all(set(node["flags"]) >= ALL_FLAGS for node in nodes)
    assert events[-1]["network"] == str(embedded.network_file)


def test_c_tor_follows_the_consensuses(embedded: Embedded) -> None:
    """The client's consensus and that of the authority have the same flavour and the same relays."""
    ours = embedded.client.node.controller.get_info("ns/all").count("\nr ") + 1
    assert ours == RELAYS + 1


def test_three_authorities_and_a_second_life(tmp_path: Path) -> None:
    """Three authorities sign; brought down nothing is left; brought up again it is the same network."""
    folder = tmp_path / "net"
    arguments = ("net", "up", "--dir", str(folder), "--relays", "3", "--authorities", "3")
    with Command(*arguments, log=tmp_path / "one.log") as network:
        network_file = Path(network.wait("up")["network"])
        first = network_file.read_text()
        workers = [
            psutil.Process(pid) for pid in json.loads((folder / "network.json").read_text())["workers"]
        ]
        assert pelure(*arguments).returncode == 1, "the folder is in use"
        assert pelure("net", "down", "--dir", str(folder)).returncode == 0
        assert network.process.wait(30) == 0
    assert first.count("DirAuthority ") == 3
    assert not any(worker.is_running() for worker in workers)
    assert pelure("net", "status", "--dir", str(folder)).returncode == 1
    with Command(*arguments, log=tmp_path / "two.log") as network:
        network.wait("up")
        again = network_file.read_text()
        identities = [word for word in first.split() if len(word) == 40 or word.startswith("v3ident=")]
        assert all(word in again for word in identities)


def test_up_is_quick(tmp_path: Path) -> None:
    """The figure is reported, not asserted: this machine may be busy with other things."""
    started = time.monotonic()
    with Command("net", "up", "--dir", str(tmp_path / "net"), log=tmp_path / "log") as network:
        event = network.wait("up")
    print(f"net up: {event['seconds']} s, with the command's start {time.monotonic() - started:.1f} s")
