"""Triggers: only what policy names, once, signed, and only after a checkpoint."""

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from engine.config import ConfigError, PolicyConfig
from engine.finding import Finding
from engine.lifecycle import Lifecycle
from engine.remediate import Remediation, verify
from engine.state import State


def pem(key) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


KEY = Ed25519PrivateKey.generate()
POLICY = PolicyConfig(detector="rules", actions=("RESTART_BM",), min_severity="error")


def alerts(severity: str, action: str, detector: str = "rules"):
    finding = Finding(detector, "hardware", "h/gpu0 xid 79", 10, 10, severity, "t", "s", 1.0, 1.0, action=action)
    return Lifecycle(State()).apply([finding], "hardware", 10)


def test_only_what_a_policy_names():
    remediation = Remediation([POLICY], pem(KEY), 600)
    assert len(remediation.triggers(alerts("critical", "RESTART_BM"), "/t")) == 1
    for other in (alerts("warning", "RESTART_BM"), alerts("critical", "NONE"), alerts("critical", "RESTART_BM", "missing")):
        assert remediation.triggers(other, "/t") == []


def test_a_replay_repeats_the_id_and_a_forged_trigger_is_refused():
    remediation = Remediation([POLICY], pem(KEY), 600)
    (first,), (again,) = (remediation.triggers(alerts("critical", "RESTART_BM"), "/t") for _ in range(2))
    assert first.id == again.id
    event = orjson.loads(first.value)
    assert verify(event, KEY.public_key())
    assert not verify({**event, "data": {**event["data"], "target": "another"}}, KEY.public_key())
    assert not verify(event, Ed25519PrivateKey.generate().public_key())
    assert not verify({k: v for k, v in event.items() if k != "signature"}, KEY.public_key())


def test_wrong_keys_name_the_setting():
    for wrong in (b"junk", pem(generate_private_key(SECP256R1()))):
        with pytest.raises(ConfigError, match=r"remediation\.signing_key"):
            Remediation([POLICY], wrong, 600)
