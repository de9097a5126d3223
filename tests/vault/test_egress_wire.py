"""Calls that are read whole, against servers that speak HTTP oddly, wrongly, or late."""

import asyncio
import gzip
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from time import monotonic
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.framing import CHUNKED, CLOSED, FOUR, FRAMES, HEAD, REFUSED
from support.loopback import OK, Authority, Listener, ask, calling, listening, saying, until

from vault.egress import Timeouts
from vault.egress.deadline import Deadline
from vault.egress.messages import MAX_HEADERS, Outgoing
from vault.egress.wire import Exchange, NotHttp
from vault.errors import AnswerTooLarge, Unreachable, UpstreamFailed


def url(server: Listener) -> str:
    return f"http://127.0.0.1:{server.port}/"


AT_ONCE = 30.0


@pytest.fixture(autouse=True)
def kept_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection is kept however long a test takes until its next call."""
    monkeypatch.setattr("vault.egress.pool.KEEP_ALIVE", 2 * AT_ONCE)


async def until_closed(server: Listener) -> None:
    async with asyncio.timeout(AT_ONCE):  # and not because nobody uses it
        while server.open:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.005)


def has_heard(server: Listener, number: int) -> bool:
    return len(server.heard) >= number


@pytest.mark.parametrize("frame", FRAMES)
async def test_an_answer_is_read_however_it_is_framed(frame: str) -> None:
    pieces, stays = FRAMES[frame]
    async with listening(saying(*pieces)) as server, calling() as egress:
        for _ in range(2):
            reply = await ask(egress, url(server), method="POST", body=b"form")
            assert (reply.status, reply.body) == (200, b"body")
            assert reply.get("X-One") is None
        assert (server.accepted, len(server.heard)) == (1 if stays else 2, 2)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n",
        HEAD + b"Content-Length: 0\r\n\r\n",
        CHUNKED + b"\r\n0\r\n\r\n",
    ],
    ids=["204", "304", "of no length", "of no chunk"],
)
async def test_an_answer_without_a_body_has_ended_with_its_head(head: bytes) -> None:
    async with listening(saying(head)) as server, calling() as egress:
        for _ in range(2):
            assert (await ask(egress, url(server))).body == b""
        assert server.accepted == 1


async def test_after_head_nobody_takes_what_follows_for_an_answer() -> None:
    async with listening(saying(HEAD + FOUR)) as server, calling() as egress:
        for _ in range(2):
            assert (await ask(egress, url(server), method="HEAD")).body == b""
        assert (server.accepted, len(server.heard)) == (2, 2)


@pytest.mark.parametrize("answer", REFUSED)
async def test_what_can_be_read_in_two_ways_or_never_ends_is_refused(answer: str) -> None:
    async with listening(saying(*REFUSED[answer])) as server, calling() as egress:
        with pytest.raises(UpstreamFailed, match="not HTTP that can be read"):
            await ask(egress, url(server), method="POST", timeout=Timeouts(total=60))
        await until_closed(server)
        assert len(server.heard) == 1


@pytest.mark.parametrize(
    "body",
    [
        [HEAD + b"Content-Length: 11\r\n\r\n"],
        [HEAD + b"Content-Length: 11\r\n\r\n" + b"a" * 11],
        [CHUNKED + b"\r\n6\r\naaaaaa\r\n", b"5\r\naaaaa\r\n", b"0\r\n\r\n"],
        [HEAD + b"\r\n", b"a" * 6, b"a" * 5, CLOSED],
    ],
    ids=["announced", "sent", "in chunks", "until the end"],
)
async def test_a_body_that_is_a_byte_too_long_is_refused_and_the_connection_dropped(
    body: list[bytes],
) -> None:
    async with listening(saying(*body)) as server, calling() as egress:
        with pytest.raises(AnswerTooLarge):
            await ask(egress, url(server), max_bytes=10)
        await until_closed(server)


async def test_a_body_in_the_smallest_chunks_is_no_nuisance() -> None:
    one = b"1\r\na\r\n"
    answer = saying(CHUNKED + b"\r\n", *[one * 5_000] * 10, b"0\r\n\r\n")
    async with listening(answer) as server, calling() as egress:
        assert (await ask(egress, url(server))).body == b"a" * 50_000


class Never(Deadline):
    """One that is not met."""

    def __init__(self) -> None:
        super().__init__(asyncio.new_event_loop(), total=60, read=60)
        self._loop.close()  # it goes on telling the time

    def end(self) -> None:
        raise AssertionError


NEVER = Never()


def heard(*pieces: bytes, limit: int = 1_000) -> Exchange:
    """What comes of these pieces; nobody sends or waits for them."""
    exchange = Exchange(Outgoing("POST", b"", limit), NEVER)
    for piece in pieces:
        if not exchange.done:
            exchange.feed(piece)
    if not exchange.done:
        exchange.ended()
    exchange.over()
    return exchange


BODY = st.lists(st.binary(min_size=1, max_size=20), max_size=5)


@given(pieces=BODY, limit=st.integers(0, 60), chunked=st.booleans(), short=st.booleans())
def test_a_body_that_is_not_packed_is_the_same_whether_that_is_said_or_not(
    pieces: Sequence[bytes],
    limit: int,
    chunked: bool,  # noqa: FBT001 - drawn
    short: bool,  # noqa: FBT001 - drawn
) -> None:
    """Where it is said, the body goes the way of those that are unpacked."""
    body = b"".join(pieces)
    if chunked:
        framing = b"Transfer-Encoding: chunked\r\n\r\n"
        sent = [b"%x\r\n%b\r\n" % (len(one), one) for one in pieces] + [b"0\r\n\r\n"]
    else:
        framing, sent = b"Content-Length: %d\r\n\r\n" % len(body), list(pieces)
    sent = sent[:-1] if short else sent
    plain = heard(HEAD + framing, *sent, limit=limit)
    said = heard(HEAD + b"Content-Encoding: identity\r\n" + framing, *sent, limit=limit)
    assert (type(plain.error), plain.reusable) == (type(said.error), said.reusable)
    if plain.error is None:
        assert plain.reply().body == said.reply().body == body
        assert len(body) <= limit


LENGTHS_OF_FRAMING = (
    "content-encoding",
    "content-language",
    "www-authenticate",
    "x-rate-resetting",
)


@given(
    st.lists(
        st.sampled_from([*LENGTHS_OF_FRAMING, "x-ratelimit-limit", "x"]).flatmap(
            lambda name: st.tuples(*(st.sampled_from([one, one.upper()]) for one in name))
        ),
        max_size=5,
    )
)
def test_what_says_how_an_answer_is_packed_is_found_among_what_does_not(
    names: list[tuple[str, ...]],
) -> None:
    packed = gzip.compress(b"body")
    head = "".join(f"{''.join(name)}: gzip\r\n" for name in names).encode()
    exchange = heard(HEAD + head + b"Content-Length: %d\r\n\r\n" % len(packed) + packed)
    times = [name.lower() for name in map("".join, names)].count("content-encoding")
    if times > 1:
        assert isinstance(exchange.error, NotHttp)
    else:
        assert exchange.reply().body == (b"body" if times else packed)


@given(st.lists(st.tuples(st.from_regex(r"[A-Za-z-]{1,9}", fullmatch=True), st.binary(max_size=9))))
def test_headers_become_text_in_their_order_and_what_is_no_text_is_kept(
    headers: list[tuple[str, bytes]],
) -> None:
    strip = bytes([*range(9), *range(10, 32), 127])  # what no header may hold
    pairs = [(name, value.translate(None, strip).strip(b" \t")) for name, value in headers]
    lines = b"".join(b"X-%b:  %b\r\n" % (name.encode(), value) for name, value in pairs)
    reply = heard(HEAD + lines + FOUR + b"body").reply()
    for _ in range(2):
        *found, length = reply.headers
        assert length == ("Content-Length", "4")
        assert [(name, value.encode("utf-8", "surrogateescape")) for name, value in found] == [
            (f"X-{name}", value) for name, value in pairs
        ]
    assert repr(reply.headers) == "Headers(***)"


def test_as_many_headers_as_may_come_do_in_an_interim_answer_too() -> None:
    most = b"X: a\r\n" * MAX_HEADERS
    early = b"HTTP/1.1 103 Early Hints\r\n" + most + b"\r\n"
    reply = heard(early + HEAD + most[6:] + FOUR + b"body").reply()
    assert (reply.body, len(list(reply.headers))) == (b"body", MAX_HEADERS)
    assert isinstance(heard(early + HEAD + most + FOUR + b"body").error, NotHttp)


GARBAGE = [b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", HEAD, b"\x00", b"0\r\n\r\n"]


@pytest.mark.parametrize("late", [False, True], ids=["at once", "later"])
@pytest.mark.parametrize("garbage", GARBAGE)
async def test_what_comes_unasked_is_nobodys_answer(garbage: bytes, late: bool) -> None:  # noqa: FBT001 - a parameter
    whole = HEAD + FOUR + b"body"
    answer = saying(whole, garbage, pause=0.02) if late else saying(whole + garbage)
    async with listening(answer) as server, calling() as egress:
        for number in (1, 2):
            assert (await ask(egress, url(server), method="POST")).body == b"body"
            await until_closed(server)
            assert (server.accepted, len(server.heard)) == (number, number)


RAW = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(handle: RAW) -> Any:
    """Serve connections one by one with what does not even wait for a request; gives the URL."""
    tasks: list[asyncio.Task[None]] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        try:
            await handle(reader, writer)
        except asyncio.CancelledError:
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(accept, "127.0.0.1")
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_an_answer_that_comes_before_all_was_sent_counts_and_its_connection_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size = 1 << 25  # more than the system's own buffers take
    monkeypatch.setattr("vault.egress.messages.MAX_REQUEST", size)
    accepted = 0

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        await reader.readuntil(b"\r\n\r\n")  # and no more
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await asyncio.sleep(60)

    async with serving(early) as at, calling() as egress:
        for number in (1, 2):
            reply = await ask(egress, at, method="POST", body=bytes(size))
            assert (reply.status, reply.body, accepted) == (413, b"no", number)


async def test_a_connection_that_closes_before_anything_was_written_was_sent_nothing() -> None:
    """Or was: one cannot always know. But never is it said that nothing was when something was."""
    heard: list[bytes] = []

    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        heard.append(await reader.read(1))

    async with serving(closing) as at, calling() as egress:
        for _ in range(20):
            with pytest.raises(Unreachable) as caught:
                await ask(egress, at, method="POST", body=b"refresh_token=x")
            assert caught.value.sent or b"".join(heard) == b""


async def test_a_post_after_the_other_side_has_closed_an_idle_connection_goes_out_once() -> None:
    async with listening(saying(OK, CLOSED)) as server, calling() as egress:
        for number in (1, 2, 3):
            assert (await ask(egress, url(server), method="POST", body=b"x")).body == b"ok"
            await until_closed(server)
            assert (server.accepted, len(server.heard)) == (number, number)


REPEATED = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE")


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "POST", "PATCH"])
async def test_what_may_be_repeated_is_repeated_once_after_a_kept_connection_was_closed(
    method: str,
) -> None:
    answers = iter([saying(OK), saying(CLOSED), saying(CLOSED), saying(OK)])

    async def next_one(writer: asyncio.StreamWriter) -> None:
        await next(answers)(writer)

    async with listening(next_one) as server, calling() as egress:
        await ask(egress, url(server), method="POST")
        with pytest.raises(Unreachable) as caught:
            await ask(egress, url(server), method=method)
        assert caught.value.sent
        again = method in REPEATED
        assert (server.accepted, len(server.heard)) == ((2, 3) if again else (1, 2))


async def test_a_get_is_not_repeated_over_a_new_connection_or_after_a_part_of_an_answer() -> None:
    answers = iter([saying(CLOSED), saying(OK), saying(HEAD, CLOSED)])

    async def next_one(writer: asyncio.StreamWriter) -> None:
        await next(answers)(writer)

    async with listening(next_one) as server, calling() as egress:
        with pytest.raises(Unreachable):
            await ask(egress, url(server))
        assert len(server.heard) == 1
        await ask(egress, url(server))
        with pytest.raises(Unreachable, match="broke off"):
            await ask(egress, url(server))
        assert len(server.heard) == 3


async def test_a_request_without_a_body_says_so_unless_that_goes_without_saying() -> None:
    async with listening(saying(OK)) as server, calling() as egress:
        for method in ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"):
            await ask(egress, url(server), method=method)
            says = b"\r\nContent-Length: 0\r\n" in server.heard[-1]
            assert says == (method not in ("GET", "HEAD", "OPTIONS")), method


HALF = saying(HEAD + b"Content-Length: 9\r\n\r\nhalf")


async def test_who_gives_up_in_the_midst_of_an_answer_leaves_no_connection_behind() -> None:
    async with listening(HALF) as server, calling(max_per_host=1) as egress:
        for number in (1, 2):  # nor does he keep its place
            call = asyncio.create_task(ask(egress, url(server), method="POST"))
            await until(partial(has_heard, server, number))
            await asyncio.sleep(0.05)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await until_closed(server)
            assert server.accepted == number


async def test_who_gives_up_as_the_answer_comes_leaves_no_connection_behind_either() -> None:
    heard, go = threading.Event(), threading.Event()

    def serve() -> bytes:
        accepted, _ = listener.accept()
        with accepted:
            accepted.settimeout(AT_ONCE)
            accepted.recv(65_536)
            heard.set()
            go.wait()
            accepted.sendall(OK)
            return accepted.recv(1)

    loop = asyncio.get_running_loop()
    async with calling() as egress:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            served = loop.run_in_executor(None, serve)
            call = asyncio.create_task(
                ask(egress, f"http://127.0.0.1:{listener.getsockname()[1]}/", method="POST")
            )
            await loop.run_in_executor(None, heard.wait)
            loop.call_later(0.05, call.cancel)
            go.set()
            time.sleep(0.2)  # noqa: ASYNC251 - now both are there, and the answer is read first
            with pytest.raises(asyncio.CancelledError):
                await call
            assert await served == b""


async def test_a_deadline_in_the_midst_of_a_body_closes_the_connection() -> None:
    async def whole_and_half(writer: asyncio.StreamWriter) -> None:
        await (saying(OK) if len(server.heard) % 2 else HALF)(writer)

    async with listening(whole_and_half) as server, calling() as egress:
        for limits in (Timeouts(read=0.1), Timeouts(total=0.1)):
            # Over a connection that is there: it would have to be made within the same time.
            await ask(egress, url(server))
            before = len(server.heard)
            with pytest.raises(Unreachable, match="no answer in time") as caught:
                await ask(egress, url(server), timeout=limits)
            # Who was held up before he sent it says so, rightly.
            assert caught.value.sent or len(server.heard) == before
            await until_closed(server)


class Told(Deadline):
    """One that is told how late it is."""

    def __init__(self) -> None:
        self.now = 0.0
        clock = cast("asyncio.AbstractEventLoop", SimpleNamespace(time=lambda: self.now))
        super().__init__(clock, total=60, read=1)

    def end(self) -> None:
        raise TimeoutError


def test_each_piece_of_an_answer_has_its_own_time() -> None:
    deadline = Told()
    deadline.heard()  # the request is on its way
    exchange = Exchange(Outgoing("POST", b"", 1_000), deadline)
    for piece in (HEAD + FOUR, b"b", b"o", b"d", b"y"):
        deadline.now += 0.9
        deadline.look(deadline.now)
        exchange.feed(piece)
    assert exchange.reply().body == b"body"
    deadline.now += 1.1
    with pytest.raises(TimeoutError):
        deadline.look(deadline.now)


async def test_many_deadlines_are_each_met_at_their_time() -> None:
    async with listening(saying(after=600)) as server, calling() as egress:

        async def late(seconds: float) -> float:
            began = monotonic()
            with pytest.raises(Unreachable, match="no answer in time"):
                await ask(egress, url(server), timeout=Timeouts(read=9, total=seconds))
            return monotonic() - began - seconds

        longest = asyncio.create_task(ask(egress, url(server)))
        await until(lambda: server.heard)
        lateness = await asyncio.gather(*(late(0.6 - 0.005 * number) for number in range(100)))
        assert min(lateness) > -0.01
        assert max(lateness) < 60
        longest.cancel()
        with pytest.raises(asyncio.CancelledError):
            await longest


async def test_who_waits_for_a_place_in_vain_does_not_take_one() -> None:
    released = asyncio.Event()

    async def slow(writer: asyncio.StreamWriter) -> None:
        await released.wait()
        writer.write(OK)

    async with (
        listening(slow) as first,
        listening(slow) as second,
        calling(max_connections=1, max_per_host=1) as egress,
    ):
        for server in (first, second):  # the host has no place, or nobody has
            released.clear()
            before = len(first.heard)
            occupying = asyncio.create_task(ask(egress, url(first)))
            await until(partial(has_heard, first, before + 1))
            cancelled = asyncio.create_task(ask(egress, url(server)))
            with pytest.raises(Unreachable) as caught:
                await ask(egress, url(server), timeout=Timeouts(wait=0.05))
            assert not caught.value.sent
            patient = asyncio.create_task(ask(egress, url(server)))
            await asyncio.sleep(0)
            cancelled.cancel()
            released.set()
            assert (await occupying).body == (await patient).body == b"ok"
        assert (len(first.heard), len(second.heard)) == (3, 1)


async def test_a_connection_that_nobody_uses_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vault.egress.pool.KEEP_ALIVE", 0.2)
    async with listening(saying(OK)) as server, calling() as egress:
        for number in (1, 2):
            await asyncio.gather(*(ask(egress, url(server), method="POST") for _ in range(3)))
            await until_closed(server)
            assert (server.accepted, len(server.heard)) == (3 * number, 3 * number)


async def test_a_kept_connection_is_not_used_once_its_name_leads_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vault.egress.names.NAMES_LAST", 0)
    table = {"api.example.com": ["127.0.0.1"]}
    async with (
        listening(saying(OK)) as one,
        listening(saying(OK), "127.0.0.2", one.port) as other,
        calling("127.0.0.0/8", table) as egress,
    ):
        at = f"http://api.example.com:{one.port}/"
        for _ in range(2):
            await ask(egress, at)
        table["api.example.com"] = ["127.0.0.2"]
        await ask(egress, at)
        assert (len(one.heard), len(other.heard)) == (2, 1)


async def test_an_address_that_does_not_answer_gives_way_to_the_next() -> None:
    table = {"api.example.com": ["127.0.0.2", "127.0.0.1"]}
    async with listening(saying(OK)) as server, calling("127.0.0.0/8", table) as egress:
        reply = await ask(egress, f"http://api.example.com:{server.port}/", method="POST")
        assert (reply.status, len(server.heard)) == (200, 1)


async def test_what_one_client_certificate_opened_carries_nobody_elses_call(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    authority = Authority(tmp_path_factory.mktemp("authority"))
    async with (
        listening(saying(OK), tls=authority.server("api.example.com")) as server,
        calling(
            "api.example.com", {"api.example.com": ["127.0.0.1"]}, ca_file=authority.file
        ) as egress,
    ):
        contexts = [egress.tls_context(), egress.tls_context()]
        for tls in (None, *contexts, None, *contexts):
            await ask(egress, f"https://api.example.com:{server.port}/", tls=tls)
        assert (server.accepted, len(server.heard)) == (3, 6)


async def test_a_large_answer_over_tls_arrives_whole(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    authority = Authority(tmp_path_factory.mktemp("authority"))
    body = bytes(range(256)) * 3_000
    answer = saying(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    async with (
        listening(answer, tls=authority.server("api.example.com")) as server,
        calling(
            "api.example.com", {"api.example.com": ["127.0.0.1"]}, ca_file=authority.file
        ) as egress,
    ):
        for _ in range(2):
            reply = await ask(egress, f"https://api.example.com:{server.port}/", method="POST")
            assert reply.body == body
        assert server.accepted == 1
