"""Exit policies and their summaries (dir-spec 2.1.3, 3.8.2)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import DirectoryError
from pelure.tor.directory.exit_policy import REJECT_ALL, ExitPolicy, PortPolicy
from unit.tor.directory.support import survives


def summary(*lines: str, version: int = 4) -> str:
    return str(ExitPolicy.parse(lines).summary(version))


def test_summaries() -> None:
    assert summary("accept *:*") == "accept 1-65535"
    assert summary("reject *:*") == "reject 1-65535"
    assert summary("reject *:25", "accept *:*") == "reject 25"
    assert summary("accept *:80", "accept *:443", "accept *:20-23", "reject *:*") == "accept 20-23,80,443"
    assert summary("accept *:80-89", "accept *:90", "reject *:*") == "accept 80-90"


def test_private_networks_do_not_count() -> None:
    assert summary("reject private:*", "accept *:80", "reject *:*") == "accept 80"
    assert summary("reject 10.0.0.0/8:*", "accept *:80", "reject *:*") == "accept 80"


def test_a_few_rejected_addresses_do_not_count_but_many_do() -> None:
    assert summary("reject 1.2.3.4:*", "reject 8.0.0.0/8:80", "accept *:80", "reject *:*") == "accept 80"
    assert summary("reject 8.0.0.0/6:80", "accept *:80", "reject *:*") == "reject 1-65535"
    assert (
        summary("reject 8.0.0.0/7:80", "reject 1.1.1.1:80", "accept *:80", "reject *:*") == "reject 1-65535"
    )


def test_accepting_part_of_the_addresses_is_not_accepting() -> None:
    assert summary("accept 1.2.3.0/24:80", "reject *:*") == "reject 1-65535"


def test_ipv6() -> None:
    lines = ("accept6 *:80", "reject6 *:*", "accept *:443", "reject *:*")
    assert summary(*lines, version=6) == "accept 80"
    assert summary(*lines) == "accept 443"
    assert summary("reject [2001::]/16:80", "accept *:80-81", "reject *:*", version=6) == "accept 80-81"
    assert summary("reject [2000::]/15:80", "accept *:80-81", "reject *:*", version=6) == "accept 81"


def test_descriptors_list_what_holds_for_ipv4() -> None:
    """C tor's authorities refuse descriptors with other rules."""
    lines = ("reject private:*", "reject [2001:db8::7]:*", "accept *4:80", "accept *6:81", "accept *:443")
    policy = ExitPolicy.parse([*lines, "accept6 *:82", "reject6 192.0.2.1:443", "reject *:*"])
    assert policy.lines() == ["reject private:*", "accept *:80", "accept *:443", "reject *:*"]
    assert policy.allows("2001:db8::1", 81) and policy.allows("192.0.2.1", 443)
    assert summary(*policy.lines()) == str(policy.summary())


def test_long_summaries_are_cut() -> None:
    lines = [f"accept *:{port}" for port in range(1, 1200, 2)]
    text = summary(*lines, "reject *:*")
    assert text.startswith("accept 1,3,5,") and len(text) <= 1000
    assert str(PortPolicy.parse(text)) == text


def test_the_first_rule_that_matches_decides() -> None:
    policy = ExitPolicy.parse(["reject 10.0.0.0/8:*", "accept 10.1.0.0/16:80", "accept *:80", "reject *:*"])
    assert policy.allows("8.8.8.8", 80) and policy.allows("2001:db8::1", 80)
    assert not policy.allows("10.1.2.3", 80) and not policy.allows("8.8.8.8", 81)
    assert ExitPolicy.parse([]).allows("8.8.8.8", 1)
    with pytest.raises(DirectoryError):
        policy.allows("example.org", 80)


def test_port_policies() -> None:
    accepting, rejecting = PortPolicy.parse("accept 80,443,8000-8100"), PortPolicy.parse("reject 25,119")
    assert accepting.allows(8050) and not accepting.allows(81)
    assert rejecting.allows(80) and not rejecting.allows(25)
    assert accepting.allows_some and rejecting.allows_some and not REJECT_ALL.allows_some


@pytest.mark.parametrize(
    "text",
    ["", "accept", "accept ", "allow 80", "accept 0", "accept 65536", "accept 9-8", "accept 80,", "accept x"],
)
def test_malformed_summaries(text: str) -> None:
    with pytest.raises(DirectoryError):
        PortPolicy.parse(text)


@pytest.mark.parametrize(
    "line",
    ["allow *:80", "accept", "accept 1.2.3.4.5:80", "accept [::1:80", "accept *:x", "accept 1.2.3.4/33:80"],
)
def test_malformed_rules(line: str) -> None:
    with pytest.raises(DirectoryError):
        ExitPolicy.parse([line])


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=40))
def test_random_text(text: str) -> None:
    survives(lambda _: PortPolicy.parse(text), b"")
    survives(lambda _: PortPolicy.parse("accept " + text), b"")
    survives(lambda _: ExitPolicy.parse(["accept " + text]), b"")


rules = st.builds(
    lambda verb, address, low, span: f"{verb} {address}:{low}-{min(low + span, 65535)}",
    st.sampled_from(["accept", "reject"]),
    st.sampled_from(["*", "1.0.0.0/8", "10.0.0.0/8", "8.0.0.0/5", "1.2.3.4"]),
    st.integers(1, 65535),
    st.integers(0, 3000),
)


@settings(deadline=None, max_examples=100)
@given(st.lists(rules, max_size=12))
def test_a_summary_tells_what_an_ordinary_address_gets(lines: list[str]) -> None:
    policy = ExitPolicy.parse([*lines, "reject *:*"])
    told = policy.summary()
    for line in lines:
        port = int(line.rsplit(":", 1)[1].split("-")[0])
        if told.allows(port):
            assert policy.allows("200.1.2.3", port)
