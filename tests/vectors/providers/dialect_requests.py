"""How a provider is asked, from the facts: every request, with the reply that it gets.

A part of ``make_dialects.py``, which asks.
"""

import json
import re
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from dialect_documents import Documents
from dialect_replies import Found, rotation
from dialect_tables import CHOICES, CONSTANT, DISCOVERED, SPECIAL

LATER: Final = r"\{(tenant_id)\}"  # what is chosen only after these requests


class Maker(Documents):
    """From the facts of one provider to its dialect."""

    def at(self, url: str) -> Found:
        """Where a request goes."""
        whole = self.text(url)
        if whole.startswith(("{discovery:", "{authorize_endpoint", "{token_endpoint")):
            ends = re.sub(r"\{(discovery:)?(\w+?)(_endpoint)?\}", r"\2", whole)
            whole = DISCOVERED[self.id].replace("{endpoint}", ends)
        whole = self.text(whole.replace("{operator:", "{"))
        whole = whole.replace("{api_domain}", SPECIAL.get((self.id, "api_domain"), ""))
        whole = whole.replace("{host}", CONSTANT["host"])
        split = urlsplit(whole)
        found: Found = {"path": split.netloc + split.path}
        if split.query:
            found["query"] = dict(parse_qsl(split.query))
        return found

    def client(self, params: Found, headers: Found, auth: str | None = None) -> None:
        """Add who asks, in the way of this provider."""
        how = auth or self.facts["client_auth"]
        if how == "post":
            params |= {"client_id": "{client_id}", "client_secret": "{client_secret}"}
        elif how == "basic":
            headers["Authorization"] = "Basic {basic}"
        elif how == "basic_secret_only":
            headers["Authorization"] = "Basic {secret_as_user}"
        elif how == "secret_jwt_es256":
            params |= {"client_id": "{client_id}", "client_secret": "{signed_secret}"}
        else:
            params["client_id"] = "{client_id}"

    def request(
        self, url: str, method: str, form: str, params: Found, headers: Found, **more: Any
    ) -> Found:
        """A shape."""
        found: Found = {"method": method, **self.at(url)}
        if form == "query" or method == "GET":
            found["query"] = found.get("query", {}) | params
        elif params or form == "json":
            found |= {"format": form, "body": params}
        return {k: v for k, v in {**found, "headers": headers, **more}.items() if v}

    def named(self, params: Found, rename: Found, omit: list[str]) -> Found:
        return {
            rename.get(name, name): self.text(value) if isinstance(value, str) else value
            for name, value in params.items()
            if name not in omit
        }

    def authorize(self) -> Found:
        facts = self.facts
        params: Found = {
            "response_type": "code",
            "client_id": "{client_id}",
            "redirect_uri": "{redirect_uri}",
            "state": "{state}",
        }
        if self.scopes:
            params[facts["scope_param"]] = "{scope}"
        optional = []
        if facts["pkce"] in ("required", "supported", "unknown"):
            params |= {"code_challenge": "{challenge}", "code_challenge_method": "S256"}
        if facts["pkce"] == "unknown":
            optional += ["code_challenge", "code_challenge_method"]
        if facts["oidc_issuer"] or "openid" in self.scopes:
            params["nonce"] = "{nonce}"
            optional.append("nonce")
        for name in facts["extra_scope_params"]:
            params[name] = f"{{{name}}}"
            optional.append(name)
        params |= facts["authorize_params"]
        params = self.named(params, facts["authorize_rename"], facts["authorize_omit"])
        shape = self.request(facts["authorize_url"], "GET", "query", params, {}, optional=optional)
        return {"does": "authorize", "request": shape}

    def callback(self) -> Found:
        facts = self.facts
        values = {name: self.returned(name) for name in facts["callback_capture"]}
        found: Found = {"values": values}
        if facts["code_param"] != "code":
            found["code"] = facts["code_param"]
        if facts["callback_method"] == "POST":
            found["method"] = "POST"
        if facts["callback_verify"]:
            found["signature"] = facts["callback_verify"]["type"]
        if self.id in ("facebook", "instagram", "threads"):
            found["fragment"] = "_"
        return {name: value for name, value in found.items() if value}

    def exchange(self) -> Found:
        facts, how = self.facts, self.facts["token_request"]
        params: Found = {
            "grant_type": "authorization_code",
            "code": "{code}",
            "redirect_uri": "{redirect_uri}",
        }
        optional = ["code_verifier"] if facts["pkce"] == "unknown" else []
        if facts["pkce"] in ("required", "supported", "unknown"):
            params["code_verifier"] = "{verifier}"
        headers = {name: self.text(one) for name, one in how["headers"].items()}
        self.client(params, headers)
        params |= {name: self.callback_filled(one) for name, one in how["params"].items()}
        params = self.named(params, how["rename"], how["omit"])
        shape = self.request(
            facts["token_url"], how["method"], how["format"], params, headers, optional=optional
        )
        found: Found = {"does": "exchange", "request": shape, "reply": self.token_reply("exchange")}
        if facts["after_exchange"]:
            found["lifetime"] = 3600
        return found

    def callback_filled(self, value: str) -> str:
        return value.replace("{context}", self.returned("context"))

    def grant(self) -> Found:
        """A token for the app itself."""
        facts, how = self.facts, self.facts["token_request"]
        headers = {name: self.text(one) for name, one in how["headers"].items()}
        params: Found = {}
        if facts["auth_mode"] == "oauth2_client_credentials":
            self.client(params, headers)
            params |= {facts["scope_param"]: "{scope}"} if self.scopes else {}
        optional = []
        if "assertion" in how["params"]:  # it says who asks, and they may say so, too (RFC 7521)
            params["client_id"] = "{client_id}"
            optional.append("client_id")
        params |= self.named(how["params"], {}, [])
        shape = self.request(
            facts["token_url"],
            how["method"],
            how["format"],
            with_jwt(params),
            with_jwt(headers),
            optional=optional,
        )
        return {"does": "grant", "request": shape, "reply": self.token_reply("exchange")}

    def refresh(self) -> list[Found]:
        facts, how, first = self.facts, self.facts["refresh_request"], self.facts["token_request"]
        if not (self.refreshes or self.by_access):
            return []
        params: Found = {
            "grant_type": "refresh_token",
            "refresh_token": self.token("refresh_token"),
        }
        headers = {name: self.text(one) for name, one in first["headers"].items()}
        self.client(params, headers)
        params |= how.get("params", {})
        # What is omitted of who asks is omitted always; the rest is of the first request.
        omit = [*how.get("omit", []), *({"client_id", "client_secret"} & set(first["omit"]))]
        shape = self.request(
            facts["refresh_url"] or facts["token_url"],
            how.get("method", "POST"),
            how.get("format", first["format"]),
            self.named(params, first["rename"], omit),
            headers,
        )
        reply = self.token_reply("refresh")
        found = [{"does": "refresh", "request": shape, "reply": reply}]
        for extra in self.reply["extra_tokens"]:
            if extra.get("root"):
                found[0]["reply_of"] = {extra["name"]: reply | {"token_type": extra["name"]}}
            else:
                more = json.loads(json.dumps(shape))
                more["body"]["scope"] = self.text(extra["scope"])
                found.append({"does": "refresh", "request": more, "reply": reply})
        return found

    def after(self) -> list[Found]:
        return [
            {
                "does": "refresh",
                "request": self.request(
                    step["url"], step["method"], "query", self.named(step["params"], {}, []), {}
                ),
                "reply": self.token_reply("refresh"),
            }
            for step in self.facts["after_exchange"]
        ]

    def api_headers(self, url: str, authorization: str | None) -> Found:
        """How a token is sent; an API's other headers only to that API's own host."""
        api = self.facts["api"]
        template = (authorization or api["auth_template"]).replace(
            "{access_token}", self.token("access_token")
        )
        found: Found = {"Authorization" if authorization else api["auth_header"]: template}
        if urlsplit(url).netloc == urlsplit(api["base_url"] or "").netloc:
            found |= {
                name: self.text(one)
                for name, one in api["extra_headers"].items()
                if name != "Accept" and not re.search(LATER, self.text(one))
            }
        return found

    def reads(self) -> list[Found]:
        """The account, and what else is looked up after a consent."""
        found, identity = [], self.identity
        steps = self.facts["post_connect"]
        if identity["source"] in ("userinfo", "introspect"):
            about: Any = [] if (self.account_paths() or [""])[0].startswith("0.") else {}
            self.put_identity(about)
            if identity["source"] == "introspect":
                about["active"] = True
            if any(step["url"] == identity["url"] for step in steps):
                about |= CHOICES[self.id]
            found.append({**self.identity_request(), "reply": about})
        found += [
            {
                "does": "read",
                "request": self.request(
                    step["url"],
                    "GET",
                    "query",
                    {},
                    self.api_headers(step["url"], step.get("auth_header")),
                ),
                "reply": CHOICES[self.id],
            }
            for step in steps
            if step["url"] != identity["url"]
        ]
        return found

    def identity_request(self) -> Found:
        identity, url = self.identity, self.identity["url"]
        if identity["source"] == "introspect":
            params: Found = {"token": "{token}"}
            headers: Found = {}
            self.client(params, headers)
            return {
                "does": "introspect",
                "request": self.request(url, "POST", "form", params, headers),
            }
        headers = self.api_headers(url, identity.get("auth_header"))
        body = identity.get("body", {})
        shape = self.request(url, identity["method"], "json", body, headers)
        return {"does": "read", "request": shape}

    def revoke(self) -> list[Found]:
        how = self.facts["revoke"]
        if how is None:
            return []
        params: Found = {how["token_param"]: "{token}"} if how["token_param"] else {}
        params |= how.get("params", {})
        headers: Found = {}
        auth: str = how["auth"]
        if auth == "client":
            # GitHub's REST documentation asks for Basic there, whatever the token endpoint takes.
            self.client(params, headers, "basic" if self.id.startswith("github-") else None)
        elif auth == "bearer":
            headers["Authorization"] = "Bearer {access_token}"
        elif auth.startswith("header:"):
            _, name, value = auth.split(":", 2)
            headers[name] = value.strip()
        params = {
            name: "acct_{account}" if value == "{stripe_user_id}" else value
            for name, value in params.items()
        }
        params = self.named(params, self.facts["token_request"]["rename"], [])
        optional = []
        if "token" in params:
            params["token_type_hint"] = "{hint}"
            optional.append("token_type_hint")
        if self.id == "square":  # its documentation asks for it; the facts leave it out
            params["client_id"] = "{client_id}"
        form = "form" if how["format"] == "none" else how["format"]
        shape = self.request(how["url"], how["method"], form, params, headers, optional=optional)
        return [{"does": "revoke", "request": shape, "kills": how["kills"], "reply": {}}]

    def every_endpoint(self) -> list[Found]:
        if self.facts["auth_mode"] != "oauth2_code":
            return [self.grant()]
        return [
            self.authorize(),
            self.exchange(),
            *self.after(),
            *self.refresh(),
            *self.reads(),
            *self.revoke(),
            *self.shows(),
        ]

    def dialect(self) -> Found:
        facts = self.facts
        found: Found = {
            "endpoints": self.every_endpoint(),
            "callback": self.callback(),
            "scopes": self.scopes,
            "refusals": self.refusals(),
            "issuing": self.issuing(),
            "state_max": facts["state_max_len"],
        }
        if facts["scope_separator"] != " ":
            found["scope_separator"] = facts["scope_separator"]
        if self.signs:
            found["id_token"] = self.id_token()
        if any(one.get("root") for one in self.reply["extra_tokens"]):
            found["extra_tokens"] = {"user": "user_scope"}
        return {name: value for name, value in found.items() if value}

    def issuing(self) -> Found:
        found: Found = {"lifetime": self.lifetime or 315_000_000, "refresh": self.refreshes}
        if self.lifetime is None:
            found["expires_in"] = None
        found |= rotation(self.facts["refresh"])
        if end := self.refresh_end():
            found["refresh_lifetime"] = end
        scopes = [one for one in self.facts["offline_scopes"] if one in self.scopes]
        if scopes and self.id != "keycloak":
            found["refresh_scopes"] = scopes
        return found

    def choices(self) -> list[str]:
        """The ids of what a person may choose."""
        found = CHOICES.get(self.id, [])
        items = found.get("accounts", []) if isinstance(found, dict) else found
        told = str([step["capture"] for step in self.facts["post_connect"]])
        named = re.search(r"\{id:(\w+)", told)
        return [str(one[named[1] if named else "id"]) for one in items]

    def expected(self) -> Found:
        """What a right reader has in hand after a connect; slots as in replies."""
        stated = self.lifetime if self.reply["expires_in_zero"] != "never" else None
        source = self.identity["source"]
        found: Found = {
            "lifetime": stated,
            "refresh_token": self.refreshes,
            "refresh_lifetime": None if self.id == "keycloak" else self.refresh_end() or self.end(),
            "rotates": rotation(self.facts["refresh"])["rotation"] not in ("none", "sometimes"),
            "scopes_told": self.facts["scope_response_format"] != "absent",
            "captured": self.captured,
            "callback": {n: self.returned(n) for n in self.facts["callback_capture"]},
            "account": [self.value(path) for path in self.account_paths()],
            "email": "{email}" if self.identity.get("email") else None,
            "label": self.value(self.identity["label"]) if self.identity.get("label") else None,
            "extra_tokens": [one["name"] for one in self.reply["extra_tokens"]],
            "looked_up": CHOICES.get(self.id),
            "choices": self.choices(),
        }
        if source == "callback":
            found["account"] = [self.returned(path) for path in self.account_paths()]
        if source == "access_token_prefix":
            found["account"] = ["{number}"]
        if source in ("none", ""):
            found["account"] = []
        return found


def with_jwt(fields: Found) -> Found:
    """What the facts call a JWT is an assertion to the sandbox."""
    return {name: value.replace("{jwt}", "{assertion}") for name, value in fields.items()}
