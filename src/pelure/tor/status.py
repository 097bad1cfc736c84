"""What a running client or service is connected to: links, circuits and streams, for ``netstat``."""

from __future__ import annotations

from dataclasses import dataclass

from pelure.tor.client.network_client import NetworkClient


@dataclass(frozen=True)
class LinkStatus:
    """A TLS connection to a relay; ``fingerprint``: its RSA identity in hex. Bytes as on the wire."""

    address: str
    port: int
    fingerprint: str
    nickname: str
    version: int
    circuits: int
    bytes_read: int
    bytes_written: int


@dataclass(frozen=True)
class CircuitStatus:
    """A circuit; ``path``: nicknames, nearest first; ``id`` 0 while it is being built. Seconds of ``age``."""

    id: int
    purpose: str
    built: bool
    path: tuple[str, ...]
    onion: str
    streams: int
    cells_read: int
    cells_written: int
    age: float


@dataclass(frozen=True)
class StreamStatus:
    """A stream that was opened here; ``target`` is ``host:port``."""

    circuit: int
    target: str
    bytes_read: int
    bytes_written: int


@dataclass(frozen=True)
class Status:
    """All of it."""

    links: list[LinkStatus]
    circuits: list[CircuitStatus]
    streams: list[StreamStatus]


def status_of(client: NetworkClient, now: float) -> Status:
    """What ``client`` is connected to; ``now`` is the event loop's time."""
    onions = {
        circuit: address
        for address, circuits in client.onion_circuits.circuits().items()
        for circuit in circuits
    }
    circuits, streams = [], []
    for entry in client.pool.circuits():
        circuit = entry.circuit
        onion = onions.get(circuit, "") if circuit is not None else ""
        path = tuple(relay.nickname for relay in entry.path)
        circuits.append(
            CircuitStatus(
                id=circuit.id if circuit else 0,
                purpose=entry.purpose,
                built=circuit is not None,
                path=path,
                onion=onion,
                streams=len(circuit.streams) if circuit else 0,
                cells_read=circuit.cells_read if circuit else 0,
                cells_written=circuit.cells_written if circuit else 0,
                age=now - entry.created,
            )
        )
        for stream in circuit.streams if circuit else ():
            target = onion + stream.target if stream.target.startswith(":") else stream.target
            streams.append(StreamStatus(stream.circuit.id, target, stream.bytes_read, stream.bytes_written))
    return Status(_links(client), circuits, streams)


def _links(client: NetworkClient) -> list[LinkStatus]:
    netdir = client.directory.netdir
    found = []
    for link in client.links.links:
        rsa_id = link.peer.rsa_id or b""
        relay = netdir.by_rsa.get(rsa_id) if netdir is not None else None
        found.append(
            LinkStatus(
                address=link.address[0],
                port=link.address[1],
                fingerprint=rsa_id.hex().upper(),
                nickname=relay.nickname if relay else "",
                version=link.version,
                circuits=link.circuits,
                bytes_read=link.bytes_read,
                bytes_written=link.bytes_written,
            )
        )
    return found
