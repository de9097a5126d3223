"""The rule of labels and environments, against a model of three lines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from vault.environments import choose, fallback_warnings
from vault.errors import Unresolved
from vault.model import VariableType

NAMES = ["production", "staging", "dev", "qa"]


class One(Struct, frozen=True):
    label: str
    type: VariableType
    environment: str


class Labelled(Struct, frozen=True):
    label: str
    type: VariableType
    environments: list[str]


def model(there: set[str], asked: str, kind: str, *, fallback: bool) -> str | None:
    if asked in there:
        return asked
    return "production" if "production" in there and (fallback or kind == "string") else None


@given(
    there=st.sets(st.sampled_from(NAMES)),
    asked=st.sampled_from([*NAMES, "unheard_of"]),
    kind=st.sampled_from(["string", "secret", "auth_connection"]),
    fallback=st.booleans(),
    noise=st.sets(st.sampled_from(NAMES)),
)
def test_resolving_equals_the_model(
    *, there: set[str], asked: str, kind: VariableType, fallback: bool, noise: set[str]
) -> None:
    candidates = [One("other", "string", name) for name in noise]
    candidates += [One("label", kind, name) for name in there]
    expected = model(there, asked, kind, fallback=fallback)
    if expected is None:
        with pytest.raises(Unresolved, match=f"'label'.*'{asked}'"):
            choose(candidates, "label", asked, secret_fallback=fallback)
        return
    found = choose(candidates, "label", asked, secret_fallback=fallback)
    assert (found.label, found.environment) == ("label", expected)


def test_a_host_of_its_own_beside_a_secret_that_falls_back_is_warned_of() -> None:
    variables = [
        Labelled("api_host", "string", ["production", "staging"]),
        Labelled("greeting", "string", ["production", "staging"]),
        Labelled("api_key", "secret", ["production"]),
        Labelled("oauth", "auth_connection", ["production", "dev"]),
        Labelled("own_key", "secret", ["production", "staging"]),
    ]
    found = fallback_warnings(variables, ["production", "staging", "dev"])
    assert [(one.environment, one.host, one.secret) for one in found] == [
        ("staging", "api_host", "api_key"),
        ("staging", "api_host", "oauth"),
    ]
    assert all(one.secret in one.text and one.host in one.text for one in found)


def test_where_nothing_is_overridden_there_is_nothing_to_warn_of() -> None:
    variables = [
        Labelled("api_host", "string", ["production"]),
        Labelled("api_key", "secret", ["production"]),
    ]
    assert fallback_warnings(variables, ["production", "staging"]) == []
