"""From a family to a token reply: one function for the sandbox's own provider and all dialects."""

import base64
import hashlib
import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from msgspec import UNSET, Struct

from broker.sandbox.clients import equal
from broker.sandbox.dialect import IdToken, Json
from broker.sandbox.grants import Family, Pair
from broker.sandbox.knobs import Issuing
from broker.sandbox.shapes import filled, slots_of
from broker.sandbox.signing import half_hash
from broker.sandbox.state import Sandbox

# What is later has no date.
_LAST: Final = datetime(9999, 12, 31, tzinfo=UTC).timestamp()

ID_TOKEN_LIFETIME = 3_600  # seconds


class Minting(Struct, frozen=True, kw_only=True):
    """What a reply is made of."""

    template: Json
    issuing: Issuing
    here: str
    request: int
    id_token: IdToken | None = None
    extra_tokens: Mapping[str, str] = {}
    slots: Mapping[str, str] = {}


def first_reply(sandbox: Sandbox, family: Family, how: Minting) -> Json:
    """The reply to a code, or to whatever else begins a family."""
    issuing, wanted = how.issuing, slots_of(how.template)
    refresh = (
        issuing.refresh
        and "refresh_token" in wanted
        and (not issuing.refresh_scopes or bool(set(issuing.refresh_scopes) & set(family.scopes)))
    )
    pair = sandbox.ledger.give(family, issuing, refresh=refresh, request=how.request)
    more: dict[str, Any] = {}
    for name, slot in how.extra_tokens.items():
        if f"access_token.{name}" in wanted and family.asked.get(slot):
            beside = sandbox.ledger.beside(family, name)
            extra = sandbox.ledger.give(
                beside,
                issuing,
                refresh=issuing.refresh and f"refresh_token.{name}" in wanted,
                request=how.request,
                name=name,
            )
            more[f"access_token.{name}"] = extra.access
            more[f"refresh_token.{name}"] = extra.refresh
    return reply(sandbox, family, pair, how, more)


def reply(
    sandbox: Sandbox,
    family: Family,
    pair: Pair,
    how: Minting,
    more: Mapping[str, Any] | None = None,
) -> Json:
    """A token reply, as the knobs want it."""
    values: dict[str, Any] = {
        **family.asked,
        **how.slots,
        **person(sandbox, family.account),
        **_times("expires", how.issuing.lifetime, how.issuing.expires_in),
        **_times("refresh_expires", how.issuing.refresh_lifetime, how.issuing.refresh_expires_in),
        "access_token": pair.access,
        "refresh_token": pair.refresh,
        "client_id": family.client_id,
        "scope": " ".join(family.scopes) or None,
        "scope_comma": ",".join(family.scopes) or None,
        "scope_list": list(family.scopes),
        "here": how.here,
        **(more or {}),
    }
    if "id_token" in slots_of(how.template):
        values["id_token"] = id_token(sandbox, family, pair, how)
    made = filled(how.template, values)
    if not isinstance(made, dict):
        return made
    left = {name: one for name, one in made.items() if name not in how.issuing.without}
    return left | how.issuing.fields


def person(sandbox: Sandbox, account: str) -> dict[str, Any]:
    """What replies may say of an account."""
    found = sandbox.people.get(account)
    if found is None:
        return {"now": int(time.time())}
    return {
        "account": account,
        "number": found.number,
        "name": found.name,
        "email": found.email,
        "now": int(time.time()),
    }


def id_token(sandbox: Sandbox, family: Family, pair: Pair, how: Minting) -> str | None:
    """An ID token, where one is due."""
    spec, knob = how.id_token, how.issuing.id_token
    client = sandbox.clients.get(family.client_id)
    if spec is None or client is None:
        return None
    now, algorithm = int(time.time()), knob.algorithm or spec.algorithm
    values = {**family.asked, **person(sandbox, family.account), "here": how.here}
    claims: dict[str, Any] = {
        "iss": filled(spec.issuer, values),
        "aud": family.client_id,
        "iat": now,
        "exp": now + ID_TOKEN_LIFETIME,
        **filled(spec.claims, values),
    }
    if spec.echoes_nonce and family.asked.get("nonce"):
        claims["nonce"] = family.asked["nonce"]
    if algorithm != "EdDSA":  # which hash would be its own is nowhere agreed upon
        claims["at_hash"] = half_hash(pair.access)
    claims |= knob.claims
    left = {name: one for name, one in claims.items() if name not in knob.without}
    return sandbox.keys.sign(left, algorithm, secret=client.secret or "", signed_by=knob.signed_by)


def proves(challenge: str, verifier: str | None) -> bool:
    """RFC 7636 section 4.6, and no verifier where there was no challenge (RFC 9700 4.8.2)."""
    if not challenge or verifier is None:
        return not challenge and verifier is None
    digest = hashlib.sha256(verifier.encode("utf-8", "surrogatepass")).digest()
    return equal(base64.urlsafe_b64encode(digest).rstrip(b"=").decode(), challenge)


def _times(name: str, lifetime: float | None, said: Json) -> dict[str, Any]:
    """All forms in which an end can be told; none where nothing is said of it."""
    seconds = said if said is not UNSET else None if lifetime is None else int(lifetime)
    if seconds is None:
        return {}
    found = {f"{name}_in": seconds}
    at = time.time() + seconds if isinstance(seconds, int | float) else math.inf
    if at < _LAST:
        stated = datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
        found |= {
            f"{name}_at": int(at),
            f"{name}_at_ms": int(at * 1000),
            f"{name}_at_iso": stated.replace("+00:00", "Z"),
        }
    return found
