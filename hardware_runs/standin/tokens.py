"""Access tokens as IBM Cloud gives them: an API key is exchanged for a JWT that ends."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tokens:
    """Gives and checks tokens; real time, since the client's own clock decides on renewal.

    A token holds all that is needed to check it: a stand-in that was restarted accepts those that
    it gave before.
    """

    secret: str
    lifetime_seconds: float = 3600.0

    def issue(self, generation: int) -> dict[str, Any]:
        """The answer to a request for a token."""
        now = time.time()
        expiration = now + self.lifetime_seconds
        head = _encode({"alg": "HS256", "typ": "JWT"})
        body = _encode({"iat": now, "exp": expiration, "generation": generation})
        return {
            "access_token": f"{head}.{body}.{self._sign(f'{head}.{body}')}",
            "refresh_token": "not_supported",
            "token_type": "Bearer",
            "expires_in": int(self.lifetime_seconds),
            "expiration": int(expiration),
        }

    def is_good(self, authorization: str, generation: int) -> bool:
        """Whether a request's Authorization holds a token of this generation that lasts."""
        text, _, signature = authorization.removeprefix("Bearer ").rpartition(".")
        if not text or not hmac.compare_digest(signature, self._sign(text)):
            return False
        body = text.rpartition(".")[2]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return bool(claims["generation"] == generation and claims["exp"] > time.time())

    def _sign(self, text: str) -> str:
        digest = hmac.new(self.secret.encode(), text.encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _encode(claims: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
