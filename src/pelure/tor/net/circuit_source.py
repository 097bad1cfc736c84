"""Who needs a circuit says where to, and does not care how it comes to be: :class:`CircuitSource`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from pelure.tor.directory.relay import Relay
from pelure.tor.net.origin import Circuit


class CircuitSource(Protocol):
    """Gives out circuits; a pool of prebuilt ones implements it."""

    async def internal_circuit(
        self, last: Relay | None, *, length: int, purpose: str, exclude: Collection[Relay] = ()
    ) -> Circuit:
        """A circuit of ``length`` relays that ends at ``last`` (None: at any), for one user alone.

        ``purpose`` names its use in logs and listings: ``"hsdir"``, ``"intro"``, ``"rendezvous"``.
        Where it ends at any, it is none of ``exclude``. Raises ``CircuitError``, ``LinkError`` and
        ``PathError``.
        """
        ...
