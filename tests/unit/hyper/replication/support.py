"""What the tests of replication share: blocks, identities, links of stores, and waiting."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from contextlib import AsyncExitStack
from hashlib import shake_256

from pelure.hyper.core.corestore import Corestore
from pelure.hyper.core.replication.stream import Replication
from pelure.hyper.wire.noise import KeyPair
from pelure.streams import memory_pipe

SECONDS = 60.0


def identity(seed: int) -> KeyPair:
    return KeyPair.from_seed(bytes([seed]) * 32)


def block(index: int, size: int = 100) -> bytes:
    return shake_256(str(index).encode()).digest(size)


async def within(awaitable):
    return await asyncio.wait_for(awaitable, SECONDS)


async def until(condition: Callable[[], bool]) -> None:
    async def poll() -> None:
        while not condition():  # noqa: ASYNC110 - conditions of any kind, no event to wait for
            await asyncio.sleep(0.005)

    await within(poll())


class Links:
    """Opens replications between stores, and closes them all in the end."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._seeds = itertools.count(1)

    async def __call__(
        self, one: Corestore, other: Corestore, **options: object
    ) -> tuple[Replication, Replication]:
        left, right = memory_pipe()
        pair = (
            Replication(left, True, one, identity(next(self._seeds)), **options),
            Replication(right, False, other, identity(next(self._seeds))),
        )
        for replication in pair:
            await self._stack.enter_async_context(replication)
        return pair
