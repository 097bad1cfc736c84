"""The plan of an embedded network: its nodes, their folders, ports and keys, and its network file.

A folder keeps its plan: brought up again, the network has the same identities and, if they are still free,
the same ports.
"""

from __future__ import annotations

import json
import os
import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pelure.errors import ConfigError
from pelure.tor.authority.keys import AuthorityKeys
from pelure.tor.authority.shared_random import SharedRandomState, run_end
from pelure.tor.authority.sr_state import FILE_NAME as SHARED_RANDOM_FILE
from pelure.tor.authority.sr_state import encode_state
from pelure.tor.authority.state import CONSENSUS_FILES
from pelure.tor.directory.consensus import SharedRandomValue
from pelure.tor.net.statefile import private_folder, write_private
from pelure.tor.relay.keys import RelayKeys

ADDRESS = "127.0.0.1"
MIN_INTERVAL = 10
MAX_RELAYS = 100
PLAN_FILE = "plan.json"
NETWORK_FILE = "network.torrc"
_IDENTITY_BITS = 2048
# Below the ports that Linux gives to outgoing connections.
_PORTS = range(10000, 32000)


@dataclass(frozen=True, slots=True)
class NodePlan:
    """One node; ``dir_port`` is 0 for relays that are no authority. ``fingerprint``: upper-case hex."""

    name: str
    or_port: int
    dir_port: int = 0
    fingerprint: str = ""
    v3ident: str = ""

    @property
    def is_authority(self) -> bool:
        """Whether the node votes."""
        return self.dir_port > 0

    @property
    def line(self) -> str:
        """The torrc line that names this authority."""
        return (
            f"DirAuthority {self.name} orport={self.or_port} no-v2 v3ident={self.v3ident} "
            f"{ADDRESS}:{self.dir_port} {self.fingerprint}"
        )


@dataclass(frozen=True, slots=True)
class NetworkPlan:
    """The whole network; ``interval``: seconds from one consensus to the next."""

    folder: Path
    interval: int
    nodes: tuple[NodePlan, ...]

    @property
    def torrc(self) -> str:
        """The network file's text, as C tor takes it too."""
        lines = ["TestingTorNetwork 1", *(node.line for node in self.nodes if node.is_authority)]
        return "\n".join(lines) + "\n"

    @property
    def network_file(self) -> Path:
        """Where the network file is."""
        return self.folder / NETWORK_FILE

    def data(self, node: NodePlan) -> Path:
        """The data folder of ``node``."""
        return self.folder / node.name

    def to_json(self) -> dict[str, Any]:
        """What :meth:`from_json` reads."""
        nodes = [asdict(node) for node in self.nodes]
        return {"folder": str(self.folder), "interval": self.interval, "nodes": nodes}

    @classmethod
    def from_json(cls, value: Any) -> NetworkPlan:
        """Read what :meth:`to_json` gave. Raises ``ConfigError``."""
        try:
            nodes = tuple(NodePlan(**node) for node in value["nodes"])
            return cls(Path(value["folder"]), int(value["interval"]), nodes)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError("the plan of the embedded network is damaged") from error

    @classmethod
    def load(cls, folder: Path) -> NetworkPlan:
        """Read the plan kept in ``folder``. Raises ``ConfigError``."""
        try:
            return cls.from_json(json.loads((folder / PLAN_FILE).read_text()))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{folder} holds no embedded network") from error


def make_plan(folder: Path, relays: int, authorities: int, interval: int) -> NetworkPlan:
    """Make, or make anew, the plan of ``folder`` with all keys; writes it and the network file.

    Raises ``ConfigError`` for numbers that make no network, or an unusable folder.
    """
    check_numbers(relays, authorities, interval)
    private_folder(folder)
    before = _previous_plan(folder)
    known = {node.name: node for node in before.nodes} if before else {}
    names = [f"authority{n}" for n in range(authorities)] + [f"relay{n}" for n in range(relays)]
    ports = _Ports()
    bare = [_choose_ports(name, known.get(name), ports) for name in names]
    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        nodes = tuple(threads.map(lambda node: _with_keys(folder, node), bare))
    plan = NetworkPlan(folder, interval, nodes)
    if before is not None:
        _forget_what_changed(plan, before)
    _seed_shared_random(plan, time.time())
    write_private(folder / PLAN_FILE, json.dumps(plan.to_json(), indent=1).encode())
    write_private(plan.network_file, plan.torrc.encode())
    return plan


def check_numbers(relays: int, authorities: int, interval: int) -> None:
    """Raise ``ConfigError`` for numbers of nodes, or an interval, that make no network."""
    if not 3 <= relays <= MAX_RELAYS:
        raise ConfigError(f"an embedded network has 3 to {MAX_RELAYS} relays")
    if authorities not in (1, 3):
        raise ConfigError("an embedded network has 1 or 3 authorities")
    if interval < MIN_INTERVAL:
        raise ConfigError(f"C tor takes no voting interval below {MIN_INTERVAL} seconds")


def _previous_plan(folder: Path) -> NetworkPlan | None:
    try:
        return NetworkPlan.load(folder)
    except ConfigError:
        return None


def _forget_what_changed(plan: NetworkPlan, before: NetworkPlan) -> None:
    """Drop a consensus of other nodes: authorities make the first one at once, but replace one only in time.

    Shared random values have to be the same everywhere, and are of an interval's protocol runs.
    """
    authorities = [node for node in plan.nodes if node.is_authority]
    old = {node.v3ident for node in before.nodes if node.is_authority}
    useless: list[str] = []
    if (plan.nodes, plan.interval) != (before.nodes, before.interval):
        useless += CONSENSUS_FILES.values()
    if {node.v3ident for node in authorities} != old or plan.interval != before.interval:
        useless.append(SHARED_RANDOM_FILE)
    for node in authorities:
        for name in useless:
            (plan.data(node) / name).unlink(missing_ok=True)


class _Ports:
    """Gives out TCP ports of this machine on which nothing listens."""

    def __init__(self) -> None:
        self._given: set[int] = set()

    def take(self, preferred: int) -> int:
        """``preferred`` if it is free and not 0, else another. Raises ``ConfigError`` if there is none."""
        for port in [preferred, *(random.choice(_PORTS) for _ in range(1000))]:
            if port and port not in self._given and _is_free(port):
                self._given.add(port)
                return port
        raise ConfigError("no free TCP port on this machine")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except OSError:
            return False
    return True


def _choose_ports(name: str, known: NodePlan | None, ports: _Ports) -> NodePlan:
    or_port = ports.take(known.or_port if known else 0)
    is_authority = name.startswith("authority")
    dir_port = ports.take(known.dir_port if known else 0) if is_authority else 0
    return NodePlan(name, or_port, dir_port)


def _with_keys(folder: Path, node: NodePlan) -> NodePlan:
    data, now = folder / node.name, time.time()
    fingerprint = RelayKeys.load(data, os.urandom, now).rsa.public.identity.hex().upper()
    v3ident = ""
    if node.is_authority:
        try:
            keys = AuthorityKeys.load(data, now)
        except ConfigError:
            keys = AuthorityKeys.create(data, f"{ADDRESS}:{node.dir_port}", now, identity_bits=_IDENTITY_BITS)
        v3ident = keys.identity.hex().upper()
    return NodePlan(node.name, node.or_port, node.dir_port, fingerprint, v3ident)


def _seed_shared_random(plan: NetworkPlan, now: float) -> None:
    """Give new authorities shared random values: a young network has none for a whole protocol run."""
    folders = [plan.data(node) for node in plan.nodes if node.is_authority]
    if any((folder / SHARED_RANDOM_FILE).exists() for folder in folders):
        return
    state = SharedRandomState(
        valid_after=int(now),
        valid_until=run_end(int(now) // plan.interval * plan.interval, plan.interval),
        previous=SharedRandomValue(len(folders), os.urandom(32)),
        current=SharedRandomValue(len(folders), os.urandom(32)),
    )
    for folder in folders:
        write_private(folder / SHARED_RANDOM_FILE, encode_state(state))
