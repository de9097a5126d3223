"""Rows of API keys, within one transaction. Of a key itself only its hash is there."""

from typing import Final

from msgspec import Struct

from vault.database import Transaction
from vault.model import ApiKey, KeyId, NewKey, Page
from vault.sql import Query


class _Ref(Struct, frozen=True):
    key_id: KeyId


_insert: Final = Query("api_keys", "insert", ApiKey)
_get: Final = Query("api_keys", "get", ApiKey)
_list: Final = Query("api_keys", "list", ApiKey)
_delete: Final = Query("api_keys", "delete", _Ref)


async def insert(
    tx: Transaction, key_id: KeyId, key_hash: bytes, wanted: NewKey, created_by: str
) -> ApiKey:
    return await _insert.one(
        tx,
        workspace_id=tx.workspace,
        key_id=key_id,
        hash=key_hash,
        name=wanted.name,
        scopes=list(wanted.scopes),
        environments=list(wanted.environments),
        created_by=created_by,
        expires_at=wanted.expires_at,
    )


async def get(tx: Transaction, key_id: KeyId) -> ApiKey | None:
    return await _get.maybe(tx, workspace_id=tx.workspace, key_id=key_id)


async def every(tx: Transaction, page: Page) -> list[ApiKey]:
    return await _list.all(tx, workspace_id=tx.workspace, after=page.after, limit=page.limit)


async def delete(tx: Transaction, key_id: KeyId) -> bool:
    return await _delete.maybe(tx, workspace_id=tx.workspace, key_id=key_id) is not None
