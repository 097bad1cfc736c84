"""A worker process of an embedded network: runs some of its nodes in one event loop.

``python -m pelure.tor.embedded.worker`` reads one line of JSON from standard input, the plan and the names of
its nodes; prints events as lines of JSON; ends when standard input does, or at SIGTERM.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import signal
import sys
from pathlib import Path
from typing import Any

from pelure.errors import PelureError
from pelure.tor.authority.config import AuthorityConfig
from pelure.tor.authority.flags import FlagOptions
from pelure.tor.authority.schedule import VotingTimes
from pelure.tor.directory.network import Network, parse_network
from pelure.tor.embedded.authority_node import AuthorityNode
from pelure.tor.embedded.plan import ADDRESS, NetworkPlan, NodePlan
from pelure.tor.relay.config import RelayConfig
from pelure.tor.relay.server import RelayServer

MEMORY_LIMIT = 256 << 20
READY_POLL_SECONDS = 0.05
# Vegas' thresholds, in cells, twice the default ones (proposal 324, 6.5). Where all relays share a few cores,
# what Vegas takes for queues is runs of cells whose relay waits for its turn; with the defaults so few are
# under way that the processors idle for a third of a download. C tor is as fast either way.
CONGESTION_PARAMS = {
    "cc_vegas_alpha_exit": 372,
    "cc_vegas_beta_exit": 496,
    "cc_vegas_gamma_exit": 372,
    "cc_vegas_delta_exit": 620,
    "cc_sscap_exit": 1200,
    "cc_vegas_alpha_onion": 372,
    "cc_vegas_beta_onion": 744,
    "cc_vegas_gamma_onion": 496,
    "cc_vegas_delta_onion": 868,
    "cc_sscap_onion": 950,
}
INTERVALS_VALID = 12
log = logging.getLogger(__name__)


def voting_times(interval: int) -> VotingTimes:
    """An embedded network's timing: authorities on one machine need little time to hear each other."""
    delay = 2 if interval < 40 else 5
    return VotingTimes(interval, delay, delay, INTERVALS_VALID, min(interval, 10), 2, 2)


def relay_config(plan: NetworkPlan, node: NodePlan, network: Network) -> RelayConfig:
    """The settings of a node's relay half: everything is allowed, on this machine only."""
    options = {
        "nickname": [node.name],
        "address": [ADDRESS],
        "orport": [f"{ADDRESS}:{node.or_port}"],
        "contactinfo": [f"{node.name}@localhost"],
        "exitrelay": ["1"],
        "exitpolicy": ["accept *:*"],
        "exitpolicyrejectprivate": ["0"],
        "extendallowprivateaddresses": ["1"],
        "maxmeminqueues": [str(MEMORY_LIMIT)],
    }
    return RelayConfig.from_torrc(network, options, plan.data(node))


def authority_config(plan: NetworkPlan, node: NodePlan, network: Network) -> AuthorityConfig:
    """The settings of a node's authority half."""
    return AuthorityConfig(
        nickname=node.name,
        data=plan.data(node),
        network=network,
        ip=ADDRESS,
        dir_port=node.dir_port,
        or_port=node.or_port,
        times=voting_times(plan.interval),
        flags=FlagOptions.for_testing(),
        contact=f"{node.name}@localhost",
        allow_private_addresses=True,
        params=CONGESTION_PARAMS,
        expected_relays=len(plan.nodes),
    )


class Worker:
    """Runs the nodes named in its orders."""

    def __init__(self, plan: NetworkPlan, names: list[str]) -> None:
        network = parse_network(plan.torrc, "embedded")
        self.plan = plan
        self._nodes: list[RelayServer | AuthorityNode] = []
        for node in (one for one in plan.nodes if one.name in names):
            config = relay_config(plan, node, network)
            if node.is_authority:
                authority = authority_config(plan, node, network)
                self._nodes.append(AuthorityNode(authority, config, test_reachability=True))
            else:
                self._nodes.append(RelayServer(config))

    async def start(self) -> None:
        """Start all nodes. Raises ``ConfigError``."""
        await asyncio.gather(*(node.start() for node in self._nodes))

    async def close(self) -> None:
        """Stop all nodes."""
        await asyncio.gather(*(node.close() for node in self._nodes), return_exceptions=True)

    async def ready(self) -> None:
        """Wait until every node has the consensus of the whole network, and all its microdescriptors."""
        # Three kinds of things become ready, none of which announces it.
        while not all(self._is_ready(node) for node in self._nodes):  # noqa: ASYNC110
            await asyncio.sleep(READY_POLL_SECONDS)

    def _is_ready(self, node: RelayServer | AuthorityNode) -> bool:
        cache = (node.relay if isinstance(node, AuthorityNode) else node).cache
        consensus = cache.consensus("microdesc")
        if consensus is None or cache.wanted_microdescriptors():
            return False
        return sum("Running" in router.flags for router in consensus.routers) >= len(self.plan.nodes)


def _report(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


async def _stdin() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def _main() -> int:
    reader = await _stdin()
    line = await reader.readline()
    if not line:
        return 0
    orders = json.loads(line)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    # An interrupt from the terminal reaches the whole group; the process that started us decides.
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    worker = Worker(NetworkPlan.from_json(orders["plan"]), orders["nodes"])
    try:
        await worker.start()
    except (PelureError, OSError) as error:
        _report("failed", error=str(error))
        await worker.close()
        return 1
    gc.freeze()

    async def announce() -> None:
        await worker.ready()
        _report("ready")

    async def until_parent_ends() -> None:
        while await reader.read(1024):
            pass
        stop.set()

    tasks = [asyncio.ensure_future(announce()), asyncio.ensure_future(until_parent_ends())]
    await stop.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await worker.close()
    return 0


def main() -> int:
    """Entry point of the process."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    loop_factory = None
    with contextlib.suppress(ImportError):
        import uvloop

        loop_factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(_main())


def command() -> list[str]:
    """The command line that starts a worker; it imports nothing from the folder that it is started in."""
    return [sys.executable, "-P", "-m", "pelure.tor.embedded.worker"]


def log_file(folder: Path, number: int) -> Path:
    """Where worker ``number`` logs."""
    return folder / f"worker{number}.log"


if __name__ == "__main__":
    sys.exit(main())
