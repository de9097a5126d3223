"""A runtime of one's own that opens Keyturn's sealed tokens.

Keep ``private_key`` (a JWK on P-256 or X25519) with the runtime alone, and give its public part to
the agent's profile as ``public_key``. ``issuer`` is the workspace's JWKS, for example
``https://keyturn.example.com/v1/jwks/ws_...``; fetch it from there, and again for an unknown key.
Needs ``joserfc`` and nothing else.
"""

import json
import time
from typing import Any

from joserfc import jwe, jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet, KeySetSerialization, OKPKey


class Refused(Exception):
    """This token starts no conversation here."""


class Runtime:
    def __init__(
        self, issuer: str, jwks: KeySetSerialization, agent_id: str, private_key: ECKey | OKPKey
    ) -> None:
        self.issuer, self.agent_id = issuer, agent_id
        self._private_key, self._signers = private_key, KeySet.import_key_set(jwks)
        self._seen: dict[str, float] = {}  # share it where several processes take tokens

    def open(self, token: str) -> dict[str, Any]:
        """What the conversation starts with: ``sub``, ``environment``, ``variables``, ..."""
        try:
            sealed = jwe.decrypt_compact(token, self._private_key, ["ECDH-ES", "A256GCM"])
            signed = jws.deserialize_compact(sealed.plaintext or b"", self._signers, ["Ed25519"])
            claims: dict[str, Any] = json.loads(signed.payload)
        except (JoseError, ValueError) as error:
            raise Refused("not sealed for us, or not signed by this issuer") from error
        now = time.time()
        if signed.protected.get("typ") != "keyturn-conversation+jwt":
            raise Refused("signed for another purpose")
        if (claims["iss"], claims["aud"]) != (self.issuer, self.agent_id) or claims["exp"] <= now:
            raise Refused("from another workspace, for another agent, or too late")
        self._seen = {jti: end for jti, end in self._seen.items() if end > now}
        if claims["jti"] in self._seen:
            raise Refused("used before")
        self._seen[claims["jti"]] = claims["exp"]
        return claims
