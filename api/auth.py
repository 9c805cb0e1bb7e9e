"""Who may do what. Bearer tokens, kept as SHA-256; where there are none, only this machine is let in, and may do everything."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import HTTPException, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.context import Parts
from engine.api_config import ROLES, ApiConfig, Role, is_loopback

CHALLENGE = {"WWW-Authenticate": 'Bearer realm="telltale"'}
Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(HTTPBearer(auto_error=False))]


@dataclass(frozen=True)
class Person:
    """Whoever sent the request."""

    name: str
    role: Role


def requires(role: Role) -> Callable[..., Person]:
    """A dependency that lets in whoever has this role or a higher one: 401 without a token that is known, 403 with too low a role."""

    def check(request: Request, parts: Parts, credentials: Credentials) -> Person:
        person = identify(parts.settings, credentials.credentials if credentials else None, request.url.hostname)
        if ROLES.index(person.role) < ROLES.index(role):
            raise HTTPException(403, f"{person.name} is a {person.role}; this needs the role {role}")
        return person

    return check


def identify(settings: ApiConfig, token: str | None, host: str | None) -> Person:
    """Whose token it is. `host`: the name in the request's Host header.

    Without configured tokens the Host header must name this machine: a web page elsewhere that points its own name at 127.0.0.1
    (DNS rebinding) would otherwise read alerts through somebody's browser.
    """
    if not settings.tokens:
        if host is None or not is_loopback(host):
            raise HTTPException(403, f"without tokens only requests to this machine's own address are answered, not to {host}")
        return Person("local", ROLES[-1])
    if token is None:
        raise HTTPException(401, "a bearer token is required", CHALLENGE)
    digest = hashlib.sha256(token.encode()).hexdigest()
    found = [t for t in settings.tokens if hmac.compare_digest(t.sha256, digest)]  # all are compared: no early way out to time
    if not found:
        raise HTTPException(401, "the bearer token is not known", CHALLENGE)
    return Person(found[0].name, found[0].role)


Viewer = Annotated[Person, Security(requires("viewer"))]
Responder = Annotated[Person, Security(requires("responder"))]
