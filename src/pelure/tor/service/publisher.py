"""Keeps both descriptors of a service on their directories (rend-spec-v3 2.2.2, 2.2.4.2, 2.2.5, 2.3.2).

A new revision of a descriptor is built and goes to all its directories when the introduction points or the
authorized clients change, at the latest after an hour or two; a directory that becomes responsible gets the
revision there is. An upload that fails is tried again, ever more slowly, until something newer replaces it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from pelure.errors import OnionServiceError, PelureError
from pelure.tor.crypto.blinding import blind_keypair, blinding_factor, subcredential
from pelure.tor.crypto.keys import Ed25519KeyPair, Rng
from pelure.tor.directory.relay import Relay
from pelure.tor.net.supervision import supervised
from pelure.tor.net.wallclock import sleep_until
from pelure.tor.onion.descriptor import DescriptorKeys, build_descriptor
from pelure.tor.onion.revision import revision_counter, revision_key
from pelure.tor.onion.ring import HsDirRing, RingParams
from pelure.tor.onion.second_layer import SecondLayer
from pelure.tor.onion.time_periods import PeriodSlot
from pelure.tor.service.events import DescriptorUploaded, OnEvent, Published
from pelure.tor.service.keys import ServiceKeys

REPUBLISH_SECONDS_MIN = 3600.0
REPUBLISH_SECONDS_MAX = 7200.0
RETRY_SECONDS_FIRST = 1.0
RETRY_SECONDS_MAX = 60.0
RENEWAL_SECONDS_FIRST = 1.5
RENEWAL_SECONDS_MAX = 600.0
RETIRED_SUBCREDENTIALS = 4
"""How many periods' introductions are still understood after their descriptors were replaced."""

Upload = Callable[[Relay, bytes], Awaitable[None]]
log = logging.getLogger(__name__)


class UploadRefused(OnionServiceError):
    """A directory does not take this revision of a descriptor: it has one that is as new or newer."""


@dataclass
class _Upload:
    """One revision on its way to one directory."""

    task: asyncio.Task[None]
    tried: asyncio.Event = field(default_factory=asyncio.Event)
    done: bool = False

    def cancel(self) -> None:
        """Stop it; nobody waits for it any longer."""
        self.task.cancel()
        self.tried.set()


class Descriptor:
    """One time period's descriptor: its keys, its latest revision, and where that is."""

    def __init__(self, identity: Ed25519KeyPair, slot: PeriodSlot, rng: Rng) -> None:
        self.slot = slot
        blinded = blind_keypair(
            identity, blinding_factor(identity.public, slot.period.number, slot.period.length)
        )
        subcred = subcredential(identity.public, blinded.public)
        self.keys = DescriptorKeys(blinded, Ed25519KeyPair.generate(rng), subcred)
        self.document: bytes | None = None
        self.uploads: dict[Relay, _Upload] = {}
        self._revision_key = revision_key(blinded.expanded)
        self._stamp = 0

    def build(self, content: SecondLayer, client_keys: Sequence[bytes], now: float, rng: Rng) -> bytes:
        """Return a new revision; its counter exceeds every earlier one's even within one second."""
        self._stamp = max(int(now), self._stamp + 1)
        counter = revision_counter(self._revision_key, self.slot.srv_start, self._stamp)
        return build_descriptor(content, self.keys, counter, client_keys, now, rng)

    @property
    def names(self) -> tuple[bytes, bytes]:
        """Its subcredential and its blinded key."""
        return self.keys.subcredential, self.keys.blinded.public

    def abandon(self) -> None:
        """Stop every upload under way."""
        for upload in self.uploads.values():
            upload.cancel()
        self.uploads.clear()


class Publisher:
    """See the module. ``upload`` sends a descriptor to one directory or raises a :class:`PelureError`."""

    def __init__(self, keys: ServiceKeys, upload: Upload, emit: OnEvent, rng: Rng) -> None:
        self.published = asyncio.Event()
        self._keys = keys
        self._upload = upload
        self._emit = emit
        self._rng = rng
        self._content: SecondLayer | None = None
        self._descriptors: list[Descriptor] = []
        self._directories: list[Relay] = []
        self._ring_params = RingParams()
        self._retired: list[tuple[bytes, bytes]] = []
        self._wake = asyncio.Event()
        self._outdated = False
        self._renewal: asyncio.TimerHandle | None = None
        self._renewals = 0
        self._building = asyncio.Lock()
        self._began = time.monotonic()

    @property
    def subcredentials(self) -> dict[bytes, bytes]:
        """The subcredentials that clients may introduce themselves with, newest first, with blinded keys."""
        current = [one.names for one in reversed(self._descriptors)]
        return dict(current + self._retired)

    def set_network(
        self, slots: Sequence[PeriodSlot], directories: Sequence[Relay], params: RingParams
    ) -> None:
        """Take a new consensus' time periods and directories into account."""
        known = {one.slot.period: one for one in self._descriptors}
        current = []
        for slot in slots:
            one = known.pop(slot.period, None)
            if one is None:
                one = Descriptor(self._keys.identity, slot, self._rng)
                self._outdated = True
            one.slot = slot
            current.append(one)
        for one in known.values():
            one.abandon()
            self._retired = [one.names, *self._retired][:RETIRED_SUBCREDENTIALS]
        self._descriptors, self._directories, self._ring_params = current, list(directories), params
        self._wake.set()

    def set_content(self, content: SecondLayer) -> None:
        """Publish other introduction points."""
        if content != self._content:
            self._content = content
            self.renew()

    def renew(self) -> None:
        """Publish a new revision of both descriptors."""
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None
        self._outdated = True
        self._wake.set()

    async def settled(self) -> None:
        """Wait until each directory was sent what is current, or failed at it once."""
        await self._bring_up_to_date()
        for one in self._descriptors:
            for upload in list(one.uploads.values()):
                await upload.tried.wait()

    async def run(self) -> None:
        """Publish until cancelled."""
        await supervised(self._run, "publishing the onion service's descriptors")

    async def _run(self) -> None:
        self._outdated = True  # begun anew after a failure: nobody knows what was left undone
        self._wake.set()
        due = self._next_revision()
        try:
            while True:
                await self._woken_or_outdated(due)
                self._wake.clear()
                if self._outdated:  # being woken, by each consensus, must not put the next one off
                    due = self._next_revision()
                await self._bring_up_to_date()
        finally:
            if self._renewal is not None:
                self._renewal.cancel()
            for one in self._descriptors:
                one.abandon()

    def _next_revision(self) -> float:
        """When descriptors that are sent now have to be sent anew (epoch seconds)."""
        span = REPUBLISH_SECONDS_MAX - REPUBLISH_SECONDS_MIN
        return time.time() + REPUBLISH_SECONDS_MIN + span * int.from_bytes(self._rng(2), "big") / 0xFFFF

    async def _woken_or_outdated(self, due: float) -> None:
        """Wait until something is to be done; at ``due`` (epoch seconds) descriptors have to be renewed."""
        expiry = asyncio.create_task(sleep_until(due))
        waking = asyncio.create_task(self._wake.wait())
        try:
            await asyncio.wait({expiry, waking}, return_when=asyncio.FIRST_COMPLETED)
            self._outdated |= expiry.done()
        finally:
            expiry.cancel()
            waking.cancel()

    async def _bring_up_to_date(self) -> None:
        async with self._building:
            if self._content is None:
                return
            outdated, self._outdated = self._outdated, False
            for one in list(self._descriptors):
                if outdated or one.document is None:
                    clients = list(self._keys.clients.values())
                    try:
                        one.document = await asyncio.to_thread(
                            one.build, self._content, clients, time.time(), self._rng
                        )
                    except PelureError as error:
                        log.error("The onion service's descriptor can't be published: %s", error)
                        continue
                    one.abandon()
                self._distribute(one)

    def _distribute(self, one: Descriptor) -> None:
        """Send the current revision to every responsible directory that has not got it."""
        ring = HsDirRing(self._directories, one.slot, self._ring_params)
        responsible = ring.stores(one.keys.blinded.public)
        for relay in set(one.uploads) - set(responsible):
            one.uploads.pop(relay).cancel()
        for relay in responsible:
            if relay not in one.uploads:
                upload = supervised(
                    partial(self._keep_uploading, one, relay),
                    f"uploading the descriptor to {relay.nickname}",
                )
                one.uploads[relay] = _Upload(asyncio.create_task(upload))

    async def _keep_uploading(self, one: Descriptor, relay: Relay) -> None:
        document, upload, pause = one.document, one.uploads[relay], RETRY_SECONDS_FIRST
        assert document is not None
        while not upload.done:
            try:
                await self._upload(relay, document)
                upload.done = True
                log.info("%s has the descriptor of period %d", relay.nickname, one.slot.period.number)
            except UploadRefused as error:
                log.info("Another revision is needed: %s", error)
                self._renew_later()
                return
            except PelureError as error:
                log.info("Uploading the descriptor to %s failed: %s", relay.nickname, error)
            finally:
                upload.tried.set()
            self._report(one, relay, upload.done)
            if not upload.done:
                await asyncio.sleep(pause)
                pause = min(2 * pause, RETRY_SECONDS_MAX)

    def _renew_later(self) -> None:
        """Make a new revision in a while: its counter, which grows with time, will be higher then."""
        if self._renewal is None:
            pause = min(RENEWAL_SECONDS_FIRST * 2 ** min(self._renewals, 10), RENEWAL_SECONDS_MAX)
            self._renewals += 1
            self._renewal = asyncio.get_running_loop().call_later(pause, self.renew)

    def _report(self, one: Descriptor, relay: Relay, success: bool) -> None:
        if success:
            done = sum(upload.done for upload in one.uploads.values())
            self._emit(DescriptorUploaded(one.slot.period.number, relay.nickname, done, len(one.uploads)))
            if done == len(one.uploads):
                self._renewals = 0
        if self.published.is_set():
            return
        tried = all(u.tried.is_set() for d in self._descriptors for u in d.uploads.values())
        if tried and all(any(u.done for u in d.uploads.values()) for d in self._descriptors):
            self.published.set()
            self._emit(Published(self._keys.address, time.monotonic() - self._began))
