"""The short way to a conversation, by a pattern and without, and the long one: the same answers,
the same rows.

Three users of one description are minted for, one by each way; what is compared has their names and
what they hold replaced by what these are of.
"""

import asyncio
import itertools
import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg
import msgspec
import pytest
from conftest import Tenant
from hypothesis import strategies as st
from msgspec import Struct
from support.drawing import drawn
from support.minting import Desk, minting
from support.sandbox import Provider

from broker.api.conversation_messages import ConversationMade
from broker.broker import Broker
from broker.conversation import Minted, Wanted
from broker.conversations import context, kept_from
from broker.mint import patterns
from broker.mint.quick import Quick
from vault.embedded import Embedded
from vault.errors import Forbidden, Invalid, VaultError
from vault.model import Caller
from vault.vault import Vault

INTEGRATIONS: Final = ("google", "slack")
STATES: Final = {
    "active": "",
    "backoff": "failures = 1",
    "refreshing": "lease_owner = 'r', lease_until = now() + interval '1 minute'",
    "uncertain": "doubt_since = now()",
    "suspect": "suspect_since = now()",
    "needs_reauth": "verdict = 'refused'",
}
# What is another one in each conversation.
IDS: Final = re.compile(r"\b(kcv|evt|req|conn)_[0-9a-z]{26}\b|\bktg_\w+|\bkth_\w+|\bkts_\w+")
_numbers = itertools.count()


class Connected(Struct, frozen=True):
    """One connection of a case."""

    integration: str
    environment: str
    expires_in: int | None
    state: str
    scopes: list[str] | None
    odd: str = ""  # what its token ends with
    old: bool = False  # has most of its life passed?


class Case(Struct, frozen=True):
    """A user, an agent, and what is asked for."""

    connections: list[Connected]
    attributes: dict[str, Any]
    profile: dict[str, Any] | None
    shared: bool
    wanted: dict[str, Any]
    called: str | None = ""  # how the name begins; no name at all

    @property
    def must_be_patterned(self) -> bool:
        """Does nothing but values distinguish the user from others like him?"""
        carried = all(one.odd == one.odd.strip() for one in self.connections)
        said = [one.get("from") for one in (self.profile or {}).get("variables", {}).values()]
        return carried and not {"environment", "user"} & set(said)

    @property
    def must_be_quick(self) -> bool:
        """Is everything of it plainly right, so that only the short way will do?"""
        calm = all(
            one.state == "active" and (one.expires_in is None or one.expires_in > 2 * 3600)
            for one in self.connections
        )
        profile = self.profile or {}
        return calm and not profile.get("integrations") and not profile.get("variables")


class Bureau(Struct, frozen=True):
    """What the tests need of all parts."""

    desk: Desk
    broker: Broker
    vault: Vault
    admin: Any
    caller: Caller
    key_hash: bytes


connections = st.lists(
    st.builds(
        Connected,
        integration=st.sampled_from(INTEGRATIONS),
        environment=st.sampled_from(["production", "staging"]),
        expires_in=st.sampled_from([None, 20, 500, 3 * 3600, 24 * 3600]),
        state=st.sampled_from(["active"] * 9 + list(STATES)),
        scopes=st.sampled_from([None, [], ["mail"], ["mail", "files"]]),
        odd=st.sampled_from(["", "", "", '"\\/', "<&>", " x "]),
        old=st.sampled_from([False, False, True]),
    ),
    max_size=4,
    unique_by=lambda one: (one.integration, one.environment),
)
variable = st.sampled_from(
    [
        {"from": "connection", "integration": "google", "field": "token"},
        {"from": "connection", "integration": "slack", "field": "authorization", "default": "no"},
        {"from": "user", "attribute": "plan"},
        {"from": "client"},
        {"from": "environment", "label": "host", "default": "none"},
        {"value": "fixed"},
    ]
)
profiles = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "tools": st.just("gateway"),
        "min_ttl": st.sampled_from([60, 900]),
        "delivery": st.sampled_from(["inline", "handle"]),
        "integrations": st.lists(
            st.fixed_dictionaries(
                {"integration": st.sampled_from(INTEGRATIONS), "required": st.booleans()},
                optional={"scopes": st.just(["mail"])},
            ),
            max_size=2,
            unique_by=lambda one: one["integration"],
        ),
        "variables": st.dictionaries(
            st.sampled_from(["secret__a", "secret__b", "lang"]), variable, max_size=3
        ),
    },
)
wanted = st.fixed_dictionaries(
    {"runtime": st.sampled_from(["sealed", "sealed", "elevenlabs", "livekit"])},
    optional={
        "delivery": st.sampled_from(["inline", "handle", "sealed", "relay"]),
        "environment": st.sampled_from(["production", "staging"]),
        "integrations": st.just(("google",)),
        "dynamic_variables": st.dictionaries(
            st.sampled_from(["topic", "lang", "number", "secret__x", "plan"]),
            st.text(max_size=5) | st.integers(-5, 5) | st.booleans() | st.just(0.25),
            max_size=3,
        ),
        "min_ttl": st.sampled_from([0, 60, 3600]),
        "on_missing": st.just("omit"),
        "lasts": st.sampled_from([60, 3600]),
    },
)
cases = st.builds(
    Case,
    connections=connections,
    attributes=st.sampled_from(
        [{}, {"plan": "pro"}, {"plan": '"', "n": 7, "yes": True, "half": 0.5}, {"name": "x"}]
    ),
    called=st.sampled_from(["", "", None, '"Z\u00f6e\\ ']),
    profile=profiles,
    shared=st.booleans(),
    wanted=wanted,
)


@pytest.fixture
async def bureau(
    tenant: Tenant,
    provider: Provider,
    vault: Vault,
    migrated: Embedded,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Bureau]:
    monkeypatch.setattr(patterns, "WORTH", 1)
    admin = await asyncpg.connect(migrated.dsn().reveal())
    async with minting(tenant, provider) as desk:
        caller = await vault.authenticate(tenant.key, request_id="req_long")
        broker = Broker(vault, vault.egress)
        yield Bureau(desk, broker, vault, admin, caller, vault.fingerprint(tenant.key))
    await admin.close()


async def furnished(bureau: Bureau, case: Case) -> tuple[str, dict[str, str]]:
    """A user of this description; and what names of his stand for."""
    user = f"user{next(_numbers)}"
    name = None if case.called is None else case.called + user.title()
    names = {user: "<user>", name or user.title(): "<name>"}
    known = {"attributes": case.attributes, **({} if name is None else {"name": name})}
    assert (await bureau.desk.api.put(f"/v1/users/{user}", known)).status == 200
    for one in case.connections:
        token = f"{user}-{one.integration}-{one.environment}{one.odd}"
        body: dict[str, Any] = {"access_token": token, "environment": one.environment}
        more = {"expires_in": one.expires_in, "scopes": one.scopes, "refresh_token": f"r-{token}"}
        body |= {key: value for key, value in more.items() if value is not None}
        path = f"/v1/users/{user}/connections/{one.integration}"
        assert (await bureau.desk.api.put(path, body)).status in (200, 201)
        names[token] = f"<{one.integration} {one.environment}>"
        state = f", {STATES[one.state]}" if STATES[one.state] else ""
        connection_id = await bureau.admin.fetchval(
            f"""
            update vault.connection_lives l
               set state = $4, issued_at = issued_at - $6 * interval '1 day'{state}
              from vault.connections c
             where c.workspace_id = $1 and c.user_id = $2 and c.integration = $3
               and c.environment = $5 and l.workspace_id = c.workspace_id
               and l.connection_id = c.connection_id
            returning l.connection_id
            """,  # noqa: S608 - our own words
            *(bureau.caller.workspace, user, one.integration, one.state, one.environment),
            int(one.old),
        )
        names[connection_id] = f"<connection {one.integration} {one.environment}>"
    sealing = await bureau.vault.user_ref(bureau.caller, user)  # type: ignore[arg-type] # a plain id
    return user, {**names, sealing: "<ref>"}


def plain(value: Any, names: dict[str, str]) -> Any:
    """A value without what is another one for the other user or the other conversation."""
    if isinstance(value, dict):
        return {key: plain(one, names) for key, one in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(one, names) for one in value]
    if isinstance(value, datetime):
        return "<time>"
    if isinstance(value, str):
        for name, stands_for in names.items():
            value = value.replace(name, stands_for)
        value = re.sub(r"signature=[\w-]+", "signature=", value)
        return IDS.sub(r"<\1>", value)
    return value


async def rows_of(bureau: Bureau, conversation: str, names: dict[str, str]) -> Any:
    """What a mint has left behind, all of it."""
    workspace = bureau.caller.workspace
    [row] = await bureau.admin.fetch(
        "select c.*, k.sealed as user_key from vault.conversations c"
        " join vault.user_keys k using (workspace_id, user_id)"
        " where workspace_id = $1 and conversation_id = $2",
        *(workspace, conversation),
    )
    found = dict(row)
    opened = await bureau.vault.open_owned(
        *(bureau.caller, found["user_id"], found.pop("user_key")),
        *(context(workspace, conversation), found["kept"]),
    )
    found["kept"] = msgspec.to_builtins(kept_from(opened))
    expires_at = found["expires_at"]
    lasts = (expires_at - found["created_at"], found["start_by"] - found["created_at"])
    for name in ("bearer_hash", "ticket_hash"):
        found[name] = found[name] is not None
    record = await bureau.admin.fetch(
        "select actor_kind, actor_id, action, target_kind, target_id, user_ref, environment,"
        " outcome, connection_ids from vault.audit_events where workspace_id = $1"
        " and (target_id = $2 or actor_id = $2)",
        *(workspace, conversation),
    )
    holds = await bureau.admin.fetch(
        "select held, held_until - $3 as lasts from vault.holds"
        " where workspace_id = $1 and holder = $2",
        *(workspace, conversation, expires_at),
    )
    lives = await bureau.admin.fetch(
        "select connection_id, used_at is not null as used, promised, due_at <= now() as due,"
        " due_at is null as never"
        " from vault.connection_lives where workspace_id = $1 and connection_id = any($2)",
        *(workspace, [name for name in names if name.startswith("conn_")]),
    )
    near = [(dict(one), abs(one["lasts"]) < timedelta(seconds=30)) for one in holds]
    for one, _ in near:
        del one["lasts"]
    return (
        plain(found, names),
        lasts,
        *(sorted(map(repr, plain([dict(one) for one in rows], names))) for rows in (record, lives)),
        sorted(repr(plain(list(one), names)) for one in near),
    )


def written(made: Minted) -> bytes:
    """An answer as the route writes it."""
    return msgspec.json.encode(ConversationMade.of(made))


def told(answer: Any, names: dict[str, str]) -> bytes:
    """An answer without what differs from one conversation to the next, in its own order."""
    found = plain(answer, names)
    for ready in found["connections"]:
        assert (ready["expires_at"] is None) == (ready["expires_in"] is None)
        ready["expires_at"] = ready["expires_in"] = None
    found["start_by"] = found["expires_at"] = None
    if found["token"]:
        found["token"] = "<token>"
    return msgspec.json.encode(found)


class Seen(Struct):
    """Was there anything to compare, and was one of them made by a pattern?"""

    compared: bool = False
    patterned: bool = False


async def compared(bureau: Bureau, case: Case, agent: str) -> Seen:
    """Mint all three ways, and hold one against the other."""
    seen, quick = Seen(), bureau.broker.quick
    users = [await furnished(bureau, case) for _ in range(3)]
    for name in INTEGRATIONS:
        await bureau.admin.execute(
            "update vault.integrations set share_connections = $3"
            " where workspace_id = $1 and integration = $2",
            *(bureau.caller.workspace, name, case.shared),
        )
    asked = {"agent_id": agent, "max_wait_ms": 0, **case.wanted}
    one, other, third = [Wanted(user_id=user, **asked) for user, _ in users]

    async def noted(*arguments: Any) -> bytes | None:
        answer: bytes | None = await Quick._by_pattern(quick, *arguments)  # noqa: SLF001 - noted
        seen.patterned = answer is not None
        return answer

    watched: Any = quick
    watched._by_pattern = noted  # noqa: SLF001 - the same, noted
    try:
        first = await quick.answer(bureau.key_hash, "req_long", one, written)
        second = await quick.mint(bureau.key_hash, "req_long", other)
    except VaultError:
        return seen  # the long way says why
    assert (first is None) == (second is None)
    if first is None or second is None:
        delivery = asked.get("delivery") or (case.profile or {}).get("delivery", "relay")
        goes_out = asked["runtime"] == "livekit" or (
            asked["runtime"] == "elevenlabs" and delivery != "relay"
        )
        assert not case.must_be_quick or goes_out
        return seen
    assert first[0] == second[0] == bureau.caller
    long = await bureau.broker.minting.mint(bureau.caller, third)
    every = [msgspec.json.decode(first[1])]
    every += [msgspec.json.decode(written(made)) for made in (second[1], long)]
    answers = [told(answer, names) for answer, (_, names) in zip(every, users, strict=True)]
    assert answers[0] == answers[1] == answers[2]
    left = [
        await rows_of(bureau, answer["id"], names)
        for answer, (_, names) in zip(every, users, strict=True)
    ]
    assert left[0] == left[1] == left[2]
    assert seen.patterned or not case.must_be_patterned
    seen.compared = True
    return seen


BOTH: Final = [
    Connected("google", "production", 24 * 3600, "active", ["mail"]),
    Connected("slack", "production", None, "active", None),
    Connected("slack", "staging", 24 * 3600, "active", []),
]
GATEWAY: Final = {"tools": "gateway"}
# One of each kind, whatever is drawn.
PLAIN: Final = [
    Case(
        BOTH,
        {"plan": "pro"},
        None,
        shared=True,
        wanted={"runtime": "elevenlabs", "environment": "staging"},
    ),
    Case(BOTH, {}, GATEWAY, shared=True, wanted={"runtime": "sealed", "delivery": "handle"}),
    Case(BOTH, {}, None, shared=False, wanted={"runtime": "sealed", "delivery": "inline"}),
    Case(
        BOTH,
        {},
        None,
        shared=True,
        wanted={"runtime": "sealed", "environment": "staging", "min_ttl": 60},
    ),
    Case(
        BOTH,
        {},
        {
            "integrations": [
                {"integration": "google", "required": False, "scopes": ["files"]},
                {"integration": "slack", "required": False},
            ]
        },
        shared=True,
        wanted={"runtime": "sealed", "on_missing": "omit"},
    ),
]
# What a header cannot carry at its end.
ASIDE: Final = [
    Case(
        [Connected("google", "production", 24 * 3600, "active", None, odd=" ")],
        {},
        None,
        shared=True,
        wanted={"runtime": "sealed", "delivery": "inline"},
    )
]


@pytest.fixture
def draw() -> list[Case]:
    return drawn(cases, 60)


async def test_all_ways_give_the_same_answer_and_leave_the_same_rows(
    bureau: Bureau, draw: list[Case]
) -> None:
    were_compared = were_patterned = 0
    for number, case in enumerate([*PLAIN, *ASIDE, *draw]):
        agent = f"agent_{number}"
        if case.profile is not None:
            reply = await bureau.desk.api.put(f"/v1/agents/{agent}", case.profile)
            if reply.status == 422:
                continue  # what a profile may not say
            assert reply.status == 201, reply.body
        seen = await compared(bureau, case, agent)
        assert seen.patterned or case not in PLAIN
        assert (seen.compared and not seen.patterned) or case not in ASIDE
        were_compared += seen.compared
        were_patterned += seen.patterned
    assert were_compared > len(draw) / 5
    assert were_patterned > were_compared / 2


# What a pattern must not do


async def patterned(bureau: Bureau, user: str = "ada", key: str = "", **more: Any) -> Any:
    """What is answered by a pattern; ``None`` where there is none."""
    key_hash = bureau.vault.fingerprint(key) if key else bureau.key_hash
    one = await bureau.broker.quick._looked(key_hash, "r", wish(user, **more))  # noqa: SLF001 - which way?
    assert one is not None
    answer = await bureau.broker.quick._by_pattern(one, written)  # noqa: SLF001 - this way alone
    return answer and msgspec.json.decode(answer)


async def test_it_follows_the_agents_profile(bureau: Bureau) -> None:
    token = await one_connected(bureau)
    for number in range(3):
        said = {"n": {"value": number}, "secret__t": TOKEN_OF_GOOGLE}
        await bureau.desk.profile("a", variables=said)
        made = (await patterned(bureau))["dynamic_variables"]
        assert (made["n"], made["secret__t"]) == (number, token)


async def test_it_follows_what_a_user_has(bureau: Bureau) -> None:
    assert await bureau.desk.user("ada")
    assert "secret__user_google_token" not in (await patterned(bureau))["dynamic_variables"]
    for _ in range(2):
        token = await bureau.desk.connect(expires_in=24 * 3600)
        made = (await patterned(bureau))["dynamic_variables"]
        assert made["secret__user_google_token"] == token
        assert made["secret__user_google_authorization"] == f"Bearer {token}"
    await bureau.desk.user("ada", name="Ada L.", attributes={"plan": "pro"})
    made = (await patterned(bureau))["dynamic_variables"]
    assert (made["user_name"], made["plan"]) == ("Ada L.", "pro")


async def test_it_is_for_nobody_whose_key_may_less(bureau: Bureau) -> None:
    await one_connected(bureau)
    assert await patterned(bureau) is not None
    less = await bureau.desk.api.post("/v1/keys", {"name": "k", "scopes": ["mint"]})
    assert await patterned(bureau, key=less.json["key"]) is None
    with pytest.raises(Forbidden):
        await bureau.broker.quick.answer(
            bureau.vault.fingerprint(less.json["key"]), "r", wish(), written
        )


async def test_it_steps_aside_for_what_has_to_be_looked_at(bureau: Bureau) -> None:
    await one_connected(bureau)
    for variable in (
        {"from": "environment", "label": "host", "default": "none"},
        {"from": "user", "attribute": "name"},
    ):
        await bureau.desk.profile("a", variables={"secret__v": variable})
        before = await rows(bureau, "conversations")
        assert await patterned(bureau) is None
        assert await rows(bureau, "conversations") == before
        done = await bureau.broker.quick.answer(bureau.key_hash, "r", wish(), written)
        assert done is not None
        assert msgspec.json.decode(done[1])["dynamic_variables"]["secret__v"]


async def test_it_refuses_a_callers_variable_as_the_usual_way_does(bureau: Bureau) -> None:
    await one_connected(bureau)
    await bureau.desk.profile("a", variables={"open": {"from": "client"}})
    made = await patterned(bureau, dynamic_variables={"open": "x", "more": 1})
    assert (made["dynamic_variables"]["open"], made["dynamic_variables"]["more"]) == ("x", 1)
    for name in ("secret__x", "system__x", "user_google_generation", "a b"):
        with pytest.raises(Invalid):
            await patterned(bureau, dynamic_variables={name: "x"})


async def test_it_is_made_once_there_are_enough_of_a_kind(
    bureau: Bureau, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patterns, "WORTH", 3)
    for user in ("ada", "eve", "kim", "lou"):
        await bureau.desk.user(user)
    made = [await patterned(bureau, user) for user in ("ada", "eve", "kim", "lou")]
    assert [one is not None for one in made] == [False, False, True, True]
    assert await rows(bureau, "conversations") == 2


async def one_connected(bureau: Bureau) -> str:
    await bureau.desk.user()
    return await bureau.desk.connect(expires_in=24 * 3600)


TOKEN_OF_GOOGLE: Final = {"from": "connection", "integration": "google", "field": "token"}

# What the short way must not do


def wish(user: str = "ada", **more: Any) -> Wanted:
    return Wanted(
        user_id=user, **{"agent_id": "a", "runtime": "sealed", "delivery": "inline"} | more
    )


async def quick(bureau: Bureau, key: str, user: str = "ada", **more: Any) -> Minted | None:
    done = await bureau.broker.quick.mint(bureau.vault.fingerprint(key), "r", wish(user, **more))
    return done[1] if done else None


async def rows(bureau: Bureau, table: str) -> int:
    found: int = await bureau.admin.fetchval(
        f"select count(*) from vault.{table} where workspace_id = $1",  # noqa: S608 - our own word
        bureau.caller.workspace,
    )
    return found


async def test_a_key_that_is_revoked_mints_nothing_from_then_on(bureau: Bureau) -> None:
    await bureau.desk.user()
    made = await bureau.desk.api.post("/v1/keys", {"name": "k", "scopes": ["mint", "tokens:read"]})
    assert await quick(bureau, made.json["key"]) is not None
    assert (await bureau.desk.api.delete(f"/v1/keys/{made.json['id']}")).status == 204
    assert await quick(bureau, made.json["key"]) is None


@pytest.mark.parametrize(
    "key",
    [
        {"scopes": ["tokens:read", "manage"]},
        {"scopes": ["mint", "tokens:read"], "environments": ["staging", "qa"]},
    ],
    ids=["without the scope", "tied to other environments"],
)
async def test_a_key_that_may_not_gets_nothing(bureau: Bureau, key: dict[str, Any]) -> None:
    await bureau.desk.user()
    made = await bureau.desk.api.post("/v1/keys", {"name": "k", **key})
    before = await rows(bureau, "conversations")
    assert await quick(bureau, made.json["key"], environment="production") is None
    assert await rows(bureau, "conversations") == before


async def test_another_workspaces_user_is_not_there(bureau: Bureau, make_tenant: Any) -> None:
    await bureau.desk.user("eve")
    stranger = await make_tenant()
    assert await quick(bureau, stranger.key, "eve") is None
    assert await quick(bureau, bureau.desk.tenant.key, "eve") is not None


async def test_what_changes_between_looking_and_writing_is_not_written(bureau: Bureau) -> None:
    changes = (
        "update vault.connection_lives set generation = generation + 1 where workspace_id = $1",
        "update vault.connection_lives set state = 'refreshing' where workspace_id = $1",
        "update vault.connection_lives set access_ends = now() where workspace_id = $1",
        "delete from vault.connections where workspace_id = $1",
        "delete from vault.users where workspace_id = $1",
        "delete from vault.api_keys where workspace_id = $1",  # the last: nothing works after it
    )
    for change in changes:
        await bureau.desk.user()
        await bureau.desk.connect()
        written = bureau.broker.quick._writes  # noqa: SLF001 - the moment between the two
        unchanged = written._run  # noqa: SLF001

        async def changed(deeds: Any, change: str = change, run: Any = unchanged) -> Any:
            await bureau.admin.execute(change, bureau.caller.workspace)
            return await run(deeds)

        written._run = changed  # noqa: SLF001
        before = [await rows(bureau, one) for one in ("audit_events", "holds")]
        assert await quick(bureau, bureau.desk.tenant.key) is None, change
        written._run = unchanged  # noqa: SLF001
        assert await rows(bureau, "conversations") == 0
        after = [await rows(bureau, one) for one in ("audit_events", "holds")]
        assert after[0] == before[0]
        assert after[1] <= before[1]


async def test_one_that_no_longer_fits_leaves_its_neighbours_alone(bureau: Bureau) -> None:
    for user in ("ada", "eve"):
        await bureau.desk.user(user)
        await bureau.desk.connect(user)
    written = bureau.broker.quick._writes  # noqa: SLF001 - the moment between the two
    run, sizes = written._run, []  # noqa: SLF001

    async def without_ada(deeds: Any) -> Any:
        sizes.append(len(deeds))
        await bureau.admin.execute(
            "delete from vault.users where workspace_id = $1 and user_id = 'ada'",
            bureau.caller.workspace,
        )
        return await run(deeds)

    written._run = without_ada  # noqa: SLF001
    key = bureau.desk.tenant.key
    ada, eve = await asyncio.gather(quick(bureau, key, "ada"), quick(bureau, key, "eve"))
    assert sizes == [2]
    assert ada is None
    assert eve is not None
    assert await rows(bureau, "conversations") == 1
    assert await rows(bureau, "holds") == 1


async def test_one_whose_text_would_be_two_fails_alone(bureau: Bureau) -> None:
    await bureau.desk.user("ada")
    key = bureau.desk.tenant.key
    mints = (quick(bureau, key, "ada", agent_id=agent) for agent in ("a\nb", "a"))
    refused, made = await asyncio.gather(*mints, return_exceptions=True)
    assert isinstance(refused, VaultError)
    assert isinstance(made, Minted)
    assert await rows(bureau, "conversations") == 1


async def test_one_with_a_character_that_cannot_be_kept_fails_alone(bureau: Bureau) -> None:
    await bureau.desk.user("ada")
    key = bureau.desk.tenant.key
    mints = (quick(bureau, key, "ada", branch_id=branch) for branch in ("a\0b", "a", "b"))
    refused, *made = await asyncio.gather(*mints, return_exceptions=True)
    assert isinstance(refused, Invalid)
    assert all(isinstance(one, Minted) for one in made)
    assert await rows(bureau, "conversations") == 2


async def test_a_branch_may_have_any_name(bureau: Bureau) -> None:
    await bureau.desk.user("ada")
    assert await patterned(bureau, branch_id="one\ntwo, three") is not None
    kept = "select branch_id from vault.conversations where workspace_id = $1"
    assert await bureau.admin.fetchval(kept, bureau.caller.workspace) == "one\ntwo, three"
