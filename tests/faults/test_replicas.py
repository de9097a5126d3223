"""Several replicas on one database: what one of them was told holds for all, at once."""

import asyncio
import itertools
from collections.abc import Iterator

import pytest
from faults.load import Answer, Load, Wire
from support.process import Deployment, Replica, deployment


@pytest.fixture
def two() -> Iterator[Deployment]:
    with deployment() as made:
        yield made


async def ready_pair(made: Deployment) -> tuple[Replica, Replica, str]:
    await made.migrate()
    first, second = made.start(), made.start()
    await asyncio.gather(first.ready(), second.ready())
    key = first.first_key or second.first_key
    assert key is not None
    return first, second, key


async def test_a_revoked_key_is_dead_on_every_replica_from_the_next_request_on(
    two: Deployment,
) -> None:
    first, second, key = await ready_pair(two)
    owner = Wire(first.port, key)
    made = (await owner.call("POST", "/v1/keys", {"name": "k", "scopes": ["manage"]})).json
    load = Load()
    for number in range(16):
        replica = (first, second)[number % 2]
        load.add(Wire(replica.port, made["key"]), lambda wire: wire.call("GET", "/v1/users"))
    await load.until(500)
    revoked = await owner.call("DELETE", f"/v1/keys/{made['id']}")
    assert revoked.status == 204
    await load.until(1000 + len(load.answers) - 500)
    answers = await load.stop()
    before = [one for one in answers if one.ended < revoked.begun]
    after = [one for one in answers if one.begun > revoked.ended]
    assert {one.status for one in before} == {200}
    assert {one.status for one in after} == {401}
    assert min(len(before), len(after)) >= 400
    owner.close()


async def test_a_write_at_one_replica_is_read_at_the_other(two: Deployment) -> None:
    first, second, key = await ready_pair(two)
    writer, reader = Wire(first.port, key), Wire(second.port, key)
    for number in range(100):
        await writer.call("PUT", "/v1/users/ada", {"name": f"Ada {number}"})
        assert (await reader.call("GET", "/v1/users/ada")).json["name"] == f"Ada {number}"
    writer.close()
    reader.close()


async def test_one_idempotent_request_at_both_replicas_at_once_makes_one_key(
    two: Deployment,
) -> None:
    first, second, key = await ready_pair(two)
    wires = [Wire(replica.port, key) for replica in (first, second) for _ in range(4)]
    numbers = itertools.count()

    async def storm() -> list[Answer]:
        name = f"k{next(numbers)}"
        body = {"name": name, "scopes": ["mint"]}
        return await asyncio.gather(
            *[wire.call("POST", "/v1/keys", body, Idempotency_Key=name) for wire in wires]
        )

    for _ in range(20):
        answers = await storm()
        assert {one.status for one in answers} <= {201, 409}
        made = [one.json for one in answers if one.status == 201]
        assert len({one["id"] for one in made}) == 1
        assert len([one for one in made if one["key"]]) == 1
    listed = (await wires[0].call("GET", "/v1/keys?limit=100")).json["data"]
    assert len(listed) == 21
    for wire in wires:
        wire.close()
