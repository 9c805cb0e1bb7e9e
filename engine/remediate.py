"""Remediation: policy turns alerts into signed triggers for an executor (a node drainer, a gateway that revokes keys).

Nothing is triggered that no policy names. A trigger is published once per alert and action, after a checkpoint holds it, and is
signed (Ed25519), so that an executor refuses one that Telltale did not make.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Any

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from engine.alerts import CLOUD_EVENT_HEADERS, SEVERITY_NUMBER, Alert, time_text
from engine.config import ConfigError, PolicyConfig
from streams.records import Message

SIGNED_FIELDS = ("id", "source", "type", "subject", "time", "data")


class Remediation:
    """Policies and the key that signs what they trigger."""

    def __init__(self, policies: Sequence[PolicyConfig], key_pem: bytes, expires_s: float):
        self.policies = policies
        self.expires_us = int(expires_s * 1e6)
        self.key = private_key(key_pem)

    def triggers(self, alerts: Sequence[Alert], source: str) -> list[Message]:
        """One trigger for each newly firing alert version that a policy matches. The id follows from alert and action."""
        out = []
        for alert in alerts:
            if alert.status == "firing" and any(matches(p, alert) for p in self.policies):
                event = self.trigger(alert, source)
                out.append(Message(event["id"], "trigger", alert.id, orjson.dumps(event), CLOUD_EVENT_HEADERS, event["data"]))
        return out

    def trigger(self, alert: Alert, source: str) -> dict[str, Any]:
        """A signed CloudEvent: what to do, to what, why, and until when."""
        event = {
            "specversion": "1.0",
            "id": hashlib.blake2b(f"{alert.id}\x00{alert.action}".encode(), digest_size=16, person=b"telltale.trig").hexdigest(),
            "source": source,
            "type": "dev.telltale.trigger",
            "subject": f"{alert.stream}/{alert.key}",
            "time": time_text(alert.onset_us),
            "datacontenttype": "application/json",
            "partitionkey": alert.id,
            "data": {
                "action": alert.action,
                "target": alert.labels.get("device") or alert.labels.get("principal") or alert.key,
                "alert_id": alert.id,
                "detector": alert.detector,
                "severity": alert.severity,
                "reason": alert.summary,
                "not_after": time_text(alert.last_seen_us + self.expires_us),
                "config_hash": alert.config_hash,
            },
        }
        event["signature"] = base64.b64encode(self.key.sign(signed_bytes(event))).decode()
        return event


def matches(policy: PolicyConfig, alert: Alert) -> bool:
    """Whether a policy wants this alert's action taken."""
    severe = SEVERITY_NUMBER[alert.severity] >= SEVERITY_NUMBER[policy.min_severity]
    return policy.detector == alert.detector and alert.action in policy.actions and severe


def signed_bytes(event: dict[str, Any]) -> bytes:
    """What the signature is over: the fields that mean something, as JSON with sorted keys."""
    return orjson.dumps({k: event[k] for k in SIGNED_FIELDS}, option=orjson.OPT_SORT_KEYS)


def verify(event: dict[str, Any], key: Ed25519PublicKey) -> bool:
    """Whether a trigger is ours and unchanged; what an executor calls before it acts."""
    try:
        key.verify(base64.b64decode(event["signature"]), signed_bytes(event))
    except (InvalidSignature, KeyError, ValueError):
        return False
    return True


def private_key(pem: bytes) -> Ed25519PrivateKey:
    """The signing key. Raises ConfigError when it is not an Ed25519 private key."""
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"remediation.signing_key: not a private key in PEM: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError("remediation.signing_key: not an Ed25519 key")
    return key
