"""Fixtures of the interop tests: one private C tor network for the session, payload server, programs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from interop.ctor import Client, CTorNetwork, FileServer, require


@pytest.fixture(autouse=True)
def programs(request: pytest.FixtureRequest) -> None:
    """Skip (or, with CI=true, fail) a marked test when the programs that it talks to are missing."""
    if request.node.get_closest_marker("ctor"):
        require("tor", "tor-gencert", "curl")
    if request.node.get_closest_marker("npm"):
        require("node")


@pytest.fixture(scope="session")
def ctor_network() -> Iterator[CTorNetwork]:
    """Three C tor authorities and eight C tor relays, up and voting; shared by the whole session.

    A test that kills a relay or needs other settings makes its own :class:`CTorNetwork`.
    """
    require("tor", "tor-gencert", "curl")
    with CTorNetwork(relays=8) as network:
        yield network


@pytest.fixture(scope="session")
def ctor_client(ctor_network: CTorNetwork) -> Client:
    """A bootstrapped C tor client in :func:`ctor_network`."""
    return ctor_network.client()


@pytest.fixture(scope="session")
def file_server() -> Iterator[FileServer]:
    """An HTTP server on loopback with payloads of any size; see :class:`FileServer`."""
    with FileServer() as server:
        yield server


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Add the ends of the C tor logs to the report of a test that failed."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    network = getattr(item, "funcargs", {}).get("ctor_network")
    if report.when == "call" and report.failed and isinstance(network, CTorNetwork):
        report.sections.append(("C tor logs", network.logs()))
