"""The door's part for integrations: a workspace's app registrations at providers.

* What is written is checked against the provider's file; what it refers to may still be missing
  and is looked for when it is used, in the environment in which it is used.
* A client secret goes in and never comes out here: it leaves towards the provider only.
* They serve every environment, so a key that is tied to some environments leaves them alone.
"""

import asyncio
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from msgspec.structs import replace

from vault import access, audit
from vault.consent import (
    INTEGRATION_PATTERN,
    Finding,
    Integration,
    Registration,
    ValueReference,
    filled,
    refuse_unknown_templates,
)
from vault.database import Transaction
from vault.environments import choose
from vault.errors import Conflict, Invalid, NotFound, Unresolved, VaultError
from vault.model import Caller, Page, WorkspaceId
from vault.oauth.app import App
from vault.oauth.discovery import Registered
from vault.oauth.renewing import OWN_GRANTS
from vault.oauth.replies import Failure, NoToken
from vault.oauth.typed import names, with_client
from vault.providers.derived import needs_own_callback
from vault.providers.schema import CONSENT_MODES, Provider
from vault.seal import seal
from vault.secret import Secret
from vault.store import connections as rows
from vault.store import environments as environment_rows
from vault.store.connections import IntegrationRow
from vault.store.environments import ResolvedRow
from vault.vault.door import Door, found, written

MAX_SECRETS: Final = 3  # while one is being rotated: the new one, the old one, and one by mistake
MAX_PARAMS: Final = 20
# What the engine says itself: a workspace that could say it too could take it away.
_OURS: Final = frozenset(
    {
        "client_id",
        "code_challenge",
        "code_challenge_method",
        "nonce",
        "redirect_uri",
        "request",
        "request_uri",
        "response_mode",
        "response_type",
        "state",
    }
)
_ID: Final = re.compile(INTEGRATION_PATTERN)
_REDIRECT: Final = re.compile(r"[\x21\x22\x24-\x7e]{1,500}", re.ASCII)
_PARAM: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_NO_SECRET: Final = frozenset({"none", "signed_secret"})


class Integrations(Door):
    """App registrations: written, read, checked, and resolved for use."""

    async def put_integration(
        self, caller: Caller, integration: str, registration: Registration
    ) -> tuple[Integration, bool]:
        """Make or replace an integration; the second value says whether it is new."""
        access.permit(caller, "integration.write")
        access.permit_everywhere(caller)
        if _ID.fullmatch(integration) is None:
            raise Invalid("This is no integration's id.", pointer="/integration")
        provider = await self._provider(registration.provider)
        _check(provider, registration)

        async def attempt() -> tuple[Integration, bool] | None:
            before = await self._integration_row(caller.workspace, integration)
            generation = before.generation + 1 if before else 1
            key = (await self._store.seal_of(caller.workspace)).key
            context = rows.registration_context(caller.workspace, integration, generation)
            sealed = seal(key, context, rows.packed(registration))

            async def work(tx: Transaction) -> IntegrationRow | None:
                await _refuse_missing(tx, registration)
                if before and before.provider != registration.provider:
                    await _refuse_connected(tx, integration, "Its provider cannot change")
                row = await rows.put_integration(
                    tx, integration, generation, registration, sealed, caller.actor_id
                )
                if row:
                    target = ("integration", integration)
                    await audit.record(tx, caller, "integration.write", target=target)
                return row

            row = await self._database.run(caller.workspace, work)
            return (_integration(row, registration), before is None) if row else None

        return await written(attempt)

    async def get_integration(self, caller: Caller, integration: str) -> Integration:
        access.permit(caller, "integration.read")
        row = found(await self._integration_row(caller.workspace, integration))
        return _integration(row, await self._registration(caller.workspace, row))

    async def list_integrations(self, caller: Caller, page: Page) -> list[Integration]:
        access.permit(caller, "integration.list")
        every = await self._database.run(
            caller.workspace, lambda tx: rows.list_integrations(tx, page)
        )
        return [_integration(row, await self._registration(caller.workspace, row)) for row in every]

    async def delete_integration(self, caller: Caller, integration: str) -> None:
        """Delete an integration through which nobody is connected any more."""
        access.permit(caller, "integration.delete")
        access.permit_everywhere(caller)

        async def work(tx: Transaction) -> None:
            found(await rows.get_integration(tx, integration))
            await _refuse_connected(tx, integration, "It cannot be deleted")
            found(await rows.delete_integration(tx, integration) or None)
            target = ("integration", integration)
            await audit.record(tx, caller, "integration.delete", target=target)

        await self._database.run(caller.workspace, work)

    async def check_integration(
        self, caller: Caller, integration: str, environment: str
    ) -> list[Finding]:
        """Try an app registration out, as far as that goes without a person."""
        access.permit(caller, "integration.check")
        access.permit_environment(caller, environment)
        row = found(await self._integration_row(caller.workspace, integration))
        await self._database.run(
            caller.workspace,
            lambda tx: audit.record(
                tx,
                caller,
                "integration.check",
                target=("integration", integration),
                environment=environment,
            ),
        )
        try:
            app = await self._app(caller, row, environment)
        except (Unresolved, Invalid) as missing:
            return [Finding(what="values", ok=False, detail=missing.message)]
        except VaultError as problem:
            return [Finding(what="discovery", ok=False, detail=problem.message)]
        found_out = [Finding(what="values", ok=True, detail="Every value is there.")]
        if app.endpoints is not None:
            found_out.append(
                Finding(what="discovery", ok=True, detail="The provider says where it is.")
            )
        return [*found_out, *await self._tried(app)]

    async def _tried(self, app: App) -> list[Finding]:
        """Ask the token endpoint for what it has to refuse, and see what it refuses it for."""
        now = await self._time()
        try:
            if app.provider.mode in OWN_GRANTS:
                await self._dialogue.client_grant(app, now=now)
            elif app.provider.mode == "authorization_code":
                await self._dialogue.try_client(app, now=now)
            else:
                return []
        except NoToken as refused:
            return _findings_of(refused.failure, by_code=app.provider.mode not in OWN_GRANTS)
        except VaultError as problem:
            return [Finding(what="token_endpoint", ok=False, detail=problem.message)]
        return [Finding(what="client", ok=True, detail="The provider gave a token.")]

    def provider_of(self, integration: Integration) -> Provider:
        """The provider of an integration that was just read, so its file is at hand."""
        return self._catalogue.get(integration.registration.provider)

    def callback_url(self, provider: Provider, integration: str) -> str:
        """Where a provider sends people back to; one that others choose has an address of its own,
        so that the answers of two cannot be mixed up.
        """
        own = f"/{integration}" if needs_own_callback(provider) else ""
        return f"{self.origin}/oauth/{provider.id}{own}/callback"

    # Shared with the other parts of the door

    async def _facts(self, provider_id: str) -> Provider:
        """What the catalogue says, also of one that nothing new can be begun with."""
        return await asyncio.to_thread(self._catalogue.get, provider_id)

    async def _provider(self, provider_id: str) -> Provider:
        try:
            provider = await self._facts(provider_id)
        except NotFound:
            raise Invalid("There is no such provider.", pointer="/provider") from None
        if provider.status == "unsupported":
            raise Invalid(f"{provider.name} is not supported: {provider.reason}")
        return provider

    async def _integration_row(
        self, workspace: WorkspaceId, integration: str
    ) -> IntegrationRow | None:
        return await self._database.run(workspace, lambda tx: rows.get_integration(tx, integration))

    async def _registration(self, workspace: WorkspaceId, row: IntegrationRow) -> Registration:
        context = rows.registration_context(workspace, row.integration, row.generation)
        return rows.registration_from(await self._store.open(workspace, context, row.sealed))

    async def _app(
        self,
        caller: Caller,
        row: IntegrationRow,
        environment: str,
        *,
        typed: Mapping[str, Secret] | None = None,
        client: Registered | None = None,
    ) -> App:
        """Resolve an integration for one environment, and for what a person typed.

        ``client``: the one that the provider's server made for this one connection.
        """
        registration = await self._registration(caller.workspace, row)
        provider = await self._provider(registration.provider)
        values = await self._values(caller.workspace, registration, environment)
        variables: dict[str, str | Secret] = {
            name: one.default for name, one in provider.variables.items() if one.default is not None
        }
        for name, value in registration.variables.items():
            held = values.of(value)
            is_secret = provider.variables[name].kind == "secret"
            variables[name] = held if is_secret else held.reveal()
        asked = names(provider)
        for name, secret in (typed or {}).items():
            if name not in asked:  # what the integration says is not for a person to change
                raise Invalid(f"{provider.name} asks nobody for such a value.")
            one = provider.variables.get(name)
            is_plain = one is not None and one.kind != "secret"
            variables[name] = secret.reveal() if is_plain else secret
        _check_patterns(provider, variables)
        scopes = registration.scopes
        app = App(
            provider=provider,
            client_id=values.of(registration.client_id).reveal(),
            client_secrets=tuple(values.of(one) for one in registration.client_secrets),
            client_auth=registration.client_auth,
            values=variables,
            scopes=tuple(scopes if scopes is not None else provider.scopes.default),
            authorize_params=registration.authorize_params,
            redirect_uri=registration.redirect_uri or self.callback_url(provider, row.integration),
        )
        endpoints = await self._metadata.endpoints(provider, variables)
        return replace(with_client(app, client), endpoints=endpoints)

    async def _values(
        self, workspace: WorkspaceId, registration: Registration, environment: str
    ) -> "_Values":
        labels, secret_ids = registration.labels(), registration.secret_ids()
        if not labels and not secret_ids:
            return _Values({}, {})

        async def work(tx: Transaction) -> tuple[bool, list[ResolvedRow]]:
            settings = await environment_rows.get_settings(tx)
            candidates = await environment_rows.candidates(
                tx, sorted(labels), sorted(secret_ids), environment
            )
            return settings.secret_fallback, candidates

        fallback, candidates = await self._database.run(workspace, work)
        chosen = {
            label: choose(candidates, label, environment, secret_fallback=fallback)
            for label in sorted(labels)
        }
        named = {row.secret_id: row for row in candidates if row.label == ""}
        if missing := sorted(secret_ids - named.keys()):
            raise Unresolved(f"There is no secret '{missing[0]}' in this workspace.")
        return _Values(
            {label: await self._value_of(workspace, row) for label, row in chosen.items()},
            {one: await self._secret_of(workspace, named[one]) for one in sorted(secret_ids)},
        )

    async def _value_of(self, workspace: WorkspaceId, row: ResolvedRow) -> Secret:
        if row.secret_id is not None:
            return await self._secret_of(workspace, row)
        if row.auth_connection_id is not None:
            raise Unresolved(f"'{row.label}' is an auth connection, which is no value.")
        context = environment_rows.value_context(
            workspace, row.variable_id, row.environment, row.generation
        )
        return Secret(await self._store.open(workspace, context, row.sealed or b""))

    async def _secret_of(self, workspace: WorkspaceId, row: ResolvedRow) -> Secret:
        context = environment_rows.secret_context(
            workspace, row.secret_id or "", row.secret_generation or 0
        )
        return Secret(await self._store.open(workspace, context, row.secret_sealed or b""))


class _Values:
    """What the labels and secrets that a registration names stand for."""

    def __init__(self, labels: Mapping[str, Secret], secrets: Mapping[str, Secret]) -> None:
        self._labels = labels
        self._secrets = secrets

    def of(self, value: str | ValueReference) -> Secret:
        if isinstance(value, str):
            return Secret(filled(value, {name: one.reveal() for name, one in self._labels.items()}))
        if value.secret_id is not None:
            return self._secrets[value.secret_id]
        return self._labels[value.env_var_label or ""]


def _findings_of(failure: Failure, *, by_code: bool) -> list[Finding]:
    """``by_code``: a code that we made up was sent, so that a no to it is what was hoped for."""
    answers = Finding(what="token_endpoint", ok=True, detail="The token endpoint answers.")
    match failure.outcome:
        case "not_sent" | "ambiguous":
            return [Finding(what="token_endpoint", ok=False, detail=failure.detail)]
        case "dead" if by_code:
            known = "The provider knows this client, and refused a code that we made up."
            return [answers, Finding(what="client", ok=True, detail=known)]
        case "client" | "dead":
            return [answers, Finding(what="client", ok=False, detail=failure.detail)]
        case _:
            unsure = "The provider did not say whether it knows this client."
            return [answers, Finding(what="client", ok=True, detail=unsure)]


def _integration(row: IntegrationRow, registration: Registration) -> Integration:
    return Integration(
        integration=row.integration,
        registration=registration,
        created_at=row.created_at,
        updated_at=row.updated_at,
        created_by=row.created_by,
    )


async def _refuse_missing(tx: Transaction, registration: Registration) -> None:
    if await environment_rows.missing_references(tx, sorted(registration.secret_ids()), []):
        raise Invalid("It refers to a secret that this workspace does not have.")


async def _refuse_connected(tx: Transaction, integration: str, what: str) -> None:
    number = await rows.connected(tx, integration)
    if number:
        raise Conflict(f"{what} while there are connections: {number} of them.")


def _check(provider: Provider, registration: Registration) -> None:
    if provider.mode in CONSENT_MODES and provider.client.registration == "static":
        if not registration.client_id:
            raise Invalid("This provider needs a client_id.", pointer="/client_id")
        needs_secret = (registration.client_auth or provider.client.auth) not in _NO_SECRET
        if needs_secret and not registration.client_secrets:
            raise Invalid("This provider needs a client_secret.", pointer="/client_secret")
    if len(registration.client_secrets) > MAX_SECRETS:
        raise Invalid(f"At most {MAX_SECRETS} client secrets.", pointer="/client_secret")
    refuse_unknown_templates(registration.client_id, pointer="/client_id")
    _check_variables(provider, registration)
    _check_params(registration.authorize_params)
    # Not always an address: eBay has names for them. Whatever it is, it is sent as it stands.
    given = registration.redirect_uri
    if given is not None and not _REDIRECT.fullmatch(given):
        raise Invalid("This cannot be a redirect_uri.", pointer="/redirect_uri")


def _check_variables(provider: Provider, registration: Registration) -> None:
    known = {
        name: one for name, one in provider.variables.items() if one.filled_by == "integration"
    }
    for name, value in registration.variables.items():
        pointer = f"/variables/{name}"
        if name not in known:
            raise Invalid("This provider has no such variable.", pointer="/variables")
        if not isinstance(value, str):
            continue
        refuse_unknown_templates(value, pointer=pointer)
        pattern = known[name].pattern
        if pattern and "{{" not in value and not re.fullmatch(pattern, value, re.ASCII):
            raise Invalid("This value is not of the form that is needed.", pointer=pointer)
    for name, one in known.items():
        if name not in registration.variables and one.default is None and not one.optional:
            raise Invalid("This variable is missing.", pointer=f"/variables/{name}")


def _check_params(params: Mapping[str, str]) -> None:
    if len(params) > MAX_PARAMS:
        raise Invalid(f"At most {MAX_PARAMS} parameters.", pointer="/authorize_params")
    for name in params:
        if not _PARAM.fullmatch(name) or name in _OURS:
            raise Invalid("A parameter of this name is not yours.", pointer="/authorize_params")


def _check_patterns(provider: Provider, variables: Mapping[str, str | Secret]) -> None:
    """What came from elsewhere has to fit, too: a secret is sent to the host that it names."""
    for name, one in provider.variables.items():
        value = variables.get(name)
        if one.pattern is None or value is None:
            continue
        text = value.reveal() if isinstance(value, Secret) else value
        if not re.fullmatch(one.pattern, text, re.ASCII):
            raise Invalid(f"The value of '{name}' is not of the form that {provider.name} needs.")
        if one.kind == "url" and urlsplit(text).username:
            raise Invalid(f"The value of '{name}' holds a user name.")
