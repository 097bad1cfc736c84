"""A store that is closed in the end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pelure.hyper.core.corestore import Corestore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Corestore]:
    store = Corestore(tmp_path / "store")
    yield store
    store.close()
