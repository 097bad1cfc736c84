"""What leaves the machine while shares are published and read: every packet that begins something is seen."""

from __future__ import annotations

import os
import shutil
import socket
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from interop.commands import Command
from interop.netns import TCP, Capture, Namespace, namespace
from interop.sharing import Person, digests, make_folder
from pelure.tor.embedded.plan import NetworkPlan

pytestmark = pytest.mark.timeout(420)
LOOPBACK = "127.0.0.1"
ELSEWHERE = ("203.0.113.5", "2001:db8:1::5")
WITH_MOUNT = bool(os.environ.get("CI")) or (
    os.path.exists("/dev/fuse") and shutil.which("fusermount3") is not None
)


def _prove_it_sees(capture: Capture, inside: Namespace) -> None:
    """Packets to elsewhere that the test sends itself are in the capture: others would be too."""
    for family, target in zip((socket.AF_INET, socket.AF_INET6), ELSEWHERE, strict=True):
        with inside.socket(family, socket.SOCK_DGRAM) as asking:
            asking.sendto(b"name?", (target, 53))
        with inside.socket(family, socket.SOCK_STREAM) as connecting:
            connecting.setblocking(False)
            connecting.connect_ex((target, 443))
            assert capture.saw(target, 53)
            assert capture.saw(target, 443)


def test_packets_go_to_relays_and_authorities_only(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "folder", big=600_000, small=5)
    with namespace() as inside, Capture(inside) as capture:
        with_mount = WITH_MOUNT and inside.can_mount
        net = tmp_path / "net"
        with Command("net", "up", "--dir", str(net), log=tmp_path / "log", within=inside.prefix) as up:
            network = Path(up.wait("up")["network"])
            nodes = NetworkPlan.load(net).nodes
            ports = {node.or_port for node in nodes} | {node.dir_port for node in nodes if node.dir_port}
            publisher = Person(network, tmp_path / "publisher", within=inside.prefix)
            reader = Person(network, tmp_path / "reader", within=inside.prefix)
            command, links = publisher.share(folder, "--to", "alice", "--browser", "--live")
            link, mounted = links["alice"]["link"], tmp_path / "mounted"
            with command, reader.start("open", link) as opened, ExitStack() as stack:
                if with_mount:
                    mount = stack.enter_context(reader.start("mount", link, str(mounted)))
                reader.events("get", link, str(tmp_path / "got"))
                assert digests(tmp_path / "got") == digests(folder)
                page = opened.wait("page")["url"]
                port = urlsplit(page).port
                assert port is not None
                ports.add(port)
                assert "big.bin" in inside.run("curl", "-sSf", page).stdout
                if with_mount:
                    mount.wait("mounted")
                    assert digests(mounted) == digests(folder)
        seen = set(capture.packets)
        used = {packet.target_port for packet in seen} & ports
        assert port in used
        assert len(used) > 3  # the authority and relays
        strangers = {
            packet
            for packet in seen
            if (packet.interface, packet.protocol) != ("lo", TCP)
            or (packet.source, packet.target) != (LOOPBACK, LOOPBACK)
            or not {packet.source_port, packet.target_port} & ports
        }
        assert not strangers
        _prove_it_sees(capture, inside)
        assert capture.dropped() == 0
