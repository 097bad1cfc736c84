"""What gives way comes after the tasks that were begun before it, and those that they begin."""

from __future__ import annotations

import asyncio

from pelure.tor.net.others_first import others_first


async def test_tasks_that_begin_tasks_go_first() -> None:
    said: list[str] = []

    async def extend() -> None:
        asyncio.get_running_loop().call_soon(said.append, "written")

    async def ask() -> None:
        await asyncio.create_task(extend())

    async def give_way() -> None:
        await others_first()
        said.append("the other")

    second = asyncio.create_task(give_way())
    await asyncio.gather(asyncio.create_task(ask()), second)
    assert said == ["written", "the other"]
