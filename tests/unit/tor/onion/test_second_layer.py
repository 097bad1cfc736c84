"""The second layer's small rules (rend-spec-v3 2.5.2, proposal 324 section 10.3)."""

from __future__ import annotations

import random

import pytest

from pelure.errors import DirectoryError
from pelure.tor.cell.linkspec import LinkSpecifier
from pelure.tor.crypto.keys import Ed25519KeyPair, x25519_generate
from pelure.tor.onion.second_layer import INTRO_POINTS_MAX, FlowControl, IntroPoint, SecondLayer

NOW = 1_800_000_000.0
RNG = random.Random(1).randbytes
SIGNING = Ed25519KeyPair.generate(RNG)


def intro_point() -> IntroPoint:
    specifiers = (
        LinkSpecifier.address("127.0.0.1", 5000),
        LinkSpecifier.rsa(RNG(20)),
        LinkSpecifier.ed25519(RNG(32)),
    )
    onion_key, enc_key = x25519_generate(RNG)[1], x25519_generate(RNG)[1]
    return IntroPoint(specifiers, onion_key, Ed25519KeyPair.generate(RNG).public, enc_key)


@pytest.mark.parametrize(
    ("versions", "speaks"),
    [("2", True), ("1-2", True), ("2-3", True), ("1,2", True), ("1-3", True), ("1", False), ("3-4", False)],
)
def test_congestion_control_is_version_2(versions: str, speaks: bool) -> None:
    assert FlowControl(versions, 31).congestion_control is speaks


def test_up_to_twenty_introduction_points() -> None:
    points = tuple(intro_point() for _ in range(INTRO_POINTS_MAX))
    for count in (0, INTRO_POINTS_MAX):
        text = SecondLayer(points[:count]).encode(SIGNING, NOW + 3600)
        assert SecondLayer.parse(text, SIGNING.public, NOW) == SecondLayer(points[:count])
    text = SecondLayer((*points, intro_point())).encode(SIGNING, NOW + 3600)
    with pytest.raises(DirectoryError, match="more than 20"):
        SecondLayer.parse(text, SIGNING.public, NOW)
