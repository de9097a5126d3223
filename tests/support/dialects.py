"""The frozen dialects: one for each code-flow provider, and what a test has to fill in.

* ``fill`` are the values that a person or an integration gives (``subdomain``, ``tenant``, ...);
  what the callback tells is not among them.
* ``scopes`` are to be asked for, no others; ``more_scopes`` by the authorization parameter of a
  second list (Slack's ``user_scope``), where the provider gives another token for them.
* ``expected`` is what a right reader has in hand when somebody has consented; ``expecting`` fills
  in whose account it was.
* ``failures`` are the recorded refusals: what they ``mean`` is ``dead``, ``client`` or ``later``.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from msgspec import Struct, convert

from broker.sandbox import Client, ClientKey, Consent, Dialect, Person, Sandbox
from broker.sandbox.shapes import filled

FILE: Final = Path(__file__).parents[1] / "vectors" / "providers" / "dialects.json"


class Failure(Struct, frozen=True, forbid_unknown_fields=True):
    """A refusal, and what it means."""

    means: Literal["dead", "client", "later"]
    where: Literal["token", "api", "any"]
    status: int
    body: Any


class Expected(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``account``: the parts of its id, in order. ``looked_up``: what the steps after it give;
    ``choices``: the ids of what a person may choose from it.

    ``lifetime`` None: it does not expire, or nobody says when. ``captured`` by path in the reply,
    ``callback`` by name. ``rotates``: a refresh brings another refresh token, each time.
    """

    lifetime: int | None
    refresh_token: bool
    refresh_lifetime: int | None
    rotates: bool
    scopes_told: bool
    captured: dict[str, Any]
    callback: dict[str, Any]
    account: list[Any]
    email: str | None
    label: str | None
    extra_tokens: list[str]
    looked_up: Any
    choices: list[str]


class Recorded(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One provider. ``provider`` is its name in the catalogue, ``id`` that of the facts."""

    id: str
    provider: str
    fill: dict[str, str]
    scopes: list[str]
    more_scopes: dict[str, str]
    dialect: Dialect
    expected: Expected
    failures: list[Failure]

    def expecting(self, client_id: str, account: str, person: Person) -> Expected:
        """What is expected of somebody's consent, with every slot filled."""
        values = {
            "account": account,
            "number": person.number,
            "name": person.name,
            "email": person.email,
            "client_id": client_id,
            "scope": " ".join(self.scopes),
            "scope_comma": ",".join(self.scopes),
        }
        return convert(filled(_builtin(self.expected), values), Expected)

    def put(
        self,
        sandbox: Sandbox,
        client: Client,
        *,
        client_id: str = "client",
        auto: str | None = "allow",
    ) -> None:
        """Let a sandbox speak like this provider, with one client, and nobody to ask."""
        sandbox.dialects[self.id] = self.dialect
        sandbox.clients[client_id] = client
        sandbox.consent = Consent(auto=auto)


def client(
    redirect_uri: str, secret: str | None = None, keys: tuple[ClientKey, ...] = ()
) -> Client:
    """A client; Apple's proves itself with ``keys``."""
    return Client(secret=secret, keys=list(keys), redirect_uris=[redirect_uri])


@cache
def recorded() -> dict[str, Recorded]:
    """Every dialect, by the name of the facts."""
    rows = json.loads(FILE.read_bytes())["providers"]
    return {row["id"]: convert(row, Recorded) for row in rows}


@cache
def alone() -> dict[str, Recorded]:
    """Those that give tokens to the app itself: client credentials, and JWTs that it signs."""
    rows = json.loads(FILE.read_bytes())["alone"]
    return {row["id"]: convert(row, Recorded) for row in rows}


@cache
def others() -> dict[str, str]:
    """The mode of each other record of the facts, by its name there."""
    return {row["id"]: row["mode"] for row in json.loads(FILE.read_bytes())["others"]}


def _builtin(expected: Expected) -> dict[str, Any]:
    # None stays None in a reply, where ``filled`` leaves out a slot that has no value.
    return {name: getattr(expected, name) for name in expected.__struct_fields__}
