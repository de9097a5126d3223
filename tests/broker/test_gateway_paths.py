"""One path has one meaning: what is read, what is sent, and what is compared are the same."""

from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from broker.gateway.paths import MAX_PATH, MAX_QUERY, Rule, allows, check_rule, is_forbidden, read
from vault.errors import Invalid

REFUSED = [
    "",
    "me",
    "//",
    "//evil.example/x",
    "/a//b",
    "/..",
    "/../secret",
    "/a/../b",
    "/a/..",
    "/./a",
    "/a/.",
    "/%2e%2e/a",
    "/%2E./a",
    "/.%2e/a",
    "/..;/a",
    "/..;x=1/a",
    "/%2e%2e%3b/a",
    "/.. /a",
    "/a%2fb",
    "/a%2Fb",
    "/a\\b",
    "/a%5cb",
    "/a%5Cb",
    "/%252e%252e/a",
    "/a%252fb",
    "/%25%32%65",
    "/%c0%af",
    "/%c0%ae%c0%ae/",
    "/%e0%80%af",
    "/%ff",
    "/\uff0e\uff0e/a",
    "/" + quote("\uff0e\uff0e") + "/a",
    "/" + quote("a\uff0fb"),
    "/" + quote("a\u2215b"),
    "/" + quote("a\u2044b"),
    "/" + quote("\uff3c"),
    "/a%00b",
    "/a%0d%0aX: y",
    "/a%0a",
    "/a%7f",
    "/a%c2%85",
    "/a%e2%80%ae",
    "/a\tb",
    "/a\nb",
    "/a b",
    "/a#b",
    "/a?b",
    "/a%",
    "/a%2",
    "/a%zz",
    "/a{b}",
    "/a|b",
    '/a"b',
    "/a<b>",
    "/" + "a" * MAX_PATH,
    "http://evil.example/",
    "@evil.example/",
    ":80/x",
    "*",
]


@pytest.mark.parametrize("path", REFUSED)
def test_a_path_that_two_readers_could_read_differently_is_refused(path: str) -> None:
    with pytest.raises(Invalid) as refused:
        read(path.encode(), b"")
    assert refused.value.pointer == "/path"
    assert "evil" not in refused.value.message


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/", "/"),
        ("/me", "/me"),
        ("/me/", "/me/"),
        ("/calendars/ada%40example.com/events", "/calendars/ada@example.com/events"),
        ("/%41%7e", "/A~"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/users('ada')/x", "/users('ada')/x"),
        ("/v1/x:verb", "/v1/x:verb"),
        ("/v1/x%3averb", "/v1/x:verb"),
        ("/a+b%2Bc", "/a+b%2Bc"),
        ("/a;b=c", "/a;b=c"),
        ("/...", "/..."),
        ("/.well-known/x", "/.well-known/x"),
        ("/a%20b", "/a%20b"),
    ],
)
def test_a_path_is_spelled_in_one_way(path: str, sent: str) -> None:
    assert read(path.encode(), b"").path == sent


ODD = st.lists(
    st.one_of(
        st.sampled_from(
            ["/", "//", ".", "..", "%2e", "%2f", "%5c", "\\", ";", "%25", "%", "@", ":", "#", "?"]
        ),
        st.text("abcXYZ019-_~!$&'()*+,=", min_size=1, max_size=4),
        st.characters(codec="utf-8").map(quote),
        st.integers(0, 255).map(lambda one: f"%{one:02x}"),
        st.characters(max_codepoint=255),
    ),
    max_size=10,
).map("".join)


@given(ODD)
def test_whatever_is_read_stays_below_the_base_and_is_sent_as_it_was_checked(text: str) -> None:
    try:
        target = read(f"/{text}".encode("utf-8", "surrogatepass"), b"")
    except Invalid:
        return
    url = URL(f"https://api.example.com/v1{target.path}")
    assert url.host == "api.example.com"
    assert url.raw_path == f"/v1{target.path}"
    assert url.raw_query_string == ""
    assert url.raw_fragment == ""
    # Reading what was written changes nothing, and one decoding gives what was compared.
    assert read(target.path.encode(), b"") == target
    assert tuple(unquote(part) for part in target.path.split("/")[1:]) == target.segments
    decoded = unquote(target.path)
    assert "//" not in decoded
    assert not {"..", "."} & {part.partition(";")[0] for part in decoded.split("/")}


@given(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=4))
def test_what_any_client_encodes_as_it_should_is_read_or_refused_never_changed(
    segments: list[str],
) -> None:
    try:
        path = "/" + "/".join(quote(one, safe="") for one in segments)
        target = read(path.encode(), b"")
    except (Invalid, UnicodeEncodeError):
        return
    assert list(target.segments) == segments


@pytest.mark.parametrize(
    "query",
    [
        "_method=DELETE",
        "a=1&_METHOD=put",
        "%5fmethod=DELETE",
        "a=1;_method=x",
        "X-HTTP-Method-Override=DELETE",
        "$httpMethod=DELETE",
        "a=%",
        "a=%zz",
        "a b",
        "a\nb",
        "a#b",
        'a="b"',
        "a=<b>",
        "a=\xe9",
        "a" * (MAX_QUERY + 1),
    ],
)
def test_a_query_that_means_another_method_or_is_none_is_refused(query: str) -> None:
    with pytest.raises(Invalid) as refused:
        read(b"/", query.encode())
    assert refused.value.pointer == "/query"


@pytest.mark.parametrize(
    "query", ["a=b%20c", "a=b+c&a=%2B", "a[]=1", "q=from:me", "$filter=x%20eq%20'y'", "?x=/"]
)
def test_a_query_is_kept(query: str) -> None:
    assert read(b"/", query.encode()).query == query


RULES = [
    Rule(methods=("GET",), path="/calendars/*/events"),
    Rule(methods=("POST", "PUT"), path="/drafts/**"),
    Rule(methods=("GET",), path="/"),
    Rule(methods=("GET",), path="/a%40b"),
]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/calendars/x/events", True),
        ("POST", "/calendars/x/events", False),
        ("GET", "/calendars/x/events/", False),
        ("GET", "/calendars/x/y/events", False),
        ("GET", "/calendars/events", False),
        ("GET", "/CALENDARS/x/events", False),
        ("PUT", "/drafts/1", True),
        ("PUT", "/drafts/1/2/3", True),
        ("PUT", "/drafts", False),
        ("GET", "/", True),
        ("GET", "/a@b", True),
        ("GET", "/a%40b", True),
        ("get", "/", False),
        ("HEAD", "/", False),
    ],
)
def test_a_rule_says_exactly_what_may_be_called(method: str, path: str, *, allowed: bool) -> None:
    assert allows(RULES, method, read(path.encode(), b"")) is allowed


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_without_rules_what_only_reads_may_be_called(method: str) -> None:
    target = read(b"/anything", b"")
    assert allows(None, method, target)
    assert not allows([], method, target)
    for other in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get"):
        assert not allows(None, other, target)


@pytest.mark.parametrize(
    "path",
    [
        "/oauth/token",
        "/oauth/token/",
        "/oauth/token/more",
        "/OAuth/Token",
        "/oauth/token;x=1",
        "/oauth;y/token",
        "/%6fauth/token",
        "/oauth/token.",
        "/oauth/token%20",
        "/" + quote("\uff4f") + "auth/token",
        "/batch",
        "/batch/calendar/v3",
        "/x/$batch",
        "/%24batch",
    ],
)
def test_what_is_forbidden_stays_so_in_every_spelling(path: str) -> None:
    target = read(path.encode(), b"")
    assert is_forbidden(target, "/", ["/oauth/token", "/batch"])
    assert is_forbidden(target, "/v1", ["/v1/oauth/token", "/batch"])


@pytest.mark.parametrize("path", ["/", "/me", "/oauth", "/oauth/tokens", "/xbatch", "/v1"])
def test_what_only_looks_alike_is_not(path: str) -> None:
    assert not is_forbidden(read(path.encode(), b""), "/v1", ["/oauth/token", "/batch", "/", ""])


@pytest.mark.parametrize(
    "path", ["/a/**/b", "/a/../b", "/a//b", "a", "/%2e%2e/x", "/a*", "/a/***", "/a/x-*/b"]
)
def test_a_rule_that_could_not_mean_what_it_seems_to_is_refused(path: str) -> None:
    with pytest.raises(Invalid):
        check_rule(Rule(methods=("GET",), path=path))
    check_rule(Rule(methods=("GET",), path="/a/*/b/**"))
