"""What providers publish and sign: metadata, keys, ID tokens, from the facts.

A part of ``make_dialects.py``, which asks.
"""

from typing import Final

from dialect_replies import Found, Replies
from dialect_tables import ECHOES_NO_NONCE, ID_ALGORITHM, KEYS_AT

METHODS: Final = {"post": "client_secret_post", "basic": "client_secret_basic", "none": "none"}


class Documents(Replies):
    """The documents of one provider."""

    def id_token(self) -> Found:
        claims: Found = {"sub": "{account}"}
        if self.identity["source"] == "id_token":
            self.put_identity(claims)
        found: Found = {"issuer": self.issuer(), "claims": claims}
        if self.id in ID_ALGORITHM:
            found["algorithm"] = ID_ALGORITHM[self.id]
        if self.id in ECHOES_NO_NONCE:
            found["echoes_nonce"] = False
        return found

    def shows(self) -> list[Found]:
        """Documents for anybody."""
        if self.id == "epic-smart":
            return [
                {
                    "does": "show",
                    "request": {
                        "path": f"{self.fill['fhir_base']}/.well-known/smart-configuration"
                    },
                    "reply": self.endpoints("https://fhir.hospital.org/oauth2"),
                }
            ]
        if self.id == "mcp-oauth":
            server = {
                "resource": "https://mcp.example/mcp",
                "authorization_servers": ["https://as.example"],
            }
            about = {"issuer": "https://as.example", **self.endpoints("https://as.example")}
            return [
                {
                    "does": "show",
                    "request": {"path": "mcp.example/.well-known/oauth-protected-resource/mcp"},
                    "reply": server,
                },
                {
                    "does": "show",
                    "request": {"path": "as.example/.well-known/oauth-authorization-server"},
                    "reply": about | {"registration_endpoint": "https://as.example/register"},
                },
            ]
        if not self.facts["oidc_issuer"]:
            return []
        issuer = self.issuer()
        document: Found = {
            "issuer": issuer,
            "jwks_uri": f"{issuer.rstrip('/')}/jwks",
            "authorization_endpoint": self.text(self.facts["authorize_url"]),
            "token_endpoint": self.text(self.facts["token_url"]),
        }
        document["id_token_signing_alg_values_supported"] = [ID_ALGORITHM.get(self.id, "RS256")]
        if self.id == "generic-oidc":
            document |= self.endpoints(issuer) | {"userinfo_endpoint": f"{issuer}/userinfo"}
        path = issuer.removeprefix("https://").rstrip("/")
        known = KEYS_AT.get(self.id)
        return [
            {
                "does": "show",
                "request": {"path": f"{path}/.well-known/openid-configuration"},
                "reply": document,
            },
            {"does": "keys", "request": {"path": f"{path}/jwks"}},
            *([{"does": "keys", "request": {"path": known}}] if known else []),
        ]

    def endpoints(self, base: str) -> Found:
        return {
            "authorization_endpoint": f"{base}/authorization"
            if self.id != "epic-smart"
            else f"{base}/authorize",
            "token_endpoint": f"{base}/token",
            "revocation_endpoint": f"{base}/revocation",
            "response_types_supported": ["code"],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": [METHODS[self.facts["client_auth"]]],
        }
