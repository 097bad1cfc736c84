"""Whole networks in virtual time: each story plays in a process whose clock and randomness are its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parent.parent
STORY_SECONDS = 600
"""A story that takes longer than this (of our time) hangs."""
pytestmark = pytest.mark.timeout(3 * STORY_SECONDS)


def play(story: str, seed: int) -> dict[str, Any]:
    """What is told of ``story``; the same for the same seed (the order of sets is fixed with the hashes)."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "sim.story", story, str(seed)],
        env={**os.environ, "PYTHONPATH": str(TESTS), "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        timeout=STORY_SECONDS,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    assert "bug:" not in done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_a_seed_decides_everything() -> None:
    first = play("rendezvous", 1)
    assert first["whole"]
    assert play("rendezvous", 1) == first
    assert play("rendezvous", 2)["story"] != first["story"]


def test_the_page_comes_again_whatever_happens_to_relays() -> None:
    assert play("faults", 1)["seconds"] < 600


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 12))
def test_the_page_comes_again_with_every_seed(seed: int) -> None:
    assert play("faults", seed)["seconds"] < 600


@pytest.mark.soak
def test_the_service_stays_where_it_is_for_days() -> None:
    assert play("days", 1)["failures"] == []


@pytest.mark.soak
def test_a_client_is_back_after_days() -> None:
    assert play("absence", 1)["seconds"] < 120
