"""Variables of a conversation: which one holds what, and that no credential is ever seen."""

import string
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from broker.profile import AUTHORIZATION, CONVERSATION_ID, Profile, check, is_secret
from broker.variables import (
    PLACEHOLDER,
    SECRET_PLACEHOLDER,
    Grant,
    Missing,
    Person,
    Plan,
    Planned,
    Token,
    Usable,
    are_free,
    plan,
    refuse_collisions,
)
from broker.variables.filling import Credential, Values, fill, plain
from vault.errors import Invalid, VaultError
from vault.secret import Secret

ADA = Person(user_id="ada", name="Ada", attributes={"plan": "pro", "seats": 3})
GOOGLE = Usable(integration="google", connection_id="conn_g", extras=("site",))
SLACK = Usable(integration="slack", connection_id="conn_s")
GIVEN = Credential(
    token=Secret("ya29"),
    authorization=Secret("Bearer ya29"),
    generation=3,
    extras={"site": "https://ada.example"},
)
OURS = {CONVERSATION_ID: "kcv_1", AUTHORIZATION: Secret("Bearer ktg_1"), "user_id": "ada"}


def profile_of(written: dict[str, Any]) -> Profile:
    profile = msgspec.convert(written, Profile)
    check(profile)
    return profile


def values(**more: Any) -> Values:
    usual: dict[str, Any] = {
        "person": ADA,
        "conversation_id": "kcv_1",
        "grant": Secret("Bearer ktg_1"),
        "credentials": {"google": GIVEN},
    }
    return Values(**{**usual, **more})


# Names


def test_without_a_profile_everything_has_its_usual_name_and_nothing_is_required() -> None:
    made = plan(None, ADA, [GOOGLE])
    assert made.connections == {"google": "conn_g"}
    assert made.missing == []
    assert fill(made, values()) == {
        **OURS,
        "user_name": "Ada",
        "secret__user_google_token": Secret("ya29"),
        "secret__user_google_authorization": Secret("Bearer ya29"),
        "user_google_generation": 3,
        "user_google_site": "https://ada.example",
        "plan": "pro",
        "seats": 3,
    }


def test_users_who_differ_in_ids_alone_share_what_follows_from_names() -> None:
    other = Person(user_id="bob", name="Bob", attributes={"plan": "free", "seats": 1})
    mine = plan(None, ADA, [GOOGLE, SLACK])
    his = plan(None, other, [replace(GOOGLE, connection_id="conn_b"), SLACK])
    assert mine.variables is his.variables
    assert mine.connections["google"] == "conn_g"
    assert his.connections["google"] == "conn_b"


@pytest.mark.parametrize(
    "other",
    [
        lambda: plan(None, replace(ADA, attributes={}), [GOOGLE]),
        lambda: plan(None, ADA, [replace(GOOGLE, extras=())]),
        lambda: plan(None, ADA, [SLACK]),
        lambda: plan(None, ADA, [GOOGLE], only=["google", "slack"]),
        lambda: plan(profile_of({}), ADA, [GOOGLE]),
        lambda: plan(profile_of({"variables": {"greeting": {"value": "hello"}}}), ADA, [GOOGLE]),
    ],
    ids=["attributes", "extras", "integration", "asked for", "a profile", "another profile"],
)
def test_what_is_remembered_is_given_to_nobody_of_another_description(
    other: Callable[[], Plan],
) -> None:
    ours = plan(None, ADA, [GOOGLE])
    theirs = other()
    assert theirs.variables is not ours.variables
    assert theirs == other(), "remembered or not"


def test_a_profile_that_has_changed_is_planned_anew() -> None:
    for greeting in ("hello", "good day"):
        written = {"variables": {"greeting": {"value": greeting}}}
        planned = plan(profile_of(written), ADA, [])
        assert fill(planned, values())["greeting"] == greeting


def test_a_connection_that_cannot_be_used_leaves_placeholders_under_the_same_names() -> None:
    made = plan(None, ADA, [], unusable={"google": "needs_reauth"})
    assert made.missing == [Missing("google", "needs_reauth", required=False)]
    filled = fill(made, values(credentials={}))
    assert filled["secret__user_google_token"] == SECRET_PLACEHOLDER
    assert filled["secret__user_google_authorization"] == SECRET_PLACEHOLDER
    assert filled["user_google_generation"] == 0


def test_a_profile_narrows_to_its_integrations_and_tells_what_is_missing() -> None:
    wanted = [{"integration": "google"}, {"integration": "hubspot"}]
    optional = {"integration": "notion", "required": False}
    profile = profile_of({"integrations": [*wanted, optional]})
    made = plan(profile, ADA, [GOOGLE, SLACK], unusable={"notion": "pending"})
    assert made.connections == {"google": "conn_g"}
    assert made.missing == [
        Missing("hubspot", "not_connected", required=True),
        Missing("notion", "pending", required=False),
    ]
    assert [one.integration for one in made.required_and_missing] == ["hubspot"]
    assert not any("slack" in name for name in made.variables)
    assert "secret__user_hubspot_token" in made.variables


def test_an_integration_that_a_profile_draws_upon_is_given_under_those_names_alone() -> None:
    variable = {"from": "connection", "integration": "google", "field": "token"}
    made = plan(profile_of({"variables": {"secret__cal": variable}}), ADA, [GOOGLE, SLACK])
    filled = fill(made, values())
    assert filled["secret__cal"] == Secret("ya29")
    assert made.names_of("google") == ["secret__cal"]
    assert not any(name.startswith(("secret__user_google", "user_google")) for name in filled)
    assert "secret__user_slack_token" in filled


def test_a_profile_adds_variables_from_everywhere() -> None:
    profile = profile_of(
        {
            "variables": {
                "site": {"from": "connection", "integration": "google", "field": "extra:site"},
                "secret__site": {
                    "from": "connection",
                    "integration": "google",
                    "field": "extra:site",
                },
                "tier": {"from": "user", "attribute": "plan"},
                "who": {"from": "user", "attribute": "name"},
                "host": {"from": "environment", "label": "HOST"},
                "secret__key": {"from": "environment", "label": "KEY"},
                "mood": {"from": "client"},
                "limit": {"value": 5},
            }
        }
    )
    made = plan(profile, ADA, [GOOGLE])
    assert made.labels() == {"HOST", "KEY"}
    assert made.open_to_client() == {"mood"}
    assert made.open_to_client({"mood"}) == set()
    labels = {"HOST": "api.acme.com", "KEY": Secret("k")}
    filled = fill(made, values(labels=labels, given={"mood": "calm", "room": 4}))
    assert filled["site"] == "https://ada.example"
    assert filled["secret__site"] == Secret("https://ada.example"), "its name says that it is one"
    assert (filled["tier"], filled["who"], filled["host"]) == ("pro", "Ada", "api.acme.com")
    assert filled["secret__key"] == Secret("k")
    assert (filled["mood"], filled["room"], filled["limit"]) == ("calm", 4, 5)


def test_what_has_no_value_has_its_default_and_else_a_placeholder() -> None:
    variables: dict[str, Any] = {
        "tier": {"from": "user", "attribute": "tier", "default": "free"},
        "rank": {"from": "user", "attribute": "rank"},
        "host": {"from": "environment", "label": "HOST", "default": "a.example"},
        "mood": {"from": "client", "default": "calm"},
        "tone": {"from": "client"},
        "secret__key": {"from": "environment", "label": "KEY"},
        "secret__cal": {
            "from": "connection",
            "integration": "google",
            "field": "token",
            "default": "nobody",
        },
        "cal_generation": {"from": "connection", "integration": "google", "field": "generation"},
    }
    made = plan(profile_of({"variables": variables}), Person(user_id="ada"), [])
    assert fill(made, values(person=Person(user_id="ada"), credentials={})) == {
        **OURS,
        "user_name": PLACEHOLDER,
        "tier": "free",
        "rank": PLACEHOLDER,
        "host": "a.example",
        "mood": "calm",
        "tone": PLACEHOLDER,
        "secret__key": SECRET_PLACEHOLDER,
        "secret__cal": "nobody",
        "cal_generation": 0,
    }


def test_a_required_scope_that_was_not_given_makes_a_connection_missing() -> None:
    profile = profile_of({"integrations": [{"integration": "google", "scopes": ["mail"]}]})
    narrow = msgspec.structs.replace(GOOGLE, scopes=frozenset({"calendar"}))
    assert plan(profile, ADA, [narrow]).missing == [
        Missing("google", "scope_missing", required=True)
    ]
    wide = msgspec.structs.replace(GOOGLE, scopes=frozenset({"calendar", "mail"}))
    assert plan(profile, ADA, [wide]).missing == []
    assert plan(profile, ADA, [GOOGLE]).missing == [], "this provider does not say"


def test_a_mint_narrows_further_and_what_it_names_is_needed() -> None:
    made = plan(None, ADA, [GOOGLE, SLACK], only=["slack", "notion"])
    assert made.connections == {"slack": "conn_s"}
    assert made.missing == [Missing("notion", "not_connected", required=True)]
    listed = [{"integration": "google"}, {"integration": "slack", "required": False}]
    profile = profile_of({"integrations": listed})
    assert plan(profile, ADA, [GOOGLE], only=["google"]).missing == []
    with pytest.raises(Invalid) as refused:
        plan(profile, ADA, [GOOGLE], only=["notion"])
    assert refused.value.pointer == "/integrations"


def test_names_that_clash_go_to_the_one_that_matters_more() -> None:
    odd = Usable(integration="google", connection_id="c", extras=("generation", "work_generation"))
    work = Usable(integration="google_work", connection_id="w")
    person = Person(
        user_id="ada",
        attributes={"user_id": "mallory", "user_google_generation": 99, "secret__x": "s"},
    )
    made = plan(None, person, [odd, work])
    filled = fill(
        made, values(person=person, credentials={"google": GIVEN, "google_work": Credential()})
    )
    assert filled["user_id"] == "ada"
    assert filled["user_google_generation"] == 3
    assert filled["user_google_work_generation"] == 0
    assert "secret__x" not in filled, "what the platform tells of a user is no secret's name"


# Who may see what


def test_with_handles_only_nothing_secret_is_given_but_the_handle() -> None:
    variables = {"secret__key": {"from": "environment", "label": "KEY"}}
    made = plan(profile_of({"variables": variables}), ADA, [GOOGLE])
    filled = fill(made, values(labels={"KEY": Secret("k")}), handles_only=True)
    secret = {name: one for name, one in filled.items() if isinstance(one, Secret)}
    assert secret == {AUTHORIZATION: Secret("Bearer ktg_1")}
    assert filled["secret__user_google_token"] == SECRET_PLACEHOLDER
    assert filled["secret__key"] == SECRET_PLACEHOLDER
    assert filled["user_google_generation"] == 3


def test_what_anybody_may_see_holds_no_secret() -> None:
    made = plan(None, ADA, [GOOGLE])
    shown = plain(fill(made, values()))
    assert set(shown) == {
        *(CONVERSATION_ID, "user_id", "user_name", "plan", "seats"),
        *("user_google_generation", "user_google_site"),
    }


def test_a_secret_of_the_workspace_under_a_plain_name_is_refused_when_it_is_found_out() -> None:
    variables = {"host": {"from": "environment", "label": "HOST"}}
    made = plan(profile_of({"variables": variables}), ADA, [])
    with pytest.raises(Invalid) as refused:
        fill(made, values(labels={"HOST": Secret("s")}))
    assert refused.value.pointer == "/variables/host"


def test_a_plan_with_a_credential_under_a_plain_name_cannot_be_made_or_read() -> None:
    for source in (Token("google"), Grant()):
        with pytest.raises(VaultError):
            Plan({"cal": Planned(source)}, {})
    fine = msgspec.msgpack.encode(Plan({"secret__cal": Planned(Token("google"))}, {}))
    assert msgspec.msgpack.decode(fine, type=Plan).names_of("google") == ["secret__cal"]
    broken = fine.replace(b"\xabsecret__cal", b"\xabpublic__cal")
    assert broken != fine
    with pytest.raises(VaultError):
        msgspec.msgpack.decode(broken, type=Plan)


def test_no_repr_shows_a_person_or_a_credential() -> None:
    shown = f"{ADA!r} {GIVEN!r} {values()!r}"
    assert "Ada" not in shown
    assert "pro" not in shown
    assert "ada.example" not in shown


# What a caller adds


@pytest.mark.parametrize(
    "name",
    [
        *("secret__x", "secret__user_google_token", AUTHORIZATION, "SECRET__X", "Secret__x"),
        *("system__time", "System__caller_id", CONVERSATION_ID, "user_id", "user_name", "plan"),
        *("user_google_generation", "user_google_site", "tier", "a b", "", "x\n", "x" * 200),
    ],
)
def test_a_caller_may_not_name_what_is_given_already_or_kept_for_others(name: str) -> None:
    profile = profile_of({"variables": {"tier": {"value": 1}}})
    with pytest.raises(Invalid) as refused:
        refuse_collisions(plan(profile, ADA, [GOOGLE]), {name: "x"})
    where = refused.value.pointer or ""
    assert where.startswith("/dynamic_variables")
    assert name not in refused.value.message or name == ""


def test_a_caller_may_add_others_and_what_is_marked_for_the_client() -> None:
    profile = profile_of({"variables": {"mood": {"from": "client"}}})
    made = plan(profile, ADA, [GOOGLE])
    refuse_collisions(made, {"mood": "calm", "order_id": 7, "vip": True})
    with pytest.raises(Invalid):
        refuse_collisions(made, {"mood": "x" * 10_001})
    with pytest.raises(Invalid):
        refuse_collisions(made, {f"v{number}": 1 for number in range(101)})


# For every profile there is

NAMES = st.one_of(
    st.sampled_from(
        ["cal", "secret__cal", "user_id", "user_google_token", "system__x", AUTHORIZATION]
    ),
    st.text(string.ascii_letters + "_", min_size=1, max_size=12),
    st.text(string.ascii_lowercase, min_size=1, max_size=8).map(lambda rest: f"secret__{rest}"),
)
INTEGRATIONS = st.sampled_from(["google", "google_work", "slack", "a"])
FIELDS = st.sampled_from(["token", "authorization", "generation", "extra:site", "extra:token"])
DEFAULTS = st.none() | st.text(max_size=5) | st.integers(0, 9) | st.booleans()
VARIABLES = st.one_of(
    st.fixed_dictionaries(
        {"from": st.just("connection"), "integration": INTEGRATIONS, "field": FIELDS},
        optional={"default": DEFAULTS},
    ),
    st.fixed_dictionaries({"from": st.just("environment"), "label": st.sampled_from(["A", "B"])}),
    st.fixed_dictionaries({"from": st.just("user"), "attribute": st.sampled_from(["plan", "id"])}),
    st.just({"from": "client"}),
    st.fixed_dictionaries({"value": st.text(max_size=5)}),
)
PROFILES = st.none() | st.fixed_dictionaries(
    {"variables": st.dictionaries(NAMES, VARIABLES, max_size=6)},
    optional={
        "integrations": st.lists(
            st.fixed_dictionaries({"integration": INTEGRATIONS, "required": st.booleans()}),
            max_size=4,
            unique_by=lambda one: one["integration"],
        )
    },
)
CONNECTIONS = st.lists(
    st.builds(
        Usable,
        integration=INTEGRATIONS,
        connection_id=st.just("conn_1"),
        extras=st.lists(
            st.sampled_from(["site", "token", "work_token", "generation"]), unique=True
        ).map(tuple),
    ),
    max_size=4,
    unique_by=lambda one: one.integration,
)
PEOPLE = st.builds(
    Person,
    user_id=st.just("ada"),
    name=st.none() | st.just("Ada"),
    attributes=st.dictionaries(
        st.sampled_from(["plan", "secret__cal", "user_google_token", "cal", "system__x"]),
        st.text(max_size=5),
        max_size=4,
    ),
)


@given(PROFILES, PEOPLE, CONNECTIONS)
@settings(max_examples=400)
def test_no_plan_ever_puts_a_credential_under_a_name_that_is_not_secret(
    written: dict[str, Any] | None, person: Person, usable: list[Usable]
) -> None:
    profile = None
    if written is not None:
        try:
            profile = profile_of(written)
        except (Invalid, msgspec.ValidationError):
            return
    made = plan(profile, person, usable)
    credential = Credential(
        token=Secret("CREDENTIAL"), authorization=Secret("Bearer CREDENTIAL"), generation=1
    )
    everything = values(
        person=person,
        grant=Secret("Bearer CREDENTIAL"),
        credentials=dict.fromkeys(made.connections, credential),
        labels={"A": "plain"},
    )
    filled = fill(made, everything)
    for name, value in filled.items():
        if isinstance(value, Secret):
            assert is_secret(name)
        assert not name.startswith("system__")
    assert "CREDENTIAL" not in repr(plain(filled))
    assert filled["user_id"] == "ada"
    assert set(profile.variables if profile else ()) <= set(filled)
    handles = fill(made, everything, handles_only=True)
    assert [name for name, one in handles.items() if isinstance(one, Secret)] == [AUTHORIZATION]
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=Plan)
    assert fill(again, everything) == filled


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["topic", "lang", "seats", "secret__x", "a b", "user_name"]),
            st.text(max_size=5) | st.integers(0, 9) | st.just("long" * 10_000),
            max_size=4,
        ),
        min_size=1,
        max_size=4,
    )
)
def test_what_is_seen_to_be_free_at_a_glance_is_never_refused(
    every: list[dict[str, str | int]],
) -> None:
    planned = plan(None, ADA, [GOOGLE])
    for given_ in every:
        free = are_free(planned, given_, len(msgspec.json.encode(given_)))
        try:
            refuse_collisions(planned, given_)
        except Invalid:
            assert not free


def test_names_are_free_once_they_were_looked_at() -> None:
    planned = plan(None, ADA, [GOOGLE])
    assert are_free(planned, {}, 2)
    refuse_collisions(planned, {"never_asked_before": "x"})
    assert are_free(planned, {"never_asked_before": "y"}, 30)
