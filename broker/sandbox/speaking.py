"""The sandbox as another provider: a dialect, a request, and what comes of it.

* A refusal is told in the dialect's own words; why it was refused stands in the history.
* What a shape does not ask for is not checked either: where a provider takes no client secret,
  none is looked at.
"""

from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from broker.sandbox import pages
from broker.sandbox.clients import has_secret, signed_secret
from broker.sandbox.consent import Question, granted, sent_back
from broker.sandbox.dialect import REFUSALS, Dialect, Does, Endpoint, Json, Why
from broker.sandbox.grants import Token, TokenKind, Unusable
from broker.sandbox.minting import Minting, first_reply, person, proves, reply
from broker.sandbox.pages import Answer, told
from broker.sandbox.shapes import Asked, Slots, closest, filled
from broker.sandbox.state import Client, Sandbox


class No(Exception):
    """A refusal: of which kind, and why."""

    def __init__(self, why: Why, reason: str) -> None:
        super().__init__(reason)
        self.why = why
        self.reason = reason


class Speaker:
    """One request in one dialect."""

    def __init__(self, sandbox: Sandbox, name: str, asked: Asked) -> None:
        self.sandbox = sandbox
        self.name = name
        self.asked = asked
        self.dialect: Dialect = sandbox.dialects[name]

    def answer(self) -> Answer:
        match = closest(self.dialect, self.asked)
        if match.endpoint is None:
            return self._refused("request", match.reasons, status=404)
        if match.reasons:
            if match.endpoint.does == "authorize":
                return self._page(match.reasons)
            return self._refused("request", match.reasons)
        try:
            return _WORK[match.endpoint.does](self, match.endpoint, match.slots)
        except No as no:
            if match.endpoint.does == "authorize":
                return self._page([no.reason])
            return self._refused(no.why, [no.reason])

    # The person

    def authorize(self, _endpoint: Endpoint, slots: Slots) -> Answer:
        client_id, redirect_uri = slots.get("client_id", ""), slots.get("redirect_uri", "")
        clients = self.sandbox.clients
        at_all = [one for name, one in clients.items() if client_id in ("", name)]
        if not at_all:
            raise No("client", "client_id: not registered")
        if not any(redirect_uri in one.redirect_uris for one in at_all):
            raise No("request", "redirect_uri: not registered")
        if len(slots.get("state", "").encode()) > (self.dialect.state_max or 4096):
            raise No("request", "state: too long")
        scopes = self._scopes(slots.get("scope", ""))
        question = Question(
            client=self._title(client_id),
            scopes=scopes,
            decide=lambda account: self._decided(slots, scopes, account),
        )
        return self.sandbox.questions.ask(question, self.sandbox.consent, self.sandbox.people)

    def _scopes(self, text: str) -> tuple[str, ...]:
        dialect = self.dialect
        scopes = tuple(text.split(dialect.scope_separator)) if text else ()
        known = dialect.scopes
        if any((known and one not in known) or set(one) & set(" ,") or not one for one in scopes):
            raise No("scope", "scope: holds what is none, or another separator")
        return scopes

    def _title(self, client_id: str) -> str:
        client = self.sandbox.clients.get(client_id)
        return (client.name if client else "") or client_id or "An app"

    def _decided(self, slots: Slots, scopes: tuple[str, ...], account: str | None) -> Answer:
        callback, sandbox = self.dialect.callback, self.sandbox
        values = {"state": slots["state"]} if "state" in slots else {}
        client_id, redirect_uri = slots.get("client_id", ""), slots["redirect_uri"]
        if account is None:
            values |= callback.denied
        else:
            family = sandbox.ledger.open(
                realm=self.name,
                client_id=client_id,
                account=account,
                scopes=granted(sandbox.consent, scopes),
                asked=slots,
            )
            lifetime = self.dialect.issuing.code_lifetime
            values[callback.code] = sandbox.ledger.issue(
                family, "code", lifetime, request=self.asked.number
            )
            told_of = {**slots, **person(sandbox, account), "here": self.asked.here}
            told_of["scope_comma"] = ",".join(family.scopes)
            values |= {name: str(one) for name, one in filled(callback.values, told_of).items()}
        if callback.iss and self.dialect.id_token:
            values["iss"] = filled(self.dialect.id_token.issuer, {"here": self.asked.here, **slots})
        client = sandbox.clients.get(client_id)
        secret = (client.secret if client else None) or ""
        return sent_back(callback, redirect_uri, values, secret)

    # Tokens

    def exchange(self, endpoint: Endpoint, slots: Slots) -> Answer:
        token = self._use(slots["code"], "code", "code")
        family, asked = token.family, token.family.asked
        client_id = self._client(slots, family.client_id)
        if slots.get("redirect_uri", asked["redirect_uri"]) != asked["redirect_uri"]:
            raise No("code", "redirect_uri: not the one of the authorization request")
        if not proves(asked.get("challenge", ""), slots.get("verifier")):
            raise No("code", "code_verifier: does not fit the challenge")
        family.client_id = client_id
        return self._told(
            endpoint, first_reply(self.sandbox, family, self._minting(endpoint, slots))
        )

    def refresh(self, endpoint: Endpoint, slots: Slots) -> Answer:
        kind: TokenKind = "refresh" if "refresh_token" in slots else "access"
        token = self._use(slots[f"{kind}_token"], kind, "refresh")
        self._client(slots, token.family.client_id)
        how = self._minting(endpoint, slots)
        if token.name in endpoint.reply_of:
            how = replace(how, template=endpoint.reply_of[token.name])
        try:
            pair = self.sandbox.ledger.refresh(token, how.issuing, self.asked.number)
        except Unusable as unusable:
            raise No("refresh", unusable.reason) from None
        return self._told(endpoint, reply(self.sandbox, token.family, pair, how))

    def grant(self, endpoint: Endpoint, slots: Slots) -> Answer:
        family = self.sandbox.ledger.open(
            realm=self.name,
            client_id=self._client(slots, ""),
            scopes=self._scopes(slots.get("scope", "")),
            asked=slots,
        )
        return self._told(
            endpoint, first_reply(self.sandbox, family, self._minting(endpoint, slots))
        )

    def revoke(self, endpoint: Endpoint, slots: Slots) -> Answer:
        text = slots.get("token") or slots.get("access_token") or slots.get("refresh_token")
        token = self.sandbox.ledger.find(text, self.name) if text else None
        client_id = self._client(slots, token.family.client_id if token else "")
        if "authorization" in {name.lower() for name in endpoint.request.headers} and text:
            self._holder(endpoint, slots)
        number = self.asked.number
        if text is None:
            for family in self.sandbox.ledger.families():
                if (family.realm, family.client_id) == (self.name, client_id) and _is_of(
                    slots, family.account, self.sandbox
                ):
                    self.sandbox.ledger.end(family, "revoked", number)
        elif token is not None and endpoint.kills == "access":
            self.sandbox.ledger.kill(token, number)
        elif token is not None:
            self.sandbox.ledger.end_consent(token.family, "revoked", number)
        return self._told(endpoint, filled(endpoint.reply, slots))

    def introspect(self, endpoint: Endpoint, slots: Slots) -> Answer:
        token = self.sandbox.ledger.find(slots["token"], self.name)
        self._client(slots, token.family.client_id if token else "")
        if token is None or not token.works:
            return told({"active": False})
        return self._about(endpoint, slots, token)

    # What tokens open

    def read(self, endpoint: Endpoint, slots: Slots) -> Answer:
        return self._about(endpoint, slots, self._holder(endpoint, slots))

    def show(self, endpoint: Endpoint, slots: Slots) -> Answer:
        return self._told(endpoint, filled(endpoint.reply, {**slots, "here": self.asked.here}))

    def keys(self, _endpoint: Endpoint, _slots: Slots) -> Answer:
        return told(self.sandbox.keys.jwks())

    def _holder(self, endpoint: Endpoint, slots: Slots) -> Token:
        text = slots.get("access_token") or slots.get("token", "")
        token = self.sandbox.alive(text, self.name, self.asked.number)
        if token is None and "access_token" in slots:
            raise No("access", f"{endpoint.does}: the access token is dead or unknown")
        if token is None:
            found = self.sandbox.ledger.find(text, self.name)
            if found is None or not found.works:
                raise No("access", f"{endpoint.does}: the token is dead or unknown")
            return found
        return token

    def _about(self, endpoint: Endpoint, slots: Slots, token: Token) -> Answer:
        family = token.family
        about = self.dialect.issuing.wrong_user or family.account
        values = {
            **family.asked,
            **slots,
            **person(self.sandbox, about),
            "client_id": family.client_id,
            "scope": " ".join(family.scopes),
            "scope_list": list(family.scopes),
            "here": self.asked.here,
        }
        return self._told(endpoint, filled(endpoint.reply, values))

    # What all of them need

    def _use(self, text: str, kind: TokenKind, why: Why) -> Token:
        try:
            return self.sandbox.ledger.use(
                text, kind, self.name, self.dialect.issuing, self.asked.number
            )
        except Unusable as unusable:
            raise No(why, f"{kind}: {unusable.reason}") from None

    def _client(self, slots: Slots, known: str) -> str:
        """Who asks; the client that a code or token belongs to is ``known``."""
        client_id = slots.get("client_id", known)
        if known and client_id != known:
            raise No("client", "client_id: another client's")
        client = self.sandbox.clients.get(client_id)
        if client is None and client_id:
            raise No("client", "client_id: not registered")
        for slot, fits in (("client_secret", _has_secret), ("signed_secret", signed_secret)):
            if slot in slots and not (client and fits(client, client_id, slots[slot])):
                raise No("client", f"{slot}: wrong")
        return client_id

    def _minting(self, endpoint: Endpoint, slots: Slots) -> Minting:
        issuing = self.dialect.issuing
        if endpoint.lifetime is not None:
            issuing = replace(issuing, lifetime=endpoint.lifetime)
        return Minting(
            template=endpoint.reply,
            issuing=issuing,
            here=self.asked.here,
            request=self.asked.number,
            id_token=self.dialect.id_token,
            extra_tokens=self.dialect.extra_tokens,
            slots=slots,
        )

    def _told(self, endpoint: Endpoint, content: Json) -> Answer:
        if content is None:
            return Answer(status=endpoint.status, headers=pages.NO_STORE)
        return told(content, endpoint.status)

    def _refused(self, why: Why, reasons: list[str], status: int | None = None) -> Answer:
        self._note(reasons)
        refusal = self.dialect.refusals.get(why, REFUSALS[why])
        body = filled(refusal.body, {"description": "; ".join(reasons)})
        return told(body, status or refusal.status)

    def _page(self, reasons: list[str]) -> Answer:
        """A request that is wrong goes nowhere: its redirect may be an attacker's."""
        self._note(reasons)
        return pages.said("This request is not right", *reasons, status=400)

    def _note(self, reasons: list[str]) -> None:
        self.sandbox.history.add(
            "refused", request=self.asked.number, realm=self.name, reasons=tuple(reasons)
        )


def _has_secret(client: Client, _client_id: str, secret: str) -> bool:
    return has_secret(client, secret)


def _is_of(slots: Slots, account: str, sandbox: Sandbox) -> bool:
    found = sandbox.people.get(account)
    return slots.get("account") == account or (
        found is not None and slots.get("number") == str(found.number)
    )


_WORK: Final[dict[Does, Callable[[Speaker, Endpoint, Slots], Answer]]] = {
    "authorize": Speaker.authorize,
    "exchange": Speaker.exchange,
    "refresh": Speaker.refresh,
    "grant": Speaker.grant,
    "revoke": Speaker.revoke,
    "introspect": Speaker.introspect,
    "read": Speaker.read,
    "show": Speaker.show,
    "keys": Speaker.keys,
}
