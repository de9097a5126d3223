"""A thousand variables in twenty environments: one statement resolves them, and reads few rows."""

import asyncio
import json

import asyncpg
from conftest import Tenant

from vault.embedded import Embedded
from vault.sql import every_query
from vault.vault import Vault

VARIABLES = "/v1/convai/environment-variables"
LABELS = 1_000
ENVIRONMENTS = ["production", *[f"e{number}" for number in range(19)]]
AT_ONCE = 16


async def fill(tenant: Tenant) -> None:
    turns = asyncio.Semaphore(AT_ONCE)

    async def make(number: int) -> None:
        values = {name: f"{name}-{number}" for name in ENVIRONMENTS if name != f"e{number % 19}"}
        body = {"type": "string", "label": f"label_{number}", "values": values}
        async with turns:
            made = await tenant.api.post(VARIABLES, body)
        assert made.status == 200

    await asyncio.gather(*[make(number) for number in range(LABELS)])


async def test_a_thousand_labels_resolve_rightly_and_read_no_more_than_they_need(
    tenant: Tenant, vault: Vault, postgres: Embedded
) -> None:
    await fill(tenant)
    labels = {f"label_{number}" for number in range(LABELS)}
    found = await vault.use_configuration(tenant.caller, labels, set(), "e7")
    assert found.labels.keys() == labels
    for number in range(LABELS):
        source = "production" if number % 19 == 7 else "e7"
        resolved = found.labels[f"label_{number}"]
        assert (resolved.source, resolved.value) == (source, f"{source}-{number}")
    assert await rows_scanned(postgres, tenant, sorted(labels)) <= 3 * LABELS
    assert await count_by_pages(tenant) == LABELS


async def count_by_pages(tenant: Tenant) -> int:
    seen, more = 0, ""
    while True:
        page = (await tenant.api.get(f"{VARIABLES}?page_size=100{more}")).json
        seen += len(page["environment_variables"])
        if not page["has_more"]:
            return seen
        more = f"&cursor={page['next_cursor']}"


async def rows_scanned(postgres: Embedded, tenant: Tenant, labels: list[str]) -> int:
    """How many rows the one statement reads, by PostgreSQL's own count."""
    query = every_query()["vault.variables.resolve"]
    arguments = {
        "labels": labels,
        "environment": "e7",
        "workspace_id": tenant.id,
        "secret_ids": [],
    }
    connection = await asyncpg.connect(postgres.dsn().reveal())
    await connection.execute("analyze vault.environment_variables, vault.environment_values")
    [[plan]] = await connection.fetch(
        f"explain (analyze, format json) {query.sql}",
        *[arguments[name] for name in query.parameters],
    )
    await connection.close()
    return largest(json.loads(plan)[0]["Plan"])


def largest(plan: dict[str, object]) -> int:
    rows: int = int(plan["Actual Rows"]) * int(plan["Actual Loops"])  # type: ignore[call-overload]
    below: list[dict[str, object]] = plan.get("Plans", [])  # type: ignore[assignment]
    return max([rows, *[largest(one) for one in below]])
