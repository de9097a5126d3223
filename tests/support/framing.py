"""Answers by how they are framed: in all the ways that there are, and in some that are refused."""

HEAD = b"HTTP/1.1 200 OK\r\n"
FOUR = b"Content-Length: 4\r\n\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n"
CLOSED: bytes = b""  # a piece that is empty closes the connection

FRAMES: dict[str, tuple[list[bytes], bool]] = {
    "a length": ([HEAD + FOUR + b"body"], True),
    "byte by byte": ([bytes([one]) for one in HEAD + FOUR + b"body"], True),
    "until the end": ([HEAD + b"\r\n", b"bo", b"dy", CLOSED], False),
    "HTTP/1.0": ([b"HTTP/1.0 200 OK\r\n\r\nbody", CLOSED], False),
    "HTTP/1.0 with a length": ([b"HTTP/1.0 200 OK\r\n" + FOUR + b"body", CLOSED], False),
    "HTTP/1.0 that stays": (
        [b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + FOUR + b"body"],
        True,
    ),
    "a length, and closing": ([HEAD + b"Connection: close\r\n" + FOUR + b"body"], False),
    "chunks": ([CHUNKED + b"\r\n", b"2\r\nbo\r\n", b"2;x=y\r\nd", b"y\r\n0\r\n\r\n"], True),
    "chunks with trailers": (
        [CHUNKED + b"Trailer: X-One\r\n\r\n4\r\nbody\r\n0\r\nX-One: 1\r\n\r\n"],
        True,
    ),
    "interim answers": (
        [
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nX-One: 1\r\n\r\n",
            HEAD + FOUR + b"body",
        ],
        True,
    ),
    "an upgrade on offer": (
        [HEAD + b"Upgrade: h2,h2c\r\nConnection: Upgrade, Keep-Alive\r\n" + FOUR + b"body"],
        True,
    ),
}

LINE = b"X: " + b"a" * 9_000
REFUSED: dict[str, list[bytes]] = {
    "both lengths": [CHUNKED + FOUR + b"0\r\n\r\n"],
    "both lengths, the other way round": [
        HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ],
    "two lengths": [HEAD + b"Content-Length: 2\r\n" + FOUR + b"body"],
    "a length twice": [HEAD + b"Content-Length: 4\r\n" + FOUR + b"body"],
    "a list of lengths": [HEAD + b"Content-Length: 4, 4\r\n\r\nbody"],
    "a negative length": [HEAD + b"Content-Length: -4\r\n\r\nbody"],
    "a length with a sign": [HEAD + b"Content-Length: +4\r\n\r\nbody"],
    "a length in hexadecimal": [HEAD + b"Content-Length: 0x4\r\n\r\nbody"],
    "a length of 200 digits": [HEAD + b"Content-Length: " + b"9" * 200 + b"\r\n\r\nbody"],
    "a coding that nobody asked for": [HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"],
    "codings in two lines": [CHUNKED + b"Transfer-Encoding: identity\r\n\r\nbody", CLOSED],
    "codings in two lines, the other way round": [
        HEAD + b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ],
    "packed in two lines": [
        HEAD + b"Content-Encoding: gzip\r\nContent-Encoding: identity\r\n" + FOUR + b"body"
    ],
    "a negative chunk": [CHUNKED + b"\r\n-4\r\nbody\r\n0\r\n\r\n"],
    "a chunk of 40 digits": [CHUNKED + b"\r\n" + b"f" * 40 + b"\r\nbody"],
    "a chunk that goes on": [CHUNKED + b"\r\n4\r\nbodybody\r\n0\r\n\r\n"],
    "lines that end in LF": [b"HTTP/1.1 200 OK\nContent-Length: 4\n\nbody"],
    "a CR alone": [HEAD + b"X: a\rContent-Length: 4\r\n\r\nbody"],
    "a null byte": [HEAD + b"X: a\x00b\r\n" + FOUR + b"body"],
    "a space before the colon": [HEAD + b"Content-Length : 4\r\n\r\nbody"],
    "a name with a space": [HEAD + b"X Y: a\r\n" + FOUR + b"body"],
    "a line that goes on at once": [HEAD + b" X: a\r\n" + FOUR + b"body"],
    "another protocol": [b"ICY 200 OK\r\n\r\n"],
    "another version": [b"HTTP/3.7 200 OK\r\n\r\n"],
    "a status of two digits": [b"HTTP/1.1 20 OK\r\n\r\n"],
    "a switch of protocols": [
        b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nx"
    ],
    "a long header": [HEAD + LINE + b"\r\n" + FOUR + b"body"],
    "a long header that does not end": [HEAD + LINE],
    "a long header in drops": [HEAD + b"X: ", *[b"a" * 1_000] * 9],
    "a long name": [HEAD + b"a" * 9_000 + b": x\r\n\r\n"],
    "a long status": [b"HTTP/1.1 200 ", *[b"a" * 1_000] * 9],
    "a long status at once": [b"HTTP/1.1 200 " + b"a" * 9_000 + b"\r\n\r\n"],
    "many headers": [HEAD + b"X: a\r\n" * 129 + FOUR + b"body"],
    "many interim answers": [b"HTTP/1.1 103 Early Hints\r\nX: " + b"a" * 8_000 + b"\r\n\r\n"] * 20,
    "a chunk's endless extension": [CHUNKED + b"\r\n4;", *[b"a" * 10_000] * 20],
    "a trailer that says a length": [CHUNKED + b"\r\n0\r\nContent-Length: 4\r\n\r\n"],
    "an endless trailer": [CHUNKED + b"\r\n0\r\nX: ", *[b"a" * 10_000] * 20],
    "endless trailers": [CHUNKED + b"\r\n0\r\n", *[b"X: aaaaaa\r\n" * 1_000] * 20],
}
