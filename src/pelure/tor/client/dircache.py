"""The directory on disk: consensus, microdescriptors and authority certificates, as C tor names the files.

What is read back is not trusted: the consensus is verified again, and each microdescriptor is known by its
digest. A damaged file counts as missing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

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

log = logging.getLogger(__name__)


class DirectoryCache:
    """Reads and writes the cached directory in ``folder``. All methods block: call them in a thread."""

    def __init__(self, folder: StateFolder) -> None:
        self.folder = folder

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
        data = self.folder.read(MICRODESCRIPTORS_FILE) or b""
        return parse_microdescriptors(data)

    def store_consensus(self, consensus: Consensus) -> None:
        """Keep ``consensus``."""
        self.folder.write(CONSENSUS_FILE, consensus.text)

    def store_certificates(self, certificates: Iterable[KeyCertificate]) -> None:
        """Keep exactly ``certificates``."""
        self.folder.write(CERTIFICATES_FILE, b"".join(one.text for one in certificates))

    def store_microdescriptors(self, microdescriptors: Mapping[bytes, Microdescriptor]) -> None:
        """Keep exactly ``microdescriptors``."""
        self.folder.write(MICRODESCRIPTORS_FILE, b"".join(one.text for one in microdescriptors.values()))


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


def parse_microdescriptors(data: bytes) -> dict[bytes, Microdescriptor]:
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
