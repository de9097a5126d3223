"""The direct way of reading a refresh's answer says what the general one says of it."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import product
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from support.engine import ACTIVE, CATALOGUE, NOW, app_of, reply

from vault.egress import Reply
from vault.oauth import reading
from vault.oauth.app import App, TokenSet
from vault.oauth.replies import MAX_LIFETIME, MAX_TOKEN, Failure, NoToken
from vault.providers import schema
from vault.providers.derived import REFRESH_LIFETIMES, flat_answer
from vault.secret import Secret

Json = Any

# Their answers bring a second token.
NOT_FLAT: Final = {"sharepoint", "slack"}
ORDINARY: Final = ("access_token", "refresh_token", "expires_in", "scope")
FORMER: Final = TokenSet(
    access_token=Secret("at-0"),
    refresh_token=Secret("rt-0"),
    token_type="Bearer",
    obtained_at=datetime.fromtimestamp(0, NOW.tzinfo),
    scopes=("a", "b"),
    extras={"instance_url": "https://old.salesforce.com", "team_id": "T0"},
)

VALUES: Final[tuple[Json, ...]] = (
    *(None, True, False, 0, -1, 1, 1.5, 1e300, 2**64, 10**400, MAX_LIFETIME, MAX_LIFETIME + 1),
    *("", "at-2", " a", "a ", "a\x7f", "a\n", "é", "x" * (MAX_TOKEN + 1), "Bearer", "b c", "b,, c"),
    *("3600", " 60.5 ", "0", "nan", "soon", "2026-12-21T12:00:00Z", "1e3", "9" * 400),
    *(FORMER.extras["instance_url"], "https://new.my.salesforce.com", "https://evil.example"),
    *([], ["b", 1, "c\x00"], {}, {"code": "x"}),
)
anything = st.recursive(
    st.sampled_from(VALUES) | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=3,
)


def others() -> Iterator[schema.Provider]:
    """Files whose answers are none that the catalogue has, one thing each."""
    file = CATALOGUE.get("oauth2")
    for path in (*ORDINARY, "data.in", "."):
        for place in (*ORDINARY, "expires_at", "refresh_expires_at", "refresh_expires_in"):
            changed: Any = {place: path}
            yield replace(file, reply=replace(file.reply, **changed))
        yield replace(file, reply=replace(file.reply, refresh_roots=[path, "."]))
        yield replace(file, reply=replace(file.reply, capture={"extra": path}))
        yield replace(file, errors=schema.Errors(success=path))
        yield replace(file, errors=schema.Errors(code=path, with_200=True))
    for slides in (True, False):
        yield replace(file, refresh=replace(file.refresh, end_seconds=86_400, slides=slides))
    granted: tuple[Any, ...] = ("comma", "list", "absent")
    for way in granted:
        yield replace(file, scopes=replace(file.scopes, granted=way))


FILES: Final = (*(CATALOGUE.get(name) for name in ACTIVE), *others())


def names_in(file: schema.Provider) -> list[str]:
    """Every path that means something."""
    says, errors = file.reply, file.errors
    named = (says.access_token, says.refresh_token, says.expires_in, says.scope, errors.code)
    perhaps = (says.expires_at, says.refresh_expires_at, says.refresh_expires_in, errors.success)
    found = {*named, *filter(None, perhaps), *says.capture.values(), *says.refresh_roots}
    return sorted(found | {*ORDINARY, "token_type", "error", "ok", *REFRESH_LIFETIMES})


def answer(file: schema.Provider, odd: dict[str, Json], status: int = 200) -> Reply:
    """An ordinary answer, but for what is odd about it."""
    says, document = file.reply, dict[str, Json]()
    ordinary = {says.access_token: "at-1", says.refresh_token: "rt-1", says.expires_in: 3600}
    for path, value in (ordinary | {says.scope: "b c", "token_type": "Bearer"} | odd).items():
        put(document, path, value)
    return reply(document, status)


def put(document: dict[str, Json], path: str, value: Json) -> None:
    """Let this stand at a path."""
    first, _, rest = path.partition(".")
    if rest:
        below = document.get(first)
        document[first] = below if isinstance(below, dict) else {}
        put(document[first], rest, value)
    else:
        document[first] = value


def read_generally(app: App, answer: Reply, former: TokenSet) -> TokenSet | Failure:
    try:
        return reading.token_set(app, answer, now=NOW, former=former, kind="refresh").tokens
    except NoToken as error:
        return error.failure


def read(app: App, answer: Reply, former: TokenSet) -> TokenSet | Failure:
    try:
        return reading.renewed(app, answer, former, now=NOW)
    except NoToken as error:
        return error.failure


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.id)
def test_an_answer_that_is_read_directly_says_what_it_says_in_general(
    file: schema.Provider,
) -> None:
    app = app_of(file.id, provider=file)
    for path, value in product(names_in(file), VALUES):
        case = (app, answer(file, {path: value}), FORMER)
        assert read(*case) == read_generally(*case), (path, value)


@given(st.data())
def test_so_does_any_other(data: st.DataObject) -> None:
    file = data.draw(st.sampled_from(FILES))
    odd = data.draw(st.dictionaries(st.sampled_from(names_in(file)), anything, max_size=3))
    status = data.draw(st.sampled_from((200, 200, 200, 201, 302, 400, 503)))
    former = replace(
        FORMER,
        token_type=data.draw(st.sampled_from(("Bearer", None, "mac"))),
        refresh_expires_at=data.draw(st.sampled_from((None, NOW + timedelta(days=9)))),
    )
    case = (app_of(file.id, provider=file), answer(file, odd, status), former)
    assert read(*case) == read_generally(*case)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"access_token":"at-1","expires_in":60}x',
        b'{"access_token":"at-1","expires_in":60,"expires_in":NaN}',
        b'{"access_token":"at-1","expires_in":60,"error":"x","error":null}',
        b'{"access_token":"at-1","expires_in":60,"access_token":"at-2"}',
        b'{"access_token":"at-1","expires_in":60.0}',
        b'{"access_token":"at-1","expires_in":6e1,"scope":"\\ud800"}',
        b"access_token=at-1&expires_in=60",
    ],
)
def test_so_does_one_that_is_hardly_json(raw: bytes) -> None:
    case = (app_of("oauth2"), reply(raw=raw), FORMER)
    assert read(*case) == read_generally(*case)


@pytest.mark.parametrize("name", ACTIVE)
def test_the_ordinary_answer_of_most_providers_is_read_directly(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = app_of(name)
    if name in NOT_FLAT:
        assert flat_answer(app.provider) is None
        return
    says = app.provider.reply
    said: dict[str, Json] = {says.access_token: "at-1", says.refresh_token: "rt-1"}
    said |= {says.expires_in: 3_600, "token_type": "Bearer"}
    for path in (*says.capture.values(), says.refresh_expires_in or REFRESH_LIFETIMES[0]):
        put(said, path, 7_200)
    monkeypatch.setattr(reading, "_tokens", None)
    tokens = reading.renewed(app, reply(said), FORMER, now=NOW)
    assert (tokens.access_token, tokens.refresh_token) == (Secret("at-1"), Secret("rt-1"))
    assert (tokens.expires_at, tokens.scopes) == (NOW + timedelta(hours=1), ("a", "b"))
    assert tokens.refresh_expires_at == NOW + timedelta(hours=2)
