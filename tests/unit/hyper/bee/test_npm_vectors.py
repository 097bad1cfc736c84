"""Blocks and differences equal those of npm hyperbee, byte for byte.

The vectors are made by tests/interop/node/make_bee_vectors.js.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from pelure.hyper.bee.bee import Bee
from pelure.hyper.bee.messages import Header
from pelure.hyper.core.corestore import Corestore

CASES = json.loads((Path(__file__).parents[3] / "vectors" / "hyper" / "bee.json").read_text())["cases"]


def mixed(seed: int, count: int, keys: int, batched: bool = False) -> list[Any]:
    state = seed

    def following(limit: int) -> int:
        nonlocal state
        state = state * 48271 % 2147483647
        return state % limit

    steps: list[Any] = []
    for i in range(count):
        # the order of the draws is part of the vectors
        put = following(3) < 2
        key = f"key {following(keys)}"
        step = ["put", key, f"value {i}"] if put else ["del", key]
        if batched and i % 9:
            steps[-1].append(step)
        else:
            steps.append([step] if batched else step)
    return steps


def steps_of(case: dict[str, Any]) -> list[Any]:
    name = case["name"]
    if "steps" in case:
        return list(case["steps"])
    if name == "large":
        return mixed(77, 3000, 3000)
    number = int(name.split()[-1])
    if "batches" in name:
        return mixed(number, 600, 8 * number * number, True)
    return mixed(number, 600, 30 * number * number)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
async def test_blocks_and_differences(store: Corestore, case: dict[str, Any]) -> None:
    core = store.get(name="bee")
    bee = Bee(core, Header(with_metadata=case["name"] == "metadata"))
    expected: dict[bytes, bytes] = {}
    for step in steps_of(case):
        batch = bee.batch()
        for kind, key, *value in step if isinstance(step[0], list) else [step]:
            raw = key.encode()
            if kind == "put":
                batch.put(raw, value[0].encode())
                expected[raw] = value[0].encode()
            else:
                batch.delete(raw)
                expected.pop(raw, None)
        await batch.flush()
    blocks = [(core.get_local(i) or b"").hex() for i in range(core.length)]
    if "blocks" in case:
        assert blocks == case["blocks"]
    assert core.length == case["length"]
    assert hashlib.sha256("\n".join(blocks).encode()).hexdigest() == case["digest"]
    # a fresh view, without what the writer still has in memory
    fresh = Bee(core)
    assert {entry.key: entry.value async for entry in fresh.range()} == expected
    for key, value in list(expected.items())[:50]:
        entry = fresh.get_local(key)
        assert entry is not None and entry.value == value
    if "diff" in case:
        found = [
            [
                difference.left and difference.left.key.decode(),
                difference.left and difference.left.seq,
                difference.right and difference.right.key.decode(),
                difference.right and difference.right.seq,
            ]
            async for difference in fresh.diff(case["half"])
        ]
        assert found == case["diff"]
