"""Token replies as they come in: good, odd, hostile."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vault import oauth
from vault.egress import Reply
from vault.errors import AnswerTooLarge, EgressDenied, Unreachable, UpstreamFailed, VaultError
from vault.oauth import NoToken, TokenReply, parse_token_reply
from vault.secret import Secret

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
SENTINEL = "s3ntinel-value"
LIVES_900_S = "e30.eyJpYXQiOiAxMDAwLCAiZXhwIjogMTkwMH0.x"  # by its claims iat and exp
Json = Any


def reply(
    body: Json = None, *, status: int = 200, raw: bytes | None = None, **headers: str
) -> Reply:
    content = json.dumps(body).encode() if raw is None else raw
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Reply(status=status, headers=named, body=content)


def read(*arguments: Any, **options: Any) -> TokenReply:
    return parse_token_reply(reply(*arguments, **options), now=NOW)


def failure(*arguments: Any, **options: Any) -> oauth.Failure:
    with pytest.raises(NoToken) as caught:
        read(*arguments, **options)
    return caught.value.failure


def test_a_plain_reply_is_read_whole() -> None:
    got = read(
        {
            "access_token": "at",
            "token_type": "Bearer",
            "expires_in": 3600,
            "refresh_token": "rt",
            "scope": "a b",
            "instance_url": "https://x.example",
            "id_token": "idt",
            "client_secret_hint": SENTINEL,
        }
    )
    assert got.access_token.reveal() == "at"
    assert (got.expires_in, got.odd_lifetime, got.scopes) == (3600, False, ("a", "b"))
    assert got.refresh_token == Secret("rt")
    assert got.id_token == Secret("idt")
    assert got.extra == {"instance_url": "https://x.example"}
    assert "at" not in repr(got)


@pytest.mark.parametrize(
    ("said", "meant", "odd"),
    [
        (3600, 3600, False),
        ("3600", 3600, False),
        (" 3600 ", 3600, False),
        (3600.9, 3600, False),
        ("3600.9", 3600, False),
        (0.5, 1, False),
        (0, 60, True),
        (-5, 60, True),
        ("-5", 60, True),
        (1e12, 400 * 86_400, True),
        (10**400, 400 * 86_400, True),
        (-(10**400), 60, True),
        (float("inf"), 400 * 86_400, True),
        (float("nan"), None, True),
        (True, None, True),
        ("abc", None, True),
        ("", None, True),
        ({}, None, True),
        ([3600], None, True),
        (None, None, False),
    ],
)
def test_a_token_is_not_lost_for_an_odd_lifetime(said: Json, meant: int | None, odd: bool) -> None:  # noqa: FBT001 - a row of the table
    got = read({"access_token": "at", "expires_in": said})
    assert got.access_token == Secret("at")
    assert (got.expires_in, got.odd_lifetime) == (meant, odd)


def test_a_missing_lifetime_is_taken_from_a_jwt_that_says_it() -> None:
    assert read({"access_token": LIVES_900_S}).expires_in == 900
    assert read({"access_token": "opaque"}).expires_in is None
    assert read({"access_token": "a.b.c"}).expires_in is None


def test_an_id_token_has_its_own_lifetime_and_not_the_access_tokens() -> None:
    token = LIVES_900_S
    body = {"access_token": "at", "id_token": token, "expires_in": 7200}
    got = parse_token_reply(reply(body), now=NOW, token_field="id_token")
    assert got.access_token == Secret(token)
    assert got.expires_in == 900


@pytest.mark.parametrize("kept", ["", None, 5, {}, "line\nbreak"])
def test_a_refresh_token_that_is_none_leaves_the_old_one(kept: Json) -> None:
    assert read({"access_token": "at", "refresh_token": kept}).refresh_token is None


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("a b", ("a", "b")),
        ("a,b, c", ("a", "b", "c")),
        (["a", "b"], ("a", "b")),
        ("", ()),
        (None, None),
        (7, None),
        ([1], None),
    ],
)
def test_scopes_come_as_text_or_as_a_list(said: Json, meant: tuple[str, ...] | None) -> None:
    assert read({"access_token": "at", "scope": said}).scopes == meant


def test_a_form_encoded_reply_is_read() -> None:
    got = read(raw=b"access_token=gho_x%2B1&scope=repo%2Cgist&token_type=bearer&expires_in=28800")
    assert got.access_token == Secret("gho_x+1")
    assert (got.expires_in, got.scopes) == (28_800, ("repo", "gist"))


def test_a_nested_token_is_found_where_it_is_said_to_be() -> None:
    body = {"ok": True, "authed_user": {"access_token": "xoxp", "expires_in": 43200}}
    got = parse_token_reply(reply(body), now=NOW, inside=("authed_user",))
    assert got.access_token == Secret("xoxp")
    for wrong in (("nobody",), ("ok",), ("authed_user", "deeper")):
        with pytest.raises(NoToken):
            parse_token_reply(reply(body), now=NOW, inside=wrong)


@pytest.mark.parametrize(
    "token",
    [None, "", 5, True, {}, [], " ", "a\nb", "a\r\nX: y", "\x00", "ü", "\ud800", "x" * 32_769],
)
def test_what_is_no_token_is_ambiguous(token: Json) -> None:
    assert failure({"access_token": token}).outcome == "ambiguous"


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"null", b'"x"', b"{", b"<html>a=b</html>", b"\xff\xfe", b"[" * 100_000]
)
def test_what_is_no_reply_is_ambiguous(raw: bytes) -> None:
    assert failure(raw=raw).outcome == "ambiguous"


@pytest.mark.parametrize(
    ("outcome", "body", "options"),
    [
        ("dead", {"error": "invalid_grant"}, {"status": 400}),
        ("dead", {"error": "INVALID_GRANT"}, {"status": 401}),
        ("dead", {"error": "bad_refresh_token"}, {}),
        ("dead", {"ok": False, "error": "token_revoked"}, {}),
        ("dead", {"error": {"code": "invalid_grant"}}, {"status": 400}),
        ("client", {"error": "invalid_client"}, {"status": 401}),
        ("client", {"error": "unauthorized_client"}, {"status": 400}),
        ("client", {"error": "invalid_scope"}, {"status": 400}),
        ("client", {"error": "unsupported_grant_type"}, {"status": 400}),
        ("client", {"error": "incorrect_client_credentials"}, {}),
        ("client", None, {"status": 401, "raw": b""}),
        ("client", None, {"status": 401, "raw": b"<h1>no", "WWW_Authenticate": "Basic"}),
        ("transient", {"detail": "blocked"}, {"status": 401}),
        ("transient", {"detail": "blocked"}, {"status": 403}),
        ("transient", {"error": "invalid_request"}, {"status": 400}),
        ("transient", {"error": "temporarily_unavailable"}, {"status": 400}),
        ("transient", {"error": "never_seen"}, {"status": 400}),
        ("transient", {"error": "never_seen", "access_token": "at"}, {}),
        ("transient", {"error": {"message": "?", "code": 190}}, {"status": 400}),
        ("transient", {"ok": False}, {}),
        ("transient", None, {"status": 302, "raw": b""}),
        ("transient", None, {"status": 404, "raw": b"<html>"}),
        ("throttled", {"error": "slow_down"}, {"status": 400}),
        ("throttled", {"ok": False, "error": "ratelimited"}, {}),
        ("throttled", None, {"status": 429, "raw": b""}),
        ("throttled", {"error": "invalid_grant"}, {"status": 429}),
        ("throttled", None, {"status": 503, "raw": b"", "Retry_After": "7"}),
        ("ambiguous", None, {"status": 503, "raw": b""}),
        ("ambiguous", None, {"status": 408, "raw": b""}),
        ("ambiguous", {"error": "invalid_grant"}, {"status": 500}),
        ("ambiguous", {"access_token": "at"}, {"status": 500}),
        ("ambiguous", {}, {}),
    ],
)
def test_a_failure_has_a_class(outcome: str, body: Json, options: dict[str, Any]) -> None:
    assert failure(body, **options).outcome == outcome


def test_a_providers_own_words_decide_what_is_dead() -> None:
    dead = frozenset({"consent_withdrawn"})
    body = {"error": "consent_withdrawn"}
    assert oauth.classify(reply(body, status=400), now=NOW, dead=dead).outcome == "dead"
    body = {"error": "invalid_grant"}
    assert oauth.classify(reply(body, status=400), now=NOW, dead=dead).outcome == "transient"


def test_a_refused_assertion_is_blamed_on_the_clocks_if_they_differ() -> None:
    def outcome(date: str, *, asserted: bool) -> str:
        late = reply({"error": "invalid_grant"}, status=400, Date=date)
        return oauth.classify(late, now=NOW, asserted=asserted).outcome

    assert outcome("Sat, 21 Nov 2026 12:00:20 GMT", asserted=True) == "dead"
    assert outcome("Sat, 21 Nov 2026 12:01:00 GMT", asserted=True) == "transient"
    assert outcome("Sat, 21 Nov 2026 11:59:00 GMT", asserted=True) == "transient"
    assert outcome("Sat, 21 Nov 2026 12:01:00 GMT", asserted=False) == "dead"
    assert outcome("nonsense", asserted=True) == "dead"


@pytest.mark.parametrize(
    ("said", "date", "meant"),
    [
        ("17", "", 17),
        ("17.2", "", 18),
        ("0", "", 1),
        ("-5", "", 1),
        ("86400", "", 3600),
        ("9" * 30, "", None),
        ("Sat, 21 Nov 2026 12:00:17 GMT", "", 17),
        ("Sat, 21 Nov 2026 12:00:17 GMT", "Sat, 21 Nov 2026 12:00:10 GMT", 7),
        ("Sat, 21 Nov 2020 12:00:17 GMT", "", 1),
        ("Sat, 21 Nov 9999 12:00:17 GMT", "", 3600),
        ("Sat, 99 Nov 2026 12:00:17 GMT", "", None),
        ("soon", "", None),
        ("", "", None),
    ],
)
def test_a_retry_after_is_seconds_or_a_date(said: str, date: str, meant: int | None) -> None:
    assert failure(status=429, raw=b"", Retry_After=said, Date=date).retry_after == meant


def test_a_failure_says_nothing_that_the_other_side_said() -> None:
    told = failure(
        {"error": SENTINEL, "error_description": SENTINEL, SENTINEL: SENTINEL}, status=400
    )
    assert SENTINEL not in repr(told)
    assert told.error is None


def test_a_call_without_a_reply_has_a_class_too() -> None:
    def outcome(error: VaultError) -> str:
        return oauth.failure_of(error).outcome

    assert outcome(Unreachable(sent=False)) == "not_sent"
    assert outcome(EgressDenied()) == "not_sent"
    assert outcome(Unreachable(sent=True)) == "ambiguous"
    assert outcome(AnswerTooLarge()) == "ambiguous"
    assert outcome(UpstreamFailed()) == "ambiguous"


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
_names = st.sampled_from(
    [
        "access_token",
        "expires_in",
        "error",
        "ok",
        "scope",
        "refresh_token",
        "token_type",
        "id_token",
    ]
)
_bodies = st.one_of(
    st.dictionaries(_names, _json).map(lambda value: json.dumps(value).encode()),
    _json.map(lambda value: json.dumps(value).encode()),
    st.binary(),
    st.dictionaries(_names, st.text()).map(
        lambda fields: "&".join(f"{name}={value}" for name, value in fields.items()).encode(
            "utf-8", "surrogatepass"
        )
    ),
)
_headers = st.dictionaries(
    st.sampled_from(["Retry-After", "Date", "WWW-Authenticate"]), st.text(max_size=40)
)


@given(body=_bodies, status=st.integers(100, 599) | st.just(200), headers=_headers)
def test_any_answer_is_a_token_or_our_error(
    body: bytes, status: int, headers: dict[str, str]
) -> None:
    answer = Reply(status=status, headers=tuple(headers.items()), body=body)
    try:
        got = parse_token_reply(answer, now=NOW)
    except NoToken as error:
        wait = error.failure.retry_after
        assert wait is None or 1 <= wait <= 3600
        return
    assert 200 <= status < 300
    token = got.access_token.reveal()
    assert token
    assert token.isascii()
    assert token.isprintable()
    assert got.expires_in is None or 1 <= got.expires_in <= 400 * 86_400
    assert got.refresh_token is None or got.refresh_token.reveal()
