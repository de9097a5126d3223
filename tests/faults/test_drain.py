"""SIGTERM drops nothing: what was sent is answered, and then the process ends with 0."""

import asyncio
import json
import signal
from collections.abc import Iterator

import asyncpg
import pytest
from faults.load import Answer, Load, Refused, Wire
from support.process import PATIENCE, Deployment, Replica, deployment

DRAIN = 4.0


@pytest.fixture
def made() -> Iterator[Deployment]:
    with deployment(drain_seconds=DRAIN) as one:
        yield one


class Balancer:
    """What stands before replicas: it looks away from one that thrice was not ready."""

    def __init__(self, replica: Replica) -> None:
        self.looks_away = asyncio.Event()
        self._replica = replica
        self.task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        failures = 0
        for _ in range(600):
            failures = 0 if await self._replica.readiness() == 200 else failures + 1
            if failures == 3:
                break
            await asyncio.sleep(0.1)
        self.looks_away.set()


def balanced_load(balancer: Balancer, replica: Replica, key: str) -> Load:
    """Sixteen connections, some always busy, some seldom; none is opened to who is not ready."""
    load = Load()

    async def work(wire: Wire) -> Answer:
        if balancer.looks_away.is_set() and not wire.connected:
            raise Refused
        return await wire.call("PUT", "/v1/users/ada", {"name": "Ada"})

    for number in range(16):
        load.add(Wire(replica.port, key), work, pause=0.0 if number % 2 else 0.15)
    return load


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_under_load_drops_nothing(made: Deployment, how: signal.Signals) -> None:
    replica, key = await made.one_replica()
    balancer = Balancer(replica)
    load = balanced_load(balancer, replica, key)
    await load.until(300)
    replica.process.send_signal(how)
    assert await replica.ended() == 0
    await balancer.task
    await load.stop()
    assert load.refused == 16, "each worker ended because there was nobody to connect to"
    assert {answer.status for answer in load.answers} <= {200, 409}
    heard = min(one.ended for one in load.answers if one.headers.get("connection") == "close")
    during = [one for one in load.answers if one.begun > heard]
    assert during, "the replica took requests while it drained"
    assert {one.headers.get("connection") for one in during} == {"close"}
    assert "Traceback" not in replica.stderr
    assert [one for one in replica.stderr.splitlines() if '"level":"error"' in one] == []


async def test_a_draining_replica_says_so_and_still_answers(made: Deployment) -> None:
    replica, key = await made.one_replica(drain_seconds=10)
    replica.process.send_signal(signal.SIGTERM)
    await until_it_drains(replica)
    wire = Wire(replica.port, key)
    readiness = await wire.call("GET", "/readyz")
    assert readiness.status == 503
    assert [one["name"] for one in readiness.json["checks"] if not one["ok"]] == ["draining"]
    assert (await wire.call("GET", "/livez")).status == 200
    answer = await wire.call("GET", "/v1/keys")
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert await replica.ended() == 0
    with pytest.raises(Refused):
        await wire.call("GET", "/livez")


async def test_a_request_that_is_under_way_when_the_socket_closes_is_answered(
    made: Deployment,
) -> None:
    replica, key = await made.one_replica(drain_seconds=0)
    reader, writer = await asyncio.open_connection("127.0.0.1", replica.port)
    body = json.dumps({"name": "late", "scopes": ["mint"]}).encode()
    head = f"POST /v1/keys HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\nExpect: 100-continue\r\n".encode())
    writer.write(b"Content-Type: application/json\r\n\r\n")
    # It is under way when its body is asked for.
    went_on = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
    assert went_on.startswith(b"HTTP/1.1 100")
    writer.write(body[:5])
    replica.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(PATIENCE):
        while replica.listens():  # noqa: ASYNC110 - another process tells nobody
            await asyncio.sleep(0.05)
    with pytest.raises(Refused):
        await Wire(replica.port, key).call("GET", "/livez")
    writer.write(body[5:])
    answer = await asyncio.wait_for(reader.read(), PATIENCE)
    assert answer.startswith(b"HTTP/1.1 201")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["name"] == "late"
    writer.close()
    assert await replica.ended() == 0


async def test_a_second_signal_skips_the_waiting(made: Deployment) -> None:
    replica, _ = await made.one_replica(drain_seconds=60)
    replica.process.send_signal(signal.SIGTERM)
    await until_it_drains(replica)  # of two signals that come at once one alone is heard
    replica.process.send_signal(signal.SIGTERM)
    await replica.ended(40)


async def test_a_stopped_replica_leaves_no_connection_in_the_database(made: Deployment) -> None:
    replica, key = await made.one_replica()
    wires = [Wire(replica.port, key) for _ in range(5)]
    await asyncio.gather(*[wire.call("GET", "/v1/keys") for wire in wires])
    for wire in wires:
        wire.close()
    assert await replica.stop() == 0
    admin = await asyncpg.connect(made.postgres.dsn().reveal())
    held = "select count(*) from pg_stat_activity where usename = 'keyturn_app'"
    async with asyncio.timeout(10):  # the server's own processes take a moment to end
        while await admin.fetchval(held):  # noqa: ASYNC110 - they tell nobody
            await asyncio.sleep(0.05)
    await admin.close()


async def until_it_drains(replica: Replica) -> None:
    async with asyncio.timeout(PATIENCE):
        while await replica.readiness() != 503:  # noqa: ASYNC110 - another process tells nobody
            await asyncio.sleep(0.05)
