"""The gate between those who change networks and the one who compares them with the host."""

import asyncio

from pierhead.daemon.engine.gate import Gate


def test_nobody_is_inside_while_one_is_alone() -> None:
    async def story() -> list[str]:
        gate, said = Gate(), list[str]()
        may_leave = asyncio.Event()

        async def visitor(name: str) -> None:
            async with gate.shared():
                said.append(f"+{name}")
                await may_leave.wait()
                said.append(f"-{name}")

        async def alone() -> None:
            async with gate.alone(60):
                said.append("+alone")
                await asyncio.sleep(0)
                said.append("-alone")

        first = [asyncio.create_task(visitor(name)) for name in "ab"]
        await asyncio.sleep(0)
        waiting = asyncio.create_task(alone())
        await asyncio.sleep(0)
        late = asyncio.create_task(visitor("late"))
        await asyncio.sleep(0)
        assert said == ["+a", "+b"]
        may_leave.set()
        await asyncio.gather(*first, waiting, late)
        return said

    said = asyncio.run(story())
    assert said[:2] == ["+a", "+b"] and said[4:6] == ["+alone", "-alone"] and said[6:] == ["+late", "-late"]


def test_one_who_hangs_inside_does_not_stop_everybody() -> None:
    async def story() -> None:
        gate = Gate()
        async with gate.shared():
            async with gate.alone(0.01) as alone:
                assert not alone
            async with gate.shared():
                pass
        async with gate.alone(60) as alone:
            assert alone

    asyncio.run(asyncio.wait_for(story(), 60))


def test_who_gives_up_waiting_leaves_the_gate_open() -> None:
    async def story() -> None:
        gate = Gate()

        async def alone() -> None:
            async with gate.alone(60):
                raise AssertionError("somebody is inside")

        async with gate.shared():
            waiting = asyncio.create_task(alone())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            async with gate.shared():
                pass
        async with gate.alone(60):
            pass

    asyncio.run(asyncio.wait_for(story(), 60))
