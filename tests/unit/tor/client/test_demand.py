"""What circuits are kept ready (path-spec 2.1.1)."""

from __future__ import annotations

from pelure.tor.client import demand as d


def test_ports_of_the_last_hour() -> None:
    demand = d.Demand(0.0)
    assert demand.ports(0.0) == [80, 443]
    demand.exit_used(22, 1000.0)
    demand.exit_used(80, 2000.0)
    assert demand.ports(2000.0) == [443, 22, 80]
    assert demand.ports(3700.0) == [22, 80]
    assert demand.ports(1e9) == []


def test_ports_are_bounded() -> None:
    demand = d.Demand(0.0)
    for port in range(1, 200):
        demand.exit_used(port, 1.0)
    assert len(demand.ports(1.0)) == d.MAX_PORTS
    assert 199 in demand.ports(1.0)


def test_internal_circuits_follow_use() -> None:
    demand = d.Demand(0.0, lengths=[3])
    assert demand.internal(0.0) == {3: d.INTERNAL_MIN}
    for _ in range(9):
        demand.internal_used(2, 10.0)
    assert demand.internal(10.0) == {3: d.INTERNAL_MIN, 2: 9}
    for _ in range(100):
        demand.internal_used(2, 20.0)
    assert demand.internal(20.0)[2] == d.INTERNAL_MAX
    assert demand.internal(20.0 + d.RECENT)[2] == d.INTERNAL_MIN
    assert demand.internal(1e9) == {}
