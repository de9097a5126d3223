"""Calls that go out at once, over a connection that is at hand: beside those that wait for one.

The long way and the short way of a call are held against each other: whatever a server says, and
however it says it, both come to the same.
"""

import asyncio
import gc
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.framing import CLOSED, FRAMES, REFUSED
from support.loopback import OK, Authority, Listener, ask, calling, listening, saying
from yarl import URL

from vault.egress import Egress, Endpoint, Purpose, Reply, Request, Timeouts, VettedUrl
from vault.egress.deadline import Deadline
from vault.egress.messages import MAX_REPLY
from vault.egress.names import Names, OwnServices
from vault.egress.pool import Host
from vault.errors import Unreachable, VaultError

PATIENT = Timeouts(read=60, total=60)
QUICK = Timeouts(total=0.4)

End = tuple[object, ...]


@pytest.fixture(autouse=True)
def kept_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection is kept however long a test takes until its next call."""
    monkeypatch.setattr("vault.egress.pool.KEEP_ALIVE", 60.0)


def url(server: Listener) -> str:
    return f"http://127.0.0.1:{server.port}/"


async def until_closed(server: Listener) -> None:
    async with asyncio.timeout(30):  # at once, and not because nobody uses it
        while server.open:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.005)


class Scripted:
    """Answers each request with what it is told to say next; with ``OK`` unless it is told.

    Who waits for more, with a call of ``egress``, has waited in vain as soon as all was said and
    heard: nobody has to measure time for it.
    """

    def __init__(self) -> None:
        self.next: Sequence[bytes] = [OK]
        self.egress: Egress | None = None

    async def __call__(self, writer: asyncio.StreamWriter) -> None:
        pieces, self.next = self.next, [OK]
        waiting = self._waiting()
        await saying(*pieces)(writer)
        for _ in range(50):  # it is heard in this very loop
            await asyncio.sleep(0)
        for one in waiting & self._waiting():
            one.end()

    def _waiting(self) -> set[Deadline]:
        egress = self.egress
        return set(egress._deadlines._under_way) if egress else set()  # noqa: SLF001 - whose time it is


def end_of(end: Reply | VaultError) -> End:
    """All that whoever called gets to see."""
    if isinstance(end, Reply):
        return end.status, tuple(end.headers), end.body
    sent = getattr(end, "sent", None)
    return type(end), end.message, sent, end.__cause__, end.__context__


def request(server: Listener, **more: object) -> Request:
    values = {"body": b"form", "timeout": PATIENT, **more}
    return Request(method="POST", url=url(server), **values)  # type: ignore[arg-type] # its fields


async def by_the_long_way(server: Listener, one: Request, script: Scripted) -> End:
    """Over a connection that has to be made first."""
    async with calling() as egress:
        script.egress = egress
        assert egress.begin("tool", one, lambda _: None) is None
        try:
            return end_of(await egress.call("tool", one))
        except VaultError as error:
            return end_of(error)


async def begun(egress: Egress, one: Request, purpose: Purpose = "tool") -> Reply | VaultError:
    """At once, or not at all."""
    heard: asyncio.Future[Reply | VaultError] = asyncio.get_running_loop().create_future()
    errand = egress.begin(purpose, one, heard.set_result)
    assert errand is not None
    assert not heard.done(), "it is told of its end by the loop, and never before it is begun"
    return await heard


async def by_the_short_way(server: Listener, one: Request, script: Scripted) -> End:
    async with calling() as egress:
        script.egress = egress
        pieces, script.next = script.next, [OK]
        assert (await ask(egress, url(server), method="POST")).body == b"ok"
        script.next = pieces
        end = end_of(await begun(egress, one))
        # It is over: the next one finds a connection that is as it should be.
        script.next = [OK]
        assert (await ask(egress, url(server), method="POST")).body == b"ok"
        return end


async def both_come_to_the_same(pieces: Sequence[bytes], limit: int = MAX_REPLY) -> End:
    script = Scripted()
    async with listening(script) as server:
        one = request(server, max_bytes=limit)
        script.next = pieces
        long = await by_the_long_way(server, one, script)
        script.next = pieces
        assert await by_the_short_way(server, one, script) == long
        return long


@pytest.mark.parametrize("frame", FRAMES)
async def test_an_answer_is_the_same_by_both_ways(frame: str) -> None:
    status, _, body = await both_come_to_the_same(FRAMES[frame][0])
    assert (status, body) == (200, b"body")


@pytest.mark.parametrize("answer", REFUSED)
async def test_what_is_no_answer_is_refused_by_both_ways(answer: str) -> None:
    kind, *_ = await both_come_to_the_same(REFUSED[answer])
    assert isinstance(kind, type)


def test_whatever_is_said_in_whatever_pieces_comes_to_the_same_by_both_ways() -> None:
    whole = [b"".join(pieces) for pieces in [*(one for one, _ in FRAMES.values()), [OK]]]

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        said=st.sampled_from(whole),
        kept=st.floats(0, 1),
        flipped=st.none() | st.tuples(st.floats(0, 0.999), st.integers(0, 255)),
        cuts=st.integers(0, 4),
        closes=st.booleans(),
        limit=st.sampled_from([3, 4, MAX_REPLY]),
        seed=st.integers(0, 1_000),
    )
    def check(
        said: bytes,
        kept: float,
        flipped: tuple[float, int] | None,
        cuts: int,
        closes: bool,  # noqa: FBT001 - drawn
        limit: int,
        seed: int,
    ) -> None:
        data = bytearray(said[: max(1, round(kept * len(said)))])
        if flipped is not None:
            data[int(flipped[0] * len(data))] = flipped[1]
        chance = random.Random(seed)  # noqa: S311 - nobody guesses
        places = sorted(chance.randrange(1, len(data) + 1) for _ in range(cuts))
        ends = [0, *places, len(data)]
        pieces = [bytes(data[a:b]) for a, b in pairwise(ends) if b > a]
        asyncio.run(both_come_to_the_same([*pieces, *([CLOSED] if closes else [])], limit))

    check()


@asynccontextmanager
async def warm(server: Listener, **options: object) -> AsyncIterator[Egress]:
    """One connection is kept."""
    async with calling(**options) as egress:  # type: ignore[arg-type] # options of an Egress
        await ask(egress, url(server), method="POST")
        yield egress


async def test_nothing_leaves_where_something_would_have_to_be_waited_for_or_is_refused() -> None:
    def nobody(_: object) -> None:
        raise AssertionError

    async with listening(saying(OK, after=0.1)) as server, warm(server, max_per_host=1) as egress:
        fine = request(server)
        for purpose, one in (
            ("provider", fine),  # another purpose has its own connections
            ("tool", Request(method="PUT", url=url(server))),  # it may be sent twice
            ("tool", Request(method="POST", url="http://10.0.0.1/")),
            ("tool", request(server, headers=(("Host", "example.com"),))),
            ("tool", Request(method="POST", url=url(server).replace("http", "ftp"))),
        ):
            assert egress.begin(purpose, one, nobody) is None  # type: ignore[arg-type] # a purpose
        assert len(server.heard) == 1
        occupying = asyncio.create_task(egress.call("tool", fine))
        await asyncio.sleep(0)
        assert egress.begin("tool", fine, nobody) is None, "there is no room"
        assert (await occupying).body == b"ok"
        assert isinstance(await begun(egress, fine), Reply)
        await egress.aclose()
        assert egress.begin("tool", fine, nobody) is None
        assert len(server.heard) == 3


async def test_a_service_of_our_own_is_out_of_reach_of_a_connection_that_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What may be called was decided for this very call, and not when the connection was made."""
    monkeypatch.setattr("vault.egress.names.NAMES_LAST", 60.0)
    table = {"ours.example": ["127.0.0.2"]}
    async with listening(saying(OK)) as server:
        ours = Endpoint("ours.example", server.port)
        async with calling("127.0.0.1", table, forbidden=[ours]) as egress:
            one = request(server)
            await egress.call("tool", one)
            assert isinstance(await begun(egress, one), Reply)
            table["ours.example"] = ["127.0.0.1"]
            grow_old(egress._own._names)  # noqa: SLF001 - instead of waiting
            assert egress.begin("tool", one, lambda _: None) is None, "nobody knows where ours is"
            with pytest.raises(VaultError, match="may not be called"):
                await egress.call("tool", one)
            assert egress.begin("tool", one, lambda _: None) is None, "ours is there"
            assert len(server.heard) == 2


def grow_old(names: Names) -> None:
    """Whatever is remembered was remembered long ago."""
    known = names._known  # noqa: SLF001 - instead of waiting
    known |= {host: (0.0, task) for host, (_, task) in known.items()}


SOME_HOSTS = st.sampled_from(["10.0.0.1", "10.0.0.2", "::1", "ours.example", "0.0.0.0", ""])  # noqa: S104 - never bound
SOME_PORTS = st.sampled_from([443, 8443])


@given(
    endpoints=st.lists(st.builds(Endpoint, SOME_HOSTS, st.none() | SOME_PORTS), max_size=3),
    host=SOME_HOSTS.filter(bool),
    port=SOME_PORTS,
)
def test_nobody_has_to_ask_where_ours_are_only_if_none_is_on_that_port(
    endpoints: list[Endpoint], host: str, port: int
) -> None:
    names = Names(None)
    own = OwnServices(endpoints, names)
    address = ip_address("10.0.0.1")
    url = VettedUrl(url=URL.build(scheme="https", host=host), host=host, port=port, address=None)
    assert own.may_be_on(port) == any(one.port in (None, port) for one in endpoints)
    if not own.may_be_on(port):
        assert own.are_surely_elsewhere(url, [address], 0)
        assert not asyncio.run(own.are_at(url, [address], 0))
    names.close()


async def test_a_url_that_asks_something_is_not_kept_and_goes_the_short_way_all_the_same() -> None:
    async with listening(saying(OK)) as server, warm(server) as egress:
        for address in (url(server), f"{url(server)}?key=sentinel-5f1d"):
            one = Request(method="POST", url=address, timeout=PATIENT)
            assert isinstance(await begun(egress, one), Reply)
        assert b"POST /?key=sentinel-5f1d HTTP/1.1" in server.heard[-1]
        assert server.accepted == 1
        gc.collect()
        kept = [str(held.url) for held in gc.get_objects() if isinstance(held, VettedUrl)]
        assert url(server) in kept
        assert not [held for held in kept if "sentinel-5f1d" in held]


async def test_what_one_client_certificate_opened_carries_no_errand_of_anybody_else(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    authority = Authority(tmp_path_factory.mktemp("authority"))
    table = {"api.example.com": ["127.0.0.1"]}
    async with (
        listening(saying(OK), tls=authority.server("api.example.com")) as server,
        calling("api.example.com", table, ca_file=authority.file) as egress,
    ):
        at = f"https://api.example.com:{server.port}/"
        contexts = [None, egress.tls_context(), egress.tls_context()]
        for number, tls in enumerate(contexts, start=1):
            one = Request(method="POST", url=at, tls=tls)
            assert egress.begin("tool", one, lambda _: None) is None, "nothing is kept for it"
            await egress.call("tool", one)
            assert server.accepted == number
            assert isinstance(await begun(egress, one), Reply)
        assert (server.accepted, len(server.heard)) == (3, 6)


async def test_names_that_have_to_be_looked_up_again_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vault.egress.names.NAMES_LAST", 60.0)
    table = {"theirs.example": ["127.0.0.1"]}
    async with listening(saying(OK)) as server, calling("theirs.example", table) as egress:
        one = Request(method="POST", url=f"http://theirs.example:{server.port}/", timeout=PATIENT)
        await egress.call("tool", one)
        assert isinstance(await begun(egress, one), Reply)
        table["theirs.example"] = ["127.0.0.3"]
        grow_old(egress._lane("tool").names)  # noqa: SLF001 - instead of waiting
        assert egress.begin("tool", one, lambda _: None) is None
        with pytest.raises(Unreachable):
            await egress.call("tool", one)


async def test_who_gives_up_hears_no_more_and_the_connection_is_closed() -> None:
    async with listening(saying(OK, after=0.05)) as server, warm(server, max_per_host=1) as egress:
        heard: list[object] = []
        errand = egress.begin("tool", request(server), heard.append)
        assert errand is not None
        errand.give_up()
        errand.give_up()
        await until_closed(server)
        await asyncio.sleep(0.1)
        assert heard == []
        assert (await ask(egress, url(server), method="POST")).body == b"ok", "its place is free"
        assert server.accepted == 2


async def test_who_cancels_a_call_closes_its_connection_too() -> None:
    async with listening(saying(OK, after=0.05)) as server, warm(server) as egress:
        task = asyncio.create_task(egress.call("tool", request(server)))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until_closed(server)


async def test_an_answer_that_is_late_is_told_to_be_and_so_is_one_that_is_waited_for_in_vain() -> (
    None
):
    script = Scripted()
    async with listening(script) as server, warm(server) as egress:
        script.next = [OK[:-1]]
        end = await begun(egress, request(server, timeout=QUICK))
        assert end_of(end) == (
            Unreachable,
            f"127.0.0.1:{server.port}: no answer in time.",
            True,
            None,
            None,
        )
        await until_closed(server)


async def test_a_place_is_forgotten_once_nobody_is_there_and_nothing_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def places() -> int:
        gc.collect()
        hosts = [one for one in gc.get_objects() if isinstance(one, Host)]
        return len([one for one in hosts if one.place[1] == server.port])

    script = Scripted()
    async with listening(script) as server, calling() as egress:
        await ask(egress, url(server), method="POST")
        assert isinstance(await begun(egress, request(server)), Reply)
        assert places() == 1
        with monkeypatch.context() as at_once:
            at_once.setattr("vault.egress.pool.KEEP_ALIVE", 0)
            egress._lane("tool").pool._tidy()  # noqa: SLF001 - nobody uses it for as long as that
        await until_closed(server)
        assert places() == 0

        await ask(egress, url(server), method="POST")
        script.next = [OK, CLOSED]
        assert isinstance(await begun(egress, request(server)), Reply)
        await until_closed(server)
        for last in ([OK[:-1], CLOSED], [CLOSED]):
            await ask(egress, url(server), method="POST")
            script.next = last
            held = asyncio.create_task(egress.call("tool", request(server)))
            await asyncio.sleep(0)
            assert places() == 1, "it is lent"
            with pytest.raises(Unreachable):
                await asyncio.wait_for(held, 30)
            assert places() == 0
        assert (await ask(egress, url(server), method="POST")).body == b"ok"


async def test_who_closes_ends_what_is_under_way() -> None:
    async with listening(saying(OK, after=0.05)) as server, calling() as egress:
        await asyncio.gather(*(ask(egress, url(server), method="POST") for _ in range(20)))
        heard: list[Reply | VaultError] = []
        for _ in range(20):
            assert egress.begin("tool", request(server), heard.append) is not None
        await egress.aclose()
        assert {type(one) for one in heard} == {Unreachable}
        assert len(heard) == 20
        await until_closed(server)


async def test_one_that_is_told_may_begin_another_on_the_same_connection() -> None:
    async with listening(saying(OK)) as server, warm(server) as egress:
        over = asyncio.Event()
        left = 5

        def then(end: Reply | VaultError) -> None:
            nonlocal left
            assert isinstance(end, Reply)
            left -= 1
            if left:
                assert egress.begin("tool", request(server), then) is not None
            else:
                over.set()

        then(await begun(egress, request(server)))
        await asyncio.wait_for(over.wait(), 30)
        assert (server.accepted, len(server.heard)) == (1, 6)
