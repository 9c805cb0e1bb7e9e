"""Configuration of the REST API. It stands here because the engine reads the one configuration file and must not import the API."""

from __future__ import annotations

import ipaddress
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Role = Literal["viewer", "responder"]
ROLES: tuple[Role, ...] = ("viewer", "responder")
"""Each role may do what those before it may: a viewer reads, a responder also acknowledges."""


class TokenConfig(BaseModel):
    """A bearer token. Only its SHA-256 is kept, so reading the file lets nobody in.

    `printf %s "$TOKEN" | sha256sum` makes the hash; use 32 random bytes or more, as `openssl rand -hex 32` gives.
    `name` is who stands in acknowledgements.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=100)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    role: Role = "viewer"


class ApiConfig(BaseModel):
    """Where the REST API and the console listen, and who may use them.

    Anything but a loopback address needs at least one token; on a loopback address without tokens, whoever is on this machine may
    do everything.

    >>> ApiConfig(port=0).host
    '127.0.0.1'
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    tokens: tuple[TokenConfig, ...] = ()

    @model_validator(mode="after")
    def _guarded(self) -> ApiConfig:
        names = [t.name for t in self.tokens]
        if repeated := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"tokens: the name {repeated[0]!r} is used twice")
        if not self.tokens and not is_loopback(self.host):
            raise ValueError(f"tokens: at least one is required, since host {self.host} is reachable from other machines")
        return self


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on `host`.

    >>> [is_loopback(h) for h in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "", "example.org")]
    [True, True, True, False, False, False]
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
