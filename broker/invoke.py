"""Show a configuration as the request that it becomes, or send that request.

* The call goes through egress, as ``tool``, within the tool's own time. No redirect is followed.
* A 401 to an auth connection's credential is reported to the vault; where the method may be
  repeated (RFC 9110 section 9.2.2), the request is sent once more with what the vault has then.
  A 403 says that the credential was understood and does not suffice: another would not, either.
* The answer is JSON or text, and at most 1 MiB; of its headers only ``KEPT`` pass.
* Whatever secret was sent is masked in the answer, wherever it stands there literally, or as JSON
  or a URL would write it. What the other side makes of it otherwise (a hash, base64) is not seen.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from broker.resolve import Kind, Outgoing, permit_host, plan, resolve
from broker.resolve.bodies import ABSENT
from broker.resolve.configs import AUTHORIZATION
from broker.resolve.masking import MIN_MASKED, of_header, written
from broker.resolve.meanings import MASK
from broker.resolve.templates import ENVIRONMENT_PREFIX
from vault.auth_kinds import YIELDS_BEARER
from vault.egress import MAX_REQUEST, Reply, Request, Timeouts
from vault.errors import (
    AnswerTooLarge,
    Invalid,
    NotFound,
    TooLarge,
    Unreachable,
    UpstreamFailed,
    VaultError,
)
from vault.model import Caller
from vault.secret import Secret
from vault.vault import Vault
from vault.vault.authentication import Credentials
from vault.vault.calls import AuthFacts

REPEATABLE: Final = frozenset({"GET", "PUT", "DELETE"})
REJECTED: Final = 401
FAILED: Final = 400  # from here on an answer is no proof that a credential was taken
KEPT: Final = frozenset(
    {
        "cache-control",
        "content-language",
        "content-type",
        "etag",
        "last-modified",
        "link",
        "location",
        "retry-after",
        "x-request-id",
    }
)
BEARER_TYPES: Final = frozenset(str(kind.__struct_config__.tag) for kind in YIELDS_BEARER)


class Question(Struct, frozen=True, kw_only=True):
    """A configuration, and what it is to be resolved with; ``name``: where it is a stored one."""

    kind: Kind
    config: Mapping[str, Any]
    environment: str
    variables: Mapping[str, Any]
    name: str = ""

    def __repr__(self) -> str:
        return f"Question({self.kind})"


class Answer(Struct, frozen=True, kw_only=True):
    """What the other side said, as far as it may be passed on."""

    status: int
    headers: dict[str, str]
    body: Any


async def show(
    vault: Vault, caller: Caller, question: Question
) -> tuple[Outgoing, AuthFacts | None]:
    """Resolve for the eye. No credential is fetched."""
    made = plan(question.kind, question.config)
    configuration = await vault.show_configuration(
        caller, made.labels, made.secret_ids, question.environment
    )
    outgoing = resolve(made, configuration, _variables(question), None, vet=vault.vet_tool_url)
    return outgoing, await _facts(vault, caller, outgoing)


async def invoke(
    vault: Vault,
    caller: Caller,
    question: Question,
    *,
    arguments: Mapping[str, Any],
    body: object = None,
    permit: Callable[[Outgoing], None] | None = None,
) -> Answer:
    """Resolve, call, and answer what came back. ``body`` is for the kinds that describe none.

    ``permit`` has a last look at the request, and raises where it may not be sent.
    """
    made = plan(question.kind, question.config)
    if body is not None and not made.takes_body:
        raise Invalid("This configuration describes its body; give arguments.", pointer="/body")
    configuration = await vault.use_configuration(
        caller,
        made.labels,
        made.secret_ids,
        question.environment,
        target=("tool", question.name) if question.name else ("", ""),
    )
    outgoing = resolve(made, configuration, _variables(question), arguments, vet=vault.vet_tool_url)
    if permit is not None:
        permit(outgoing)
    facts = await _facts(vault, caller, outgoing)
    content = _content(outgoing, body)
    if content is not None and len(content) > MAX_REQUEST:
        raise TooLarge(f"The request's body would be larger than {MAX_REQUEST} bytes.")
    return await _exchange(vault, caller, outgoing, content, facts)


async def _exchange(
    vault: Vault,
    caller: Caller,
    outgoing: Outgoing,
    content: bytes | None,
    facts: AuthFacts | None,
) -> Answer:
    if facts is None:
        return _answer(await _send(vault, caller, outgoing, content, None), _sent(outgoing, ()))
    auth_id = facts.auth_connection_id
    used = [await vault.credentials(caller, auth_id)]
    reply = await _send(vault, caller, outgoing, content, used[0])
    doubted = facts.status == "credential_invalid"
    if reply.status == REJECTED:
        await vault.credential_rejected(caller, auth_id, used[0].version)
        if outgoing.plan.method in REPEATABLE:
            again = await vault.credentials(caller, auth_id)
            if again.version != used[0].version:
                used.append(again)
                reply = await _send(vault, caller, outgoing, content, again)
                if reply.status == REJECTED:
                    await vault.credential_rejected(caller, auth_id, again.version)
    if doubted and reply.status < FAILED:
        await vault.credential_accepted(caller, auth_id, used[-1].version)
    return _answer(reply, _sent(outgoing, used))


async def _send(
    vault: Vault,
    caller: Caller,
    outgoing: Outgoing,
    content: bytes | None,
    credentials: Credentials | None,
) -> Reply:
    seconds = float(outgoing.plan.timeout)
    request = Request(
        method=outgoing.plan.method,
        url=outgoing.url,
        headers=_headers(outgoing, content, credentials),
        body=content,
        timeout=Timeouts(read=seconds, total=seconds),
    )
    failure: VaultError
    try:
        return await vault.call_tool(
            caller, request, certificate=credentials.tls if credentials else None
        )
    except AnswerTooLarge:
        failure = UpstreamFailed("The answer is too large to be passed on.")
    except VaultError as error:
        failure = error
        if outgoing.url_secret is not None:  # the message names the host, and it is secret here
            failure = Unreachable("The other server did not answer.", sent=True)
    raise failure


def _headers(
    outgoing: Outgoing, content: bytes | None, credentials: Credentials | None
) -> tuple[tuple[str, str | Secret], ...]:
    headers: list[tuple[str, str | Secret]] = [(one.name, one.value) for one in outgoing.headers]
    if credentials is not None:
        permit_host("The auth connection", credentials.allowed_hosts, outgoing.target)
        headers += credentials.headers
    names = [name.lower() for name, _ in headers]
    if len(set(names)) < len(names):
        raise Invalid(
            "The configuration and its auth connection give two values for the same header.",
            pointer="/config",
        )
    if content is not None and "content-type" not in names:
        headers.append(("Content-Type", outgoing.plan.content_type))
    if outgoing.plan.kind == "mcp_server" and "accept" not in names:
        headers.append(("Accept", "application/json, text/event-stream"))
    return tuple(headers)


def _content(outgoing: Outgoing, body: object) -> bytes | None:
    if not outgoing.plan.takes_body:
        return outgoing.body_bytes
    if body is None:
        return None
    if outgoing.meta is not ABSENT and isinstance(body, dict) and _calls_tool(body):
        given = body["params"].get("_meta")
        meta = {**(given if isinstance(given, dict) else {}), **outgoing.meta}
        body = {**body, "params": {**body["params"], "_meta": meta}}
    return msgspec.json.encode(body)


def _calls_tool(body: Mapping[str, Any]) -> bool:
    return body.get("method") == "tools/call" and isinstance(body.get("params"), dict)


async def _facts(vault: Vault, caller: Caller, outgoing: Outgoing) -> AuthFacts | None:
    """Is the auth connection one that may go along with this request?"""
    auth_id = outgoing.auth_connection_id
    if auth_id is None:
        return None
    try:
        facts = await vault.auth_facts(caller, auth_id)
    except NotFound:
        facts = None
    if facts is None:
        raise Invalid("There is no such auth connection in this workspace.", pointer="/config")
    if outgoing.plan.kind == "custom_llm" and facts.auth_type not in BEARER_TYPES:
        raise Invalid(
            f"A custom LLM needs an auth connection that yields a bearer token, and"
            f" '{facts.name}' is of type '{facts.auth_type}'.",
            pointer="/config/auth_connection",
        )
    permit_host(f"The auth connection '{facts.name}'", facts.allowed_hosts, outgoing.target)
    return facts


def _variables(question: Question) -> Mapping[str, Any]:
    if any(name.startswith(ENVIRONMENT_PREFIX) for name in question.variables):
        raise Invalid(
            f"A dynamic variable's name does not begin with '{ENVIRONMENT_PREFIX}': those are the"
            " environment variables.",
            pointer="/dynamic_variables",
        )
    return question.variables


# The answer


def _answer(reply: Reply, secrets: list[str]) -> Answer:
    headers = {
        name.lower(): _masked_text(value, secrets)
        for name, value in reply.headers
        if name.lower() in KEPT
    }
    return Answer(status=reply.status, headers=headers, body=_body(reply, secrets))


def _body(reply: Reply, secrets: list[str]) -> Any:  # noqa: ANN401 - any JSON
    if not reply.body:
        return None
    kind = (reply.get("Content-Type") or "").partition(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        try:
            return _masked(msgspec.json.decode(reply.body), secrets)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass  # it says JSON and is none: it goes on as text
    return _masked_text(reply.body.decode("utf-8", "replace"), secrets)


def _masked(value: Any, secrets: list[str]) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, str):
        return _masked_text(value, secrets)
    if isinstance(value, dict):
        return {_masked_text(key, secrets): _masked(one, secrets) for key, one in value.items()}
    if isinstance(value, list):
        return [_masked(one, secrets) for one in value]
    if isinstance(value, int | float) and not isinstance(value, bool) and str(value) in secrets:
        return MASK
    return value


def _masked_text(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, MASK)
    return text


def _sent(outgoing: Outgoing, used: Iterable[Credentials]) -> list[str]:
    """Every secret text of the request, as it may come back; the longest first."""
    texts = [outgoing.url_secret.text] if outgoing.url_secret else []
    for line in outgoing.headers:
        whole = [line.value.reveal()] if isinstance(line.value, Secret) else []
        for text in (*(meaning.text for meaning in line.secrets), *whole):
            texts += _parts(line.name, text)
    for credentials in used:
        for name, value in credentials.headers:
            texts += _parts(name, value.reveal())
    return written(texts)


def _parts(name: str, text: str) -> list[str]:
    """A secret of a header, and what follows its scheme: an API repeats the bare token, too.

    In another header than Authorization the first word may be no scheme, and the rest be short.
    """
    whole, *parts = of_header(text)
    if name.lower() != AUTHORIZATION.lower():
        parts = [one for one in parts if len(one) >= MIN_MASKED]
    return [whole, *parts]
