"""A consent becomes a connection's life: written in the transaction of the consent.

* A newer consent takes the place of the one before; its tokens are a generation further, and an
  answer that is still under way for the one before is never saved over it.
"""

from msgspec.structs import replace

from vault import events
from vault.consent import Connection
from vault.database import Transaction
from vault.errors import VaultError
from vault.events import News
from vault.lifecycle.clocks import clocks
from vault.lifecycle.events import Connected
from vault.lifecycle.intents import Announce
from vault.lifecycle.machine import step
from vault.lifecycle.terms import terms_of
from vault.oauth.app import TokenSet
from vault.oauth.renewing import can_refresh
from vault.providers.schema import Provider
from vault.refreshing.page import scheduled
from vault.refreshing.replica import moment
from vault.store import connections as rows
from vault.store import refreshing
from vault.store.connections import NewTokens


class Moved(VaultError):
    """Somebody else wrote first."""


async def write(
    tx: Transaction, new: NewTokens, tokens: TokenSet, provider: Provider, user_ref: str
) -> None:
    """Write a consent and what it brought; ``Moved`` if somebody else wrote first: the seal is of
    another generation then, and the transaction has to be taken back.
    """
    connection_id = new.connection_id
    if not await rows.put_connection(tx, new):
        raise Moved
    await refreshing.begin_life(tx, connection_id, new.integration, new.environment, user_ref)
    now = (await moment.one(tx)).now
    row = (await refreshing.lock_lives(tx, [connection_id]))[connection_id]
    terms = terms_of(provider)
    life, intents = step(row.life(), Connected(at=now), terms)
    if life.generation != new.generation:
        raise Moved
    times = clocks(
        terms,
        issued_at=tokens.obtained_at,
        consented_at=now,
        access_ends=tokens.expires_at,
        refresh_ends=tokens.refresh_expires_at,
        renewable=new.refresh_by == "keyturn" and can_refresh(provider, tokens),
    )
    fresh = replace(row.after(life, times), noticed=None)
    await refreshing.write_lives(tx, [scheduled(fresh, life, terms, now)])
    await events.record(tx, [_news(new, one) for one in intents if isinstance(one, Announce)])


def revoked(connection: Connection) -> News:
    """The connection is gone."""
    return News(
        type="connection.revoked",
        integration=connection.integration,
        environment=connection.environment,
        connection_id=connection.connection_id,
        user_id=connection.user_id,
        generation=connection.generation,
    )


def _news(new: NewTokens, announced: Announce) -> News:
    return News(
        type=events.OF_CONNECTION[announced.news],
        integration=new.integration,
        environment=new.environment,
        connection_id=new.connection_id,
        user_id=new.user_id,
        generation=new.generation,
        reason=announced.reason,
    )
