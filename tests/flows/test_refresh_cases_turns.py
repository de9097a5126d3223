"""Who comes first where not all can: nobody's backlog is another workspace's delay."""

import asyncio
import re

from support.alive import Alive, leave_nothing_due, workspace_in

from broker.sandbox import Faults

# More than a sweep looks at, at a time.
BACKLOG = 600


async def with_backlog(alive: Alive) -> None:
    """Copy one connection many times; all of them have been due for long."""
    ada = await alive.connect()
    await alive.end_access(ada)
    admin, where = alive.over.admin, {"users": "user_id", "user_keys": "user_id"}
    for table in ("users", "user_keys", "connections", "connection_lives", "connection_tokens"):
        names = await admin.fetchval(
            "select string_agg(attname, ', ') from pg_attribute where attrelid = $1::text::regclass"
            " and attnum > 0 and not attisdropped and attgenerated = ''",
            f"vault.{table}",
        )
        copied = re.sub(r"\b(user_id|connection_id)\b", r"\1 || '_' || n", names)
        copied = re.sub(r"\bdue_at\b", "due_at - interval '1 hour'", copied)
        await admin.execute(
            f"insert into vault.{table} ({names}) select {copied}"  # noqa: S608 - names of the catalogue
            f" from vault.{table}, generate_series(1, {BACKLOG}) n"
            f" where workspace_id = $1 and {where.get(table, 'connection_id')} = $2",
            alive.caller.workspace,
            "ada" if table in where else ada,
        )


async def test_a_backlog_of_one_workspace_does_not_delay_another(alive: Alive) -> None:
    await alive.integrate()
    joan = await alive.connect("joan")
    alive.sandbox.misbehave(Faults(status=429, retry_after=3_600, times=1))
    assert (await alive.token(joan, rejected=True, wait=1)).degraded
    await with_backlog(alive)
    other = Alive(
        alive.over,
        await workspace_in(alive.over, "a small neighbour"),
        alive.sandbox,
        alive.wire,
    )
    await other.integrate(refresh_policy="eager")
    grace = await other.connect("grace")
    await other.end_access(grace)
    await alive.left.refresh_due()
    await alive.settled()
    assert await other.generation(grace) == 2, "at the first look"
    await leave_nothing_due(alive.over, [other.caller])


async def test_who_waits_comes_before_what_is_due(alive: Alive) -> None:
    """The provider takes five a second, and twenty are due for it; one is waited for."""
    await alive.integrate("paced", refresh_policy="eager")
    ada, *others = await alive.people(21)
    await alive.end_access(*others)
    begun = asyncio.create_task(alive.left.refresh_due())
    found = await alive.token(ada, at=alive.right, rejected=True, wait=30)
    await begun
    await alive.settled()
    assert (found.generation, found.degraded) == (2, False)
    refreshed = [await alive.generation(one) for one in others].count(2)
    assert refreshed < len(others), "others wait still"
