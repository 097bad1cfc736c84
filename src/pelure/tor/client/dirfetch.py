"""Asking a directory cache over a one-hop circuit (dir-spec 4.3 to 4.6, 6.2): requests and their answers."""

from __future__ import annotations

import asyncio
import email.utils
import logging

from pelure.errors import DirectoryError, StreamError
from pelure.tor.circuit.params import CircuitParams
from pelure.tor.directory.compression import ACCEPT_ENCODING, decompress
from pelure.tor.directory.relay import Relay
from pelure.tor.net import dir_http
from pelure.tor.net.links import LinkManager
from pelure.tor.net.origin import Circuit

CONNECT_SECONDS = 20.0
REQUEST_SECONDS = 60.0
MAX_COMPRESSED = 16 << 20

log = logging.getLogger(__name__)


async def fetch(
    circuit: Circuit, path: str, *, limit: int, headers: dict[str, str] | None = None
) -> dir_http.DirResponse:
    """GET ``path`` from the directory at the end of ``circuit``; the body comes unpacked.

    ``limit``: bytes the body may have, unpacked. Raises ``DirectoryError``, ``StreamError`` …
    """
    lines = {"Accept-Encoding": ACCEPT_ENCODING, **(headers or {})}
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            stream = circuit.open_dir()
            try:
                answer = await dir_http.get(stream, path, limit=min(limit, MAX_COMPRESSED), headers=text)
            finally:
                await stream.close()
    except TimeoutError:
        raise StreamError("a directory did not answer in time") from None
    encoding = answer.headers.get("content-encoding", "identity")
    body = await asyncio.to_thread(decompress, answer.body, encoding, limit)
    return dir_http.DirResponse(answer.status, answer.headers, body)


class DirectorySource:
    """A one-hop circuit to a directory cache: :meth:`open` it, :meth:`close` it.

    A relay whose ntor key is unknown (an authority or fallback, at first) is reached by CREATE_FAST.
    """

    def __init__(self, links: LinkManager, relay: Relay, params: CircuitParams) -> None:
        self.relay = relay
        self._links = links
        self._params = params
        self._circuit: Circuit | None = None

    async def open(self) -> None:
        """Build the circuit. Raises ``LinkError``, ``CircuitError``."""
        self._circuit = await Circuit.build(
            self._links,
            [self.relay],
            params=self._params,
            timeout=CONNECT_SECONDS,
            fast=self.relay.ntor_key is None,
        )

    def close(self) -> None:
        """Close the circuit; idempotent."""
        if self._circuit is not None:
            self._circuit.close()

    async def get(
        self, path: str, *, limit: int, headers: dict[str, str] | None = None
    ) -> dir_http.DirResponse:
        """:func:`fetch` from this cache."""
        if self._circuit is None:
            raise DirectoryError("the directory source is not open")
        return await fetch(self._circuit, path, limit=limit, headers=headers)


def server_time(answer: dir_http.DirResponse) -> float | None:
    """What the directory says the time is (epoch seconds), None if it doesn't."""
    try:
        return email.utils.parsedate_to_datetime(answer.headers["date"]).timestamp()
    except (KeyError, ValueError, TypeError, OverflowError):
        return None


def http_date(seconds: float) -> str:
    """``seconds`` (epoch) as HTTP writes dates."""
    return email.utils.formatdate(seconds, usegmt=True)
