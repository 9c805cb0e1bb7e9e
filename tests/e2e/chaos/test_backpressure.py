"""A sink that is down: reading pauses, memory and outbox stay bounded, lag is told, and everything is delivered once it is back."""

import re
import time

import orjson
import pytest

from tests.e2e.chaos.proxy import Proxy
from tests.e2e.service import QUIET, Service, alerts, produce, until
from tests.support.kafka import Broker
from tests.support.kafka_home import find_home

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]
ALERTS, LIMIT = 4000, 500


def gauge(service: Service, name: str) -> float:
    """The sum of a metric over its labels."""
    return sum(float(v) for v in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", service.get("/metrics"), re.M))


def rows(first: int, count: int) -> list[bytes]:
    """Each its own device with its own XID: an alert a row."""
    return [
        orjson.dumps({"time": 1_760_000_000_000_000 + i, "host": f"h{i}", "device": "gpu0", "xid": 79}) for i in range(first, first + count)
    ]


def test_a_dead_sink_pauses_the_source_and_loses_nothing(tmp_path):
    if find_home() is None:
        pytest.skip("a broker of KAFKA_BOOTSTRAP or Docker can't be put behind a proxy")
    proxy = Proxy()
    broker = Broker(tmp_path / "broker", advertised=[proxy.port])
    cluster = broker.start()
    proxy.start(broker.behind[0])
    topic = cluster.topic(partitions=2)
    limits = {"outbox_messages": LIMIT, "poll_bytes": 1 << 16, "idle_s": 1.0}
    service = Service(tmp_path, cluster, [{"name": topic, "stream": "hardware"}], detectors=QUIET, limits=limits)
    service.config["source"]["kafka"]["options"] |= {"fetch_max_bytes": 1 << 16, "max_partition_fetch_bytes": 1 << 15}
    service.config["sinks"]["out"]["bootstrap"] = f"127.0.0.1:{proxy.port}"
    try:
        service.start()
        proxy.set("cut")
        produce(cluster, topic, rows(0, ALERTS // 2))
        until(lambda: gauge(service, "telltale_paused"), "the pause", service)
        produce(cluster, topic, rows(ALERTS // 2, ALERTS // 2))
        until(lambda: gauge(service, "telltale_lag_records") > ALERTS // 2, "lag that grows while paused", service)
        held = gauge(service, "telltale_outbox_messages")
        assert LIMIT <= held < ALERTS // 2
        time.sleep(1)
        assert gauge(service, "telltale_outbox_messages") == held
        assert gauge(service, "telltale_outbox_bytes") > 0
        proxy.set("pass")
        got = until(lambda: len(a := alerts(cluster, service.alerts)) >= ALERTS and a, "all alerts", service)
        assert {a["labels"]["device"] for a in got.values()} == {f"h{i}/gpu0" for i in range(ALERTS)}
        until(lambda: not gauge(service, "telltale_lag_records") and not gauge(service, "telltale_paused"), "no lag", service)
        assert not gauge(service, "telltale_outbox_bytes")
        assert service.stop() == 0, service.said()
    finally:
        service.close()
        proxy.close()
        broker.stop()
