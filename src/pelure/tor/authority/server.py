"""A directory authority (dir-spec sections 3 and 4): takes descriptors, votes, publishes the consensus.

This is the asyncio shell around :mod:`.voting`, :mod:`.descriptors`, :mod:`.shared_random` and
:mod:`.vote_builder`. It answers on its DirPort; its relay half, a relay like any other, lets
:meth:`Authority.answer` answer first on ``BEGIN_DIR`` streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable
from functools import partial

from pelure.errors import ConfigError, DirectoryError
from pelure.tor.authority.bandwidth_file import parse_bandwidth_file
from pelure.tor.authority.catching_up import CatchingUp
from pelure.tor.authority.config import AuthorityConfig
from pelure.tor.authority.descriptors import Descriptors
from pelure.tor.authority.dirport import DirPort
from pelure.tor.authority.exchange import Exchange, hex_paths
from pelure.tor.authority.keys import AuthorityKeys
from pelure.tor.authority.reachability import Reachability
from pelure.tor.authority.relay_list import FILE_NAME as RELAY_LIST_FILE
from pelure.tor.authority.relay_list import RelayList, read_relay_list
from pelure.tor.authority.requests import AuthorityRequests
from pelure.tor.authority.schedule import Round, next_round
from pelure.tor.authority.state import AuthorityState
from pelure.tor.authority.vote_builder import VoteBuilder
from pelure.tor.authority.voting import FLAVOURS, VotingRound, split_votes
from pelure.tor.directory.cache import CONSENSUS_PATH, DirectoryCache
from pelure.tor.directory.consensus import Consensus, DirSource, parse_consensus
from pelure.tor.directory.consensus_compute import SUPPORTED_METHODS
from pelure.tor.directory.consensus_verify import verify_consensus
from pelure.tor.directory.http import DirReply, DirRequest
from pelure.tor.directory.microdescriptor import microdescriptors_by_method
from pelure.tor.directory.vote_encode import encode_vote
from pelure.tor.net.supervision import supervised

EXCHANGE_SECONDS = 15.0
HURRIED_WAIT = 10.0
log = logging.getLogger(__name__)


class Authority:
    """A running authority: :meth:`start`, :meth:`close`; ``cache`` is what it serves."""

    def __init__(self, config: AuthorityConfig, cache: DirectoryCache | None = None) -> None:
        """Read keys and state. Raises ``ConfigError``."""
        now = time.time()
        self.config = config
        self.keys = AuthorityKeys.load(config.data, now)
        self.cache = cache or DirectoryCache()
        self.state = AuthorityState(config.data)
        marks = read_relay_list(config.data / RELAY_LIST_FILE)
        self.descriptors = Descriptors(
            allow_private_addresses=config.allow_private_addresses, rejected=marks.rejected
        )
        self.published = asyncio.Event()
        self.on_consensus: list[Callable[[Consensus], None]] = []
        voters = config.network.voters
        self._names = {one.v3ident: one.nickname for one in voters if one.v3ident is not None}
        self._names.setdefault(self.keys.identity, config.nickname)
        others = [one for one in voters if one.v3ident != self.keys.identity]
        self.exchange = Exchange(others, EXCHANGE_SECONDS)
        self.reachability = Reachability(self.descriptors.routers, config.probe, has_ipv6=config.has_ipv6)
        self._catching_up = CatchingUp(
            self.exchange, self.cache, self.descriptors, self._adopt, self._descriptors_changed
        )
        self._changed = asyncio.Condition()
        self._tasks: list[asyncio.Task[None]] = []
        self._load(now, marks)
        self.round = VotingRound(next_round(now, config.times, None), self._names, self.keys)
        self._requests = AuthorityRequests(self)
        self.dir_port = DirPort(config.ip, config.dir_port, self._answer_dir_port)

    def _load(self, now: float, marks: RelayList) -> None:
        self.history = self.state.load_history(now)
        self.state.load_descriptors(self.descriptors, now)
        self._refresh_cache(now)
        self.cache.add_certificates(self.keys.certificate.text)
        for flavour in FLAVOURS:
            text = self.state.load_consensus(flavour)
            if text is not None:
                with contextlib.suppress(DirectoryError):
                    self.cache.set_consensus(parse_consensus(text))
        self.shared_random = self.state.load_shared_random(now, self.interval(now))
        self.shared_random.keep_only(self._names)
        config = self.config
        self._builder = VoteBuilder(
            source=DirSource(
                config.nickname,
                self.keys.identity,
                config.ip,
                config.ip,
                config.dir_port,
                config.or_port,
                config.contact.encode().decode("latin-1"),  # as texts of documents are kept here
            ),
            certificate=self.keys.certificate,
            times=config.times,
            flags=config.flags,
            descriptors=self.descriptors,
            history=self.history,
            running=self.reachability.runs,
            ipv6_works=self.reachability.ipv6_works,
            marks=marks,
            authorities=frozenset(one.rsa_id for one in config.network.authorities),
            params=config.params,
        )

    # -- life

    async def start(self) -> None:
        """Listen on the DirPort and begin to take part in voting. Raises ``ConfigError``."""
        await self.dir_port.start()
        self._tasks.append(asyncio.ensure_future(self._vote_forever()))
        if self.config.probe is not None:
            half = self.config.times.interval / 2
            test = partial(self.reachability.test_forever, half, self._until, self._notify)
            tests = supervised(test, "testing which relays can be reached")
            self._tasks.append(asyncio.ensure_future(tests))

    async def close(self) -> None:
        """Stop voting and listening; write the state."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.dir_port.close()
        self._save()

    def _save(self) -> None:
        self.state.save_shared_random(self.shared_random)
        self.state.save_history(self.history)
        self.state.save_descriptors(self.descriptors)

    # -- requests

    async def answer(self, request: DirRequest) -> DirReply | None:
        """The reply to what only an authority answers: uploads, votes, signatures; None for all else."""
        return await self._requests.answer(request, time.time())

    async def _answer_dir_port(self, request: DirRequest) -> DirReply:
        reply = await self.answer(request)
        if reply is None and request.path.startswith(CONSENSUS_PATH):
            reply = await asyncio.to_thread(self.cache.answer, request, time.time())  # compressing takes long
        return reply or self.cache.answer(request, time.time())

    def upload(self, body: bytes, now: float) -> bool:
        """Take uploaded descriptors; returns whether any was new. Raises ``DirectoryError``."""
        changed = self.descriptors.upload(body, now)
        if changed:
            self._descriptors_changed()
        return changed

    def _refresh_cache(self, now: float) -> None:
        """Serve the descriptors read from disk, and the microdescriptors that the last consensus lists."""
        routers = self.descriptors.routers.values()
        self.cache.set_routers(routers, self.descriptors.extra_infos.values())
        for router in routers:
            for _, text in microdescriptors_by_method(router, SUPPORTED_METHODS):
                self.cache.add_microdescriptors(text, now)

    def _descriptors_changed(self) -> None:
        self.cache.set_routers(self.descriptors.routers.values(), self.descriptors.extra_infos.values())
        self._notify()

    async def take_vote(self, document: bytes, *, posted: bool) -> bool:
        """Take a vote for the present round; returns whether it is new. Raises ``DirectoryError``."""
        came = time.time()
        if self.round.knows(document):
            return False
        vote = await asyncio.to_thread(self.round.read_vote, document)
        if not self.round.add_vote(vote, came, posted=posted):
            return False
        log.info("%s's vote is here", self._names[vote.identity])
        if self.shared_random.receive(vote.commits, vote.identity, self._names):
            self.state.save_shared_random(self.shared_random)
        self.cache.add_certificates(vote.certificate.text)
        if vote.identity != self.keys.identity:
            self._spawn(self._catching_up.fetch_descriptors(vote))
        self._notify()
        return True

    def take_signatures(self, document: bytes) -> int:
        """Take detached signatures; returns how many were new. Raises ``DirectoryError``."""
        added = self.round.add_signatures(document)
        self._notify()
        return added

    def _notify(self) -> None:
        self._spawn(self._wake())

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.append(task)
        task.add_done_callback(lambda done: self._tasks.remove(done) if done in self._tasks else None)

    # -- voting

    def live_consensus(self, now: float) -> Consensus | None:
        """The ns consensus that is valid now."""
        consensus = self.cache.consensus("ns")
        return consensus if consensus and consensus.valid_after <= now <= consensus.valid_until else None

    def interval(self, now: float) -> int:
        """The length of voting intervals: of the consensus in force, else the configured one, in seconds."""
        consensus = self.live_consensus(now)
        return int(consensus.fresh_until - consensus.valid_after) if consensus else self.config.times.interval

    async def _vote_forever(self) -> None:
        try:
            if self.exchange.others:
                await self._catching_up.fetch_consensus()
            if self.config.expected_relays and self.live_consensus(time.time()) is None:
                await self._vote_at_once(self.config.expected_relays)
        except Exception:
            log.exception("bug: the authority's start failed")
        while True:
            now = time.time()
            consensus = self.live_consensus(now)
            live = None
            if consensus is not None:
                live = (self.interval(now), *consensus.voting_delay)
            when = next_round(now, self.config.times, live)
            try:
                await self.hold_round(when, late=now > when.fetch_votes_at)
            except Exception:
                log.exception("bug: the voting round failed")
                await self._until(when.valid_after)

    async def _vote_at_once(self, relays: int) -> None:
        """Make the first consensus as soon as ``relays`` relays run, for the interval that runs."""
        interval = self.config.times.interval
        now = time.time()
        start = int(now // interval) * interval
        moment = now + max(interval, HURRIED_WAIT)
        self._begin(Round(start, interval, now, moment, moment, moment))
        await self._until(
            moment, lambda: sum(map(self.reachability.runs, self.descriptors.routers)) >= relays
        )
        moment = time.time() + HURRIED_WAIT
        self.round.when = Round(start, interval, now, moment, moment, moment)
        await self._vote()
        await self._fetch_missing_votes()  # who was quicker has posted its vote before this round began here
        await self._until(moment, lambda: not self.round.missing_votes)
        if await self._compute():
            await self._until(time.time() + HURRIED_WAIT, lambda: not self.round.missing_signatures)
        await self._publish()

    async def hold_round(self, when: Round, *, late: bool) -> None:
        """Take part in one round; ``late``: too late to post a vote that others would still count."""
        self._begin(when)
        if not (late and self.exchange.others):
            await self._until(when.vote_at)
            await self._until(when.fetch_votes_at, lambda: self.reachability.complete)
        if (late and self.exchange.others) or not self.reachability.complete:
            log.info("too late for this round; joining the next one")
            await self._until(when.valid_after + 1)
            await self._catching_up.fetch_consensus()
            return
        await self._vote()
        await self._until(when.fetch_votes_at)
        await self._fetch_missing_votes()
        await self._until(when.compute_at)
        computed = await self._compute()
        await self._until(when.fetch_signatures_at)
        if computed and self.round.missing_signatures:
            await self._fetch_missing_signatures()
        await self._until(when.valid_after)
        await self._publish()

    def _begin(self, when: Round) -> None:
        self.round = VotingRound(when, self._names, self.keys)
        interval = self.interval(time.time())
        if self.shared_random.prepare(when.valid_after, interval, self.keys.identity, os.urandom):
            self.state.save_shared_random(self.shared_random)

    async def _until(self, moment: float, enough: Callable[[], bool] | None = None) -> None:
        """Wait for ``moment`` (epoch seconds), or until ``enough`` holds."""
        while (left := moment - time.time()) > 0 and not (enough and enough()):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left), self._changed:
                    await self._changed.wait()

    async def _vote(self) -> None:
        now = time.time()
        self._read_bandwidths(now)
        self._read_relay_list()
        self.descriptors.expire(now)
        for rsa_id in self.descriptors.routers:
            self.history.note(rsa_id, self.reachability.runs(rsa_id), now)
        self.history.decay(now)
        document = await asyncio.to_thread(self._make_vote, now)
        self.cache.add_microdescriptors(b"".join(self._builder.microdescriptors.values()), now)
        await self.take_vote(document, posted=False)
        await self.exchange.post_to_all("/tor/post/vote", document)

    def _make_vote(self, now: float) -> bytes:
        consensus = self.cache.consensus("ns")
        self._builder.consensus_params = consensus.params if consensus else {}
        vote = self._builder.build(self.round.when.valid_after, self.shared_random, now)
        return encode_vote(vote, self.keys.signing)

    def _read_bandwidths(self, now: float) -> None:
        if self.config.bandwidth_file is None:
            return
        try:
            measured = parse_bandwidth_file(self.config.bandwidth_file.read_bytes())
        except (OSError, DirectoryError) as error:
            log.warning("the bandwidth file is not used: %s", error)
            return
        self._builder.measured = measured.bandwidths if measured.fresh(now) else {}

    def _read_relay_list(self) -> None:
        """What the operator wrote since the last vote counts in this one."""
        try:
            self._builder.marks = read_relay_list(self.config.data / RELAY_LIST_FILE)
        except ConfigError as error:
            log.warning("the list of marked relays stays as it was: %s", error)
            return
        if self.descriptors.reject(self._builder.marks.rejected):
            self._descriptors_changed()

    async def _fetch_missing_votes(self) -> None:
        missing = self.round.missing_votes
        if not missing:
            return
        log.info("asking for the votes of %s", ", ".join(self._names[one] for one in missing))
        for path in hex_paths("/tor/status-vote/next/", missing):
            for answer in await self.exchange.get_from_all(f"{path}.z"):
                for document in split_votes(answer):
                    with contextlib.suppress(DirectoryError):
                        await self.take_vote(document, posted=False)

    async def _compute(self) -> bool:
        try:
            fresh = self.shared_random.fresh
            computed = await asyncio.to_thread(self.round.compute, srv_is_fresh=fresh)
            signatures = self.round.adopt(computed)
        except DirectoryError as error:
            log.warning("no consensus this time: %s", error)
            return False
        self._notify()
        await self.exchange.post_to_all("/tor/post/consensus-signature", signatures)
        return True

    async def _fetch_missing_signatures(self) -> None:
        for answer in await self.exchange.get_from_all("/tor/status-vote/next/consensus-signatures.z"):
            with contextlib.suppress(DirectoryError):
                self.take_signatures(answer)

    async def _publish(self) -> None:
        documents = self.round.publish()
        self._requests.remember(self.round.votes)
        if "ns" not in documents:
            if self.round.pending:
                log.warning("the consensus lacks signatures and is not published")
            await self._catching_up.fetch_consensus()
        for document in documents.values():
            self._set_consensus(await asyncio.to_thread(parse_consensus, document))
        self._save()

    def _set_consensus(self, consensus: Consensus) -> None:
        self.cache.set_consensus(consensus)
        self.state.save_consensus(consensus.flavour, consensus.text)
        if consensus.flavour == "ns":
            self.shared_random.accept_consensus(consensus.shared_rand_previous, consensus.shared_rand_current)
            log.info("consensus of %d relays published", len(consensus.routers))
        else:
            self.published.set()
        for callback in self.on_consensus:
            callback(consensus)

    def _adopt(self, flavour: str, consensus: Consensus) -> None:
        known = self.cache.consensus(flavour)
        if consensus.flavour != flavour or (known and known.valid_after >= consensus.valid_after):
            return
        verify_consensus(consensus, self._names, self.cache.certificates)
        self._set_consensus(consensus)
