"""Configuration: the example is fine, and every mistake names its key and line."""

import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from engine import config
from engine.config import Config, ConfigError, load, parse, secret

EXAMPLE = Path(__file__).resolve().parent.parent.parent / "telltale.example.yaml"


def test_the_example_is_fine_and_shows_every_top_level_key():
    settings = load(EXAMPLE)
    assert settings.source.kafka.topics[0].encoding == "otlp_proto"
    text = EXAMPLE.read_text()
    for key in set(Config.model_fields) - {"hash", "pane_s"}:
        assert re.search(rf"^(# )?{key}:", text, re.M), f"{key} is not in the example"


def test_the_values_shown_are_the_defaults():
    shown, defaults = yaml.safe_load(EXAMPLE.read_text()), Config()
    for section in ("limits", "checkpoint"):
        for key, value in shown[section].items():
            default = getattr(getattr(defaults, section), key)
            assert str(default) == str(value), f"{section}.{key}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nsorce: {}", "c:2: sorce: unknown key"),
        ("detectors:\n  drift:\n    windw: 3", "c:3: detectors.drift.windw: unknown key"),
        ("detectors:\n  nosuch: {}", "c:2: detectors.nosuch: unknown key"),
        ("limits:\n  keys: -1", "c:2: limits.keys: Input should be greater than 0"),
        ("sinks:\n  a:\n    type: carrier-pigeon", "c:2: sinks.a: Input tag 'carrier-pigeon'"),
        ("sinks:\n  store: {type: file, path: x}", "c:1: sinks: store is what"),
        ("sinks:\n  a:\n    type: file\n    pth: x", "c:4: sinks.a.pth: unknown key"),
        ("source:\n  kafka:\n    bootstrap: b\n    topics:\n      - {name: t}\n      - {name: t}", "c:4: source.kafka.topics: topic 't' is listed twice"),
        ("source:\n  kafka:\n    bootstrap: b\n    topics:\n      - name: t\n        encoding: xml", "c:6: source.kafka.topics.0.encoding: unknown encoding 'xml'"),
        ("source: {kafka: {bootstrap: b, topics: [{name: t}], sketches: t}}", "c:1: source: kafka.sketches 't' is a topic of telemetry"),
        ("source: {kafka: {bootstrap: b, topics: [{name: t}], sketches: s}, scrape: {targets: [{url: 'http://h'}]}}", "c:1: source: kafka.sketches beside"),
        ("false_alarms_per_week:\n  drft: 1", "c:1: false_alarms_per_week: unknown family 'drft'"),
        ("false_alarms_per_week: {drift: 0}", "c:1: false_alarms_per_week: drift: the budget must be greater than 0"),
        ("remediation:\n  policies: [{detector: rules, actions: [RESET]}]", "c:1: remediation: policies without signing_key"),
        ("api: {host: 0.0.0.0}", "c:1: api"),
        ("a: [", "c:1: not YAML"),
        ("- 1", "c:1: expected keys and values, not list"),
        ("hash: x", "c:1: hash: unknown key"),
    ],
)  # fmt: skip
def test_mistakes_name_key_and_line(text, message):
    with pytest.raises(ConfigError) as error:
        parse(text, "c")
    assert message in str(error.value)


def test_every_mistake_is_told_at_once():
    with pytest.raises(ConfigError) as error:
        parse("nme: x\nlimits: {keys: 0}", "c")
    assert len(str(error.value).splitlines()) == 2


def test_the_hash_follows_the_meaning_not_the_text():
    assert parse("name: a # comment").hash == parse('{"name": "a"}').hash != parse("name: b").hash


def test_secrets_by_reference(tmp_path, monkeypatch):
    (tmp_path / "key").write_text("s3cret\n")
    monkeypatch.setenv("A_SECRET", "fromenv")
    assert secret(f"file:{tmp_path}/key", "k") == "s3cret"
    assert secret("env:A_SECRET", "k") == "fromenv"
    for wrong in ("s3cret", "env:NOT_THERE", "file:/not/there"):
        with pytest.raises(ConfigError, match="^k: ") as error:
            secret(wrong, "k")
        assert "s3cret" not in str(error.value)


def test_every_setting_has_a_place_in_a_docstring_or_a_plain_name():
    models = [m for m in vars(config).values() if isinstance(m, type) and issubclass(m, BaseModel) and m is not BaseModel]
    assert all(m.__doc__ for m in models)
