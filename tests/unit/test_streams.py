"""Where somebody listens, and what is said of a place where nobody can."""

from __future__ import annotations

import asyncio
import socket

import pytest

from pelure.errors import ConfigError
from pelure.streams import listening, place


def test_places() -> None:
    assert place("127.0.0.1", 9150) == "127.0.0.1:9150"
    assert place("::1", 9150) == "[::1]:9150"


async def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError) as error, listening("127.0.0.1", port):
            await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", port)
    assert str(error.value) == f"can't listen at 127.0.0.1:{port}: Address already in use"


def test_a_name_that_is_unknown() -> None:
    with pytest.raises(ConfigError) as error, listening("nowhere.invalid", 1):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    assert str(error.value) == "can't listen at nowhere.invalid:1: Name or service not known"
