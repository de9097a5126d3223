"""A workspace that has sealed something of every kind, and what lies in the database of it."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
from msgspec import Struct

from broker.settings import Settings
from support.alive import Replicas, replicas
from support.api import Api, running
from support.configured import Configured
from vault.embedded import Embedded
from vault.keyring import Keyring, StoredKey
from vault.kms import open_root_key
from vault.model import SCOPES, Caller, NewKey
from vault.seal import Context, SealingKey, key_id_of, open_sealed, seal
from vault.secret import Secret
from vault.vault import Vault

OPERATOR: Final = Caller.operator("tests")
# The last is longer than what sealed bytes spell by chance.
NAMES: Final = {"ada": "Ada", "bob": "Robert Byron"}
# Every sealed column; the test that compares it with the schema says if one is missing.
COLUMNS: Final = (
    ("index_keys", "sealed"),
    ("user_keys", "sealed"),
    ("users", "profile"),
    ("secrets", "sealed"),
    ("auth_connections", "sealed"),
    ("auth_connection_tokens", "sealed_token"),
    ("environment_values", "sealed"),
    ("integrations", "sealed"),
    ("connection_tokens", "sealed"),
    ("connect_flows", "sealed"),
    ("revocation_tokens", "sealed"),
    ("refresh_answers", "sealed"),
    ("event_endpoint_secrets", "sealed"),
    ("agents", "sealed"),
    ("upstreams", "sealed"),
    ("signing_keys", "sealed"),
    ("conversations", "kept"),
)


class Tenancy(Struct, frozen=True):
    """A workspace, its HTTP client, and the database's owner beside it."""

    over: Replicas
    api: Api
    workspace: str
    key: str = ""

    @property
    def vault(self) -> Vault:
        return self.over.left

    async def keys(self) -> list[tuple[int, str, str]]:
        """Version, state and root key of the workspace's keys, the oldest first."""
        rows = await self.over.admin.fetch(
            "select version, state, root_key_id from vault.workspace_keys"
            " where workspace_id = $1 order by version",
            self.workspace,
        )
        return [tuple(row) for row in rows]

    async def sealed(self) -> dict[str, set[bytes]]:
        """The keys under which each sealed column lies."""
        found = {}
        for table, column in COLUMNS:
            rows = await self.over.admin.fetch(
                f"select {column} from vault.{table}"  # noqa: S608 - names of ours
                f" where workspace_id = $1 and {column} is not null",
                self.workspace,
            )
            found[table] = {key_id_of(row[0]) for row in rows}
        return found

    async def newest(self) -> bytes:
        return bytes(
            await self.over.admin.fetchval(
                "select key_id from vault.workspace_keys where workspace_id = $1"
                " order by version desc limit 1",
                self.workspace,
            )
        )

    async def fill(self) -> None:
        """Seal something of every kind."""
        api, configured = self.api, Configured(self.api)
        for user in NAMES:
            await _made(api.put(f"/v1/users/{user}", {"name": NAMES[user]}))
        await _made(api.put("/v1/integrations/keys", {"provider": "api-key"}))
        for user in ("ada", "bob"):
            path = f"/v1/users/{user}/connections/keys"
            await _made(api.put(path, {"api_key": f"key-of-{user}"}))
        secret = await configured.secret("one", "value-of-one")
        await configured.secrets("from_secret", {"production": secret})
        await configured.strings("host", {"production": "a.example", "staging": "b.example"})
        await configured.connection(
            "basic", auth_type="basic_auth", username="u", password="value-of-basic"
        )
        target = {"url": "http://127.0.0.1:1/events"}
        await _made(api.post("/v1/event-endpoints", target))
        link = {"user_id": "ada", "integrations": ["keys"]}
        session = (await _made(api.post("/v1/connect-sessions", link)))["id"]
        await self._talk()
        await self._plant(session)

    async def _talk(self) -> None:
        """Seal what conversations need."""
        await _made(self.api.put("/v1/agents/agent_1", {"variables": {"tier": {"value": "gold"}}}))
        account = {"base_url": "http://127.0.0.1:1", "api_key": "key-of-account"}
        await _made(self.api.put("/v1/upstreams/elevenlabs", account))
        project = {"url": "wss://127.0.0.1:1", "api_key": "key-of-project", "api_secret": "s"}
        await _made(self.api.put("/v1/upstreams/livekit", project))
        await _made(self.api.post("/v1/signing-keys", {}))
        asked = {"agent_id": "agent_1", "user_id": "ada", "runtime": "sealed"}
        for delivery in ("inline", "sealed"):
            await _made(self.api.post("/v1/conversations", {**asked, "delivery": delivery}))

    async def _plant(self, session: str) -> None:
        """What only a fault or a person leaves behind, sealed as it is there."""
        admin, workspace = self.over.admin, self.workspace
        key, user_key = await self._key(), await self._user_key("ada")
        auth = await admin.fetchval(
            "select auth_connection_id from vault.auth_connections where workspace_id = $1",
            workspace,
        )
        connection = await admin.fetchval(
            "select connection_id from vault.connections"
            " where workspace_id = $1 and user_id = 'ada'",
            workspace,
        )

        def sealed(table: str, field: str, row: str, generation: int, **more: Any) -> bytes:
            context = Context(
                workspace=workspace,
                table=table,
                row=row,
                field=field,
                generation=generation,
                **more,
            )
            owner = key.for_user(user_key) if table == "connect_flows" else key
            return seal(owner, context, b"planted")

        flow, revocation = f"cf_{uuid.uuid4().hex}", f"rev_{uuid.uuid4().hex}"
        production = {"environment": "production"}
        await admin.execute(
            "insert into vault.auth_connection_tokens (workspace_id, auth_connection_id,"
            " config_generation, token_generation, sealed_token) values ($1, $2, 1, 7, $3)",
            *(workspace, auth, sealed("auth_connection_tokens", "sealed_token", auth, 7)),
        )
        await admin.execute(
            "insert into vault.connect_flows (workspace_id, flow_id, session_id, integration,"
            " state_hash, browser_hash, status, generation, sealed, expires_at)"
            " values ($1, $2, $3, 'keys', $4, $4, 'started', 2, $5, now() + interval '1 hour')",
            *(workspace, flow, session, bytes(32)),
            sealed("connect_flows", "sealed", flow, 2, **production),
        )
        await admin.execute(
            "insert into vault.revocations (workspace_id, revocation_id, connection_id,"
            " integration, environment, due_at, give_up_at)"
            " values ($1, $2, $3, 'keys', 'production', now() + interval '1 hour', 'infinity')",
            *(workspace, revocation, connection),
        )
        await admin.execute(
            "insert into vault.revocation_tokens (workspace_id, revocation_id, sealed)"
            " values ($1, $2, $3)",
            *(workspace, revocation, sealed("revocation_tokens", "sealed", revocation, 1)),
        )
        await admin.execute(
            "insert into vault.refresh_answers (workspace_id, connection_id, fence, kind, sealed)"
            " values ($1, $2, 5, 'raw', $3)",
            *(workspace, connection),
            sealed("refresh_answers", "sealed", connection, 5, **production),
        )

    async def _key(self) -> SealingKey:
        row = await self.over.admin.fetchrow(
            "select key_id, version, wrapped, root_key_id from vault.workspace_keys"
            " where workspace_id = $1",
            self.workspace,
        )
        root = open_root_key(self.over.root_key_file.as_uri())
        keyring = Keyring(root, self.vault.deployment_id)
        return await keyring.sealing_key(self.workspace, StoredKey(*row))

    async def _user_key(self, user: str) -> bytes:
        sealed = await self.over.admin.fetchval(
            "select sealed from vault.user_keys where workspace_id = $1 and user_id = $2",
            *(self.workspace, user),
        )
        context = Context(
            workspace=self.workspace, table="user_keys", row=user, field="sealed", generation=1
        )
        return open_sealed(await self._key(), context, sealed)

    async def assert_all_is_there(self) -> None:
        """Everything that was filled in answers as it did."""
        for user in NAMES:
            assert (await self.api.get(f"/v1/users/{user}")).json["name"] == NAMES[user]
        config = {
            "type": "webhook",
            "name": "t",
            "description": "d",
            "api_schema": {"url": "https://{{system__env_host}}/x"},
        }
        shown = await Configured(self.api).resolve(config, "staging")
        assert b"b.example" in shown.body, shown.body
        [endpoint] = (await self.api.get("/v1/event-endpoints")).json["data"]
        assert endpoint["url"] == "http://127.0.0.1:1/events"
        tier = (await self.api.get("/v1/agents/agent_1")).json["variables"]["tier"]
        assert tier["value"] == "gold"
        account = (await self.api.get("/v1/upstreams/elevenlabs")).json
        assert account["base_url"] == "http://127.0.0.1:1"
        project = (await self.api.get("/v1/upstreams/livekit")).json
        assert project["api_key"] == "key-of-project"
        asked = {"agent_id": "agent_1", "user_id": "ada", "runtime": "sealed"}
        minted = await _made(self.api.post("/v1/conversations", {**asked, "delivery": "inline"}))
        assert minted["dynamic_variables"]["tier"] == "gold"


@asynccontextmanager
async def tenancy(
    postgres: Embedded, fresh: Secret, root_key: Path, folder: Path, settings: Settings
) -> AsyncIterator[Tenancy]:
    """A workspace at two replicas, on a database of its own."""
    async with replicas(postgres, fresh, root_key, folder) as over:
        made = await over.left.create_workspace(
            OPERATOR, "first", first_key=NewKey(name="first", scopes=SCOPES)
        )
        assert made.bearer is not None
        async with running(over.left, settings) as service, aiohttp.ClientSession() as session:
            api = Api(session, service.base, made.bearer.reveal())
            key = made.bearer.reveal()
            yield Tenancy(over, api, made.workspace.workspace_id, key)


async def _made(call: Any) -> Any:
    reply = await call
    assert reply.status in (200, 201), reply.body
    return reply.json
