"""The pelure client in a C tor network: API, SOCKS proxy with curl, commands."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

import pelure
from interop.ctor import CTorNetwork, FileServer, curl, payload
from pelure.errors import StreamError
from pelure.streams import ByteStream
from pelure.tor.api import Tor
from pelure.tor.client.httpx_transport import TorTransport
from pelure.tor.client.socks import Reply
from pelure.tor.crypto.address import decode_address
from pelure.tor.onion.auth_files import AuthPrivate
from pelure.tor.onion.client_auth import ClientAuthKey
from pelure.tor.service.targets import IncomingInfo

pytestmark = [pytest.mark.ctor, pytest.mark.timeout(300)]

SIZE = 3_000_000
BIG = 100_000_000


@asynccontextmanager
async def connected(network: CTorNetwork, state: Path) -> AsyncIterator[Tor]:
    async with pelure.connect(network.network_file, state=state) as tor:
        yield tor


async def check_download(url: str, socks: int, size: int, user: str = "") -> None:
    fetched = await asyncio.to_thread(curl, url, socks, timeout=240, user=user)
    assert (fetched.status, fetched.sha256) == (200, payload(size)[1])


async def ask_socks(port: int, host: str, command: int = 1, target: int = 80) -> bytes:
    """One SOCKS request, all of it in one write; returns the reply to the request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    name = host.encode()
    writer.write(b"\5\1\0" + bytes([5, command, 0, 3, len(name)]) + name + target.to_bytes(2, "big"))
    answer = await reader.readexactly(12)
    writer.close()
    return answer[2:]


async def test_exit_streams_through_the_proxy(
    ctor_network: CTorNetwork, file_server: FileServer, tmp_path: Path
) -> None:
    async with connected(ctor_network, tmp_path) as tor:
        _, socks = await tor.serve_proxy(port=0)
        await check_download(file_server.url(SIZE), socks, SIZE)
        await asyncio.gather(
            *(check_download(file_server.url(SIZE), socks, SIZE, user) for user in ("a:1", "a:1", "b:1"))
        )
        used = [entry for entry in tor.client.pool.circuits() if entry.isolation is not None]
        assert len({entry.isolation for entry in used}) == len(used) == 3
        assert all(len(entry.path) == 3 for entry in used)
        proxy = f"http://127.0.0.1:{socks}"
        async with httpx.AsyncClient(proxy=proxy, timeout=120) as plain:
            # Without TLS, httpx asks an HTTP proxy by GET, not CONNECT; that is refused.
            assert (await plain.get(file_server.url(10))).status_code == 405


async def test_failures_have_their_socks_codes(ctor_network: CTorNetwork, tmp_path: Path) -> None:
    async with connected(ctor_network, tmp_path) as tor:
        _, socks = await tor.serve_proxy(port=0)
        # What C tor's exits say of a refused connection (MISC) is no more than a general failure.
        for host, target, code in (
            ("127.0.0.1", 1, Reply.GENERAL_FAILURE),
            ("a" * 56 + ".onion", 80, 0xF6),
        ):
            assert (await ask_socks(socks, host, target=target))[1] == code
        assert (await ask_socks(socks, "example.onion", command=0xF0))[1] == Reply.HOST_UNREACHABLE
        resolved = await ask_socks(socks, "127.0.0.7", command=0xF0)
        assert resolved == b"\5\0\0\1\x7f\0\0\7\0\0"


async def test_a_missing_service_is_told_apart(ctor_network: CTorNetwork, tmp_path: Path) -> None:
    async with connected(ctor_network, tmp_path) as tor:
        service = await tor.serve_onion({80: ("127.0.0.1", 1)}, wait=False)
        address = service.address
        await service.close()
        _, socks = await tor.serve_proxy(port=0)
        assert (await ask_socks(socks, address))[1] in (0xF0, 0xF2)  # it may have been published already


async def test_a_c_tor_service_through_the_proxy(
    ctor_network: CTorNetwork, file_server: FileServer, tmp_path: Path
) -> None:
    service = await asyncio.to_thread(ctor_network.service, {80: file_server.port})
    try:
        async with connected(ctor_network, tmp_path) as tor:
            _, socks = await tor.serve_proxy(port=0)
            url = file_server.url(SIZE, service.address)
            await asyncio.gather(*(check_download(url, socks, SIZE, user) for user in ("", "", "b:1")))
            assert len(tor.client.onion_circuits.circuits()[service.address]) == 2
            listed = tor.status()
            assert sum(circuit.onion == service.address for circuit in listed.circuits) == 2
            assert all(link.fingerprint for link in listed.links)
            async with httpx.AsyncClient(transport=TorTransport(tor), timeout=120) as client:
                assert (await client.get(url)).content == payload(SIZE)[0]
    finally:
        service.stop()


async def test_client_authorization(
    ctor_network: CTorNetwork, file_server: FileServer, tmp_path: Path
) -> None:
    key, stranger = ClientAuthKey.generate(os.urandom), ClientAuthKey.generate(os.urandom)
    public = base64.b32encode(key.public).decode().rstrip("=")
    service = await asyncio.to_thread(
        ctor_network.service, {80: file_server.port}, authorized={"alice": public}
    )
    try:
        identity = decode_address(service.address)
        keys = tmp_path / "keys"
        keys.mkdir()
        async with connected(ctor_network, tmp_path / "state") as tor:
            _, socks = await tor.serve_proxy(port=0)
            assert (await ask_socks(socks, service.address))[1] == 0xF4
            tor.add_client_key(service.address, stranger.secret)
            assert (await ask_socks(socks, service.address))[1] == 0xF5
            (keys / "alice.auth_private").write_text(AuthPrivate(identity, key).encode())
            assert tor.load_client_keys(keys) == 1
            await check_download(file_server.url(SIZE, service.address), socks, SIZE)
    finally:
        service.stop()


async def test_an_onion_service_and_its_client_in_one_program(
    ctor_network: CTorNetwork, tmp_path: Path
) -> None:
    async def echo(stream: ByteStream, info: IncomingInfo) -> None:
        assert info.port == 7
        while data := await stream.read():
            await stream.write(data)
        await stream.close()

    async with connected(ctor_network, tmp_path) as tor:
        service = await tor.serve_onion({7: echo}, keys=tmp_path / "hs")
        assert (tmp_path / "hs" / "hostname").read_text().strip() == service.address
        stream = await tor.open_stream(service.address, 7)
        await stream.write(b"hello")
        assert await stream.read() == b"hello"
        await stream.close()
        with pytest.raises(StreamError):
            await tor.open_stream(service.address, 8)


async def test_a_second_run_keeps_the_guards_and_needs_no_download(
    ctor_network: CTorNetwork, file_server: FileServer, tmp_path: Path
) -> None:
    def primary(tor: Tor) -> set[str]:
        """Without their order: those that were used by then come first."""
        return {guard.nickname for guard in tor.client.guards.primary}

    async with connected(ctor_network, tmp_path) as tor:
        guards = primary(tor)
        # Another program with the same state works beside it, on the same guards.
        async with connected(ctor_network, tmp_path) as other:
            assert primary(other) == guards
    async with connected(ctor_network, tmp_path) as tor:
        assert primary(tor) == guards
        stream = await tor.open_stream("127.0.0.1", file_server.port)
        await stream.close()


async def start_command(network: CTorNetwork, state: Path, *words: str) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "pelure.cli.main", "--network", str(network.network_file)]
    command += ["--state", str(state), *words]
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)


async def test_fetching_and_checking_commands(
    ctor_network: CTorNetwork, file_server: FileServer, tmp_path: Path
) -> None:
    doctor = await start_command(ctor_network, tmp_path, "doctor", "--json")
    told = [json.loads(line) for line in (await doctor.communicate())[0].splitlines()]
    checks = {event["name"]: event["ok"] for event in told if event["event"] == "check"}
    assert checks == dict.fromkeys(("reach", "network", "clock", "guard", "circuit", "exit"), True)
    assert doctor.returncode == 0

    page = await start_command(ctor_network, tmp_path, "get-url", file_server.url(SIZE))
    assert (await page.communicate())[0] == payload(SIZE)[0]
    assert page.returncode == 0
    target = tmp_path / "page"
    words = ("get-url", file_server.url(SIZE), "--output", str(target), "--json")
    page = await start_command(ctor_network, tmp_path, *words)
    told = [json.loads(line) for line in (await page.communicate())[0].splitlines()]
    assert (told[-1]["event"], told[-1]["bytes"]) == ("complete", SIZE)
    assert target.read_bytes() == payload(SIZE)[0]

    missing = await start_command(ctor_network, tmp_path, "get-url", "http://nonsense.onion/")
    _, error = await missing.communicate()
    assert missing.returncode == 1
    assert error.startswith(b"pelure: can't fetch") and error.count(b"\n") == 1


async def test_the_proxy_command(ctor_network: CTorNetwork, file_server: FileServer, tmp_path: Path) -> None:
    process = await start_command(ctor_network, tmp_path, "proxy", "--socks", "127.0.0.1:0", "--json")
    assert process.stdout is not None
    port = 0
    async for line in process.stdout:
        event = json.loads(line)
        port = event.get("port", port)
        if event["event"] == "bootstrapped":
            break
    await check_download(file_server.url(1000), port, 1000)
    process.send_signal(signal.SIGINT)
    assert await process.wait() == 130


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_100_megabytes(ctor_network: CTorNetwork, file_server: FileServer, tmp_path: Path) -> None:
    service = await asyncio.to_thread(ctor_network.service, {80: file_server.port})
    try:
        async with connected(ctor_network, tmp_path) as tor:
            _, socks = await tor.serve_proxy(port=0)
            await check_download(file_server.url(BIG), socks, BIG)
            await check_download(file_server.url(BIG, service.address), socks, BIG)
    finally:
        service.stop()
