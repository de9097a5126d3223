"""The real catalogue's providers, played by a sandbox over TLS.

Each file below is an operator's: it extends ours of the same name and changes nothing but where it
is. So what is tested is how our file speaks; the dialects say what the provider understands.
"""

import contextlib
import socket
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import aiohttp
from msgspec import Struct

from broker.sandbox import Dialect
from broker.sandbox.dialect import Callback, Endpoint, IdToken, Shape
from broker.settings import Settings
from support.api import Api, running
from support.outside import Outside, outside
from support.visitor import Visitor
from vault.database import Database
from vault.embedded import Embedded
from vault.kms import open_root_key
from vault.model import SCOPES, Caller, NewKey
from vault.providers import Catalogue
from vault.vault import Vault

CONFIDENCE: Final = "\n".join(
    f'confidence.{name} = "memory"'
    for name in ("endpoints", "client", "refresh", "lifetime", "identity", "scopes", "quirks")
)


def moved(name: str, title: str, **places: str) -> str:
    """An operator's file: ours, at other addresses. ``a__b`` stands for ``a.b``."""
    lines = [f'extends = "{name}"', f'name = "{title}"', CONFIDENCE]
    lines += [f'{place.replace("__", ".")} = "{url}"' for place, url in places.items()]
    return "\n".join(lines)


FILES: Final = {
    "jira": moved(
        "jira",
        "Jira Cloud",
        authorize__url="@/jira/authorize",
        token__url="@/jira/token",
        identity__url="@/jira/me",
    )
    + '\n[[steps]]\nname = "site"\ngives = "choices"\nurl = "@/jira/sites"\nlabel = "name"\n'
    'fields = { cloud_id = "id", site_url = "url", site_name = "name" }\n',
    "apple": moved(
        "apple",
        "Apple",
        authorize__url="@/apple/authorize",
        token__url="@/apple/token",
        revoke__url="@/apple/revoke",
        oidc__issuer="@/apple",
        oidc__jwks_url="@/apple/keys",
    ),
    "telegram-oidc": moved(
        "telegram-oidc",
        "Telegram",
        authorize__url="@/telegram/authorize",
        token__url="@/telegram/token",
        oidc__issuer="@/telegram",
        oidc__jwks_url="@/telegram/keys",
    ),
    "telegram-bot": moved(
        "telegram-bot", "Telegram bot", identity__url="@/bots/bot{api_key}/getMe"
    ),
    "trello": moved(
        "trello",
        "Trello",
        authorize__url="@/oauth1/authorize",
        token__url="@/oauth1/access_token",
        oauth1__request_url="@/oauth1/request_token",
        identity__url="@/trello/members/me",
        revoke__url="@/trello/tokens/{access_token}",
    ),
}

ASKED: Final = {
    "response_type": "code",
    "client_id": "{client_id}",
    "redirect_uri": "{redirect_uri}",
    "scope": "{scope}",
    "state": "{state}",
}
PKCE: Final = {"code_challenge": "{challenge}", "code_challenge_method": "S256"}
TOKENS: Final = {
    "access_token": "{access_token}",
    "refresh_token": "{refresh_token}",
    "expires_in": "{expires_in}",
    "scope": "{scope}",
}
BEARER: Final = {"Authorization": "Bearer {access_token}"}
SITES: Final = [
    {"id": "site-1", "name": "Acme", "url": "https://acme.example"},
    {"id": "site-2", "name": "Acme (test)", "url": "https://acme-test.example"},
]


def _flow(
    query: dict[str, str], body: dict[str, Any], reply: Any, **headers: str
) -> list[Endpoint]:
    """The two requests that every code flow has."""
    code = {"grant_type": "authorization_code", "code": "{code}"}
    whole = {**code, "redirect_uri": "{redirect_uri}", **body}
    exchange = Shape(method="POST", path="token", format="form", body=whole, headers=headers)
    return [
        Endpoint(does="authorize", request=Shape(path="authorize", query={**ASKED, **query})),
        Endpoint(does="exchange", request=exchange, reply=reply),
    ]


def _read(path: str, reply: Any) -> Endpoint:
    return Endpoint(does="read", request=Shape(path=path, headers=BEARER), reply=reply)


KEYS: Final = Endpoint(does="keys", request=Shape(path="keys"))
WITH_ID: Final = {**TOKENS, "id_token": "{id_token}"}
DIALECTS: Final = {
    "jira": Dialect(
        endpoints=[
            *_flow(
                {**PKCE, "audience": "api.atlassian.com", "prompt": "consent"},
                {
                    "code_verifier": "{verifier}",
                    "client_id": "{client_id}",
                    "client_secret": "{client_secret}",
                },
                TOKENS,
            ),
            _read("me", {"account_id": "{account}", "email": "{email}", "name": "{name}"}),
            _read("sites", SITES),
        ],
    ),
    "apple": Dialect(
        endpoints=[
            *_flow(
                {"response_mode": "form_post"},
                {"client_id": "{client_id}", "client_secret": "{signed_secret}"},
                WITH_ID,
            ),
            Endpoint(
                does="revoke",
                request=Shape(
                    method="POST",
                    path="revoke",
                    format="form",
                    body={
                        "token": "{token}",
                        "client_id": "{client_id}",
                        "client_secret": "{signed_secret}",
                    },
                ),
            ),
            KEYS,
        ],
        callback=Callback(method="POST"),
        id_token=IdToken(issuer="{here}", claims={"sub": "{account}", "email": "{email}"}),
    ),
    "telegram": Dialect(
        endpoints=[
            *_flow(
                {**PKCE, "nonce": "{nonce}"},
                {"code_verifier": "{verifier}", "client_id": "{client_id}"},
                {"access_token": "{access_token}", "id_token": "{id_token}"},
                Authorization="Basic {basic}",
            ),
            KEYS,
        ],
        id_token=IdToken(
            issuer="{here}",
            claims={"sub": "{account}", "id": "{number}", "preferred_username": "{account}"},
        ),
    ),
    "bots": Dialect(
        endpoints=[
            Endpoint(
                does="show",
                request=Shape(path="bot1234567:" + "a" * 35 + "/getMe"),
                reply={"ok": True, "result": {"id": 1234567, "username": "acme_bot"}},
            )
        ],
    ),
    "trello": Dialect(
        endpoints=[
            Endpoint(
                does="show",
                request=Shape(
                    path="members/me",
                    headers={
                        "Authorization": 'OAuth oauth_consumer_key="{client_id}", '
                        'oauth_token="{token}"'
                    },
                ),
                reply={"id": "5f2c", "email": "ada@example.com", "username": "ada"},
            ),
            Endpoint(
                does="show",
                request=Shape(
                    method="DELETE",
                    path="tokens/{token}",
                    query={"key": "{client_id}", "token": "{token}"},
                ),
                reply={},
            ),
        ],
    ),
}


class Abroad(Struct, frozen=True):
    """The sandbox, a service that finds it, and the door to workspaces of one's own."""

    outside: Outside
    vault: Vault
    base: str
    session: aiohttp.ClientSession

    async def workspace(self) -> Api:
        """A client that holds the widest key of a new workspace; the sandbox is as new."""
        state = self.outside.state
        state.reset()
        state.requests.clear()
        state.dialects.update(DIALECTS)
        made = await self.vault.create_workspace(
            Caller.operator("tests"),
            f"test {uuid.uuid4().hex[:8]}",
            first_key=NewKey(name="first", scopes=SCOPES),
        )
        assert made.bearer is not None
        return Api(self.session, self.base, made.bearer.reveal())

    def visiting(self) -> contextlib.AbstractAsyncContextManager[Visitor]:
        return self.outside.visiting()


@contextlib.asynccontextmanager
async def living_abroad(
    folder: Path, postgres: Embedded, root_key: Path, settings: Settings
) -> AsyncIterator[Abroad]:
    """Run all of it."""
    async with outside(folder) as world, aiohttp.ClientSession() as session:
        files = folder / "providers"
        files.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            vault = await Vault.open(
                await Database.open(postgres.dsn("keyturn_app"), size=3, statement_cache=100),
                open_root_key(root_key.as_uri()),
                egress=world.egress(),
                catalogue=Catalogue(world.files(files, FILES)),
                origin=f"http://127.0.0.1:{listener.getsockname()[1]}",
                loopback_returns=True,
            )
            try:
                async with running(vault, settings, listener) as service:
                    yield Abroad(world, vault, service.base, session)
            finally:
                await vault.close()
