"""What providers answer, odd as it is: read or refused as the catalogue says."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from support.engine import NOW, app_of, reply, tokens_of

from vault.errors import Invalid, UpstreamFailed
from vault.oauth import accounts, reading, refusals
from vault.oauth.app import App, Endpoints, ExtraToken, TokenSet
from vault.oauth.callbacks import callback_values, check_issuer
from vault.oauth.paths import at, text_of
from vault.oauth.replies import Failure, NoToken
from vault.oauth.revoking import given_back
from vault.providers.schema import Identity, Variable
from vault.secret import Secret

Json = Any
OLD = TokenSet(
    access_token=Secret("at-0"),
    refresh_token=Secret("rt-0"),
    obtained_at=datetime(2026, 11, 1, tzinfo=UTC),
    scopes=("a", "b"),
    extras={"instance_url": "https://old.salesforce.com", "team_id": "T0"},
    refresh_expires_at=datetime(2027, 1, 1, tzinfo=UTC),
)


def read(name: str, body: Json, **options: Any) -> TokenSet:
    """The tokens in a first reply."""
    return reading.token_set(app_of(name), reply(body), now=NOW, **options).tokens


def renewed(name: str, body: Json, former: TokenSet = OLD) -> TokenSet:
    """The tokens after a refresh."""
    return read(name, body, former=former, kind="refresh")


def failure(name: str, body: Json, status: int = 400, **options: Any) -> Failure:
    with pytest.raises(NoToken) as caught:
        reading.token_set(app_of(name), reply(body, status, **options), now=NOW)
    return caught.value.failure


def lives(tokens: TokenSet) -> float | None:
    return (tokens.expires_at - NOW).total_seconds() if tokens.expires_at else None


# Odd shapes


def test_slack_has_two_tokens_and_sometimes_only_the_persons() -> None:
    bot = {
        "ok": True,
        "access_token": "xoxe.xoxb-1",
        "token_type": "bot",
        "scope": "chat:write,users:read",
        "expires_in": 43200,
        "refresh_token": "xoxe-1",
        "team": {"id": "T1", "name": "Team"},
        "enterprise": None,
        "is_enterprise_install": False,
        "authed_user": {"id": "U1"},
    }
    user = {
        "id": "U1",
        "scope": "search:read",
        "access_token": "xoxe.xoxp-1",
        "refresh_token": "xoxe-2",
        "token_type": "user",
        "expires_in": 43200,
    }
    only_bot = read("slack", bot)
    assert only_bot.access_token == Secret("xoxe.xoxb-1")
    assert only_bot.scopes == ("chat:write", "users:read")
    assert lives(only_bot) == 43200
    assert only_bot.more == {}
    assert only_bot.extras == {
        "team_id": "T1",
        "team_name": "Team",
        "is_enterprise_install": "false",
        "authed_user_id": "U1",
    }
    both = read("slack", bot | {"authed_user": user})
    assert both.more["user"].access_token == Secret("xoxe.xoxp-1")
    assert both.more["user"].refresh_token == Secret("xoxe-2")
    assert both.more["user"].scopes == ("search:read",)
    only_user = read("slack", {"ok": True, "authed_user": user, "team": {"id": "T1"}})
    assert only_user.access_token is None
    assert only_user.more["user"].access_token == Secret("xoxe.xoxp-1")
    persons = read("slack-user", {"ok": True, "authed_user": user, "team": {"id": "T1"}})
    assert persons.access_token == Secret("xoxe.xoxp-1")
    assert persons.extras["team_id"] == "T1"
    with pytest.raises(NoToken):
        read("slack-user", bot)


def test_slack_refreshes_each_token_by_itself_and_at_the_top() -> None:
    app = app_of("slack")
    more = app.provider.reply.more[0]
    former = replace(
        OLD,
        more={"user": ExtraToken(access_token=Secret("u-0"), refresh_token=Secret("ur-0"))},
    )
    body = {"ok": True, "access_token": "u-1", "refresh_token": "ur-1", "token_type": "user"}
    after = reading.extra_token(app, reply(body), more, now=NOW, former=former)
    assert after.more["user"].refresh_token == Secret("ur-1")
    assert (after.access_token, after.refresh_token) == (Secret("at-0"), Secret("rt-0"))
    after = renewed("slack", {"ok": True, "access_token": "b-1", "token_type": "bot"}, former)
    assert after.access_token == Secret("b-1")
    assert after.more == former.more
    # The person's token in the bot's place, or the other way round, is nobody's.
    with pytest.raises(NoToken):
        renewed("slack", body, former)
    with pytest.raises(NoToken):
        reading.extra_token(app, reply(body | {"token_type": "bot"}), more, now=NOW, former=former)


def test_without_rotation_slack_and_github_last_and_with_it_they_say_how_long() -> None:
    assert lives(read("slack", {"ok": True, "access_token": "xoxb"})) is None
    assert lives(read("github-oauth-app", {"access_token": "gho"})) is None
    rotating = {"access_token": "ghu", "expires_in": 28800, "refresh_token": "ghr"}
    assert lives(read("github-oauth-app", rotating)) == 28800


def test_a_form_is_a_reply_too() -> None:
    raw = b"access_token=gho_x&scope=repo%2Cgist&token_type=bearer"
    got = reading.token_set(app_of("github-oauth-app"), reply(raw=raw), now=NOW).tokens
    assert (got.access_token, got.scopes) == (Secret("gho_x"), ("repo", "gist"))


@pytest.mark.parametrize(
    ("name", "body", "seconds"),
    [
        ("square", {"expires_at": "2026-12-21T12:00:00Z"}, 30 * 86_400),
        ("square", {"expires_at": "2026-12-21T12:00:00"}, 30 * 86_400),
        ("square", {"expires_at": "soon"}, 2_592_000),
        ("square", {"expires_at": "2026-01-01T00:00:00Z"}, 60),
        ("square", {"expires_at": "9999-01-01T00:00:00Z"}, 400 * 86_400),
        ("strava", {"expires_at": int(NOW.timestamp()) + 21_600, "expires_in": 5}, 21_600),
        ("strava", {"expires_at": "nan", "expires_in": 5}, 5),
        ("strava", {"expires_at": 10**400, "expires_in": 5}, 5),
        ("strava", {"expires_at": True, "expires_in": 5}, 5),
        ("front", {"expires_at": NOW.timestamp() + 3600.5}, 3600.5),
        ("mailchimp", {"expires_in": 0}, None),
        ("mailchimp", {"expires_in": "0"}, None),
        ("mailchimp", {"expires_in": -1}, 60),
        ("google", {"expires_in": 0}, 60),
        ("google", {"expires_in": -5}, 60),
        ("google", {"expires_in": "3599"}, 3599),
        ("google", {"expires_in": 3600.9}, 3600),
        ("google", {"expires_in": 1e12}, 400 * 86_400),
        ("salesforce", {}, 7200),
        ("salesforce", {"expires_in": "abc"}, 7200),
        ("salesforce", {"expires_in": True}, 7200),
        ("intercom", {}, None),
        ("oauth2", {}, None),
        ("oauth2", {"refresh_token": "rt"}, 3600),
        ("salesforce", {"access_token": "e30.eyJpYXQiOiAxMDAwLCAiZXhwIjogMTkwMH0.x"}, 900),
    ],
)
def test_the_end_is_found_in_every_form_and_no_token_is_lost_for_an_odd_one(
    name: str, body: Json, seconds: float | None
) -> None:
    assert lives(read(name, {"access_token": "at"} | body)) == seconds


@pytest.mark.parametrize(
    ("name", "body", "seconds"),
    [
        ("quickbooks", {"x_refresh_token_expires_in": 8_726_400}, 8_726_400),
        ("quickbooks", {"x_refresh_token_expires_in": 157_680_000}, 157_680_000),
        ("tiktok", {"refresh_expires_in": 15_552_000}, 15_552_000),
        ("keycloak", {"refresh_expires_in": 1800}, 1800),
        ("keycloak", {"refresh_expires_in": 0}, None),
        ("airtable", {"refresh_expires_in": 0}, 60),
        ("shopify", {"refresh_token_expires_in": 7_776_000}, 7_776_000),
        ("shopify", {}, 7_776_000),
        ("linear", {"refresh_token_expires_in": 5}, 5),
        ("square", {"refresh_token_expires_at": "2027-02-19T12:00:00Z"}, 90 * 86_400),
        ("google", {}, None),
    ],
)
def test_the_refresh_tokens_end_is_known_where_somebody_says_it(
    name: str, body: Json, seconds: float | None
) -> None:
    got = read(name, {"access_token": "at", "refresh_token": "rt"} | body).refresh_expires_at
    assert got == (None if seconds is None else NOW + timedelta(seconds=seconds))


def test_an_end_that_slides_moves_and_one_that_does_not_stays() -> None:
    body = {"access_token": "at", "refresh_token": "rt"}
    assert renewed("shopify", body).refresh_expires_at == NOW + timedelta(days=90)
    assert renewed("spotify", body).refresh_expires_at == OLD.refresh_expires_at
    assert renewed("google", body).refresh_expires_at == OLD.refresh_expires_at


def test_scopes_are_read_as_the_provider_writes_them() -> None:
    said: list[tuple[str, Json, tuple[str, ...] | None]] = [
        ("google", {"scope": "a  b"}, ("a", "b")),
        ("github-oauth-app", {"scope": "a,b, c"}, ("a", "b", "c")),
        ("github-oauth-app", {"scope": ""}, ()),
        ("twitch", {"scope": ["a", "b"]}, ("a", "b")),
        ("twitch", {"scope": "a b"}, None),
        ("linear", {"scope": ["a"]}, ("a",)),
        ("bitbucket", {"scopes": "a b"}, ("a", "b")),
        ("notion", {"scope": "a"}, None),
        ("google", {"scope": 7}, None),
        ("google", {"scope": "a\x00b"}, None),
        ("google", {}, None),
    ]
    for name, body, scopes in said:
        assert read(name, {"access_token": "at"} | body).scopes == scopes, (name, body)


def test_instagrams_reply_is_nested_and_its_older_one_is_not() -> None:
    inner = {"access_token": "IG", "user_id": 17841, "permissions": "a b"}
    for body in ({"data": [inner]}, inner):
        got = reading.token_set(app_of("instagram"), reply(body), now=NOW)
        assert got.tokens.access_token == Secret("IG")
        assert got.tokens.extras == {"user_id": "17841"}
        found = accounts.named(app_of("instagram"), accounts.Evidence(reply=got.document))
        assert found is not None
        assert found.id == "17841"


def test_extras_are_kept_and_read_again() -> None:
    body = {
        "access_token": "at",
        "instance_url": "https://new.my.salesforce.com",
        "id": "https://x",
    }
    got = read("salesforce", body)
    assert got.extras == {
        "instance_url": "https://new.my.salesforce.com",
        "identity_url": "https://x",
    }
    after = renewed("salesforce", body)
    assert after.extras["instance_url"] == "https://new.my.salesforce.com"
    assert after.extras["team_id"] == "T0"
    assert renewed("salesforce", {"access_token": "at"}).extras == OLD.extras


def test_what_a_refresh_says_again_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[Json] = []
    monkeypatch.setattr(reading, "check_told", lambda *told: checked.append(told[1:]))
    body = {"access_token": "at", **OLD.extras, "id": "https://x"}
    assert renewed("salesforce", body).extras == {**OLD.extras, "identity_url": "https://x"}
    assert checked == [("identity_url", "https://x")]
    read("salesforce", body, former=OLD)
    assert ("instance_url", OLD.extras["instance_url"]) in checked, "a first reply is"


def test_a_host_that_is_not_the_providers_own_costs_the_first_reply_and_not_a_refresh() -> None:
    body = {"access_token": "at", "instance_url": "https://evil.example"}
    with pytest.raises(UpstreamFailed):
        read("salesforce", body)
    after = renewed("salesforce", body)
    assert after.access_token == Secret("at")
    assert after.extras["instance_url"] == "https://old.salesforce.com"


def test_an_extra_is_a_short_plain_text_or_nothing() -> None:
    odds: list[Json] = [{}, [], None, "", "a\nb", "x" * 2_001, "\ud800"]
    for odd in odds:
        assert read("square", {"access_token": "at", "merchant_id": odd}).extras == {}
    for value, text in ((7, "7"), (True, "true"), (2**80, str(2**80)), ("ü", "ü")):
        got = read("square", {"access_token": "at", "merchant_id": value})
        assert got.extras == {"merchant_id": text}


# Refreshing


@pytest.mark.parametrize("kept", [None, "", 5, {}, "line\nbreak", "\ud800"])
def test_a_refresh_without_a_refresh_token_keeps_the_old_one(kept: Json) -> None:
    after = renewed("google", {"access_token": "at-1", "refresh_token": kept, "expires_in": 5})
    assert (after.access_token, after.refresh_token) == (Secret("at-1"), Secret("rt-0"))
    assert (after.scopes, after.obtained_at) == (("a", "b"), NOW)
    after = renewed("google", {"access_token": "at-1"})
    assert after.refresh_token == Secret("rt-0")


def test_a_refresh_takes_what_is_new() -> None:
    body = {"access_token": "at-0", "refresh_token": "rt-1", "scope": "a", "expires_in": 60}
    after = renewed("google", body)
    assert (after.refresh_token, after.scopes, lives(after)) == (Secret("rt-1"), ("a",), 60)


def test_a_second_resource_of_the_same_consent() -> None:
    app = app_of("sharepoint")
    more = app.provider.reply.more[0]
    body = {"access_token": "sp", "refresh_token": "rt-1", "expires_in": 3600}
    after = reading.extra_token(app, reply(body), more, now=NOW, former=OLD)
    assert after.more["sharepoint"].access_token == Secret("sp")
    assert after.more["sharepoint"].refresh_token is None
    assert (after.access_token, after.refresh_token) == (Secret("at-0"), Secret("rt-1"))


# Refusals


def no(error: str, description: str) -> Json:
    return {"error": error, "error_description": description}


@pytest.mark.parametrize(
    ("name", "status", "body", "outcome"),
    [
        ("slack", 200, {"ok": False, "error": "invalid_refresh_token"}, "dead"),
        ("slack", 200, {"ok": False, "error": "token_expired"}, "dead"),
        ("slack", 200, {"ok": False, "error": "bad_client_secret"}, "client"),
        ("slack", 200, {"ok": False, "error": "internal_error"}, "transient"),
        ("slack", 200, {"ok": False, "error": "ratelimited"}, "throttled"),
        ("slack", 200, {"ok": False, "error": "what_is_this"}, "transient"),
        ("slack", 200, {"ok": False, "access_token": "x"}, "transient"),
        ("github-oauth-app", 200, {"error": "bad_refresh_token"}, "dead"),
        ("github-oauth-app", 200, {"error": "incorrect_client_credentials"}, "client"),
        ("zoho", 200, {"error": "invalid_code"}, "dead"),
        ("zoho", 200, {"error": "invalid_client_secret"}, "client"),
        ("zoho", 400, no("Access Denied", "too many requests"), "throttled"),
        ("square", 401, {"error": "UNAUTHORIZED"}, "dead"),
        ("salesforce", 400, no("invalid_grant", "expired access/refresh token"), "dead"),
        (
            "salesforce",
            400,
            no("invalid_grant", "token request is already being processed"),
            "transient",
        ),
        ("facebook", 400, {"error": {"code": 190, "message": "gone"}}, "dead"),
        ("facebook", 400, {"error": {"code": 4, "message": "x"}}, "throttled"),
        ("facebook", 400, {"error": {"code": 2, "message": "x"}}, "transient"),
        ("jira", 403, {"error": "invalid_grant"}, "dead"),
        ("jira", 403, no("unauthorized_client", "refresh_token is invalid"), "dead"),
        ("jira", 401, {"error": "access_denied"}, "client"),
        ("google", 400, {"error": "invalid_grant", "error_subtype": "invalid_rapt"}, "dead"),
        ("google", 400, {"error": "invalid_grant"}, "dead"),
        ("google", 401, {"error": "invalid_client"}, "client"),
        ("google", 400, {"error": "invalid_request"}, "transient"),
        ("google", 403, {"detail": "blocked"}, "transient"),
        ("google", 200, {}, "ambiguous"),
        ("google", 200, {"access_token": ""}, "ambiguous"),
        ("google", 200, {"access_token": "a\r\nb"}, "ambiguous"),
        ("google", 200, {"access_token": "naïve"}, "ambiguous"),
        ("google", 200, {"access_token": "x" * 40_000}, "ambiguous"),
        ("google", 200, [], "ambiguous"),
        ("google", 302, {}, "transient"),
        ("google", 500, {"error": "invalid_grant"}, "ambiguous"),
        ("google", 429, {"error": "invalid_grant"}, "throttled"),
        ("square", 503, {"error": "UNAUTHORIZED"}, "ambiguous"),
        ("jira", 408, {"error": "invalid_grant"}, "ambiguous"),
    ],
)
def test_a_no_means_what_the_catalogue_says(
    name: str, status: int, body: Json, outcome: str
) -> None:
    assert failure(name, body, status).outcome == outcome


def test_a_providers_row_without_a_status_does_not_condemn_an_outage() -> None:
    app = app_of("x")
    rows = [replace(row, status=None, outcome="dead") for row in app.provider.errors.rows]
    provider = replace(app.provider, errors=replace(app.provider.errors, rows=rows))
    for row in rows:
        answer = reply({"error": row.code, "error_description": row.detail}, 502)
        assert refusals.refusal(provider, answer, now=NOW).outcome == "ambiguous"


def test_a_refused_assertion_may_only_be_a_clock() -> None:
    app = app_of("google-service-account")
    late = {"Date": "Sat, 21 Nov 2026 11:00:00 GMT"}
    right = {"Date": "Sat, 21 Nov 2026 12:00:05 GMT"}
    for headers, outcome in ((late, "transient"), (right, "dead")):
        answer = reply({"error": "invalid_grant"}, 400, raw=None, **headers)
        with pytest.raises(NoToken) as caught:
            reading.token_set(app, answer, now=NOW, asserted=True)
        assert caught.value.failure.outcome == outcome


def test_a_time_to_wait_is_passed_on_and_no_text_of_a_reply_is() -> None:
    got = failure(
        "google", {"error": "s3ntinel", "error_description": "s3ntinel"}, 429, Retry_After="17"
    )
    assert got.retry_after == 17
    got = failure("square", no("UNAUTHORIZED", "s3ntinel"), 401)
    assert got.error == "UNAUTHORIZED"
    assert "s3ntinel" not in repr(got)


def test_an_answer_to_a_revocation() -> None:
    def said(name: str, body: Json, status: int = 200) -> str:
        return given_back(app_of(name), reply(body, status), "access_token", now=NOW).outcome

    assert said("google", {}) == "revoked"
    assert given_back(app_of("google"), reply(raw=b""), "x", now=NOW).outcome == "revoked"
    assert said("google", {"error": "invalid_token"}, 400) == "gone"
    assert said("slack", {"ok": True, "revoked": True}) == "revoked"
    assert said("slack", {"ok": False, "error": "token_revoked"}) == "gone"
    assert said("github-oauth-app", {"message": "Not Found"}, 404) == "gone"
    assert said("dropbox", {}, 401) == "gone"
    for name, body, status in (
        ("slack", {"ok": False, "error": "fatal_error"}, 200),
        ("google", {}, 500),
        ("google", {}, 404),
        ("google", {"error": "invalid_client"}, 401),
    ):
        with pytest.raises(NoToken):
            said(name, body, status)


# Callbacks


def test_zohos_data_centre_comes_back_and_a_forged_one_is_refused() -> None:
    app = app_of("zoho")
    good = {"code": "c", "accounts-server": "accounts.zoho.eu", "location": "eu"}
    for host in ("accounts.zoho.eu", "https://accounts.zoho.eu", "https://accounts.zoho.eu/"):
        told = callback_values(app, good | {"accounts-server": host})
        assert told == {"accounts_host": "accounts.zoho.eu", "location": "eu"}
    for host in (
        "http://accounts.zoho.eu",
        "https://accounts.zoho.eu/x",
        "https://accounts.zoho.eu.evil.example",
        "https://https://accounts.zoho.eu",
        "accounts.zoho.eu.evil.example",
        "evil.example",
        "accounts.zoho.eu\n",
    ):
        with pytest.raises(Invalid):
            callback_values(app, good | {"accounts-server": host})


def test_a_value_under_the_name_of_a_variable_that_a_person_filled_equals_it() -> None:
    app = app_of("quickbooks")
    provider = replace(app.provider, variables={"realm_id": Variable(filled_by="person")})
    app = replace(app, provider=provider, values={"realm_id": "1"})
    assert callback_values(app, {"realmId": "1"}) == {"realm_id": "1"}
    with pytest.raises(Invalid):
        callback_values(app, {"realmId": "2"})


def test_what_a_browser_brought_is_short_and_plain() -> None:
    for odd in ("a\r\nb", "x" * 2_001, "\x00"):
        with pytest.raises(Invalid):
            callback_values(app_of("quickbooks"), {"realmId": odd})


def test_an_answer_of_another_server_is_refused() -> None:
    app = app_of("google")
    check_issuer(app, {})
    check_issuer(app, {"iss": "https://accounts.google.com"})
    for iss in ("https://evil.example", "https://accounts.google.com/", ""):
        with pytest.raises(Invalid):
            check_issuer(app, {"iss": iss})
    found = Endpoints(issuer="https://found.example", iss_in_callback=True)
    app = app_of("oidc", endpoints=found)
    check_issuer(app, {"iss": "https://found.example"})
    for callback in ({}, {"iss": "https://other.example"}):
        with pytest.raises(Invalid):
            check_issuer(app, callback)
    check_issuer(app_of("microsoft"), {"iss": "https://login.microsoftonline.com/x/v2.0"})


# Accounts


def named(name: str, document: Json) -> str | None:
    identity = app_of(name).provider.identity
    assert identity is not None
    found = accounts.account(identity, document)
    return found.id if found else None


def test_an_account_is_named_where_the_file_says() -> None:
    assert named("github-oauth-app", {"id": 583231, "login": "octocat"}) == "583231"
    assert named("slack", {"team": {"id": "T1"}, "authed_user": {"id": "U1"}}) == "T1:U1"
    assert named("bamboohr", [{"id": 4}]) == "4"
    assert named("oauth2", {"id": "i"}) == "i"
    assert named("oauth2", {"sub": "s", "id": "i"}) == "s"
    team = {"team": {"id": "T1"}}
    halves: list[Json] = [team, team | {"authed_user": {"id": ""}}, {}, []]
    for half in halves:
        assert named("slack", half) is None


def test_no_two_accounts_share_an_id() -> None:
    identity = Identity(source="userinfo", account=["a", "b"])
    pairs = [("x:y", "z"), ("x", "y:z"), ("x%3Ay", "z"), ("x", "y%3Az"), ("x%", "3Ay:z")]
    made = [accounts.account(identity, {"a": a, "b": b}) for a, b in pairs]
    assert len({one.id for one in made if one}) == len(pairs)


def test_etsys_token_names_its_account() -> None:
    identity = app_of("etsy").provider.identity
    assert identity is not None
    found = accounts.account_in_token(identity, Secret("12345678.abc"))
    assert found is not None
    assert found.id == "12345678"
    assert accounts.account_in_token(identity, Secret("abc")) is None


def test_an_id_token_counts_by_its_verified_claims_only() -> None:
    app = app_of("epic-smart")
    reply_ = {"id_token": "e30.e30.x", "fhirUser": "x"}
    assert accounts.named(app, accounts.Evidence(reply=reply_)) is None
    evidence = accounts.Evidence(reply=reply_, claims={"fhirUser": "Practitioner/1"})
    found = accounts.named(app, evidence)
    assert found is not None
    assert found.id == "Practitioner/1"
    forged = accounts.Evidence(reply={"tid": "t", "oid": "o"})
    assert accounts.named(app_of("microsoft"), forged) is None


# Further requests


def test_several_sites_are_choices_and_bad_ones_are_not_offered() -> None:
    app = app_of("docusign")
    step = app.provider.steps[0]
    items = [
        {"account_id": "1", "account_name": "One", "base_uri": "https://na1.docusign.net"},
        {"account_id": "2", "account_name": "Two", "base_uri": "https://evil.example"},
        {"account_name": "Three", "base_uri": "https://eu.docusign.net"},
        {"account_id": "4", "base_uri": "https://eu.docusign.net", "is_default": True},
        "odd",
    ]
    found = reading.step_choices(app, step, reply({"accounts": items}), now=NOW, former=OLD)
    assert [(one.id, one.label) for one in found] == [("1", "One"), ("4", "4")]
    after = reading.chosen(OLD, found[1])
    assert after.extras["base_uri"] == "https://eu.docusign.net"
    assert after.extras["is_default"] == "true"
    bodies: list[Json] = [{}, {"accounts": {}}, []]
    for body in bodies:
        with pytest.raises(UpstreamFailed):
            reading.step_choices(app, step, reply(body), now=NOW, former=OLD)


def test_a_data_centre_is_asked_for() -> None:
    app = app_of("mailchimp")
    step = app.provider.steps[0]
    body = {"dc": "us6", "api_endpoint": "https://us6.api.mailchimp.com", "x": 1}
    got = reading.step_extras(app, step, reply(body), now=NOW, former=OLD)
    assert got == {"dc": "us6", "api_endpoint": "https://us6.api.mailchimp.com"}
    with pytest.raises(UpstreamFailed):
        reading.step_extras(app, step, reply({"dc": "evil.example/"}), now=NOW, former=OLD)


# Whatever comes


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    [
        *("access_token", "expires_in", "expires_at", "refresh_token", "refresh_expires_in"),
        *("scope", "error", "ok", "team", "authed_user", "data", "instance_url", "token_type"),
        "id_token",
    ]
)


@given(
    body=st.dictionaries(FIELDS, JSON),
    name=st.sampled_from(["slack", "salesforce", "square", "strava", "keycloak", "zoho"]),
    status=st.sampled_from([200, 201, 400, 401, 429, 500]),
)
def test_whatever_comes_is_read_or_refused(
    body: Mapping[str, Json], name: str, status: int
) -> None:
    app: App = app_of(name)
    ways: list[dict[str, Any]] = [{}, {"former": OLD, "kind": "refresh"}]
    for options in ways:
        try:
            got = reading.token_set(app, reply(body, status), now=NOW, **options)
        except UpstreamFailed:
            continue
        json.dumps(got.tokens.extras)
        assert got.tokens.expires_at is None or got.tokens.expires_at > NOW
        if options:
            assert got.tokens.refresh_token is not None


@given(document=JSON, path=st.text(min_size=1, max_size=10))
def test_any_path_leads_somewhere_or_nowhere(document: Json, path: str) -> None:
    value = text_of(at(document, path), 100)
    assert value is None or (0 < len(value) <= 100 and "\n" not in value)
    assert tokens_of(app_of("google").provider).access_token is not None


def test_a_yes_that_says_no_in_the_providers_own_words_is_a_no() -> None:
    app = app_of("google")
    answer = reply({"access_token": "at", "fault": {"code": 7}})

    def careful(with_200: bool) -> App:  # noqa: FBT001 - the field's own name
        errors = replace(app.provider.errors, code="fault.code", with_200=with_200)
        return replace(app, provider=replace(app.provider, errors=errors))

    reading.token_set(careful(False), answer, now=NOW)  # noqa: FBT003 - as above
    with pytest.raises(NoToken):
        reading.token_set(careful(True), answer, now=NOW)  # noqa: FBT003 - as above
