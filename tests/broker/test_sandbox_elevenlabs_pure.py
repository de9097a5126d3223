"""The stand-in's pure parts: how text is filled in, how a secret is found, how a body is read."""

import base64
import json
from typing import Any
from urllib.parse import quote, quote_plus

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.sandbox.elevenlabs.account import Account, Secret, Variable
from broker.sandbox.elevenlabs.leaks import LeakDetector, forms
from broker.sandbox.elevenlabs.templates import Filling, Unconfigured, names_in, needed_in
from broker.sandbox.elevenlabs.wire import merged, unprocessable

LONG = "a-secret-of-30-characters-12345"


def account(**values: Any) -> Account:
    found = Account(workspace_id="workspace_1", api_key="k")
    for label, (kind, given_values) in values.items():
        found.variables[label] = Variable(
            id=label, label=label, type=kind, values=given_values, created_at=0, updated_at=0
        )
    found.secrets["secret_1"] = Secret(secret_id="secret_1", name="n", value="the value")
    return found


def filling(environment: str = "staging", **variables: Any) -> Filling:
    kept = account(
        host=("string", {"production": "p.test", "staging": "s.test"}),
        key=("secret", {"production": {"secret_id": "secret_1"}}),
        gone=("secret", {"production": {"secret_id": "secret_2"}}),
        auth=("auth_connection", {"production": {"auth_connection_id": "auth_1"}}),
    )
    return Filling(kept, environment, variables)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("https://{{system__env_host}}/", "https://s.test/"),
        ("{{ system__env_host }}", "s.test"),
        ("{{a}}{{b}}{{c}}", "x1true"),
        ("{a} {{a b}} {{}} {{{a}}}", "{a} {{a b}} {{}} {x}"),
        ("{{again}}", "{{a}}"),
    ],
)
def test_a_text_is_filled_in_once(template: str, text: str) -> None:
    found = filling(a="x", b=1, c=True, again="{{a}}")
    assert found.text(template) == text


def test_production_stands_in_for_an_environment_without_a_value() -> None:
    assert filling("dev").text("{{system__env_host}}") == "p.test"
    assert filling("dev").header({"env_var_label": "key"}) == "the value"


@pytest.mark.parametrize(
    "template",
    ["{{unknown}}", "{{system__env_unknown}}", "{{system__env_key}}", "{{system__env_auth}}"],
)
def test_what_has_no_value_is_never_an_empty_text(template: str) -> None:
    with pytest.raises(Unconfigured):
        filling().text(template)


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("literal", "literal"),
        ({"secret_id": "secret_1"}, "the value"),
        ({"variable_name": "secret__auth"}, "Bearer x"),
        ({"env_var_label": "host"}, "s.test"),
        ({"env_var_label": "key"}, "the value"),
    ],
)
def test_a_header_is_a_text_or_one_of_three_references(header: Any, text: str) -> None:
    assert filling(secret__auth="Bearer x").header(header) == text


@pytest.mark.parametrize(
    "header",
    [
        {"secret_id": "secret_x"},
        {"variable_name": "x"},
        {"env_var_label": "x"},
        {"env_var_label": "gone"},
        {"env_var_label": "auth"},
        {},
        None,
        3,
    ],
)
def test_a_header_that_refers_to_nothing_is_a_configuration_error(header: Any) -> None:
    with pytest.raises(Unconfigured):
        filling().header(header)


def test_every_variable_that_a_configuration_names_is_needed_but_the_systems_own() -> None:
    schema = {
        "url": "https://{{system__env_host}}/{{a}}",
        "request_headers": {"A": {"variable_name": "b"}, "B": "{{c}}", "C": {"secret_id": "s"}},
        "request_body_schema": {
            "properties": {
                "d": {"dynamic_variable": "d"},
                "e": {"dynamic_variable": "system__conversation_id"},
                "f": {"dynamic_variable": ""},
            },
            "required": ["d"],
        },
    }
    assert sorted(needed_in(schema)) == ["a", "b", "c", "d"]
    assert names_in("{{a}} {{system__time}}") == ["a", "system__time"]


@pytest.mark.parametrize(
    "written",
    [
        LONG,
        f"Bearer {LONG}",
        quote(LONG + "/+ "),
        base64.b64encode(LONG.encode()).decode(),
        json.dumps({"a": LONG}),
    ],
)
def test_a_secret_is_found_however_it_is_written(written: str) -> None:
    assert any(form in written for form in forms(f"Bearer {LONG}"))


@given(st.text(min_size=16, max_size=60))
def test_any_long_value_is_found_in_every_form(value: str) -> None:
    encodable = value.encode("utf-8", "surrogatepass")
    found = list(forms(value))
    for form in (
        value,
        quote(encodable, safe=""),
        quote_plus(encodable),
        json.dumps(value)[1:-1],
        base64.b64encode(encodable).decode().rstrip("="),
        base64.urlsafe_b64encode(encodable).decode().rstrip("="),
    ):
        assert form in found


@pytest.mark.parametrize("value", ["", "short", "true", "placeholder", "1234567", "none"])
def test_a_value_that_is_too_short_to_tell_is_not_looked_for(value: str) -> None:
    assert list(forms(value)) == []


def test_a_record_of_a_leak_holds_no_value_and_there_are_not_too_many() -> None:
    detector = LeakDetector(lambda value: f"hash:{len(value)}", lambda: 0.0)
    for _ in range(1_100):
        assert detector.look("url", f"/?t={LONG}", [("secret__x", LONG)]) == ["secret__x"]
    assert detector.look("url", "/", [("secret__x", LONG)]) == []
    assert len(detector.found) == 1_000
    assert LONG not in str(detector.found)


def test_a_partial_object_is_laid_over_a_whole_one() -> None:
    before = {"a": {"b": 1, "c": [1]}, "d": 2}
    assert merged(before, {"a": {"c": [2]}, "e": None}) == {
        "a": {"b": 1, "c": [2]},
        "d": 2,
        "e": None,
    }
    assert before == {"a": {"b": 1, "c": [1]}, "d": 2}


class Inner(msgspec.Struct):
    number: int


class Outer(msgspec.Struct):
    inner: list[Inner]
    name: str = ""


@pytest.mark.parametrize(
    ("body", "loc", "kind"),
    [
        ({"inner": [{"number": 1}, {}]}, ["body", "inner", 1, "number"], "missing"),
        ({"inner": [{"number": "x"}]}, ["body", "inner", 0, "number"], "value_error"),
        ({"inner": [], "name": 3}, ["body", "name"], "value_error"),
        ({}, ["body", "inner"], "missing"),
    ],
)
def test_what_breaks_a_schema_is_named_as_fastapi_names_it(
    body: Any, loc: list[str | int], kind: str
) -> None:
    with pytest.raises(msgspec.ValidationError) as raised:
        msgspec.convert(body, Outer)
    problem = unprocessable(str(raised.value)).problem
    assert (problem["loc"], problem["type"]) == (loc, kind)
