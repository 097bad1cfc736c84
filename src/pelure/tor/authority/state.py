"""What an authority keeps on disk: in C tor's files where C tor has them, under its data folder.

``sr-state``, ``cached-consensus``, ``cached-microdesc-consensus``, ``cached-descriptors`` as C tor's;
``relay-history.json`` and ``key-pins.json`` are ours.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from pelure.errors import DirectoryError
from pelure.tor.authority.descriptors import Descriptors, split_documents
from pelure.tor.authority.history import History
from pelure.tor.authority.shared_random import SharedRandomState
from pelure.tor.authority.sr_state import FILE_NAME, decode_state, encode_state
from pelure.tor.directory.router_descriptor import parse_router_descriptor
from pelure.tor.net.statefile import private_folder, write_private

CONSENSUS_FILES = {"ns": "cached-consensus", "microdesc": "cached-microdesc-consensus"}
DESCRIPTORS_FILE = "cached-descriptors"
HISTORY_FILE = "relay-history.json"
PINS_FILE = "key-pins.json"
log = logging.getLogger(__name__)


class AuthorityState:
    """Reads and writes the files; a damaged one is logged and counts as missing.

    One that can't be written (a full disk) is logged, too, and the authority goes on, as C tor does: voting
    matters more than what is lost at a restart.
    """

    def __init__(self, data: Path) -> None:
        self.data = private_folder(data)

    def _read(self, name: str) -> bytes | None:
        try:
            return (self.data / name).read_bytes()
        except FileNotFoundError:
            return None

    def _write(self, name: str, content: bytes) -> None:
        try:
            write_private(self.data / name, content)
        except OSError as error:
            log.warning("can't write %s: %s", self.data / name, error)

    def load_shared_random(self, now: float, interval: int) -> SharedRandomState:
        """The shared random state, a fresh one if there is none of this protocol run."""
        content = self._read(FILE_NAME)
        if content is not None:
            try:
                return decode_state(content, now, interval)
            except DirectoryError as error:
                log.info("starting the shared random protocol anew: %s", error)
        return SharedRandomState()

    def save_shared_random(self, state: SharedRandomState) -> None:
        """Write ``sr-state``; to be done before a vote with a new commitment leaves."""
        self._write(FILE_NAME, encode_state(state))

    def load_consensus(self, flavour: str) -> bytes | None:
        """The consensus of ``flavour`` that was current last, None if there is none."""
        return self._read(CONSENSUS_FILES[flavour])

    def save_consensus(self, flavour: str, text: bytes) -> None:
        """Write the current consensus of ``flavour``."""
        self._write(CONSENSUS_FILES[flavour], text)

    def load_history(self, now: float) -> History:
        """What was seen of relays so far."""
        return History.from_json(self._read_json(HISTORY_FILE), now)

    def save_history(self, history: History) -> None:
        """Write what was seen of relays."""
        self._write(HISTORY_FILE, json.dumps(history.to_json()).encode())

    def load_descriptors(self, descriptors: Descriptors, now: float) -> None:
        """Fill ``descriptors`` with those accepted before, and the key pins."""
        pins = self._read_json(PINS_FILE)
        if pins is not None:
            try:
                descriptors.pins_from_json(pins)
            except DirectoryError as error:
                log.warning("%s", error)
        for document in split_documents(self._read(DESCRIPTORS_FILE) or b""):
            try:
                if document.startswith(b"router "):
                    descriptors.add_router(parse_router_descriptor(document), now)
                else:
                    descriptors.upload(document, now)
            except DirectoryError as error:
                log.info("not keeping a stored descriptor: %s", error)

    def save_descriptors(self, descriptors: Descriptors) -> None:
        """Write the accepted descriptors and the key pins."""
        self._write(DESCRIPTORS_FILE, descriptors.texts())
        self._write(PINS_FILE, json.dumps(descriptors.pins_to_json()).encode())

    def _read_json(self, name: str) -> object:
        content = self._read(name)
        if content is None:
            return None
        try:
            return json.loads(content)
        except ValueError:
            log.warning("%s is damaged and not used", self.data / name)
            return None
