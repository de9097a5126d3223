"""The headers of a call through the gateway: what passes, on the way in and on the way out.

* On the way in, nothing passes that says who calls (the gateway says that), how a message is
  framed, where it came from, or that another method or path is meant than the one that was checked.
* On the way out, nothing passes that frames a message, sets a cookie, or rules over our own origin
  in a browser: a provider's answer is data here, and never a page of ours.

Pure.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from vault.egress import OURS

# What credentials, addresses and orders stand in, by name or by a part of it.
_INBOUND: Final = frozenset(
    {
        "authorization",
        "cookie",
        "cookie2",
        "forwarded",
        "from",
        "front-end-https",
        "http2-settings",
        "origin",
        "priority",
        "referer",
        "traceparent",
        "tracestate",
        "baggage",
        "true-client-ip",
        "via",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-host",
        "x-http-method",
        "x-http-method-override",
        "x-method-override",
        "x-original-host",
        "x-original-url",
        "x-real-ip",
        "x-request-id",
        "x-rewrite-url",
        "xi-api-key",
    }
)
_INBOUND_PARTS: Final = ("auth", "api-key", "apikey", "cookie", "secret", "token", "password")
_INBOUND_PREFIXES: Final = ("cf-", "proxy-", "sec-", "x-forwarded", "x-keyturn-")
_OUTBOUND: Final = frozenset(
    {
        "alt-svc",
        "cache-control",  # said anew: nothing keeps what a credential fetched
        "clear-site-data",
        "connection",
        "content-encoding",  # it was unpacked
        "content-length",  # counted anew
        "content-security-policy",
        "content-security-policy-report-only",
        "expect-ct",
        "keep-alive",
        "nel",
        "origin-trial",
        "permissions-policy",
        "proxy-authenticate",
        "public-key-pins",
        "referrer-policy",
        "refresh",
        "report-to",
        "reporting-endpoints",
        "server",
        "service-worker-allowed",
        "set-cookie",
        "set-cookie2",
        "sourcemap",
        "strict-transport-security",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-content-type-options",
        "x-request-id",
        "x-sourcemap",
    }
)
_OUTBOUND_PREFIXES: Final = ("access-control-", "cross-origin-", "proxy-", "x-keyturn-")
# Whatever the answer is, a browser that shows it runs nothing of it.
OWN: Final = (
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", "default-src 'none'; sandbox"),
)

Header = tuple[str, str]


def inbound(given: Iterable[tuple[bytes, bytes]], set_by_us: Iterable[str]) -> Iterator[Header]:
    """What goes on to the provider; ``set_by_us`` are the names that its file fills."""
    headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in given]
    taken = {name.lower() for name in set_by_us} | _named_by_connection(headers)
    for name, value in headers:
        if name in taken or name in OURS or name in _INBOUND:
            continue
        if name.startswith(_INBOUND_PREFIXES) or any(part in name for part in _INBOUND_PARTS):
            continue
        yield name, value


def outbound(given: Iterable[Header]) -> Iterator[Header]:
    """What goes back to who called."""
    headers = [(name.lower(), value) for name, value in given]
    taken = _named_by_connection(headers)
    for name, value in headers:
        if name not in taken | _OUTBOUND and not name.startswith(_OUTBOUND_PREFIXES):
            yield name, value
    yield from OWN


def _named_by_connection(headers: Iterable[Header]) -> set[str]:
    """RFC 9110 section 7.6.1: what Connection names is for the next hop alone."""
    return {
        one.strip().lower()
        for name, value in headers
        if name == "connection"
        for one in value.split(",")
    }
