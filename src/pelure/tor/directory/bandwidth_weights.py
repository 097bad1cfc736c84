"""The ``bandwidth-weights`` of a consensus (dir-spec section 3.8.3), with C tor's integer arithmetic.

Every authority must get the same numbers: divisions truncate towards zero, as C's do.
"""

from __future__ import annotations

from dataclasses import dataclass

MARGIN = 10


@dataclass(slots=True)
class ClassTotals:
    """Bandwidth (kilobytes a second) of guards, middles, exits, and relays that are guard and exit.

    They start at 1 (4 in all), as C tor's do, so that nothing divides by zero.
    """

    guard: int = 1
    middle: int = 1
    exit: int = 1
    both: int = 1
    total: int = 4

    def add(self, bandwidth: int, *, is_exit: bool, is_guard: bool) -> None:
        """Count one relay."""
        self.total += bandwidth
        if is_exit and is_guard:
            self.both += bandwidth
        elif is_exit:
            self.exit += bandwidth
        elif is_guard:
            self.guard += bandwidth
        else:
            self.middle += bandwidth


@dataclass(slots=True)
class Weights:
    """The free weights: ``Wgd`` is the weight of a guard+exit relay in the guard position, and so on."""

    Wgg: int = 0
    Wgd: int = 0
    Wmg: int = 0
    Wme: int = 0
    Wmd: int = 0
    Wee: int = 0
    Wed: int = 0


def _div(a: int, b: int) -> int:
    """``a / b`` as C computes it."""
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


def compute_weights(totals: ClassTotals, scale: int) -> dict[str, int] | None:
    """The values of the ``bandwidth-weights`` line by name, in its order; None if they can't be computed."""
    g, m, e, d, t = totals.guard, totals.middle, totals.exit, totals.both, totals.total
    if min(g, m, e, d) <= 0:
        return None
    if 3 * e >= t and 3 * g >= t:
        weights = _neither_scarce(totals, scale)
    elif 3 * e < t and 3 * g < t:
        weights = _both_scarce(totals, scale)
    else:
        weights = _one_scarce(totals, scale)
    return None if weights is None else _spread(weights, scale)


def _spread(w: Weights, scale: int) -> dict[str, int]:
    return {
        "Wbd": w.Wmd, "Wbe": w.Wme, "Wbg": w.Wmg, "Wbm": scale,
        "Wdb": scale,
        "Web": scale, "Wed": w.Wed, "Wee": w.Wee, "Weg": w.Wed, "Wem": w.Wee,
        "Wgb": scale, "Wgd": w.Wgd, "Wgg": w.Wgg, "Wgm": w.Wgg,
        "Wmb": scale, "Wmd": w.Wmd, "Wme": w.Wme, "Wmg": w.Wmg, "Wmm": scale,
    }  # fmt: skip


def _error(w: Weights, t: ClassTotals, scale: int) -> str:
    """Which rule of the balance the weights break, ``""`` if none."""

    def near(a: int, b: int, margin: int) -> bool:
        return abs(a - b) <= margin

    sums = (w.Wed + w.Wmd + w.Wgd, w.Wmg + w.Wgg, w.Wme + w.Wee)
    if not all(near(value, scale, MARGIN) for value in sums):
        return "sum"
    if not all(0 <= value <= scale for value in (w.Wgg, w.Wgd, w.Wmg, w.Wme, w.Wmd, w.Wed, w.Wee)):
        return "range"
    margin = MARGIN * t.total // 3
    guards = w.Wgg * t.guard + w.Wgd * t.both
    if not near(guards, w.Wee * t.exit + w.Wed * t.both, margin):
        return "balance-exit"
    middles = t.middle * scale + w.Wmd * t.both + w.Wme * t.exit + w.Wmg * t.guard
    return "" if near(guards, middles, margin) else "balance-middle"


def _neither_scarce(t: ClassTotals, scale: int) -> Weights | None:
    g, m, e = t.guard, t.middle, t.exit
    third = scale // 3
    wee = _div(scale * (e + g + m), 3 * e)
    wmg = _div(scale * (2 * g - e - m), 3 * g)
    weights = Weights(Wgd=third, Wed=third, Wmd=third, Wee=wee, Wme=scale - wee, Wmg=wmg, Wgg=scale - wmg)
    return None if _error(weights, t, scale) else weights


def _both_scarce(t: ClassTotals, scale: int) -> Weights | None:
    g, m, e, d = t.guard, t.middle, t.exit, t.both
    if min(e, g) + d < max(e, g):
        exit_scarce = e < g
        return Weights(Wgg=scale, Wee=scale, Wed=scale if exit_scarce else 0, Wgd=0 if exit_scarce else scale)
    wed = _div(scale * (d - 2 * e + 4 * g - 2 * m), 3 * d)
    half = _div(scale - wed, 2)
    weights = Weights(
        Wgg=scale, Wee=_div(scale * (e - g + m), e), Wed=wed, Wme=_div(scale * (g - m), e), Wmd=half, Wgd=half
    )
    if not _error(weights, t, scale):
        return weights
    wed = _div(scale * (d - 2 * e + g + m), 3 * d)
    # A middle weight below zero means more middle bandwidth than the balance can use up.
    wmd = max(_div(scale * (d - 2 * m + g + e), 3 * d), 0)
    weights = Weights(Wgg=scale, Wee=scale, Wed=wed, Wmd=wmd, Wgd=scale - wed - wmd)
    return weights if _error(weights, t, scale) in ("", "balance-middle") else None


def _one_scarce(t: ClassTotals, scale: int) -> Weights | None:
    g, m, e, d = t.guard, t.middle, t.exit, t.both
    if 3 * (min(e, g) + d) < t.total:
        if g < e:
            wme = 0 if e < m else _div(scale * (e - m), 2 * e)
            return Weights(Wgg=scale, Wgd=scale, Wme=wme, Wee=scale - wme)
        wmg = 0 if g < m else _div(scale * (g - m), 2 * g)
        return Weights(Wee=scale, Wed=scale, Wmg=wmg, Wgg=scale - wmg)
    if g < e:
        wgd = _div(scale * (d - 2 * g + e + m), 3 * d)
        wee = _div(scale * (e + m), 2 * e)
        half = _div(scale - wgd, 2)
        weights = Weights(Wgg=scale, Wgd=wgd, Wee=wee, Wme=scale - wee, Wmd=half, Wed=half)
    else:
        wed = _div(scale * (d - 2 * e + g + m), 3 * d)
        wgg = _div(scale * (g + m), 2 * g)
        half = _div(scale - wed, 2)
        weights = Weights(Wee=scale, Wed=wed, Wgg=wgg, Wmg=scale - wgg, Wmd=half, Wgd=half)
    return None if _error(weights, t, scale) else weights
