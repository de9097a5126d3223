"""The catalogue over HTTP and at the terminal."""

import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner
from conftest import Tenant
from support.api import Api, running

from broker.cli import main as keyturn
from broker.settings import Settings
from vault.database import Database
from vault.embedded import Embedded
from vault.kms import open_root_key
from vault.model import SCOPES, Scope
from vault.providers import Catalogue
from vault.vault import Vault

PROVIDERS = "/v1/providers"
READERS: set[Scope] = {"manage", "connect"}


async def key_with(tenant: Tenant, scope: Scope) -> Api:
    made = await tenant.api.post("/v1/keys", {"name": scope, "scopes": [scope]})
    assert made.status == 201, made.body
    return tenant.api.with_key(made.json["key"])


async def every(api: Api, limit: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = await api.get(f"{PROVIDERS}?limit={limit}{cursor}")
        assert page.status == 200, page.body
        found += page.json["data"]
        if page.json["next_cursor"] is None:
            return found
        cursor = f"&cursor={page.json['next_cursor']}"


@pytest.mark.parametrize("limit", [7, 47, 100])
async def test_the_pages_of_the_list_are_the_catalogue(tenant: Tenant, limit: int) -> None:
    found = await every(tenant.api, limit)
    assert [one["id"] for one in found] == Catalogue().ids()


async def test_a_line_of_the_list_says_what_can_be_used(tenant: Tenant) -> None:
    found = {one["id"]: one for one in await every(tenant.api, 100)}
    assert found["google"] == {
        "id": "google",
        "name": "Google",
        "mode": "authorization_code",
        "status": "active",
        "categories": found["google"]["categories"],
    }
    assert found["plaid"]["mode"] is None
    assert found["plaid"]["status"] == "unsupported"
    assert found["fitbit"]["status"] == "retired"


async def test_every_provider_can_be_read(tenant: Tenant) -> None:
    for provider_id in Catalogue().ids():
        found = await tenant.api.get(f"{PROVIDERS}/{provider_id}")
        assert found.status == 200, (provider_id, found.body)
        assert found.json["id"] == provider_id
        assert found.json["source"] == "catalogue"


async def test_a_provider_tells_what_an_integration_has_to_say(tenant: Tenant) -> None:
    zendesk = (await tenant.api.get(f"{PROVIDERS}/zendesk")).json
    assert zendesk["variables"] == [
        {
            "name": "subdomain",
            "label": "Subdomain of the account",
            "filled_by": "person",
            "kind": "host",
            "required": True,
            "pattern": "^[a-z0-9][a-z0-9-]{0,61}$",
            "default": None,
            "example": "acme",
        }
    ]
    assert zendesk["own_callback"] is True
    assert zendesk["refresh"]["rotation"] == "strict"
    assert zendesk["endpoints"]["token"] == "https://{subdomain}.zendesk.com/oauth/tokens"


@pytest.mark.parametrize(
    ("provider_id", "rotation", "more"),
    [
        ("google", "none", []),
        ("microsoft", "stays_valid", []),
        ("jira", "grace", ["choice"]),
        ("xero", "grace", ["choice"]),
        ("quickbooks", "strict", []),  # a grace whose length nobody states is none
        ("gitlab", "strict", ["own_callback"]),
        ("oidc", "strict", ["own_callback"]),
        ("mcp", "strict", ["own_callback"]),
    ],
)
async def test_what_follows_from_the_facts(
    tenant: Tenant, provider_id: str, rotation: str, more: list[str]
) -> None:
    found = (await tenant.api.get(f"{PROVIDERS}/{provider_id}")).json
    assert found["refresh"]["rotation"] == rotation
    assert [name for name in ("own_callback", "choice") if found[name]] == more


async def test_a_preset_tells_what_it_inherits(tenant: Tenant) -> None:
    gmail = (await tenant.api.get(f"{PROVIDERS}/google-mail")).json
    google = (await tenant.api.get(f"{PROVIDERS}/google")).json
    assert gmail["endpoints"]["token"] == google["endpoints"]["token"]
    assert gmail["refresh"] == google["refresh"]
    assert gmail["scopes"]["default"] != google["scopes"]["default"]


@pytest.mark.parametrize("scope", SCOPES)
async def test_who_sets_things_up_may_read_the_catalogue(tenant: Tenant, scope: Scope) -> None:
    api = await key_with(tenant, scope)
    expected = 200 if scope in READERS else 403
    assert (await api.get(PROVIDERS)).status == expected
    assert (await api.get(f"{PROVIDERS}/google")).status == expected


async def test_nobody_reads_it_without_a_key(anyone: Api) -> None:
    assert (await anyone.get(PROVIDERS)).status == 401
    assert (await anyone.get(f"{PROVIDERS}/google")).status == 401


async def test_the_operator_reads_it(operator: Api) -> None:
    assert (await operator.get(PROVIDERS)).status == 200
    assert (await operator.get(f"{PROVIDERS}/google")).status == 200


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [("nobody", 404, "not_found"), ("GOOGLE", 422, "invalid"), ("google.toml", 422, "invalid")],
)
async def test_a_provider_that_is_not_there_is_a_problem(
    tenant: Tenant, name: str, status: int, code: str
) -> None:
    found = await tenant.api.get(f"{PROVIDERS}/{name}")
    assert (found.status, found.code) == (status, code)


async def test_a_cursor_that_is_not_ours_is_refused(tenant: Tenant) -> None:
    assert (await tenant.api.get(f"{PROVIDERS}?cursor=%00")).status == 422
    assert (await tenant.api.get(f"{PROVIDERS}?limit=0")).status == 422


OWN = """
id = "google"
extends = "google"
name = "Google at Acme"
as_of = 2026-11-21

[confidence]
endpoints = "docs"
client = "docs"
refresh = "docs"
lifetime = "docs"
identity = "docs"
scopes = "docs"
quirks = "docs"
"""


async def test_the_operators_folder_is_what_the_service_answers_from(
    migrated: Embedded, root_key_file: Path, tenant: Tenant, tmp_path: Path
) -> None:
    (tmp_path / "google.toml").write_text(OWN)
    database = await Database.open(migrated.dsn("keyturn_app"), size=2, statement_cache=50)
    root = open_root_key(root_key_file.as_uri())
    vault = await Vault.open(database, root, catalogue=Catalogue(tmp_path))
    async with (
        aiohttp.ClientSession() as session,
        running(vault, Settings(mode="development")) as service,
    ):
        there = await Api(session, service.base, tenant.key).get(f"{PROVIDERS}/google")
    await vault.close()
    assert there.json["name"] == "Google at Acme"
    assert there.json["source"] == "operator"


# At the terminal


def run(*words: str, **environ: str) -> tuple[int, str]:
    done = CliRunner().invoke(keyturn, ["provider", *words], env=environ)
    return done.exit_code, done.output


def test_the_terminal_lists_the_catalogue() -> None:
    code, told = run("list", "--json")
    assert code == 0
    assert [one["id"] for one in json.loads(told)] == Catalogue().ids()
    assert "plaid" in run("list")[1]
    assert "(unsupported)" in run("list", "--category", "banking")[1]


def test_the_terminal_shows_a_provider_with_what_it_extends() -> None:
    code, told = run("show", "google-mail")
    assert code == 0
    assert 'token.url = "https://oauth2.googleapis.com/token"' in told
    assert json.loads(run("show", "slack", "--json")[1])["errors"]["success"] == "ok"
    code, told = run("show", "nobody")
    assert code == 1
    assert "There is no such provider." in told


def test_the_terminal_checks_the_catalogue() -> None:
    assert run("check") == (0, f"{len(Catalogue().ids())} providers: good\n")


def test_the_terminal_checks_a_file_and_a_folder(tmp_path: Path) -> None:
    file = tmp_path / "google.toml"
    file.write_text(OWN)
    assert run("check", str(file)) == (0, "google.toml: good\n")
    assert run("check", str(tmp_path))[0] == 0
    file.write_text(OWN + '[token]\nurl = "http://a.example.com"\n')
    for place in (file, tmp_path):
        code, told = run("check", str(place))
        assert code == 1
        assert "google.toml: token.url:" in told
    assert run("check", str(tmp_path / "none"))[0] == 2


def test_the_setting_names_the_folder_for_the_terminal_too(tmp_path: Path) -> None:
    (tmp_path / "google.toml").write_text(OWN)
    told = run("show", "google", KEYTURN_PROVIDERS_DIR=str(tmp_path))[1]
    assert 'name = "Google at Acme"' in told
    (tmp_path / "google.toml").write_text("id = 1")
    code, told = run("list", KEYTURN_PROVIDERS_DIR=str(tmp_path))
    assert code == 1
    assert "google.toml: id:" in told


def test_the_terminal_prints_the_schema() -> None:
    assert json.loads(run("schema")[1])["$defs"]["Provider"]
