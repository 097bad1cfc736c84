"""Virtual ports and their targets."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import ConfigError
from pelure.tor.service.targets import TcpTarget, UnixTarget, parse_port, parse_ports


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", (80, TcpTarget("127.0.0.1", 80))),
        ("80:8080", (80, TcpTarget("127.0.0.1", 8080))),
        ("80:127.0.0.1:8080", (80, TcpTarget("127.0.0.1", 8080))),
        ("80:localhost:8080", (80, TcpTarget("localhost", 8080))),
        ("443:[::1]:8443", (443, TcpTarget("::1", 8443))),
        ("22:unix:/run/ssh.sock", (22, UnixTarget(Path("/run/ssh.sock")))),
    ],
)
def test_every_form_is_read(text: str, expected: object) -> None:
    assert parse_port(text) == expected


@pytest.mark.parametrize(
    "text", ["", "x", "0", "65536", "80:", "80:x", "80:1.2.3:4", "80:host:1", "80:unix:", "80::1:2", "٣"]
)
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_port(text)


def test_a_virtual_port_has_one_target() -> None:
    assert list(parse_ports(["80:8080", "81:8080"])) == [80, 81]
    with pytest.raises(ConfigError, match="twice"):
        parse_ports(["80:8080", "80:8081"])


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        virtual, _ = parse_port(text)
    except ConfigError:
        return
    assert 1 <= virtual <= 65535
