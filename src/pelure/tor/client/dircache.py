"""The directory on disk: consensus, microdescriptors and authority certificates, as C tor names the files.

What is read back is not trusted: the consensus is verified again, and each microdescriptor is known by its
digest. A damaged file counts as missing. Microdescriptors are added to the end of their file as they come
(what a crash cuts short is fetched again); their text is kept nowhere else. Now and then the file is
rewritten without those that no consensus lists any more.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import threading
from collections.abc import Collection, Iterable, Iterator

from pelure.errors import DirectoryError
from pelure.tor.directory.consensus import Consensus, parse_consensus
from pelure.tor.directory.key_certificate import KeyCertificate, parse_key_certificate, split_key_certificates
from pelure.tor.directory.microdescriptor import (
    Microdescriptor,
    parse_microdescriptor,
    split_microdescriptors,
)
from pelure.tor.net.statefile import StateFolder

CONSENSUS_FILE = "cached-microdesc-consensus"
MICRODESCRIPTORS_FILE = "cached-microdescs"
CERTIFICATES_FILE = "cached-certs"
GUARDS_FILE = "guards.json"
STALE_SHARE = 0.5
"""So many unlisted microdescriptors may be on disk for each that is listed."""

log = logging.getLogger(__name__)


class DirectoryCache:
    """Reads and writes the cached directory in ``folder``. All methods block: call them in a thread."""

    def __init__(self, folder: StateFolder) -> None:
        self.folder = folder
        self._on_disk = 0
        self._counting = threading.Lock()  # several runs may come at a time, each in a thread

    def load_consensus(self) -> Consensus | None:
        """The cached consensus, parsed but not verified."""
        data = self.folder.read(CONSENSUS_FILE)
        if data is None:
            return None
        try:
            return parse_consensus(data)
        except DirectoryError as error:
            log.warning("the cached consensus is damaged (%s); a new one is fetched", error)
            return None

    def load_certificates(self) -> list[KeyCertificate]:
        """The cached authority certificates; each checks out by itself."""
        data = self.folder.read(CERTIFICATES_FILE) or b""
        return parse_certificates(data)

    def load_microdescriptors(self) -> dict[bytes, Microdescriptor]:
        """The cached microdescriptors by digest."""
        found = parse_microdescriptors(self.folder.read_mapped(MICRODESCRIPTORS_FILE))
        self._on_disk = len(found)
        return found

    def store_consensus(self, consensus: Consensus) -> None:
        """Keep ``consensus``."""
        self.folder.write(CONSENSUS_FILE, consensus.text)

    def store_certificates(self, certificates: Iterable[KeyCertificate]) -> None:
        """Keep exactly ``certificates``."""
        self.folder.write(CERTIFICATES_FILE, b"".join(one.text for one in certificates))

    def take_microdescriptors(self, run: bytes, wanted: Collection[bytes]) -> dict[bytes, Microdescriptor]:
        """Those of a ``run`` that are ``wanted`` (digests), which are kept with the others.

        Raises ``DirectoryError`` if the run is too large.
        """
        texts = b"".join(_with_digest_in(wanted, run))
        found = parse_microdescriptors(texts)
        if self.folder.append(MICRODESCRIPTORS_FILE, texts):
            with self._counting:
                self._on_disk += len(found)
        return found

    def drop_microdescriptors(self, listed: Collection[bytes]) -> None:
        """Drop all but the ``listed`` ones (digests) if there are many others."""
        if self._on_disk <= (1 + STALE_SHARE) * len(listed):
            return
        kept = _with_digest_in(listed, self.folder.read_mapped(MICRODESCRIPTORS_FILE))
        if self.folder.write(MICRODESCRIPTORS_FILE, kept):
            self._on_disk = len(listed)


def _with_digest_in(digests: Collection[bytes], run: bytes | mmap.mmap) -> Iterator[bytes]:
    return (text for text in split_microdescriptors(run) if hashlib.sha256(text).digest() in digests)


def parse_certificates(data: bytes) -> list[KeyCertificate]:
    """The certificates in ``data`` that are well-formed and verify; others are skipped."""
    found = []
    try:
        for text in split_key_certificates(data):
            try:
                found.append(parse_key_certificate(text))
            except DirectoryError as error:
                log.info("an authority certificate is skipped: %s", error)
    except DirectoryError as error:
        log.info("a list of authority certificates is skipped: %s", error)
    return found


def parse_microdescriptors(data: bytes | mmap.mmap) -> dict[bytes, Microdescriptor]:
    """The well-formed microdescriptors in ``data`` by their SHA-256; others are skipped."""
    found: dict[bytes, Microdescriptor] = {}
    try:
        for text in split_microdescriptors(data):
            try:
                one = parse_microdescriptor(text)
            except DirectoryError as error:
                log.info("a microdescriptor is skipped: %s", error)
            else:
                found[one.digest] = one
    except DirectoryError as error:
        log.info("a list of microdescriptors is skipped: %s", error)
    return found
