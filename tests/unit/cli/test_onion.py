"""``pelure onion`` commands that need no network: keys, clients, wrong usage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pelure.cli.main import app
from pelure.tor.onion.auth_files import AuthPrivate
from pelure.tor.service.keys import ServiceKeys


def pelure(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "service"
    assert pelure("onion", "keygen", "--dir", path).exit_code == 0
    return path


def test_keygen_and_address_agree(folder: Path) -> None:
    address = ServiceKeys.load(folder).address
    assert pelure("onion", "address", "--dir", folder).stdout == f"{address}\n"
    event = json.loads(pelure("onion", "address", "--dir", folder, "--json").stdout)
    assert event == {"event": "address", "address": address}
    again = pelure("onion", "keygen", "--dir", folder)
    assert again.exit_code == 1
    assert len(again.stderr.splitlines()) == 1


def test_a_clients_key_pair_is_made_and_its_secret_not_kept(folder: Path) -> None:
    event = json.loads(pelure("onion", "clients", "add", "alice", "--dir", folder, "--json").stdout)
    entry = AuthPrivate.decode(event["auth_private"])
    keys = ServiceKeys.load(folder)
    assert entry.identity == keys.identity.public
    assert keys.clients == {"alice": entry.key.public}
    assert pelure("onion", "clients", "add", "alice", "--dir", folder).exit_code == 1


def test_clients_are_listed_and_removed(folder: Path) -> None:
    key = "descriptor:x25519:OM7TGIVRYMY6PFX6GAC6ATRTA5U6WW6U7A4ZNHQDI6OVL52XVV2Q"
    assert pelure("onion", "clients", "add", "bob", "--dir", folder, "--key", key).exit_code == 0
    assert key in pelure("onion", "clients", "list", "--dir", folder).stdout
    assert pelure("onion", "clients", "remove", "bob", "--dir", folder).exit_code == 0
    assert pelure("onion", "clients", "list", "--dir", folder).stdout == ""
    assert ServiceKeys.load(folder).clients  # still closed to everyone
    assert pelure("onion", "clients", "clear", "--dir", folder).exit_code == 0
    assert not ServiceKeys.load(folder).clients
    assert pelure("onion", "clients", "remove", "bob", "--dir", folder).exit_code == 1
    assert pelure("onion", "clients", "add", "x", "--dir", folder, "--key", "bad").exit_code == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve"],
        ["serve", "--port", "x"],
        ["serve", "--port", "80", "--port", "80:81"],
        ["serve", "--port", "80", "--site", "."],
        ["serve", "--port", "80", "--pow", "--pow-rate", "0"],
        ["serve", "--port", "80", "--pow-rate", "5"],
        ["serve", "--site", "/no/such/folder"],
        ["keygen"],
    ],
)
def test_wrong_usage_has_exit_status_2(arguments: list[str]) -> None:
    assert pelure("onion", *arguments).exit_code == 2
