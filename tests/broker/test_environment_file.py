"""The environment file: what it says, what is refused, and what a plan makes of it. No I/O."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.environment_file import (
    Document,
    Named,
    State,
    compare,
    document_of,
    read,
    write,
)
from broker.environment_file.document import (
    AuthSpec,
    SecretSpec,
    Source,
    VariableSpec,
    in_order,
    normal_config,
)
from broker.environment_file.plan import KnownAuth, KnownSecret, KnownVariable
from broker.environment_file.values import read_given
from broker.environment_file.writing import HEADER
from vault.errors import Invalid
from vault.model import AuthRef, SecretRef

SENTINEL = "sentinel-5b1d07"
WHOLE = b"""
version: 1
environments: [production, staging]
secrets:
  stripe_key:
    allowed_hosts: [api.stripe.com]
    value_from: {env: STRIPE_KEY}
  "no": {}
auth_connections:
  orders_api:
    auth_type: oauth2_client_credentials
    provider: orders
    client_id: abc
    token_url: https://login.example.com/token
    scopes: [read, "on"]
    extra_params: {audience: x}
    value_from:
      client_secret: {file: orders.secret}
  slack: {existing: true}
variables:
  api_host:
    type: string
    values: {production: api, staging: staging.api}
  api_key:
    type: secret
    values:
      production: {secret: stripe_key}
      staging: {secret: "no"}
  oauth_creds:
    type: auth_connection
    values: {production: {auth_connection: orders_api}}
"""
TOKEN_URL = "https://login.example.com/token"
CLIENT = {"provider": "orders", "client_id": "abc", "token_url": TOKEN_URL}
BEARER = "auth_type: bearer_auth, provider: a"
HEAD = "version: 1\nenvironments: [production, staging]\n"
NOTHING = State(environments=["production"], secrets=[], auth_connections=[], variables=[])


def refusal(content: str | bytes) -> str:
    with pytest.raises(Invalid) as caught:
        read(content.encode() if isinstance(content, str) else content, "env.yaml")
    assert "env.yaml cannot be used" in caught.value.message
    return caught.value.message


def variable(value: str) -> str:
    return f"{HEAD}variables:\n  x: {{type: string, values: {{production: {value}}}}}\n"


def after(state: State, document: Document) -> State:
    """What a target holds once a document is applied to it, in a few lines."""
    secrets = {one.name: one.id for one in state.secrets}
    auths = {one.name: one.id for one in state.auth_connections}
    secrets |= {name: f"s{name}" for name in document.secrets if name not in secrets}
    auths |= {name: f"a{name}" for name in document.auth_connections if name not in auths}

    def ref(value: str | Named) -> Any:
        if isinstance(value, str):
            return value
        known = secrets if value.kind == "secret" else auths
        return (SecretRef if value.kind == "secret" else AuthRef)(known[value.name])

    return State(
        environments=in_order(document.environments),
        secrets=[
            KnownSecret(secrets[name], name, one.allowed_hosts)
            for name, one in document.secrets.items()
        ],
        auth_connections=[
            KnownAuth(auths[name], name, one.config, one.allowed_hosts)
            for name, one in document.auth_connections.items()
        ],
        variables=[
            KnownVariable(f"v{label}", label, one.type, {n: ref(v) for n, v in one.values.items()})
            for label, one in document.variables.items()
        ],
    )


# Reading


def test_a_whole_file_is_read() -> None:
    document = read(WHOLE, "env.yaml")
    assert document.environments == ["production", "staging"]
    assert document.secrets["stripe_key"] == SecretSpec(
        allowed_hosts=("api.stripe.com",), value_from=Source("env", "STRIPE_KEY")
    )
    orders = document.auth_connections["orders_api"]
    assert orders.config is not None
    assert orders.config["scopes"] == ["read", "on"]
    assert orders.config["basic_auth_in_header"] is False
    assert document.auth_connections["slack"] == AuthSpec(config=None)
    assert document.variables["api_key"].values["staging"] == Named("secret", "no")


def test_json_is_read_as_well() -> None:
    plain = b'{"version": 1, "environments": ["production"], "secrets": {"a": {}}}'
    assert read(plain, "env.json") == Document(
        environments=["production"], secrets={"a": SecretSpec()}
    )


@pytest.mark.parametrize(
    "value",
    [
        *("no", "No", "on", "off", "yes", "y", "N", "true", "false"),
        *("012", "0o12", "0x1F", "1", "1.5", "1e3", ".5", "1_000", "1:30", ".inf"),
        *("2026-01-31", "2026-01-31T10:00:00Z", "null", "~", "<<", "="),
    ],
)
def test_a_word_that_yaml_takes_for_something_else_is_to_be_quoted(value: str) -> None:
    said = refusal(variable(value))
    assert "line 4, variables.x.values.production" in said
    assert f'"{value}"' in said
    assert f"quote it, as in '{value}'" in said
    document = read(variable(f"'{value}'").encode(), "env.yaml")
    assert document.variables["x"].values["production"] == value
    assert read(write(document).encode(), "env.yaml") == document


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "it is empty"),
        ("# only a comment\n", "it is empty"),
        ("version", "line 1: this must be a mapping of names"),
        (b"\xff\xfe", "it is not UTF-8 text"),
        ("version: 1\x01", "it holds a character that YAML does not allow"),
        ("x" * (8 * 1024 * 1024 + 1), "it is larger than 8 MiB"),
        ("environments: [production]", "line 1: 'version: 1' is missing"),
        ("version: 2\nenvironments: [production]", "line 1, version: this Keyturn reads version 1"),
        ("version: '1'\nenvironments: [production]", "line 1, version: this Keyturn reads"),
        ("version: 1", "'environments' is missing"),
        ("version: 1\nenvironments: production", "line 2, environments: this must be a list"),
        ("version: 1\nenvironments: [staging]", "line 2, environments: 'production' is missing"),
        ("version: 1\nenvironments: [production, a b]", 'line 2, environments[1]: "a b"'),
        ("version: 1\nenvironments: [production, '']", 'line 2, environments[1]: ""'),
        ("version: 1\nenvironments: [production, no]", "line 2, environments[1]: YAML takes"),
        ("version: 1\nenvironments: [production, production]", "an environment stands twice"),
        (f"version: 1\nenvironments: {['production', *map(str, range(100))]}", "at most 100"),
        (f"{HEAD}variable: {{}}", "line 3, variable: there is no such key here"),
        (f"{HEAD}variables: []", "line 3, variables: this must be a mapping"),
        (f"{HEAD}variables: {{a: 1}}", "line 3, variables.a: this must be a mapping"),
        (f"{HEAD}variables: {{a-b: {{}}}}", "a label is 1 to 64 letters, digits and underscores"),
        (f"{HEAD}variables: {{'': {{}}}}", "a label is 1 to 64 letters, digits and underscores"),
        (f"{HEAD}variables: {{\u0430bc: {{}}}}", "a label is 1 to 64 letters"),
        (f"{HEAD}variables: {{a: {{type: number}}}}", "'type' must be one of string, secret"),
        (f"{HEAD}variables: {{a: {{type: string}}}}", "a value for 'production' is missing"),
        (
            f"{HEAD}variables: {{a: {{type: string, values: {{staging: x}}}}}}",
            "line 3, variables.a.values: a value for 'production' is missing",
        ),
        (
            f"{HEAD}variables: {{a: {{type: string, values: {{production: x, dev: y}}}}}}",
            "line 3, variables.a.values.dev: this environment is not declared",
        ),
        (variable("''"), "a value has 1 to 8192 characters"),
        (variable("a" * 8_193), "a value has 1 to 8192 characters"),
        (variable("[a]"), "this must be text"),
        (
            f"{HEAD}variables: {{a: {{type: secret, values: {{production: {{secret: b}}}}}}}}",
            "there is no 'b' under 'secrets'",
        ),
        (
            f"{HEAD}variables: {{a: {{type: secret, values: {{production: {{secret_id: b}}}}}}}}",
            "write {secret: NAME}",
        ),
        (f"{HEAD}secrets: {{a: {{allowed_hosts: ['https://x']}}}}", "an allowed host reads like"),
        (f"{HEAD}secrets: {{a: {{value_from: {{env: KEYTURN_KEK}}}}}}", "not a name of an env"),
        (f"{HEAD}secrets: {{a: {{value_from: {{env: A, file: b}}}}}}", "write {env: NAME} or"),
        (f"{HEAD}secrets: {{a: {{value_from: {{file: ''}}}}}}", "this is not the path of a file"),
        (f"{HEAD}auth_connections: {{a: {{auth_type: oauth}}}}", "'auth_type' must be one of"),
        (f"{HEAD}auth_connections: {{a: {{auth_type: mtls}}}}", "'provider' is missing; mtls"),
        (
            f"{HEAD}auth_connections: {{a: {{auth_type: mtls, provider: a, client_id: b}}}}",
            "auth_connections.a.client_id: there is no such key here",
        ),
        (f"{HEAD}auth_connections: {{a: {{existing: true, provider: b}}}}", "there is no such key"),
        (f"{HEAD}auth_connections: {{a: {{existing: false}}}}", "this can only be true"),
        ("version: 1\nversion: 1", 'line 2: the key "version" stands twice'),
        (f"{HEAD}secrets:\n  a: {{}}\n  a: {{}}", 'line 5: the key "a" stands twice'),
        (f"{HEAD}secrets: {{no: {{}}}}", 'line 3: YAML takes "no" for a boolean'),
        ("version: 1\nenvironments: &a [production]", "line 2: anchors"),
        ("version: *a", "line 1: anchors"),
        ("version: !!python/object:os.system 1", "line 1: tags"),
        ("? [a]\n: b", "line 1: a key must be text"),
        ("version: 1\n---\nversion: 1", "line 2: a second document begins"),
        ("[" * 100 + "]" * 100, "line 1: this is nested too deeply"),
        ("version: [", "this is not YAML"),
        ("a: b: c", "line 1: this is not YAML"),
    ],
)
def test_a_bad_file_gets_a_sentence_with_its_place(content: str | bytes, said: str) -> None:
    assert said in refusal(content)


def test_all_mistakes_are_said_at_once_and_each_once() -> None:
    said = refusal(f"{HEAD}secrets: []\nfoo: 1\nvariables: {{a: {{type: string, values: 1}}}}")
    assert said.count("line 3, secrets:") == 1
    assert said.count("line 4, foo:") == 1
    assert said.count("line 5, variables.a.values:") == 1


def test_so_many_mistakes_are_not_all_said() -> None:
    labels = "".join(f"  x-{number}: {{}}\n" for number in range(500))
    said = refusal(f"{HEAD}variables:\n{labels}")
    assert len(said.splitlines()) < 60
    assert "... and more" in said


@pytest.mark.parametrize(
    "content",
    [
        f"{HEAD}secrets: {{a: {{value: {SENTINEL}}}}}",
        f"{HEAD}secrets: {{a: {{value: [{SENTINEL}]}}}}",
        f"{HEAD}auth_connections: {{a: {{{BEARER}, token: {SENTINEL}}}}}",
    ],
)
def test_a_secret_in_the_file_is_refused_and_not_repeated(content: str) -> None:
    said = refusal(content)
    assert "never stands in this file" in said
    assert SENTINEL not in said


# Writing


def test_the_documented_example_is_what_an_export_looks_like() -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "environment-file.md"
    example, secrets = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    document = read(example.encode(), "env.yaml")
    assert write(document) == HEADER + example
    assert set(read_given(secrets.encode(), document)) == {
        Named("secret", "staging_key"),
        Named("auth_connection", "orders_api"),
    }


names = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=30)
environments = st.from_regex(r"[A-Za-z0-9_-]{1,12}", fullmatch=True)
labels = st.from_regex(r"[A-Za-z0-9_]{1,12}", fullmatch=True)
traps = st.sampled_from(["no", "0o7", "1e3", "-", "a: b", "#x", " x ", "'", "\n", "\x85", "\ufeff"])
strings = traps | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


@st.composite
def documents(draw: st.DrawFn) -> Document:
    places = ["production", *draw(st.lists(environments, max_size=3))]
    secrets = draw(st.lists(names, max_size=3, unique=True))
    specs: dict[str, VariableSpec] = {}
    for label in draw(st.lists(labels, max_size=4, unique=True)):
        chosen = ["production", *draw(st.lists(st.sampled_from(places), max_size=3))]
        if draw(st.booleans()) and secrets:
            named = st.sampled_from(secrets).map(lambda name: Named("secret", name))
            specs[label] = VariableSpec("secret", {one: draw(named) for one in chosen})
        else:
            specs[label] = VariableSpec("string", {one: draw(strings) for one in chosen})
    config = normal_config("oauth2_client_credentials", {**CLIENT, "scopes": [draw(strings)]})
    return Document(
        environments=in_order(set(places)),
        secrets={name: SecretSpec() for name in secrets},
        auth_connections={name: AuthSpec(config=config) for name in draw(st.lists(names))},
        variables=specs,
    )


@given(documents())
def test_what_is_written_is_read_back_and_written_alike(document: Document) -> None:
    text = write(document)
    assert read(text.encode(), "env.yaml") == document
    assert write(read(text.encode(), "env.yaml")) == text


@given(document=documents(), other=documents(), prune=st.booleans())
def test_after_applying_there_are_no_changes(
    document: Document, other: Document, *, prune: bool
) -> None:
    state = after(NOTHING, document)
    assert compare(document, state, prune=prune).steps == []
    assert compare(document_of(state), state, prune=True).steps == []
    steps = compare(other, state, prune=True).steps
    assert bool(steps) == (other != document)
