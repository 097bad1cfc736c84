"""The client's side of introduction and rendezvous (rend-spec-v3 3.2, 4.1, 4.2)."""

from __future__ import annotations

import asyncio
import logging
import time

from pelure.errors import CryptoError, OnionServiceError, PelureError, ProtocolError
from pelure.tor.cell.commands import RelayCommand
from pelure.tor.cell.onion_messages import (
    COOKIE_LEN,
    EstablishRendezvous,
    IntroduceAck,
    IntroduceStatus,
    Rendezvous2,
)
from pelure.tor.circuit.params import CircuitParams
from pelure.tor.circuit.relaycrypto import HopKeys
from pelure.tor.client.hs_descriptors import ServiceDescriptor
from pelure.tor.client.hs_events import OnClientEvent, RendezvousEstablished, RendezvousJoined
from pelure.tor.client.pow import Work
from pelure.tor.crypto import hs_ntor
from pelure.tor.crypto.keys import Rng
from pelure.tor.net.circuit_source import CircuitSource
from pelure.tor.net.origin import Circuit
from pelure.tor.net.others_first import others_first
from pelure.tor.onion.introduction import introduce
from pelure.tor.onion.second_layer import IntroPoint

RENDEZVOUS_LENGTH = 3
INTRODUCTION_LENGTH = 4
ESTABLISH_SECONDS = 20.0
REACH_SECONDS = 20.0
ACK_SECONDS = 20.0
WORK_ANSWER_SECONDS = 30.0
"""How long the service may take at least when a proof of work was sent: it has a queue."""

INTRODUCTION_FAILED = 0xF2
RENDEZVOUS_FAILED = 0xF3
INTRODUCTION_TIMED_OUT = 0xF7

log = logging.getLogger(__name__)


class Meeting:
    """A circuit that waits at its rendezvous point for the service; good for one joined circuit."""

    def __init__(self, circuit: Circuit, cookie: bytes) -> None:
        self.circuit = circuit
        self.cookie = cookie
        self._introductions: list[tuple[hs_ntor.ClientState, int | None]] = []
        self._patience = 0.0

    @classmethod
    async def arrange(cls, source: CircuitSource, rng: Rng, emit: OnClientEvent) -> Meeting:
        """Build the circuit and leave a new cookie at its end. Raises :class:`PelureError`.

        The descriptor's fetch and the circuit to an introduction point take longer, and go first.
        """
        await others_first()
        began = time.monotonic()
        circuit = await source.internal_circuit(None, length=RENDEZVOUS_LENGTH, purpose="rendezvous")
        meeting = cls(circuit, rng(COOKIE_LEN))
        try:
            request = EstablishRendezvous(meeting.cookie)
            circuit.send(request.command, request.encode())
            await circuit.expect(RelayCommand.RENDEZVOUS_ESTABLISHED, timeout=ESTABLISH_SECONDS)
            circuit.reserve(RelayCommand.RENDEZVOUS2)  # it may be quicker than INTRODUCE_ACK
        except BaseException:
            circuit.close()
            raise
        emit(RendezvousEstablished(circuit.path[-1].nickname, time.monotonic() - began))
        return meeting

    async def prepare(
        self, point: IntroPoint, descriptor: ServiceDescriptor, params: CircuitParams, rng: Rng, work: Work
    ) -> bytes:
        """The INTRODUCE1 that tells the service where we wait; made while the circuit to ``point`` is built.

        Raises :class:`OnionServiceError` if the point's keys are not the service's, or can't be used.
        """
        await others_first()
        sendme_inc = _sendme_inc(descriptor, params)
        proof = await work.proof()
        try:
            point.verify(descriptor.signing_key)
            state, body = introduce(
                point,
                descriptor.subcredential,
                self.circuit.path[-1],
                self.cookie,
                rng,
                congestion_control=sendme_inc is not None,
                proof=proof,
            )
        except ProtocolError as error:
            raise OnionServiceError(
                f"the onion service's introduction point is no good: {error}", INTRODUCTION_FAILED
            ) from error
        self._introductions.append((state, sendme_inc))
        self._patience = 0.0 if proof is None else WORK_ANSWER_SECONDS
        return body

    async def introduce(self, circuit: Circuit, body: bytes) -> None:
        """Send INTRODUCE1 by ``circuit`` to an introduction point; returns when that passed it on.

        Raises :class:`OnionServiceError` with a SOCKS code.
        """
        try:
            circuit.send(RelayCommand.INTRODUCE1, body)
            answer = await circuit.expect(RelayCommand.INTRODUCE_ACK, timeout=ACK_SECONDS)
            status = IntroduceAck.decode(answer.data).status
        except PelureError as error:
            raise OnionServiceError(
                f"the onion service's introduction point did not answer: {error}", INTRODUCTION_TIMED_OUT
            ) from error
        if status != IntroduceStatus.SUCCESS:
            raise OnionServiceError(
                "the onion service is not at this introduction point any more", INTRODUCTION_FAILED
            )

    async def join(self, emit: OnClientEvent, patience: float) -> Circuit:
        """Wait ``patience`` seconds for the service's answer, longer after work; returns the joined circuit.

        Raises :class:`OnionServiceError`.
        """
        began = time.monotonic()
        try:
            patience = max(patience, self._patience)
            answer = await self.circuit.expect(RelayCommand.RENDEZVOUS2, timeout=patience)
            material, sendme_inc = self._finish(Rendezvous2.decode(answer.data).handshake_info)
            self.circuit.add_hs_hop(HopKeys.service(material), service=False, sendme_inc=sendme_inc)
        except PelureError as error:
            self.circuit.close()
            raise OnionServiceError(
                f"the onion service did not come to the rendezvous point: {error}", RENDEZVOUS_FAILED
            ) from error
        except BaseException:
            self.circuit.close()
            raise
        emit(RendezvousJoined(self.circuit.id, self.circuit.path[-1].nickname, time.monotonic() - began))
        return self.circuit

    def _finish(self, handshake_info: bytes) -> tuple[bytes, int | None]:
        """Find the introduction that the service answers: an earlier one may have got through after all."""
        failure = CryptoError("an answer came before any introduction")
        for state, sendme_inc in reversed(self._introductions):
            try:
                return hs_ntor.client_rendezvous(state, handshake_info), sendme_inc
            except CryptoError as error:
                failure = error
        raise failure


async def reach(source: CircuitSource, point: IntroPoint) -> Circuit:
    """Build a circuit to an introduction point. Raises :class:`OnionServiceError` with a SOCKS code."""
    try:
        async with asyncio.timeout(REACH_SECONDS):
            return await source.internal_circuit(point.relay(), length=INTRODUCTION_LENGTH, purpose="intro")
    except TimeoutError:
        raise OnionServiceError(
            "the onion service's introduction point can't be reached in time", INTRODUCTION_TIMED_OUT
        ) from None
    except PelureError as error:
        raise OnionServiceError(
            f"the onion service's introduction point can't be reached: {error}", INTRODUCTION_FAILED
        ) from error


def _sendme_inc(descriptor: ServiceDescriptor, params: CircuitParams) -> int | None:
    """The cells per SENDME on the joined circuit, None for fixed windows (proposal 324 section 10.3)."""
    offered = descriptor.content.flow_control
    if offered is None or not offered.congestion_control or not params.congestion_control:
        return None
    return offered.sendme_inc if abs(offered.sendme_inc - params.sendme_inc) <= 1 else None
