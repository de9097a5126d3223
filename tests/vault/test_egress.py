"""Outbound calls: what stays out of reach, what a caller learns of a failure, and what is sent."""

import asyncio
import contextlib
import gzip
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from support.loopback import (
    OK,
    PATIENCE,
    Answer,
    Authority,
    ask,
    calling,
    listening,
    saying,
    until,
)

from vault.egress import Endpoint, Purpose, Reply, Request, Timeouts, messages
from vault.egress.address import read
from vault.errors import AnswerTooLarge, EgressDenied, TooLarge, Unreachable
from vault.secret import Secret

PURPOSES: tuple[Purpose, ...] = ("provider", "upstream", "tool", "event")


@pytest.fixture(autouse=True)
def kept_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection is kept however long a test takes until its next call."""
    monkeypatch.setattr("vault.egress.pool.KEEP_ALIVE", 60.0)


@pytest.mark.parametrize(
    "own",
    [
        Endpoint("127.0.0.1", 0),
        Endpoint("127.0.0.1"),
        Endpoint("0.0.0.0", 0),  # noqa: S104 - what we listen on
        Endpoint("::", 0),
        Endpoint("[::]", 0),
        Endpoint("", 0),
        Endpoint("::ffff:127.0.0.1", 0),
        Endpoint("Database.internal.", 0),
        Endpoint("alias.internal"),
    ],
    ids=repr,
)
async def test_our_own_services_are_out_of_reach_whatever_the_operator_opened(
    own: Endpoint,
) -> None:
    names = ("database.internal", "alias.internal", "tool.internal")
    table = {name: ["127.0.0.1"] for name in names}
    async with listening(saying(OK)) as ours:
        own = Endpoint(own.host, ours.port if own.port == 0 else None)
        async with calling("127.0.0.0/8,::/0,*.internal", table, forbidden=[own]) as egress:
            for host in ("127.0.0.1", "[::ffff:127.0.0.1]", *names):
                for purpose in PURPOSES:
                    with pytest.raises(EgressDenied):
                        await ask(egress, f"http://{host}:{ours.port}/", purpose)
        assert ours.accepted == 0


async def test_another_port_or_another_address_than_our_own_stays_open() -> None:
    async with listening(saying(OK)) as other:
        own = [Endpoint("0.0.0.0", 1), Endpoint("127.0.0.2", other.port), Endpoint("nowhere", 1)]  # noqa: S104 - data
        async with calling(forbidden=own) as egress:
            assert (await ask(egress, f"http://127.0.0.1:{other.port}/")).status == 200


async def test_while_one_of_our_own_cannot_be_found_nothing_on_its_port_is_called() -> None:
    table: dict[str, Sequence[str]] = {}
    async with listening(saying(OK)) as server:
        own = [Endpoint("database.internal", server.port)]
        async with calling(table=table, forbidden=own) as egress:
            url = f"http://127.0.0.1:{server.port}/"
            with pytest.raises(Unreachable, match="One of our own services") as caught:
                await ask(egress, url)
            assert not caught.value.sent
            table["database.internal"] = ["127.0.0.9"]
            assert (await ask(egress, url)).status == 200


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


LOCAL = {"api.example.com": ["127.0.0.1"]}


async def test_a_certificate_of_the_operators_authority_is_accepted(authority: Authority) -> None:
    async with (
        listening(saying(OK), tls=authority.server("api.example.com")) as server,
        calling("api.example.com", LOCAL, ca_file=authority.file) as egress,
    ):
        reply = await ask(egress, f"https://api.example.com:{server.port}/")
        assert reply.body == b"ok"
        assert f"Host: api.example.com:{server.port}".encode() in server.heard[0]


@pytest.mark.parametrize(
    "fault", ["unknown authority", "other name", "expired", "old TLS", "no TLS"]
)
async def test_a_connection_that_cannot_be_trusted_is_not_used(
    fault: str, authority: Authority
) -> None:
    tls = authority.server(
        "other.example.com" if fault == "other name" else "api.example.com",
        days=-1 if fault == "expired" else 1,
    )
    if fault == "old TLS":
        tls.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.deprecated_call():
            tls.minimum_version = tls.maximum_version = ssl.TLSVersion.TLSv1_1
    ca_file = None if fault == "unknown authority" else authority.file
    async with (
        listening(saying(OK), tls=None if fault == "no TLS" else tls) as server,
        calling("api.example.com", LOCAL, ca_file=ca_file) as egress,
    ):
        with pytest.raises(Unreachable) as caught:
            await ask(
                egress,
                f"https://api.example.com:{server.port}/",
                method="POST",
                timeout=Timeouts(connect=0.5),
            )
        assert not caught.value.sent
        assert server.heard == []


async def test_a_client_certificate_is_shown_when_the_call_has_one(authority: Authority) -> None:
    demanding = authority.server("api.example.com")
    demanding.verify_mode = ssl.CERT_REQUIRED
    demanding.load_verify_locations(authority.file)
    async with (
        listening(saying(OK), tls=demanding) as server,
        calling("api.example.com", LOCAL, ca_file=authority.file) as egress,
    ):
        url = f"https://api.example.com:{server.port}/"
        tls = egress.tls_context()
        tls.load_cert_chain(authority.chain("client.example.com"))
        assert (await ask(egress, url, tls=tls)).status == 200
        with pytest.raises(Unreachable):
            await ask(egress, url)


async def test_a_tls_context_that_verifies_nothing_is_refused() -> None:
    async with calling() as egress:
        tls = egress.tls_context()
        tls.check_hostname = False
        with pytest.raises(EgressDenied):
            await ask(egress, "https://127.0.0.1:9/", tls=tls)


async def test_a_post_is_not_sent_again_when_a_kept_connection_is_dropped() -> None:
    answers = iter([saying(OK), saying(b""), saying(OK)])

    async def once_then_hang_up(writer: asyncio.StreamWriter) -> None:
        await next(answers)(writer)

    async with listening(once_then_hang_up) as server, calling() as egress:
        url = f"http://127.0.0.1:{server.port}/token"
        await ask(egress, url, method="POST", body=b"first")
        with pytest.raises(Unreachable) as caught:
            await ask(egress, url, method="POST", body=b"refresh_token=x")
        assert caught.value.sent
        assert (server.accepted, len(server.heard)) == (1, 2)


async def test_three_hundred_calls_at_once_are_answered_over_a_bounded_pool() -> None:
    async with (
        listening(saying(OK, after=0.01)) as server,
        calling("127.0.0.1,api.example.com", LOCAL, max_connections=20, max_per_host=20) as egress,
    ):
        url = f"http://api.example.com:{server.port}/"
        replies = await asyncio.gather(*(ask(egress, url, method="POST") for _ in range(300)))
        assert [reply.body for reply in replies] == [b"ok"] * 300
        assert (server.accepted, len(server.heard)) == (20, 300)


async def test_one_purpose_never_uses_the_connection_of_another() -> None:
    async with listening(saying(OK)) as server, calling("tool=127.0.0.1,event=127.0.0.1") as egress:
        url = f"http://127.0.0.1:{server.port}/"
        purposes: tuple[Purpose, ...] = ("tool", "tool", "event", "tool")
        for purpose in purposes:
            await ask(egress, url, purpose)
        assert server.accepted == 2
        for purpose in ("provider", "upstream"):
            with pytest.raises(EgressDenied):
                await ask(egress, url, purpose)
        assert len(server.heard) == 4


async def test_a_kept_connection_does_not_outlive_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vault.egress.names.NAMES_LAST", 0)
    table = dict(LOCAL)
    async with listening(saying(OK)) as server, calling("127.0.0.1", table) as egress:
        url = f"http://api.example.com:{server.port}/"
        assert (await ask(egress, url)).status == 200
        table["api.example.com"] = ["127.0.0.2"]
        with pytest.raises(EgressDenied):
            await ask(egress, url)
        assert len(server.heard) == 1


SHORT = Timeouts(connect=0.2, wait=0.2, read=0.2, total=2)
LONG = Timeouts(connect=60, wait=60, read=60, total=60)


async def test_a_failure_before_the_request_was_written_says_that_nothing_was_sent() -> None:
    async def never(_writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    async with (
        listening(never) as server,
        calling("127.0.0.1,*.example.com", max_per_host=1) as egress,
    ):
        url = f"127.0.0.1:{server.port}/"
        occupying = asyncio.create_task(ask(egress, f"http://{url}", timeout=Timeouts()))
        await until(lambda: server.heard)
        urls = [
            "http://127.0.0.1:1/",  # nobody listens
            "http://nowhere.example.com/",  # no such name
            f"https://{url}",  # the handshake is never answered
            f"http://{url}",  # the only place is taken
        ]
        for unsent in urls:
            with pytest.raises(Unreachable) as caught:
                await ask(egress, unsent, method="POST", timeout=SHORT)
            assert not caught.value.sent, unsent
        assert len(server.heard) == 1
        occupying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await occupying


@pytest.mark.parametrize("limit", ["connect", "wait", "read", "total"])
async def test_each_limit_ends_a_call_by_itself(limit: str) -> None:
    patience = structs.replace(LONG, **{limit: 0.2})
    answered = 1 if limit == "total" else 0

    async def first(writer: asyncio.StreamWriter) -> None:
        await (saying(OK) if len(server.heard) <= answered else saying(after=60))(writer)

    async with listening(first) as server, calling(max_per_host=1) as egress:
        url = f"127.0.0.1:{server.port}/"
        if limit == "total":  # over a connection that is there, or it might end before that is
            await ask(egress, f"http://{url}")
        if limit == "wait":
            occupying = asyncio.create_task(ask(egress, f"http://{url}", timeout=LONG))
            await asyncio.sleep(0.05)
        began = monotonic()
        with pytest.raises(Unreachable) as caught:
            await ask(
                egress, f"{'https' if limit == 'connect' else 'http'}://{url}", timeout=patience
            )
        assert monotonic() - began < 30, "none of the other limits is so short"
        assert caught.value.sent is (limit in ("read", "total"))
    if limit == "wait":
        with pytest.raises(Unreachable):
            await occupying  # type: ignore[possibly-undefined] # made where limit is 'wait'


@pytest.mark.parametrize(
    "answer",
    [
        saying(after=60),
        saying(b""),
        saying(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", b""),
    ],
    ids=["silence", "hang-up", "half an answer"],
)
async def test_a_failure_after_that_says_that_it_may_have_been(answer: Answer) -> None:
    async with listening(answer) as server, calling() as egress:
        with pytest.raises(Unreachable) as caught:
            await ask(
                egress,
                f"http://127.0.0.1:{server.port}/",
                method="POST",
                timeout=Timeouts(read=0.2),
            )
        assert caught.value.sent


async def test_a_look_up_that_hangs_ends_with_the_time_for_connecting() -> None:
    async def hanging(_host: str) -> Sequence[str]:
        await asyncio.sleep(60)
        return ()

    async with calling("", resolver=hanging) as egress:
        began, patience = monotonic(), structs.replace(LONG, connect=0.2)
        with pytest.raises(Unreachable) as caught:
            await ask(egress, "https://api.example.com/", timeout=patience)
        assert not caught.value.sent
        assert monotonic() - began < 30


async def test_a_name_is_looked_up_once_however_many_ask_and_whoever_gives_up() -> None:
    asked = 0

    async def counting(_host: str) -> Sequence[str]:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.1)
        return ["127.0.0.1"]

    async with listening(saying(OK)) as server, calling("127.0.0.1", resolver=counting) as egress:
        url = f"http://api.example.com:{server.port}/"
        calls = [asyncio.create_task(ask(egress, url)) for _ in range(10)]
        await asyncio.sleep(0.05)
        calls[0].cancel()
        replies = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(replies[0], asyncio.CancelledError)
        assert [reply.status for reply in replies[1:] if isinstance(reply, Reply)] == [200] * 9
        assert asked == 1


async def test_the_systems_resolver_is_asked_when_there_is_no_other() -> None:
    async with listening(saying(OK)) as server, calling("localhost", resolver=None) as egress:
        assert (await ask(egress, f"http://localhost:{server.port}/")).status == 200


async def test_calls_under_way_fail_as_unreachable_when_everything_closes() -> None:
    async with listening(saying(OK, after=60)) as server, calling(max_per_host=1) as egress:
        url = f"http://127.0.0.1:{server.port}/"
        calls = [asyncio.create_task(ask(egress, url)) for _ in range(2)]
        await until(lambda: server.heard)
        await egress.aclose()
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert [error.sent for error in found if isinstance(error, Unreachable)] == [True, False]
        with pytest.raises(Unreachable) as caught:
            await ask(egress, url)
        assert not caught.value.sent


async def test_a_request_arrives_as_it_was_given() -> None:
    async with listening(saying(OK)) as server, calling() as egress:
        url = f"http://127.0.0.1:{server.port}/a%2Fb?c=d%20e"
        headers = (
            ("Authorization", Secret("Bearer abc")),
            ("X-Two", "1"),
            ("X-Two", "2"),
            ("X", ""),
        )
        await ask(egress, url, method="POST", headers=headers, body=Secret(b"\x00body"))
        head, _, body = server.heard[0].partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        assert first == b"POST /a%2Fb?c=d%20e HTTP/1.1"
        assert {line.split(b":")[0] for line in lines} == {
            *(b"Host", b"User-Agent", b"Accept", b"Accept-Encoding", b"Content-Length"),
            *(b"Authorization", b"X-Two", b"X"),
        }
        assert {b"Authorization: Bearer abc", b"X-Two: 1", b"X-Two: 2", b"X: "} <= set(lines)
        assert b"Accept-Encoding: identity" in lines
        assert body == b"\x00body"


NAMES = st.sampled_from(["Authorization", "X-One", "x-two", "User-Agent", "Accept", "Host", "a b"])
VALUES = st.text(st.sampled_from("ab \t\0\r\n"), max_size=4)


@given(
    st.lists(st.tuples(NAMES, VALUES | VALUES.map(Secret)), max_size=5).map(tuple),
    st.sampled_from(["", "?a=b"]),
)
def test_a_head_that_is_written_often_is_the_same_and_a_wrong_one_is_refused(
    headers: tuple[tuple[str, str | Secret], ...], query: str
) -> None:
    url = read(f"https://api.example.com/token{query}")
    request = Request(method="POST", url="", headers=headers, body=b"body")
    try:
        once = messages.written(request, url)
    except EgressDenied:
        for _ in range(2):
            with pytest.raises(EgressDenied):
                messages.written(request, url, often=True)
    else:
        for _ in range(2):
            assert messages.written(request, url, often=True) == once


def test_of_a_head_that_is_written_often_no_secret_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept: list[tuple[object, ...]] = []

    def keep(*asked: Any) -> bytes:
        found = messages._head(*asked)  # noqa: SLF001 - what would be kept
        kept.append((*asked, found))
        return found

    monkeypatch.setattr(messages, "_kept_head", keep)
    plain = (("X-One", "1"),)
    for path, headers, is_kept in (
        ("/", (*plain, ("Authorization", Secret("sentinel-5f1d"))), False),
        ("/?sentinel-5f1d", plain, False),
        ("/", plain, True),
    ):
        url = read(f"https://api.example.com{path}")
        one = Request(method="POST", url="", headers=headers)
        assert (b"sentinel" in messages.written(one, url, often=True).data) is not is_kept
        assert len(kept) == is_kept


async def test_an_answer_is_handed_over_whole_whatever_its_status() -> None:
    head = b"HTTP/1.1 503 Later\r\nRetry-After: 17\r\nX-Two: 1\r\nx-two: 2\r\n"
    head += b"Content-Length: 6\r\n\r\n"
    async with listening(saying(head + b"secret")) as server, calling() as egress:
        reply = await ask(egress, f"http://127.0.0.1:{server.port}/", max_bytes=6)
    assert (reply.status, reply.body) == (503, b"secret")
    assert (reply.get("RETRY-AFTER"), reply.get("X-None")) == ("17", None)
    assert reply.get_all("X-Two") == ("1", "2")
    assert repr(reply) == "Reply(503)"


async def test_an_answer_that_is_packed_all_the_same_is_unpacked() -> None:
    packed = gzip.compress(b"a" * 1_000)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: GZIP\r\nContent-Length: %d\r\n\r\n" % len(packed)
    async with listening(saying(head + packed)) as server, calling() as egress:
        url = f"http://127.0.0.1:{server.port}/"
        assert (await ask(egress, url, max_bytes=1_000)).body == b"a" * 1_000
        with pytest.raises(AnswerTooLarge):
            await ask(egress, url, max_bytes=999)


async def test_the_answer_to_head_may_announce_any_length() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 99999999\r\n\r\n"
    async with listening(saying(head)) as server, calling() as egress:
        reply = await ask(egress, f"http://127.0.0.1:{server.port}/", method="HEAD")
        assert (reply.status, reply.body) == (200, b"")


async def test_a_request_of_more_than_a_mebibyte_is_not_sent() -> None:
    async with listening(saying(OK)) as server, calling() as egress:
        url = f"http://127.0.0.1:{server.port}/"
        assert (await ask(egress, url, method="POST", body=bytes(1 << 20))).status == 200
        with pytest.raises(TooLarge):
            await ask(egress, url, method="POST", body=bytes((1 << 20) + 1))


# More than one read gives.
LENGTH = 700_000
LONG_ANSWER = f"HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n".encode() + bytes(LENGTH)


@contextlib.contextmanager
def answering_in_a_thread() -> Iterator[tuple[int, threading.Event, threading.Event]]:
    """A server that goes on while this process's loop stands still: where it is, whether it has
    heard the second request, and whether some of the answer to that is on its way.
    """
    heard, said = threading.Event(), threading.Event()

    def serve(listener: socket.socket) -> None:
        accepted, _ = listener.accept()
        with accepted:
            accepted.recv(65_536)
            accepted.sendall(OK)
            accepted.recv(65_536)
            heard.set()
            sent = accepted.send(LONG_ANSWER)
            said.set()
            accepted.sendall(LONG_ANSWER[sent:])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=[listener])
        thread.start()
        yield listener.getsockname()[1], heard, said
        thread.join()


@pytest.mark.parametrize("slept_past", [Timeouts(total=0.5), Timeouts(read=0.5)], ids=repr)
async def test_who_slept_past_a_deadline_reads_what_came_meanwhile(slept_past: Timeouts) -> None:
    async with calling() as egress:
        with answering_in_a_thread() as (port, heard, said):
            url = f"http://127.0.0.1:{port}/"
            await ask(egress, url)
            asked = asyncio.create_task(ask(egress, url, timeout=slept_past))
            await asyncio.sleep(0)  # it is sent, over the connection that is there
            # All of this process stands still: much too long, and until something has come.
            time.sleep(2)  # noqa: ASYNC251 - as said
            assert heard.wait(PATIENCE)
            assert said.wait(PATIENCE)
            assert len((await asked).body) == LENGTH


async def test_who_slept_past_a_deadline_does_not_wait_for_ever_after() -> None:
    async with calling() as egress, listening(saying(OK, after=60)) as server:
        asked = asyncio.create_task(
            ask(egress, f"http://127.0.0.1:{server.port}/", timeout=Timeouts(total=0.2))
        )
        await asyncio.sleep(0.1)
        time.sleep(1.5)  # noqa: ASYNC251 - the same
        async with asyncio.timeout(20):
            with pytest.raises(Unreachable):
                await asked
