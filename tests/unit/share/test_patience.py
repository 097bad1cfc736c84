"""How long a mounted drive waits for a publisher who is away."""

from __future__ import annotations

import pytest

from pelure.share.patience import AWAY_SECONDS, WAIT_SECONDS, Patience


class World:
    """A clock and a publisher as a test has them."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.connected = True
        self.patience = Patience(lambda: self.connected, lambda: self.now)


@pytest.fixture
def world() -> World:
    return World()


def test_who_is_there_is_waited_for(world: World) -> None:
    for _ in range(3):
        assert world.patience.left() == WAIT_SECONDS
        world.now += 50
        world.patience.answered()


def test_an_absence_is_waited_out_once(world: World) -> None:
    world.connected = False
    assert world.patience.left() == WAIT_SECONDS
    world.now += 20
    assert world.patience.left() == WAIT_SECONDS - 20
    world.now += 40
    assert world.patience.exhausted()
    assert world.patience.left() == AWAY_SECONDS
    world.now += 2 * AWAY_SECONDS
    assert not world.patience.exhausted()
    assert world.patience.left() == AWAY_SECONDS
    world.connected = True
    assert world.patience.left() == WAIT_SECONDS
    world.connected = False
    assert world.patience.left() == WAIT_SECONDS


def test_what_is_held_here_ends_no_absence(world: World) -> None:
    world.connected = False
    assert world.patience.left() == WAIT_SECONDS
    world.now += 30
    world.patience.answered()
    assert world.patience.left() == WAIT_SECONDS - 30


def test_who_left_unnoticed_is_not_waited_for_again(world: World) -> None:
    assert world.patience.left() == WAIT_SECONDS
    world.now += WAIT_SECONDS
    world.connected = False
    assert world.patience.exhausted()
    assert world.patience.left() == AWAY_SECONDS


def test_an_absence_begins_after_the_last_answer(world: World) -> None:
    world.connected = False
    world.patience.left()
    world.now += 10
    world.connected = True
    world.patience.answered()
    world.now += 1000
    world.connected = False
    assert world.patience.left() == WAIT_SECONDS
