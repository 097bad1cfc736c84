"""An authority and its relay half in one process."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pelure.tor.directory.network import parse_network
from pelure.tor.embedded.authority_node import AuthorityNode
from pelure.tor.embedded.plan import make_plan
from pelure.tor.embedded.worker import authority_config, relay_config


async def test_the_relay_half_finds_its_authority_listening(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It publishes its descriptor at once; in earnest the next attempt is two minutes away."""
    plan = await asyncio.to_thread(make_plan, tmp_path, 3, 1, 20)
    network, node = parse_network(plan.torrc), plan.nodes[0]
    published = asyncio.Event()

    def on_event(event: str, **_: Any) -> None:
        if event == "published":
            published.set()

    authority = AuthorityNode(
        authority_config(plan, node, network),
        relay_config(plan, node, network),
        test_reachability=True,
        on_event=on_event,
    )
    try:
        await authority.start()
        async with asyncio.timeout(60):
            await published.wait()
    finally:
        await authority.close()
    assert "has no descriptor of this relay yet" not in caplog.text
