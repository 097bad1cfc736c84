"""What leaves the machine while shares are published and read.

Where tests get a network namespace, every packet that begins something is seen; elsewhere what the programs
ask of the network (:mod:`interop.socket_watch`).
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import pytest

from interop.commands import Command
from interop.netns import TCP, Capture, Namespace, NoNamespace, namespace
from interop.sharing import Person, digests, make_folder
from interop.socket_watch import SocketWatch
from pelure.tor.embedded.plan import NetworkPlan

pytestmark = pytest.mark.timeout(420)
LOOPBACK = "127.0.0.1"
ELSEWHERE = ("203.0.113.5", "2001:db8:1::5")
WITH_MOUNT = bool(os.environ.get("CI")) or (
    os.path.exists("/dev/fuse") and shutil.which("fusermount3") is not None
)


class Watch(Protocol):
    """Sees what programs do whose command lines come behind ``prefix``."""

    prefix: tuple[str, ...]
    can_mount: bool

    def run(self, *command: str) -> str:
        """What a program, run to its end, prints."""

    def ports(self) -> set[int]:
        """The ports at which programs reached others on this machine."""

    def strangers(self, ports: set[int]) -> set[object]:
        """All that went elsewhere than to ``ports`` on loopback."""

    def prove_it_sees(self) -> None:
        """What the test itself sends elsewhere is seen: so would be what others send."""


class Packets:
    """Watches the packets in a network namespace."""

    def __init__(self, inside: Namespace, capture: Capture) -> None:
        self.prefix = inside.prefix
        self.can_mount = inside.can_mount
        self._inside = inside
        self._capture = capture

    def run(self, *command: str) -> str:
        return self._inside.run(*command).stdout

    def ports(self) -> set[int]:
        return {packet.target_port for packet in set(self._capture.packets)}

    def strangers(self, ports: set[int]) -> set[object]:
        return {
            packet
            for packet in set(self._capture.packets)
            if (packet.interface, packet.protocol) != ("lo", TCP)
            or (packet.source, packet.target) != (LOOPBACK, LOOPBACK)
            or not {packet.source_port, packet.target_port} & ports
        }

    def prove_it_sees(self) -> None:
        for family, target in zip((socket.AF_INET, socket.AF_INET6), ELSEWHERE, strict=True):
            with self._inside.socket(family, socket.SOCK_DGRAM) as asking:
                asking.sendto(b"name?", (target, 53))
            with self._inside.socket(family, socket.SOCK_STREAM) as connecting:
                connecting.setblocking(False)
                connecting.connect_ex((target, 443))
                assert self._capture.saw(target, 53)
                assert self._capture.saw(target, 443)
        assert self._capture.dropped() == 0


class Calls:
    """Watches what Python programs ask of the network."""

    can_mount = True

    def __init__(self, watch: SocketWatch) -> None:
        self.prefix = watch.prefix
        self._watch = watch

    def run(self, *command: str) -> str:
        return self._watch.run(*command).stdout

    def ports(self) -> set[int]:
        return {one.port for one in self._watch.asked() if one.host == LOOPBACK and one.port is not None}

    def strangers(self, ports: set[int]) -> set[object]:
        used = {one for one in self._watch.asked() if not one.is_look_up}
        names = {one for one in self._watch.asked() if one.is_look_up and not _is_address(one.host)}
        allowed = {one for one in used if (one.host == LOOPBACK and one.port in ports) or _is_path(one.host)}
        return {*names, *(used - allowed)}

    def prove_it_sees(self) -> None:
        self._watch.prove_it_sees()


def _is_address(host: str | None) -> bool:
    try:
        ipaddress.ip_address(host or "")
    except ValueError:
        return host is None  # any address of this machine, to listen at
    return True


def _is_path(host: str | None) -> bool:
    """Whether it is a Unix socket's."""
    return host is not None and host.startswith("/")


@contextmanager
def packets() -> Iterator[Watch]:
    """Raises ``NoNamespace``."""
    with namespace() as inside, Capture(inside) as capture:
        yield Packets(inside, capture)


@contextmanager
def packets_or_calls(folder: Path) -> Iterator[Watch]:
    """The best watch that can be had here."""
    with ExitStack() as stack:
        try:
            watch: Watch = stack.enter_context(packets())
        except NoNamespace:
            watch = Calls(SocketWatch(folder))
        yield watch


def test_calls_are_seen(tmp_path: Path) -> None:
    Calls(SocketWatch(tmp_path)).prove_it_sees()


def test_only_relays_and_authorities_are_reached(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "folder", big=600_000, small=5)
    with packets_or_calls(tmp_path / "watch") as watch:
        with_mount = WITH_MOUNT and watch.can_mount
        net = tmp_path / "net"
        with Command("net", "up", "--dir", str(net), log=tmp_path / "log", within=watch.prefix) as up:
            network = Path(up.wait("up")["network"])
            nodes = NetworkPlan.load(net).nodes
            ports = {node.or_port for node in nodes} | {node.dir_port for node in nodes if node.dir_port}
            publisher = Person(network, tmp_path / "publisher", within=watch.prefix)
            reader = Person(network, tmp_path / "reader", within=watch.prefix)
            command, links = publisher.share(folder, "--to", "alice", "--browser", "--live")
            link, mounted = links["alice"]["link"], tmp_path / "mounted"
            with command, reader.start("open", link) as opened, ExitStack() as stack:
                if with_mount:
                    mount = stack.enter_context(reader.start("mount", link, str(mounted)))
                reader.events("get", link, str(tmp_path / "got"))
                assert digests(tmp_path / "got") == digests(folder)
                page = opened.wait("page")["url"]
                assert "big.bin" in watch.run("curl", "-sSf", page)
                if with_mount:
                    mount.wait("mounted")
                    assert digests(mounted) == digests(folder)
        port = urlsplit(page).port
        assert port is not None
        assert len(watch.ports() & ports) > 3  # the authority and relays
        assert not watch.strangers(ports | {port})
        watch.prove_it_sees()
