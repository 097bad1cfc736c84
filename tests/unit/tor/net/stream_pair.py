"""Two circuit streams that are each other's other side, for tests of what uses streams, without circuits."""

from __future__ import annotations

import asyncio
import os
from time import monotonic
from typing import Any

from pelure.tor.cell.commands import RelayCommand
from pelure.tor.cell.relay_messages import Begin
from pelure.tor.circuit import events as ev
from pelure.tor.circuit.flowcontrol import VegasWindow
from pelure.tor.circuit.hop_end import HopEnd
from pelure.tor.circuit.params import CircuitParams
from pelure.tor.circuit.stream import StreamEndpoint
from pelure.tor.net.circuit_stream import CircuitStream

TAG = bytes(20)


class Side:
    """What streams use of a ``Circuit``: one end of a hop, the other end of which is another of these."""

    def __init__(self, *, initiator: bool, number: int = 7) -> None:
        self.id = number
        self.other: Side = self
        self.incoming: list[tuple[CircuitStream, ev.Incoming]] = []
        params = CircuitParams()
        window = VegasWindow(params, onion=True)
        self.end = HopEnd(0, window, self._emit, os.urandom, initiator=initiator, xoff_limit=100_000)
        self._loop = asyncio.get_running_loop()
        self._streams: dict[StreamEndpoint, CircuitStream] = {}

    @property
    def streams(self) -> list[CircuitStream]:
        return list(self._streams.values())

    def open(self, host: str, port: int) -> CircuitStream:
        endpoint = self.end.open(RelayCommand.BEGIN, Begin(host, port).encode())
        stream = self._streams[endpoint] = CircuitStream(self._as_circuit(), endpoint, accepted=False)
        stream.expect_connected()
        return stream

    def pump(self) -> None:
        if self.end.pump(monotonic(), 512):
            for stream in self.streams:
                stream.on_room()

    def pump_soon(self) -> None:
        self._loop.call_soon(self.pump)

    def flush(self) -> None:
        pass

    def forget(self, stream: CircuitStream) -> None:
        self._streams.pop(stream.endpoint, None)

    def fail(self, error: Any) -> None:
        """The circuit is closed."""
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.fail(error)

    def _as_circuit(self) -> Any:
        return self

    def _emit(self, bodies: Any) -> list[bytes]:
        rows = [bodies] if isinstance(bodies, bytearray) else [bytearray(row.tobytes()) for row in bodies]
        for row in rows:
            self._loop.call_soon(self.other._receive, row)
        return [TAG] * len(rows)

    def _receive(self, body: bytearray) -> None:
        for event in self.end.receive_one(body, TAG, monotonic()):
            match event:
                case ev.Incoming(endpoint):
                    stream = self._streams[endpoint] = CircuitStream(
                        self._as_circuit(), endpoint, accepted=True
                    )
                    self.incoming.append((stream, event))
                case ev.StreamOpened(endpoint, data) if endpoint in self._streams:
                    self._streams[endpoint].on_connected(data)
                case ev.StreamData(endpoint) if endpoint in self._streams:
                    self._streams[endpoint].on_data()
                case ev.StreamEnded(endpoint) if endpoint in self._streams:
                    self._streams.pop(endpoint).on_end(event.reason)
        self.pump()


def sides(number: int = 7) -> tuple[Side, Side]:
    """The side that opens streams, and the one that accepts them (its circuit has ``number``)."""
    near, far = Side(initiator=True), Side(initiator=False, number=number)
    near.other, far.other = far, near
    return near, far


async def until(condition: Any, seconds: float = 30.0) -> None:
    """Let the loop turn until ``condition`` holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is done is not told
            await asyncio.sleep(0.001)


async def pair(number: int = 7) -> tuple[CircuitStream, CircuitStream]:
    """An open stream: where it was opened, and where it was accepted."""
    near, far = sides(number)
    opened = near.open("", 80)
    await until(lambda: far.incoming)
    accepted, _ = far.incoming[0]
    accepted.accept()
    await opened.connected(30)
    return opened, accepted
