"""Token requests as they go out, and token replies as they come in."""

import json
from base64 import b64decode
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.jwts import (
    EC_KEYS,
    RSA_1024,
    RSA_2048,
    keys,
    own_jwt,
    parts,
    pem,
    public_pem,
    traded_jwt,
)

from vault import oauth
from vault.auth_kinds import Algorithm, ClientCredentials
from vault.egress import Reply, Request
from vault.errors import EgressDenied, Invalid, TooLarge, Unreachable, UpstreamFailed
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


def form_of(request: Request) -> dict[str, str]:
    assert isinstance(request.body, Secret)
    fields = parse_qs(request.body.reveal(), strict_parsing=True, keep_blank_values=True)
    assert all(len(values) == 1 for values in fields.values())
    return {name: values[0] for name, values in fields.items()}


def header_of(request: Request, name: str) -> str | None:
    for key, value in request.headers:
        if key.lower() == name.lower():
            return value.reveal() if isinstance(value, Secret) else value
    return None


# Replies


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
    outcome = lambda error: oauth.failure_of(error).outcome  # noqa: E731 - shorter than the lines below
    assert outcome(Unreachable(sent=False)) == "not_sent"
    assert outcome(EgressDenied()) == "not_sent"
    assert outcome(Unreachable(sent=True)) == "ambiguous"
    assert outcome(TooLarge()) == "ambiguous"
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


# Requests


def client(**fields: Any) -> ClientCredentials:
    return ClientCredentials(
        **{
            "provider": "p",
            "client_id": "id:1",
            "client_secret": "s ec:ret+%",
            "token_url": "https://auth.example.com/token",
            **fields,
        }
    )


def test_a_client_proves_itself_in_the_body_or_in_the_header_never_in_both() -> None:
    in_body = oauth.client_credentials(client(scopes=["a", "b"], extra_params={"audience": "x y"}))
    assert form_of(in_body) == {
        "grant_type": "client_credentials",
        "client_id": "id:1",
        "client_secret": "s ec:ret+%",
        "scope": "a b",
        "audience": "x y",
    }
    assert header_of(in_body, "Authorization") is None
    in_header = oauth.client_credentials(client(basic_auth_in_header=True))
    assert form_of(in_header) == {"grant_type": "client_credentials"}
    scheme, _, encoded = (header_of(in_header, "Authorization") or "").partition(" ")
    assert scheme == "Basic"
    # RFC 6749 section 2.3.1: both parts form-encoded, so that the colon is the only one.
    assert b64decode(encoded).decode() == "id%3A1:s+ec%3Aret%2B%25"
    assert header_of(in_header, "Content-Type") == "application/x-www-form-urlencoded"
    assert header_of(in_header, "Accept") == "application/json"


def test_custom_headers_go_along() -> None:
    made = oauth.client_credentials(client(custom_headers={"X-Tenant": "t", "Accept": "*/*"}))
    assert header_of(made, "X-Tenant") == "t"
    assert [name for name, _ in made.headers].count("Accept") == 1


def test_nothing_of_a_request_shows_in_its_repr() -> None:
    assert "ec:ret" not in repr(oauth.client_credentials(client(custom_headers={"X": SENTINEL})))


@pytest.mark.parametrize(
    "fields",
    [
        {"extra_params": {"grant_type": "password"}},
        {"extra_params": {"Client_ID": "other"}},
        {"extra_params": {"client_secret": "x"}},
        {"extra_params": {"client_assertion": "x"}},
        {"extra_params": {"assertion": "x"}},
        {"custom_headers": {"Host": "x"}},
        {"custom_headers": {"content-type": "text/plain"}},
        {"custom_headers": {"Content-Length": "0"}},
        {"custom_headers": {"Authorization": "x"}, "basic_auth_in_header": True},
        {"custom_headers": {"X-A": "a\r\nX-B: b"}},
        {"custom_headers": {"X A": "a"}},
    ],
)
def test_what_a_workspace_adds_cannot_replace_what_is_ours(fields: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        oauth.check_config(client(**fields))


def test_a_usual_client_passes_the_check() -> None:
    oauth.check_config(client(extra_params={"audience": "a"}, custom_headers={"X-A": "b"}))


# Assertions


@pytest.mark.parametrize("algorithm", Algorithm.__args__)
def test_every_algorithm_signs_what_its_public_key_verifies(algorithm: Algorithm) -> None:
    private, public = keys(algorithm)
    config = own_jwt(algorithm=algorithm, secret_key=private, key_id="k1")
    oauth.check_config(config)
    token = oauth.signed_jwt(config, now=NOW, jti="j").reveal()
    assert dict(oauth.verified_claims(token, public, [algorithm])) == {
        "iss": "iss",
        "aud": "https://aud.example",
        "sub": "sub",
        "iat": int(NOW.timestamp()),
        "exp": int(NOW.timestamp()) + 3600,
        "jti": "j",
    }
    assert parts(token)[0] == {"alg": algorithm, "kid": "k1", "typ": "JWT"}
    head, claims, signature = token.split(".")
    for forged in (f"{head}.{claims}.", f"{head}.e30.{signature}", "", "a.b.c"):
        with pytest.raises(Invalid):
            oauth.verified_claims(forged, public, [algorithm])


def test_an_unsigned_jwt_and_a_public_key_as_secret_are_not_believed() -> None:
    none = "eyJhbGciOiJub25lIn0.eyJpc3MiOiJ4In0."
    public = public_pem(RSA_2048)
    for algorithms in (["RS256"], ["HS256"], ["HS256", "RS256"]):
        with pytest.raises(Invalid):
            oauth.verified_claims(none, public, algorithms)


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        ("HS256", pem(RSA_2048)),
        ("HS256", public_pem(RSA_2048)),
        ("RS256", "no pem"),
        ("RS256", public_pem(RSA_2048)),
        ("RS256", pem(RSA_1024)),
        ("RS256", pem(RSA_2048, b"passphrase")),
        ("PS512", pem(RSA_1024)),
        ("RS256", pem(EC_KEYS["ES256"])),
        ("ES256", pem(EC_KEYS["ES384"])),
        ("ES384", pem(RSA_2048)),
        ("ES256", public_pem(EC_KEYS["ES256"])),
        ("RS256", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"),
        ("RS256", "\ud800"),
        ("HS256", "\ud800"),
    ],
)
def test_a_key_that_does_not_fit_is_refused_in_words_that_hold_nothing_of_it(
    algorithm: Algorithm, key: str
) -> None:
    with pytest.raises(Invalid) as caught:
        oauth.check_config(own_jwt(algorithm=algorithm, secret_key=key))
    assert algorithm in caught.value.message
    assert caught.value.pointer == "/secret_key"
    assert "PRIVATE" not in repr(caught.value)
    assert caught.value.__cause__ is None


def test_extras_are_claims_and_header_fields() -> None:
    config = own_jwt(extra_params={"tenant": "t"}, extra_headers={"x5t": "thumb"})
    header, claims = parts(oauth.signed_jwt(config, now=NOW, jti="j").reveal())
    assert header["x5t"] == "thumb"
    assert claims["tenant"] == "t"


@pytest.mark.parametrize(
    "fields",
    [
        {"extra_params": {"iss": "x"}},
        {"extra_params": {"exp": "9999999999"}},
        {"extra_params": {"nbf": "0"}},
        {"extra_headers": {"alg": "none"}},
        {"extra_headers": {"kid": "x"}},
        {"extra_headers": {"crit": "x"}},
    ],
)
def test_extras_replace_nothing(fields: dict[str, Any]) -> None:
    for config in (own_jwt(**fields), traded_jwt(**fields)):
        with pytest.raises(Invalid):
            oauth.check_config(config)


def test_an_assertion_is_the_grant_or_the_clients_proof() -> None:
    grant = oauth.jwt_request(traded_jwt(scopes=["a", "b"]), now=NOW, jti="j")
    form = form_of(grant)
    assert form.pop("assertion").count(".") == 2
    assert form == {"grant_type": oauth.JWT_GRANT, "scope": "a b"}
    assert parts(form_of(grant)["assertion"])[1]["scope"] == "a b"  # as Google reads it
    config = traded_jwt(scopes=["a"], jwt_usage="client_authentication")
    proof = form_of(oauth.jwt_request(config, now=NOW, jti="j"))
    assert "scope" not in parts(proof.pop("client_assertion"))[1]
    assert proof == {
        "grant_type": "client_credentials",
        "client_id": "sub",
        "client_assertion_type": oauth.JWT_CLIENT,
        "scope": "a",
    }
