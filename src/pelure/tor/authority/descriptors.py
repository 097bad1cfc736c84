"""Which uploaded descriptors an authority accepts (dir-spec section 2.1; tor-spec on key pinning).

A descriptor comes in if it is well-formed and signed, recent, of a supported version, on a public address,
newer than the one known, and its RSA and Ed25519 identities were never seen with other partners. No I/O.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Any

from pelure.errors import DirectoryError
from pelure.tor.directory.extra_info import ExtraInfo, parse_extra_info
from pelure.tor.directory.router_descriptor import RouterDescriptor, parse_router_descriptor
from pelure.tor.directory.tor_version import TorVersion

MAX_AGE = 24 * 3600
MAX_SKEW = 12 * 3600
MAX_RELAYS = 20_000
MAX_UPLOAD = 128 << 10
"""Bytes of one upload: a relay's descriptor and extra-info have room, what keeps us busy for long has not."""
OLDEST_VERSION = TorVersion(0, 4, 8, tag="alpha-dev")
_START = re.compile(rb"^(?:router|extra-info) ", re.MULTILINE)


class Descriptors:
    """Accepted router descriptors and extra-info documents, one of each a relay.

    ``rejected``: RSA and Ed25519 identities (20 and 32 bytes) that are never accepted.
    """

    def __init__(
        self, *, allow_private_addresses: bool = False, rejected: frozenset[bytes] = frozenset()
    ) -> None:
        self.allow_private_addresses = allow_private_addresses
        self.rejected = rejected
        self.routers: dict[bytes, RouterDescriptor] = {}
        self.extra_infos: dict[bytes, ExtraInfo] = {}
        self._pins: dict[bytes, bytes] = {}
        self._pinned_to: dict[bytes, bytes] = {}

    def reject(self, identities: frozenset[bytes]) -> bool:
        """Accept no descriptors of these from now on, and forget those that are here; whether any were."""
        self.rejected = identities
        gone = [one.rsa_id for one in self.routers.values() if self._is_rejected(one)]
        for key in gone:
            del self.routers[key]
            self.extra_infos.pop(key, None)
        return bool(gone)

    def _is_rejected(self, router: RouterDescriptor) -> bool:
        return router.rsa_id in self.rejected or router.ed_id in self.rejected

    def upload(self, body: bytes, now: float) -> bool:
        """Take an upload of router descriptors and extra-info documents; returns whether anything was new.

        Raises ``DirectoryError``, with a message for the uploader, at the first document that is refused.
        """
        if len(body) > MAX_UPLOAD:
            raise DirectoryError("the upload is too large")
        documents = list(split_documents(body))
        if not documents:
            raise DirectoryError("the upload holds no descriptor")
        changed = False
        for document in documents:
            if document.startswith(b"router "):
                changed |= self.add_router(parse_router_descriptor(document), now)
            else:
                changed |= self._add_extra_info(document)
        return changed

    def add_router(self, router: RouterDescriptor, now: float) -> bool:
        """Take one verified descriptor if every rule allows it; False if it is not newer than the known one.

        Raises ``DirectoryError`` if it is refused.
        """
        self._check_acceptable(router, now)
        known = self.routers.get(router.rsa_id)
        if known is not None and known.published >= router.published:
            return False
        if known is None and len(self.routers) >= MAX_RELAYS:
            raise DirectoryError("this authority knows too many relays already")
        self._pins[router.rsa_id] = router.ed_id
        self._pinned_to[router.ed_id] = router.rsa_id
        self.routers[router.rsa_id] = router
        extra = self.extra_infos.get(router.rsa_id)
        if extra is not None and extra.digest != router.extra_info_digest:
            del self.extra_infos[router.rsa_id]
        return True

    def _check_acceptable(self, router: RouterDescriptor, now: float) -> None:
        if self._is_rejected(router):
            raise DirectoryError("this relay's identity is rejected by the authority")
        _check_platform(router.platform)
        if router.published > now + MAX_SKEW:
            raise DirectoryError(
                "the descriptor is from the future: is the relay's clock or time zone wrong?"
            )
        if router.published < now - MAX_AGE or router.expires < now:
            raise DirectoryError("the descriptor has expired: is the relay's clock wrong?")
        if not self.allow_private_addresses:
            for ip in [router.ip, *([router.ipv6[0]] if router.ipv6 else [])]:
                if not ipaddress.ip_address(ip).is_global:
                    raise DirectoryError(f"{ip} is a private address")
        if self._pins.get(router.rsa_id, router.ed_id) != router.ed_id:
            raise DirectoryError("the relay's Ed25519 identity has changed")
        if self._pinned_to.get(router.ed_id, router.rsa_id) != router.rsa_id:
            raise DirectoryError("the relay's RSA identity has changed")

    def _add_extra_info(self, document: bytes) -> bool:
        extra = parse_extra_info(document)
        router = self.routers.get(extra.rsa_id)
        if router is None:
            raise DirectoryError("an extra-info document of a relay that is not known")
        extra = parse_extra_info(document, router.rsa_key)
        if extra.ed_id != router.ed_id:
            raise DirectoryError("the extra-info document has another Ed25519 identity than its relay")
        if router.extra_info_digest != extra.digest:
            return False
        self.extra_infos[extra.rsa_id] = extra
        return True

    def expire(self, now: float) -> None:
        """Forget descriptors too old to vote for."""
        old = [key for key, router in self.routers.items() if router.published < now - MAX_AGE]
        for key in old:
            del self.routers[key]
            self.extra_infos.pop(key, None)

    def texts(self) -> bytes:
        """All documents in a run, as :meth:`upload` reads them."""
        pieces = [router.text for router in self.routers.values()]
        return b"".join([*pieces, *(extra.text for extra in self.extra_infos.values())])

    def pins_to_json(self) -> dict[str, str]:
        """RSA to Ed25519 identities ever accepted, in hexadecimal."""
        return {rsa.hex(): ed.hex() for rsa, ed in self._pins.items()}

    def pins_from_json(self, value: Any) -> None:
        """Read what :meth:`pins_to_json` gave. Raises ``DirectoryError`` if it is damaged."""
        try:
            pairs = {bytes.fromhex(rsa): bytes.fromhex(ed) for rsa, ed in value.items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise DirectoryError("the authority's list of key pins is damaged") from error
        self._pins = pairs
        self._pinned_to = {ed: rsa for rsa, ed in pairs.items()}


def split_documents(body: bytes) -> Iterator[bytes]:
    """Yield the router descriptors and extra-info documents of a run."""
    starts = [match.start() for match in _START.finditer(body)]
    for start, end in zip(starts, [*starts[1:], len(body)], strict=False):
        yield body[start:end]


def _check_platform(platform: str) -> None:
    version = TorVersion.parse(platform) if platform.startswith("Tor ") else None
    if version is None:
        raise DirectoryError("the platform names no Tor version")
    if version < OLDEST_VERSION:
        raise DirectoryError(f"Tor version {platform[4:40]!r} is no longer supported: please upgrade")
