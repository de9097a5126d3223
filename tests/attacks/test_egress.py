"""A malicious provider, or a URL that a tenant chose: SSRF, rebinding, bombs, smuggled headers.

Everything here listens on 127.0.0.0/8. Names lead where the test's resolver says, and an audit hook
records every connection that this process starts, so "nothing was called" is an observation.
"""

import gzip
import socket
import sys
import tracemalloc
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic

import pytest
from support.loopback import OK, ask, assert_hides, calling, listening, saying

from vault.egress import Dial, Egress, Purpose, Request, Timeouts, names, parse_allow, sessions
from vault.errors import AnswerTooLarge, EgressDenied, Unreachable, UpstreamFailed
from vault.secret import Secret

PURPOSES: tuple[Purpose, ...] = ("provider", "upstream", "tool", "event")
MIB = 1 << 20


def words(text: str) -> list[str]:
    return text.split()


HOSTS_THAT_ARE_NOT_PUBLIC = [
    *words("""
    127.0.0.1 127.1 127.0.1 0x7f000001 0x7f.0.0.1 0X7F.1 2130706433 017700000001 0177.0.0.1 0
    0.0.0.0 00.00.00.00 127.0.0.1. localhost. 127%2e0%2e0%2e1 %31%32%37.0.0.1
    [::1] [::] [0:0:0:0:0:0:0:1] [::127.0.0.1] [::ffff:127.0.0.1] [::ffff:7f00:1]
    [::ffff:169.254.169.254] [::ffff:0:127.0.0.1] [64:ff9b::7f00:1] [64:ff9b::169.254.169.254]
    [64:ff9b:1::7f00:1] [2002:7f00:1::] [2001:0:7f00:1::] [2001:db8::1] [3fff::1] [5f00::1]
    [fec0::1] [fe80::1] [fe80::1%25lo] [fc00::1] [ff02::1] [fd00:ec2::254] [fd20:ce::254]
    10.0.0.1 172.16.0.1 192.168.0.1 169.254.169.254 169.254.170.2 100.64.0.1 100.100.100.200
    192.0.0.192 192.0.2.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 240.0.0.1 255.255.255.255
    """),
    "\uff11\uff12\uff17.0.0.1",  # full-width digits
    "\u2460\u2461\u2466.\u24ea.\u24ea.\u2460",  # circled digits
    "127\u3002\uff10\uff0e0.1",  # ideographic and full-width stops
    "\u0661\u0662\u0667.0.0.1",  # Arabic-Indic digits
    "\u24d4xample.com",  # circled e
    "exam\u00adple.com",  # soft hyphen
    "\uff18.8.8.8",  # public, but not written as an address
]

URLS_THAT_TWO_READERS_READ_DIFFERENTLY = [
    "https://api.example.com\\@127.0.0.1/",
    "https://api.example.com\t.evil/",
    "https://api.exam\nple.com/",
    "https://api.example.com/\r\nHost: x",
    "https://api.example.com/ x",
    " https://api.example.com/",
    "https://user@api.example.com/",
    "https://user:password@api.example.com/",
    "https://@api.example.com/",
    "https://api.example.com@127.0.0.1/",
    "https://api.example.com#@127.0.0.1/",
    "https://api.example.com/#",
    "https://api.example.com:443:80/",
    "https://api.example.com:/",
    "https://api.example.com:0/",
    "https://api.example.com:0443/",
    "https://api.example.com:+443/",
    "https://api.example.com:4_43/",
    "https://api.example.com:99999/",
    "https://api.example.com:\u0664\u0664\u0663/",
    "https://[::1].api.example.com/",
    "https://[v1.a]/",
    "https:api.example.com/",
    "https:/api.example.com/",
    "https:///api.example.com/",
    "//api.example.com/",
    "https://",
    "https://.example.com/",
    "https://api..example.com/",
    "https://-api.example.com/",
    "https://api_.example.com/",
    "https://a,b.example.com/",
    "https://" + "a" * 64 + ".example.com/",
    "https://" + "a." * 127 + "com/",
    "https://xn--\u00fc.example.com/",
    "https://xn--zzzzzz-.example.com/",
    "https://api.example.com/" + "a" * 9_000,
    "https://api.example.com/\u202e",
    "https://api.example.com/\x00",
    "ftp://api.example.com/",
    "file:///etc/passwd",
    "gopher://api.example.com/",
    "unix:///run/x",
    "",
]


_watched: list[object] | None = None


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if event == "socket.connect" and _watched is not None:
        _watched.append(arguments[1])


sys.addaudithook(_watch)


@pytest.fixture
def connections() -> Iterator[list[object]]:
    """Every address towards which this process starts a connection during the test."""
    global _watched  # noqa: PLW0603 - an audit hook cannot be removed
    found: list[object] = []
    _watched = found
    yield found
    _watched = None


@pytest.mark.parametrize("host", HOSTS_THAT_ARE_NOT_PUBLIC)
async def test_a_host_that_is_not_public_is_refused_for_every_purpose(
    host: str, connections: list[object]
) -> None:
    async with calling(allow="") as egress:
        for purpose in PURPOSES:
            with pytest.raises(EgressDenied):
                egress.vet_url(purpose, f"https://{host}/")
            with pytest.raises(EgressDenied):
                await ask(egress, f"https://{host}/", purpose)
    assert connections == []


@pytest.mark.parametrize("url", URLS_THAT_TWO_READERS_READ_DIFFERENTLY)
async def test_a_url_that_two_readers_may_read_differently_is_refused(
    url: str, connections: list[object]
) -> None:
    async with calling(
        "0.0.0.0/0,::/0,*.example.com", {"api.example.com": ["127.0.0.1"]}
    ) as egress:
        for purpose in PURPOSES:
            with pytest.raises(EgressDenied):
                egress.vet_url(purpose, url)
            with pytest.raises(EgressDenied):
                await ask(egress, url, purpose)
    assert connections == []


@pytest.mark.parametrize(
    "address",
    [
        *(host.strip("[]") for host in HOSTS_THAT_ARE_NOT_PUBLIC if host.startswith("[")),
        *words("127.0.0.1 10.0.0.1 100.64.0.1 169.254.169.254 168.63.129.16 224.0.0.1 0.0.0.0"),
    ],
)
async def test_a_name_that_leads_to_a_private_address_is_refused(
    address: str, connections: list[object]
) -> None:
    address = address.replace("%25", "%")
    table = {"alone.example.com": [address], "mixed.example.com": ["93.184.216.34", address]}
    async with calling(allow="", table=table) as egress:
        for name in table:
            with pytest.raises(EgressDenied):
                await ask(egress, f"https://{name}/")
    assert connections == []


@pytest.mark.parametrize(
    "address",
    words("""
    169.254.169.254 169.254.170.2 fe80::1 fd00:ec2::254 fd20:ce::254 100.100.100.200 168.63.129.16
    192.0.0.192 0.0.0.0 :: 224.0.0.1 ff02::1 ::ffff:169.254.169.254 64:ff9b::a9fe:a9fe
    2002:a9fe:a9fe:: ::169.254.169.254
    """),
)
async def test_no_rule_opens_a_metadata_address(address: str, connections: list[object]) -> None:
    literal = f"[{address}]" if ":" in address else address
    table = {"metadata.google.internal": [address]}
    async with calling("0.0.0.0/0,::/0,metadata.google.internal,*.internal", table) as egress:
        for purpose in PURPOSES:
            for host in (literal, "metadata.google.internal"):
                for scheme in ("http", "https"):
                    with pytest.raises(EgressDenied):
                        await ask(egress, f"{scheme}://{host}/latest/meta-data/", purpose)
    assert connections == []


async def test_a_name_that_is_rebound_is_looked_up_once_and_its_second_address_never_called(
    monkeypatch: pytest.MonkeyPatch, connections: list[object]
) -> None:
    monkeypatch.setattr(names, "NAMES_LAST", 3_600)
    answers = iter([["127.0.0.2"], ["127.0.0.1"], ["127.0.0.1"]])
    asked = 0

    async def rebinding(_host: str) -> Sequence[str]:
        nonlocal asked
        asked += 1
        return next(answers)

    async with (
        listening(saying(OK)) as target,
        listening(saying(OK), "127.0.0.2", target.port) as allowed,
    ):
        egress = Egress(allow=parse_allow("127.0.0.2", development=True), resolver=rebinding)
        url = f"http://rebound.example.com:{target.port}/"
        assert (await ask(egress, url)).status == 200
        assert (await ask(egress, url)).status == 200
        assert asked == 1
        [lane] = egress._lanes.values()  # noqa: SLF001 - its time is over now, and not by chance
        lane.names._known.clear()  # noqa: SLF001 - as above
        for _ in range(2):
            with pytest.raises(EgressDenied):
                await ask(egress, url)
        await egress.aclose()
        assert (asked, allowed.accepted, target.accepted) == (2, 1, 0)
    assert connections == [("127.0.0.2", target.port)]


async def test_a_socket_opens_only_towards_an_address_that_was_vetted_for_the_call() -> None:
    info = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", 80))
    with pytest.raises(PermissionError):
        sessions.open_socket(info)


async def test_an_address_that_slips_in_after_the_vetting_is_not_connected_to(
    monkeypatch: pytest.MonkeyPatch, connections: list[object]
) -> None:
    async def slipping(_self: object, host: str, port: int, **_: object) -> list[dict[str, object]]:
        return [{"hostname": host, "host": "127.0.0.1", "port": port}]

    monkeypatch.setattr(sessions.JourneyResolver, "resolve", slipping)  # a fault in the first wall
    async with (
        listening(saying(OK)) as server,
        calling("127.0.0.2", {"api.example.com": ["127.0.0.2"]}) as egress,
    ):
        place = f"api.example.com:{server.port}"
        with pytest.raises(Unreachable):
            async with egress.open("tool", Request(method="GET", url=f"http://{place}/")):
                pass
        with pytest.raises(Unreachable):
            await egress.socket("tool", Dial(url=Secret(f"ws://{place}/")))
        assert server.accepted == 0
    assert connections == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_handed_back_and_not_followed(status: int) -> None:
    async with listening(saying(OK)) as target:
        head = f"HTTP/1.1 {status} Go\r\nLocation: http://127.0.0.1:{target.port}/\r\n"
        async with (
            listening(saying(f"{head}Content-Length: 0\r\n\r\n".encode())) as server,
            calling() as egress,
        ):
            for method in ("GET", "POST"):
                reply = await ask(egress, f"http://127.0.0.1:{server.port}/", method=method)
                assert reply.status == status
            assert target.accepted == 0


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
BOMB = gzip.compress(bytes(20 * MIB))
EMPTY_BLOCKS = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03" + b"\x00\x00\x00\xff\xff" * (MIB // 2)


def chunks(data: bytes) -> list[bytes]:
    pieces = [data[i : i + 65_536] for i in range(0, len(data), 65_536)]
    return [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces] + [b"0\r\n\r\n"]


@pytest.mark.parametrize(
    "answer",
    {
        "announced": [b"HTTP/1.1 200 OK\r\nContent-Length: 20971520\r\n\r\n", bytes(20 * MIB)],
        "one byte too much": [b"HTTP/1.1 200 OK\r\nContent-Length: 1048577\r\n\r\n"],
        "until the end": [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", bytes(20 * MIB)],
        "in chunks": [CHUNKED, b"\r\n", *chunks(bytes(20 * MIB))],
        "gzip": [CHUNKED, b"Content-Encoding: gzip\r\n\r\n", *chunks(BOMB)],
        "deflate": [
            CHUNKED,
            b"Content-Encoding: deflate\r\n\r\n",
            *chunks(zlib.compress(bytes(20 * MIB))),
        ],
        "gzip of nothing": [CHUNKED, b"Content-Encoding: gzip\r\n\r\n", *chunks(EMPTY_BLOCKS)],
    }.items(),
    ids=lambda pair: pair[0],
)
async def test_an_answer_stops_at_the_limit(answer: tuple[str, list[bytes]]) -> None:
    async with listening(saying(*answer[1])) as server, calling() as egress:
        with pytest.raises(AnswerTooLarge):
            await ask(egress, f"http://127.0.0.1:{server.port}/")


async def test_a_bomb_is_not_even_unpacked() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB)
    async with listening(saying(head, BOMB)) as server, calling() as egress:
        tracemalloc.start()
        with pytest.raises(AnswerTooLarge):
            await ask(egress, f"http://127.0.0.1:{server.port}/")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 6 * MIB


@pytest.mark.parametrize(
    "answer",
    [
        [b"HTTP/1.1 200 OK\r\nContent-Length: 1200\r\n\r\n", *[b"a"] * 1_200],
        [b"HTTP/1.1 200 O", *[b"K"] * 1_200],
        [*[b"HTTP/1.1 103 Early Hints\r\n\r\n"] * 1_200],
        [CHUNKED + b"\r\n", *[b"1\r\na\r\n"] * 1_200],
        [],
    ],
    ids=["body", "status line", "interim answers", "chunks", "silence"],
)
async def test_an_answer_that_trickles_ends_at_the_deadline(answer: list[bytes]) -> None:
    patience = Timeouts(read=0.4, total=0.5)
    async with listening(saying(*answer, pause=0.1)) as server, calling() as egress:
        began = monotonic()
        with pytest.raises(Unreachable) as caught:
            await ask(egress, f"http://127.0.0.1:{server.port}/", timeout=patience)
        assert monotonic() - began < 60  # and an answer that is waited for takes twice as long
        # Who was held up before he sent it says so, rightly.
        assert caught.value.sent or server.heard == []


@pytest.mark.parametrize(
    "answer",
    [
        [b"HTTP/1.1 200 OK\r\n", *[b"X-%d: a\r\n" % number for number in range(100_000)]],
        [b"HTTP/1.1 200 OK\r\nX: ", *[b"a" * 65_536] * 100],
        [b"HTTP/1.1 200 " + b"a" * 9_000 + b"\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 1\r\n\r\na"],
        [b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip, gzip\r\nContent-Length: 1\r\n\r\na"],
        [b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nbody"],
        [b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 30\r\n\r\n" + BOMB[:30]],
        [b"220 smtp.example.com ESMTP\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n"],
    ],
    ids=["headers", "header", "reason", "br", "twice", "no gzip", "cut gzip", "no HTTP", "length"],
)
async def test_an_answer_that_is_not_proper_is_refused(answer: list[bytes]) -> None:
    async with listening(saying(*answer)) as server, calling() as egress:
        with pytest.raises(UpstreamFailed):
            await ask(egress, f"http://127.0.0.1:{server.port}/")


async def test_proxy_variables_and_netrc_are_ignored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with listening(saying(OK)) as proxy, listening(saying(OK)) as server, calling() as egress:
        for name in ("http_proxy", "https_proxy", "all_proxy", "ws_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
            monkeypatch.setenv(name.upper(), f"http://127.0.0.1:{proxy.port}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        (tmp_path / "netrc").write_text("default login ada password sentinel\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        await ask(egress, f"http://127.0.0.1:{server.port}/")
        assert (proxy.accepted, server.accepted) == (0, 1)
        assert b"authorization" not in server.heard[0].lower()


async def test_a_cookie_is_not_kept() -> None:
    setting = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b; Path=/\r\nContent-Length: 0\r\n\r\n"
    async with listening(saying(setting)) as server, calling() as egress:
        for _ in range(2):
            await ask(egress, f"http://127.0.0.1:{server.port}/")
        assert b"cookie" not in b"".join(server.heard).lower()


UNSENDABLE = [
    "sentinel" + tail
    for tail in ("\r\nX: y", "\n", "\r", "\x00", "\u00e9", "\u2028", "\x7f", "\x1b", " ")
]


@pytest.mark.parametrize(
    "value", [*UNSENDABLE, "sentinel\ud800", *map(Secret, UNSENDABLE), Secret(b"sentinel\xff")]
)
async def test_a_token_that_a_header_cannot_carry_is_refused_without_showing_it(
    value: str | Secret, connections: list[object]
) -> None:
    async with calling() as egress:
        with pytest.raises(EgressDenied) as caught:
            await ask(egress, "http://127.0.0.1:9/", headers=(("Authorization", value),))
    assert_hides("sentinel", caught.value)
    assert connections == []


async def test_a_template_in_a_token_is_carried_as_it_is() -> None:
    async with listening(saying(OK)) as server, calling() as egress:
        headers = (("Authorization", Secret("Bearer {{secret__x}}")),)
        await ask(egress, f"http://127.0.0.1:{server.port}/", headers=headers)
        assert b"\r\nAuthorization: Bearer {{secret__x}}\r\n" in server.heard[0]


@pytest.mark.parametrize(
    "name",
    [
        *words("Host content-length Transfer-Encoding Connection Proxy-Authorization TE Upgrade"),
        *("Expect", "Accept-Encoding", "X:", "X Y", "X\r\nY", "", "\u00e9", "(X)"),
    ],
)
async def test_a_header_that_would_change_the_message_or_its_way_is_refused(name: str) -> None:
    async with calling() as egress:
        with pytest.raises(EgressDenied):
            await ask(egress, "http://127.0.0.1:9/", headers=((name, "x"),))


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "get", "GET / HTTP/1.1\r\nX:", ""])
async def test_a_method_that_would_do_something_else_is_refused(method: str) -> None:
    async with calling() as egress:
        with pytest.raises(EgressDenied):
            await ask(egress, "http://127.0.0.1:9/", method=method)
