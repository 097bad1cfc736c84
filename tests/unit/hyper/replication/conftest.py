"""Stores that are closed in the end, and links between them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from pelure.hyper.core.corestore import Corestore

from .scripted import Case
from .support import Links


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Callable[..., Corestore]]:
    """Makes a new store; a ``primary_key`` may be given."""
    made: list[Corestore] = []

    def make(primary_key: bytes | None = None) -> Corestore:
        made.append(Corestore(tmp_path / f"store{len(made)}", primary_key))
        return made[-1]

    yield make
    for store in made:
        store.close()


@pytest.fixture
async def link() -> AsyncIterator[Links]:
    async with AsyncExitStack() as stack:
        yield Links(stack)


@pytest.fixture
def case(stores: Callable[..., Corestore]) -> Case:
    return Case(stores)
