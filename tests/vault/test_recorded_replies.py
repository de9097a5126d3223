"""Every recorded odd reply is read, or means what was recorded of it.

* ``odd_replies.json``: replies in the shapes that are known of providers, one a line; ``says`` is
  the section of the collected facts that speaks of it, and what it says.
* ``dialects.json``: every refusal that was recorded, whole, and what it means.
"""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from support.dialects import FILE, Failure, recorded
from support.engine import NOW, app_of, reply

from vault.egress import Reply
from vault.oauth import reading, refusals
from vault.oauth.app import ExtraToken, TokenSet
from vault.oauth.replies import NoToken
from vault.secret import Secret

Json = Any
ODD: Final[list[Json]] = json.loads(Path(FILE).with_name("odd_replies.json").read_bytes())
OLD: Final = TokenSet(
    access_token=Secret("old-access"),
    refresh_token=Secret("old-refresh"),
    obtained_at=NOW - timedelta(days=1),
    more={"user": ExtraToken(access_token=Secret("x-0"), refresh_token=Secret("xr-0"))},
)
LATER: Final = frozenset({"ambiguous", "throttled", "transient"})


def named(row: Json) -> str:
    return f"{row['provider']}-{row['asked']}-{row['says'].partition(':')[2].strip()[:30]}"


def answer(row: Json) -> Reply:
    raw = row["text"].encode() if "text" in row else None
    return reply(row.get("body"), row["status"], raw=raw)


def tokens_in(row: Json) -> TokenSet:
    app, asked = app_of(row["provider"]), row["asked"]
    if asked == "exchange":
        return reading.token_set(app, answer(row), now=NOW).tokens
    _, _, name = asked.partition(":")
    if not name:
        return reading.token_set(app, answer(row), now=NOW, former=OLD, kind="refresh").tokens
    (more,) = [one for one in app.provider.reply.more if one.name == name]
    return reading.extra_token(app, answer(row), more, now=NOW, former=OLD)


def told(tokens: TokenSet) -> Json:
    def shown(token: Secret | None) -> str | None:
        return token.reveal() if token else None

    ends = {"lives": tokens.expires_at, "refresh_lives": tokens.refresh_expires_at}
    return {
        "access_token": shown(tokens.access_token),
        "refresh_token": shown(tokens.refresh_token),
        "scopes": None if tokens.scopes is None else list(tokens.scopes),
        "extras": dict(tokens.extras),
        "more": {
            name: [shown(one.access_token), shown(one.refresh_token)]
            for name, one in tokens.more.items()
        },
        **{name: end and (end - NOW).total_seconds() for name, end in ends.items()},
    }


@pytest.mark.parametrize("row", [one for one in ODD if "gives" in one], ids=named)
def test_an_odd_reply_is_read(row: Json) -> None:
    found, wanted = told(tokens_in(row)), row["gives"]
    if "extras" in wanted:  # there may be more than those of which something was recorded
        found["extras"] = {name: found["extras"].get(name) for name in wanted["extras"]}
    assert {name: found[name] for name in wanted} == wanted


@pytest.mark.parametrize("row", [one for one in ODD if "means" in one], ids=named)
def test_an_odd_refusal_means_what_was_recorded(row: Json) -> None:
    if row["where"] == "token":
        with pytest.raises(NoToken) as refused:
            tokens_in(row)
        assert refused.value.failure.outcome == row["means"]
    provider = app_of(row["provider"]).provider
    found = refusals.refusal(provider, answer(row), now=NOW, where=row["where"])
    assert found.outcome == row["means"]


RECORDED: Final = [
    (one.provider, failure) for one in recorded().values() for failure in one.failures
]


@pytest.mark.parametrize(
    ("provider", "failure"),
    RECORDED,
    ids=[f"{name}-{one.status}-{one.means}-{n}" for n, (name, one) in enumerate(RECORDED)],
)
def test_a_recorded_refusal_means_what_was_recorded(provider: str, failure: Failure) -> None:
    wheres: list[refusals.Where] = ["token", "api"]
    for where in wheres:
        if failure.where in (where, "any"):
            said = reply(failure.body, failure.status)
            found = refusals.refusal(app_of(provider).provider, said, now=NOW, where=where)
            wanted = LATER if failure.means == "later" else {failure.means}
            assert found.outcome in wanted


def test_there_are_as_many_as_were_tried_when_they_were_collected() -> None:
    assert len(ODD) >= 36
    assert len(RECORDED) >= 200
