"""What providers answer: token replies, accounts, callbacks and refusals, from the facts.

A part of ``make_dialects.py``, which asks.
"""

from typing import Any

from dialect_tables import (
    ABSENT,
    CONSTANT,
    FILL,
    LIFETIME,
    NO_REFRESH,
    NUMBERED,
    ODD,
    SCOPES,
    SPECIAL,
)

Facts = dict[str, Any]
Found = dict[str, Any]


class Replies:
    """The answers of one provider."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.id: str = facts["id"]
        self.fill = {
            one["name"]: one["default"] or one["example"]
            for one in facts["url_vars"]
            if one["source"] != "discovery"
        } | FILL.get(self.id, {})
        self.told = {one["name"] for one in facts["url_vars"] if one["source"] == "callback"}
        # One scope alone would not show what separates two.
        known = [*facts["common_scopes"], *SCOPES.get(self.id, [])]
        few = facts["default_scopes"] or known[:1]
        more = [one for one in known if one not in few]
        self.scopes = [self.text(one) for one in [*few, *more[: max(0, 2 - len(few))]]]
        self.reply = facts["token_response"]
        self.identity = facts["identity"] or {"source": "none", "account_id": None}
        issued: str = facts["refresh"]["issued"]
        self.refreshes = not issued.startswith(NO_REFRESH) or self.id == "github-oauth-app"
        self.by_access = facts["refresh_request"].get("token_source") == "access_token"
        self.lifetime = LIFETIME.get(self.id, facts["access_token_lifetime_s"])
        stated = facts["expires_in_present"] and self.reply["expires_in"]
        if self.lifetime and (stated or self.reply["expires_at"]):
            self.lifetime += ODD
        self.captured: Found = {}

    def text(self, template: str) -> str:
        """A text with what the test fills in; slots stay."""
        for name, value in self.fill.items():
            template = template.replace(f"{{{name}}}", value)
        return template

    @property
    def signs(self) -> bool:
        openid = "openid" in self.scopes or self.identity["source"] == "id_token"
        return bool(self.facts["oidc_issuer"]) and openid

    def issuer(self) -> str:
        return self.text(self.facts["oidc_issuer"]).replace("{tid}", CONSTANT["tid"])

    def refresh_end(self) -> int | None:
        refresh = self.facts["refresh"]
        told = self.reply["refresh_expires_in"] or self.reply["refresh_expires_at"]
        end = refresh["absolute_expiry_s"] or refresh["idle_expiry_s"] or 7_776_000
        return end + ODD if told and self.refreshes else None

    def end(self) -> int | None:
        """When it ends for good, although no reply says so."""
        found: int | None = self.facts["refresh"]["absolute_expiry_s"]
        return found

    def token_reply(self, what: str) -> Found:
        """A reply with tokens; ``what`` is refresh or exchange."""
        names, found = self.reply, dict[str, Any]()
        roots = (names["root"] or ".").split("|")
        root = roots[0] + "." if what == "exchange" and roots[0] != "." else ""
        if names["success_path"]:
            found[names["success_path"]] = True
        put(found, root + names["access_token"], self.token("access_token"))
        put(found, root + "token_type", "user" if self.id == "slack-user" else "Bearer")
        if self.refreshes and names["refresh_token"]:
            put(found, root + names["refresh_token"], self.token("refresh_token"))
        self.put_ends(found, root)
        self.put_scope(found, root)
        if what == "exchange":
            self.put_extra_tokens(found)
        for path in names["capture"]:
            if path in ABSENT.get(self.id, ()) or path in ("scopes", "permissions"):
                continue
            value = self.value(path)
            put(found, self.beside(root, path), value)
            self.captured[path] = value
        if self.identity["source"] == "token_response" and what == "exchange":
            self.put_identity(found, root)
        if self.signs:
            found["id_token"] = "{id_token}"
        return found

    def beside(self, root: str, path: str) -> str:
        """Slack's account stands beside the tokens, Instagram's with them."""
        return path if root == "authed_user." else root + path

    def token(self, name: str) -> str:
        return f"{{number}}.{{{name}}}" if self.id == "etsy" else f"{{{name}}}"

    def put_ends(self, found: Found, root: str) -> None:
        names = self.reply
        if names["expires_in_zero"] == "never":
            found["expires_in"] = 0
        elif self.facts["expires_in_present"] and self.lifetime and names["expires_in"]:
            put(found, root + names["expires_in"], "{expires_in}")
        formats = {"iso8601": "{expires_at_iso}", "epoch_s": "{expires_at}"}
        if names["expires_at"]:
            put(found, root + names["expires_at"], formats[names["expires_at_format"]])
        if names["refresh_expires_in"] and self.refreshes:
            value = 0 if self.id == "keycloak" else "{refresh_expires_in}"
            put(found, root + names["refresh_expires_in"], value)
        if names["refresh_expires_at"] and self.refreshes:
            put(found, root + names["refresh_expires_at"], "{refresh_expires_at_iso}")

    def put_scope(self, found: Found, root: str) -> None:
        forms = {"space": "{scope}", "comma": "{scope_comma}", "list": "{scope_list}"}
        form = self.facts["scope_response_format"]
        if form == "absent":
            return
        name = "scope"
        for other in ("scopes", "permissions"):
            name = other if other in self.reply["capture"] else name
        put(found, root + name, forms[form])

    def put_extra_tokens(self, found: Found) -> None:
        for extra in self.reply["extra_tokens"]:
            if extra.get("root"):
                root, name = extra["root"], extra["name"]
                put(found, f"{root}.access_token", f"{{access_token.{name}}}")
                put(found, f"{root}.refresh_token", f"{{refresh_token.{name}}}")
                put(found, f"{root}.scope", "{user_scope}")
                put(found, f"{root}.token_type", "user")
                put(found, f"{root}.expires_in", "{expires_in}")

    def account_paths(self) -> list[str]:
        whole: str = (self.identity["account_id"] or "").split("|")[0]
        return [one for one in whole.split("+") if one]

    def value(self, path: str) -> Any:
        """What stands at a path of a reply."""
        paths = [] if self.identity["source"] == "access_token_prefix" else self.account_paths()
        own = SPECIAL.get((self.id, path))
        if own is not None:
            return own
        if paths and path == paths[-1]:
            return "{number}" if self.id in NUMBERED else "{account}"
        if path == self.identity.get("email"):
            return "{email}"
        if path == self.identity.get("label"):
            return "{name}"
        return CONSTANT.get(path, f"{path}-1")

    def put_identity(self, found: Found, root: str = "") -> None:
        paths = [*self.account_paths(), self.identity.get("email"), self.identity.get("label")]
        for path in filter(None, paths):
            put(found, self.beside(root, path), self.value(path))

    def returned(self, name: str) -> str:
        """A value that comes back through the browser."""
        if name in self.account_paths():
            return "{number}" if self.id in NUMBERED else "{account}"
        if name == "shop":
            return f"{self.fill['shop']}.myshopify.com"
        special = {
            "host": "YWRtaW4uc2hvcGlmeS5jb20vc3RvcmUvYWNtZQ",
            "timestamp": "{now}",
            "scope": "{scope_comma}" if self.id == "strava" else "store_v2_orders",
        }
        return str(special.get(name, CONSTANT.get(name)))

    def failures(self) -> list[Found]:
        """The recorded refusals, each whole, and what it means."""
        kinds = {"reauth_errors": "dead", "operator_errors": "client", "transient_errors": "later"}
        return [
            {
                "means": meaning,
                "where": row["where"] if row.get("where") in ("api", "any") else "token",
                "status": row["http"],
                "body": self.no(row),
            }
            for kind, meaning in kinds.items()
            for row in self.facts[kind]
        ]

    def no(self, row: Facts) -> Found:
        """The body of a refusal."""
        if "error_code" in row:
            return {
                "error": {"message": "No.", "type": "OAuthException", "code": row["error_code"]}
            }
        if row.get("where") == "errors[0].code":
            error = {"resource": "RefreshToken", "field": "refresh_token", "code": row["error"]}
            return {"message": "Bad Request", "errors": [error]}
        found: Found = {}
        if self.reply["success_path"]:
            found[self.reply["success_path"]] = False
        if "message" in row:
            found |= {"status": row["http"], "message": row["message"]}
        if "error" in row:
            put(found, self.reply["error_path"], row["error"])
        if "contains" in row:
            found["error_description"] = f"It says {row['contains']} and more."
        if "error_subtype" in row:
            found["error_subtype"] = row["error_subtype"]
        return found

    def refusals(self) -> Found:
        found: Found = {}
        told = [one for one in self.facts["reauth_errors"] if one.get("where") != "api"]
        at_api = [one for one in self.facts["reauth_errors"] if one.get("where") in ("api", "any")]
        for why, rows in (
            ("refresh", told),
            ("client", self.facts["operator_errors"]),
            ("access", at_api),
        ):
            if rows:
                body = self.no(rows[0])
                found[why] = {"status": rows[0]["http"], "body": body}
        numbered = any("error_code" in row for row in self.facts["reauth_errors"])
        status = found.get("refresh", {"status": 400})["status"]
        for why, code, http in (
            ("code", "invalid_grant", status),
            ("scope", "invalid_scope", 400),
            ("request", "invalid_request", 400),
        ):
            row = {"http": http} | ({"error_code": 100} if numbered else {"error": code})
            body = self.no(row) | {"error_description": "{description}"}
            found[why] = {"status": http, "body": body}
        return found


def rotation(refresh: Facts) -> Found:
    """What becomes of a used refresh token, and of the access token beside it."""
    rotates, old = refresh["rotates"], refresh["old_refresh_token"]
    grace = refresh["reuse_grace_s"] or 0
    found: Found = {"rotation": "none"}
    if rotates.startswith(("sometimes",)):
        found["rotation"] = "sometimes"
    elif rotates.startswith(("always", "optional (app", "app setting", "realm", "integration")):
        found["rotation"] = "strict"
        if old == "stays_valid":
            found["rotation"] = "stays"
        elif "until the new" in old or "until the app first uses" in old:
            found |= {"rotation": "until_used", "grace": grace}
        elif old.startswith("same reply"):
            found |= {"rotation": "same", "grace": grace}
        elif grace:
            found |= {"rotation": "grace", "grace": grace}
    if ("replay" in old and "revoke" in old) or "reuse outside" in old:
        found["replay_revokes"] = True
    if refresh["old_access_token"].startswith("dies_on_use"):
        found["old_access"] = "dies"
    return found


def put(document: Any, path: str, value: Any) -> None:
    """Set what stands at ``a.0.b``; what is on the way is made."""
    here = document
    parts = path.split(".")
    for part, after in zip(parts, [*parts[1:], None], strict=True):
        made: Any = value if after is None else [] if after.isdecimal() else {}
        if isinstance(here, list):
            if len(here) <= int(part):
                here.append(made)
            here = here[int(part)]
        else:
            here = here.setdefault(part, made)
