"""The directory client: gets, checks, keeps and renews the network's directory (dir-spec section 5).

Bootstrapping asks fallback directories and authorities over one-hop circuits; later requests go through the
entry guards. Every consensus is verified against authority certificates before anything in it is used, and
parsing happens in threads. Progress goes to a callback as (fraction, what).
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence

from pelure.errors import DirectoryError, PelureError
from pelure.tor.circuit.params import CircuitParams
from pelure.tor.client.dircache import (
    GUARDS_FILE,
    DirectoryCache,
    parse_certificates,
)
from pelure.tor.client.dirfetch import DirectorySource, http_date, server_time
from pelure.tor.client.dirsources import Directories, FatalDirectoryError
from pelure.tor.client.schedule import microdescriptor_batches, next_refresh, retry_pause
from pelure.tor.directory.consensus import MAX_CONSENSUS_LENGTH, Consensus, parse_consensus
from pelure.tor.directory.consensus_verify import (
    ClockError,
    check_clock,
    check_signatures,
    verify_consensus,
)
from pelure.tor.directory.diff import apply_diff, is_diff
from pelure.tor.directory.key_certificate import KeyCertificate
from pelure.tor.directory.microdescriptor import Microdescriptor
from pelure.tor.directory.netdir import NetDir, check_required_protocols
from pelure.tor.directory.network import Network
from pelure.tor.directory.tokenizer import encode_base64
from pelure.tor.net.dir_http import DirResponse
from pelure.tor.net.links import LinkManager
from pelure.tor.net.memory import give_back
from pelure.tor.net.statefile import StateFolder
from pelure.tor.net.wallclock import sleep_until
from pelure.tor.path.guards import GuardManager

CONSENSUS_PATH = "/tor/status-vote/current/consensus-microdesc"
MAX_CERTIFICATES_LENGTH = 1 << 20
MAX_BATCH_LENGTH = 4 << 20
PARALLEL_BATCHES = 6
SKEW_WORTH_MENTIONING = 1800.0
STALE_SECONDS = 24 * 3600.0
"""How long an expired consensus still serves if no newer one can be had."""
HURRY_SECONDS = 10.0
"""A directory that is too old to be of use is not asked for more often, however many wait for it."""
TRYING_AGAIN = "trying again: "
"""What the progress of a bootstrap begins with when an attempt has failed."""

Progress = Callable[[float, str], None]
log = logging.getLogger(__name__)


class DirectoryClient:
    """The directory of one network, for clients and services.

    ``netdir`` and ``guards`` are there once :meth:`bootstrap` has returned; ``on_change`` callbacks get each
    new :class:`NetDir`. ``folder`` keeps the directory and the guards between runs.
    """

    def __init__(self, network: Network, links: LinkManager, folder: StateFolder) -> None:
        self.network = network
        self.links = links
        self.netdir: NetDir | None = None
        self.guards: GuardManager | None = None
        self.on_change: list[Callable[[NetDir], None]] = []
        self._folder = folder
        self._directories = Directories(network, links, lambda: self.params, lambda: self.guards)
        self._cache = DirectoryCache(folder)
        self._certificates: dict[tuple[bytes, bytes], KeyCertificate] = {}
        self._microdescriptors: dict[bytes, Microdescriptor] = {}
        self._consensus: Consensus | None = None
        self._updating = asyncio.Lock()
        self._hurried = asyncio.Event()
        self._tried_at = -HURRY_SECONDS
        self._unsaved = False
        self._saving: asyncio.Task[None] | None = None
        self._skew: float | None = None

    # ---- what others use ----

    @property
    def params(self) -> CircuitParams:
        """The circuit parameters of the consensus, or the defaults as long as there is none."""
        return CircuitParams.from_consensus(self._consensus.params) if self._consensus else CircuitParams()

    async def bootstrap(self, progress: Progress | None = None) -> NetDir:
        """Load or fetch the directory until paths can be built from it.

        Tries until it succeeds. Raises ``DirectoryError`` only for what no new attempt can mend: a wrong
        clock, or a network that requires newer software.
        """
        report = progress or (lambda fraction, what: None)
        report(0.0, "reading the cached directory")
        await self._load()
        attempt, told = 0, ""
        while True:
            try:
                await self._update(report)
                if self.netdir is not None and self.netdir.have_enough:
                    report(1.0, "the directory is complete")
                    return self.netdir
            except (FatalDirectoryError, ClockError):
                raise
            except PelureError as error:
                if self.netdir is not None and self.netdir.usable(time.time(), STALE_SECONDS):
                    log.warning("the cached directory is used, for it can't be renewed: %s", error)
                    report(1.0, "the cached directory is used")
                    return self.netdir
                if str(error) != told:
                    told = str(error)
                    log.warning("the directory could not be fetched yet: %s", error)
                report(0.05, f"{TRYING_AGAIN}{error}")
            attempt += 1
            await asyncio.sleep(retry_pause(attempt, testing=self.network.testing, rng=os.urandom))

    async def refresh_loop(self) -> None:
        """Keep the directory fresh until cancelled; run as a task after :meth:`bootstrap`."""
        failures = 0
        while True:
            await asyncio.to_thread(give_back)  # what getting the directory has freed
            if failures:
                await self._pause(retry_pause(failures, testing=self.network.testing, rng=os.urandom))
            else:
                await sleep_until(time.time() + self._seconds_to_refresh())
            self._tried_at = time.monotonic()
            try:
                failures = 0 if await self._renew() else failures + 1
            except PelureError as error:
                failures += 1
                log.info("the directory could not be renewed: %s", error)

    def hurry(self) -> None:
        """Somebody can't go on with the directory that there is: if it couldn't be renewed, try again now.

        The network may just have come back. At most every ``HURRY_SECONDS``.
        """
        if time.monotonic() - self._tried_at >= HURRY_SECONDS:
            self._hurried.set()

    async def _pause(self, seconds: float) -> None:
        """Wait so long, or until :meth:`hurry`."""
        self._hurried.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._hurried.wait()
        except TimeoutError:
            pass

    async def _renew(self) -> bool:
        """Whether there was a newer consensus."""
        before = self._consensus  # not in the loop, where the name would keep the old one for an hour
        await self.update_now()
        return self._consensus is not before

    async def update_now(self) -> NetDir | None:
        """Fetch a newer consensus at once, if there is one. Raises ``DirectoryError``, ``LinkError`` …"""
        await self._update(lambda fraction, what: None)
        return self.netdir

    async def measure_clock(self) -> float | None:
        """Ask a directory for the time; seconds by which its clock is ahead of ours, None if it won't say.

        Raises ``DirectoryError``, ``LinkError``, ``CircuitError``.
        """
        now = {"If-Modified-Since": http_date(time.time())}
        answer = await self._directories.ask_any(
            lambda source: source.get(CONSENSUS_PATH, limit=MAX_CONSENSUS_LENGTH, headers=now)
        )
        self._note_time(answer)
        return self._skew

    def save_guards(self) -> None:
        """Have the guards' state written to disk; call it when a guard was confirmed, and at the end.

        That is done in a thread, for a disk can take long: :meth:`guards_saved` waits for it.
        """
        self._unsaved = True
        if self._saving is None or self._saving.done():
            self._saving = asyncio.create_task(self._save_guards())

    async def guards_saved(self) -> None:
        """Wait until what :meth:`save_guards` was called for is on disk."""
        if self._saving is not None:
            await asyncio.shield(self._saving)

    async def _save_guards(self) -> None:
        while self._unsaved and self.guards is not None:
            self._unsaved = False
            await asyncio.to_thread(self._folder.write_json, GUARDS_FILE, self.guards.state())

    # ---- loading ----

    async def _load(self) -> None:
        certificates = await asyncio.to_thread(self._cache.load_certificates)
        self._add_certificates(certificates)
        consensus = await asyncio.to_thread(self._cache.load_consensus)
        self._microdescriptors = await asyncio.to_thread(self._cache.load_microdescriptors)
        if consensus is None:
            return
        try:
            await asyncio.to_thread(self._verify, consensus)
            check_required_protocols(consensus)
            check_clock(consensus, time.time())
        except DirectoryError as error:
            log.info("the cached consensus is not used: %s", error)
            return
        self._consensus = consensus
        await asyncio.to_thread(self._forget_unlisted)
        self._announce(await self._join())
        await self.guards_saved()

    def _add_certificates(self, certificates: Iterable[KeyCertificate]) -> bool:
        """Take over certificates of this network's authorities; returns whether any was new."""
        known = {authority.v3ident for authority in self.network.voters}
        before = len(self._certificates)
        for one in certificates:
            if one.identity in known:
                self._certificates[(one.identity, one.signing_key_digest)] = one
        return len(self._certificates) > before

    def _identities(self) -> list[bytes]:
        return [authority.v3ident for authority in self.network.voters if authority.v3ident is not None]

    def _verify(self, consensus: Consensus) -> None:
        verify_consensus(consensus, self._identities(), self._certificates, time.time())

    # ---- updating ----

    def _seconds_to_refresh(self) -> float:
        if self._consensus is None:
            return 0.0
        due = next_refresh(self._consensus, testing=self.network.testing, rng=os.urandom)
        return max(due - time.time(), 1.0)

    async def _update(self, report: Progress) -> None:
        """Fetch what is missing or due: consensus, certificates, microdescriptors."""
        async with self._updating:
            if self._consensus is None or time.time() >= self._consensus.fresh_until:
                report(0.05, "connecting to a directory")
                consensus = await self._directories.ask_any(
                    lambda source: self._get_consensus(source, report)
                )
                if consensus is not None:
                    self._consensus = consensus
                    await asyncio.to_thread(self._cache.store_consensus, consensus)
            netdir = await self._join()
            if netdir.missing:
                # The directory in use stays until the new one is complete: no guard is passed over meanwhile.
                await self._get_microdescriptors(netdir.missing, report)
                netdir = await self._join()
            self._announce(netdir)
            await self.guards_saved()

    async def _join(self) -> NetDir:
        """Consensus and microdescriptors as they are now."""
        if self._consensus is None:
            raise DirectoryError("no directory has a newer consensus")
        return await asyncio.to_thread(NetDir, self._consensus, self._microdescriptors, self.network)

    def _announce(self, netdir: NetDir) -> None:
        """Make ``netdir`` the current directory, unless it is incomplete or nothing new; tell everybody."""
        current = self.netdir
        if current is not None and current.have_enough:
            same = current.consensus is netdir.consensus and len(current.relays) == len(netdir.relays)
            if same or not netdir.have_enough:
                return
        self.netdir = netdir
        if not netdir.have_enough:
            return
        if self.guards is None:
            state = self._folder.read_json(GUARDS_FILE)
            self.guards = GuardManager(state, netdir, os.urandom, time.time())
        else:
            self.guards.update(netdir, time.time())
        self.save_guards()
        for callback in list(self.on_change):
            callback(netdir)

    # ---- consensus ----

    async def _get_consensus(self, source: DirectorySource, report: Progress) -> Consensus | None:
        """A newer verified consensus from ``source``; None if it has none newer."""
        old = self._consensus
        headers: dict[str, str] = {}
        if old is not None:
            headers["If-Modified-Since"] = http_date(old.valid_after)
            headers["X-Or-Diff-From-Consensus"] = old.sha3_signed.hex().upper()
        report(0.1, f"asking {source.relay.nickname} for the consensus")
        answer = await source.get(CONSENSUS_PATH, limit=MAX_CONSENSUS_LENGTH, headers=headers)
        self._note_time(answer)
        if answer.status == 304 and old is not None:
            return None
        if answer.status != 200:
            raise DirectoryError(f"{source.relay.nickname} has no consensus ({answer.status})")
        report(0.3, "checking the consensus")
        consensus = await asyncio.to_thread(self._parse_consensus, answer.body, old)
        if old is not None and consensus.valid_after <= old.valid_after:
            return None
        await self._get_certificates(source, consensus, report)
        await asyncio.to_thread(self._verify, consensus)
        self._check_current(consensus)
        log.info("got the consensus of %d relays from %s", len(consensus.routers), source.relay.nickname)
        return consensus

    def _parse_consensus(self, body: bytes, old: Consensus | None) -> Consensus:
        if is_diff(body):
            if old is None:
                raise DirectoryError("a directory sent a consensus diff that nobody asked for")
            body = apply_diff(old.text, body)
        consensus = parse_consensus(body)
        if consensus.flavour != "microdesc":
            raise DirectoryError("a directory sent a consensus of the wrong flavour")
        return consensus

    async def _get_certificates(
        self, source: DirectorySource, consensus: Consensus, report: Progress
    ) -> None:
        """Fetch the certificates that checking ``consensus`` needs and that aren't known."""
        outcome = check_signatures(consensus, self._identities(), self._certificates, time.time())
        if not outcome.missing or (outcome.enough and self.netdir is not None):
            return
        report(0.4, "fetching the authorities' certificates")
        names = "+".join(f"{one.hex().upper()}-{key.hex().upper()}" for one, key in sorted(outcome.missing))
        answer = await source.get(f"/tor/keys/fp-sk/{names}", limit=MAX_CERTIFICATES_LENGTH)
        if answer.status != 200:
            raise DirectoryError(f"{source.relay.nickname} has no authority certificates ({answer.status})")
        if self._add_certificates(await asyncio.to_thread(parse_certificates, answer.body)):
            await asyncio.to_thread(self._cache.store_certificates, list(self._certificates.values()))

    def _check_current(self, consensus: Consensus) -> None:
        """Raise what the user has to know: a wrong clock, or software too old for the network."""
        try:
            check_clock(consensus, time.time())
        except ClockError as error:
            hint = ""
            if self._skew is not None and abs(self._skew) > SKEW_WORTH_MENTIONING:
                hint = f" (a directory's clock differs from it by {self._skew / 3600:+.1f} hours)"
            raise ClockError(f"{error}{hint}") from error
        try:
            recommended = check_required_protocols(consensus)
        except DirectoryError as error:
            raise FatalDirectoryError(str(error)) from error
        if recommended:
            log.warning("the network recommends newer software: %s is missing here", recommended)

    def _note_time(self, answer: DirResponse) -> None:
        theirs = server_time(answer)
        self._skew = None if theirs is None else theirs - time.time()

    # ---- microdescriptors ----

    async def _get_microdescriptors(self, missing: Sequence[bytes], report: Progress) -> None:
        """Fetch the ``missing`` ones in batches, several at a time; raises only if none could be had."""
        batches = microdescriptor_batches(missing)
        total, done = len(batches), 0
        gate = asyncio.Semaphore(PARALLEL_BATCHES)
        failures: list[PelureError] = []

        async def one(batch: Sequence[bytes]) -> None:
            nonlocal done
            async with gate:
                try:
                    found = await self._directories.ask_any(lambda source: self._get_batch(source, batch))
                except FatalDirectoryError:
                    raise
                except PelureError as error:
                    failures.append(error)
                    return
                self._microdescriptors.update(found)
                done += 1
                report(0.5 + 0.45 * done / total, f"relay descriptors: {done} of {total} parts")

        await asyncio.gather(*(one(batch) for batch in batches))
        if failures and not done:
            raise failures[0]
        await asyncio.to_thread(self._forget_unlisted)

    def _forget_unlisted(self) -> None:
        """Forget the microdescriptors that the consensus doesn't list any more."""
        if self._consensus is not None:
            listed = {status.md_digest for status in self._consensus.routers}
            self._microdescriptors = {
                digest: one for digest, one in self._microdescriptors.items() if digest in listed
            }
            self._cache.drop_microdescriptors(listed)

    async def _get_batch(
        self, source: DirectorySource, batch: Sequence[bytes]
    ) -> dict[bytes, Microdescriptor]:
        """The microdescriptors of ``batch`` that ``source`` has."""
        names = "-".join(encode_base64(digest) for digest in batch)
        answer = await source.get(f"/tor/micro/d/{names}", limit=MAX_BATCH_LENGTH)
        if answer.status != 200:
            raise DirectoryError(
                f"{source.relay.nickname} has none of the microdescriptors ({answer.status})"
            )
        return await asyncio.to_thread(self._cache.take_microdescriptors, answer.body, set(batch))
