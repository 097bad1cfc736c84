"""HTTP and HTTPS through streams that end at a local server instead of a network."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pelure.errors import OnionServiceError
from pelure.streams import ByteStream, SocketStream
from pelure.tor.client.httpx_transport import TorTransport

PATIENCE = 30
BODY = b"page" * 50_000


class LocalStreams:
    """Opens every stream to one local server, unless the host is ``gone.onion``."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.asked: list[tuple[str, int, Hashable]] = []

    async def open_stream(self, host: str, port: int, isolation: Hashable = None) -> ByteStream:
        self.asked.append((host, port, isolation))
        if host == "gone.onion":
            raise OnionServiceError("it is gone", 0xF0)
        return await SocketStream.connect("127.0.0.1", self.port)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            body = BODY if head.startswith(b"GET ") else await reader.readexactly(5)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()


@asynccontextmanager
async def local(tls: ssl.SSLContext | None = None) -> AsyncIterator[LocalStreams]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with asyncio.timeout(PATIENCE):
        try:
            yield LocalStreams(server.sockets[0].getsockname()[1])
        finally:
            server.close()


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for ``site.example`` and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "site.example")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=2))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("site.example")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_path, key_path = folder / "cert.pem", folder / "key.pem"
    cert_path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return cert_path, key_path


async def test_http() -> None:
    async with (
        local() as streams,
        httpx.AsyncClient(transport=TorTransport(streams, isolation="me")) as client,
    ):
        assert (await client.get("http://site.onion/")).content == BODY
        assert (await client.post("http://site.onion/", content=b"hello")).content == b"hello"
        assert streams.asked == [("site.onion", 80, "me")]  # the connection is kept
        with pytest.raises(httpx.ConnectError, match="it is gone"):
            await client.get("http://gone.onion/")


async def test_https(tmp_path: Path) -> None:
    cert_path, key_path = certificate(tmp_path)
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(cert_path, key_path)
    trusting = ssl.create_default_context(cafile=str(cert_path))
    async with local(server_side) as streams:
        async with httpx.AsyncClient(transport=TorTransport(streams, verify=trusting)) as client:
            assert (await client.get("https://site.example/")).content == BODY
            assert (await client.post("https://site.example/", content=b"hello")).content == b"hello"
            with pytest.raises(httpx.ConnectError):
                await client.get("https://other.example/")
        async with httpx.AsyncClient(transport=TorTransport(streams)) as client:
            with pytest.raises(httpx.ConnectError, match=r"(?i)certificate"):
                await client.get("https://site.example/")
