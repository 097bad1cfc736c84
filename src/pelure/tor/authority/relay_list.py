"""The operator's word on single relays: C tor's ``approved-routers`` file (dir-spec 3.4.2, "BadExit").

One relay a line: a mark, and the RSA identity in hexadecimal or the Ed25519 identity in base64. Lines of
other forms (C tor's ``NICKNAME FINGERPRINT``, comments) say nothing here.

==============  =========================================================================
``!reject``     its descriptors are not accepted, and it is not voted on
``!badexit``    the vote gives it ``BadExit``: clients do not leave the network there
``!middleonly`` ``MiddleOnly``: it is no guard, exit, directory or HSDir whatever it offers
==============  =========================================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pelure.errors import ConfigError
from pelure.tor.directory.router_descriptor import RouterDescriptor
from pelure.tor.directory.tokenizer import decode_base64

FILE_NAME = "approved-routers"
_RSA = re.compile(r"[0-9A-Fa-f]{40}")
_ED25519 = re.compile(r"[A-Za-z0-9+/]{43}=?")


@dataclass(frozen=True)
class RelayList:
    """Identities (RSA of 20 bytes, Ed25519 of 32 bytes) by mark."""

    rejected: frozenset[bytes] = frozenset()
    bad_exits: frozenset[bytes] = frozenset()
    middle_only: frozenset[bytes] = frozenset()

    def is_bad_exit(self, router: RouterDescriptor) -> bool:
        """Whether the relay is marked ``!badexit``."""
        return not self.bad_exits.isdisjoint((router.rsa_id, router.ed_id))

    def is_middle_only(self, router: RouterDescriptor) -> bool:
        """Whether the relay is marked ``!middleonly``."""
        return not self.middle_only.isdisjoint((router.rsa_id, router.ed_id))


def read_relay_list(path: Path) -> RelayList:
    """Read the file; an empty list if there is none. Raises ``ConfigError`` if it can't be read."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return RelayList()
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}") from error
    marked: dict[str, set[bytes]] = {"!reject": set(), "!badexit": set(), "!middleonly": set()}
    for line in lines:
        mark, _, rest = line.partition("#")[0].strip().partition(" ")
        name = rest.replace(" ", "").lstrip("$")
        if mark.lower() in marked:
            if _RSA.fullmatch(name):
                marked[mark.lower()].add(bytes.fromhex(name))
            elif _ED25519.fullmatch(name):
                marked[mark.lower()].add(decode_base64(name.rstrip("="), 32))
    return RelayList(*(frozenset(found) for found in marked.values()))
