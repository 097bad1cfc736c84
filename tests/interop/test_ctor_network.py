"""The harness itself: a network of C tor processes carries an exit stream and an onion service."""

from __future__ import annotations

import pytest

from interop.ctor import Client, CTorNetwork, FileServer, curl, payload

pytestmark = pytest.mark.ctor


def test_exit_stream(ctor_network: CTorNetwork, ctor_client: Client, file_server: FileServer) -> None:
    fetched = curl(file_server.url(1_000_000), ctor_client.socks)
    assert (fetched.status, fetched.sha256) == (200, payload(1_000_000)[1])


def test_onion_service(ctor_network: CTorNetwork, ctor_client: Client, file_server: FileServer) -> None:
    service = ctor_network.service({80: file_server.port})
    try:
        fetched = curl(file_server.url(1_000_000, service.address), ctor_client.socks)
    finally:
        service.stop()
    assert (fetched.status, fetched.sha256) == (200, payload(1_000_000)[1])
