"""The short form of the chaos suite: three members that share one population, then one alone."""

import random
import socket
import threading

import pytest

from engine.config import Config
from tests.e2e.chaos import workload
from tests.e2e.chaos.faults import FAULTS, skewed
from tests.e2e.chaos.group import Group
from tests.e2e.chaos.proxy import Proxy
from tests.e2e.chaos.reference import Reference, Seen
from tests.e2e.chaos.run import HEADER, small_disk, strike
from tests.support.kafka_home import find_home


def states(cut: int, rewrite=None):
    """What an undisturbed engine makes of the workload, cut into batches of that many records."""
    reference = Reference(Config(detectors=workload.DETECTORS), {"hardware": "h", "inference": "i"}, 4)
    for number in range(3):
        records = workload.segment(3, number, 4)
        records = rewrite(records, random.Random(number)) if rewrite else records
        for first in range(0, len(records), cut):
            reference.feed(records[first : first + cut])
    return reference.states()


@pytest.mark.parametrize("rewrite", [None, skewed])
def test_the_undisturbed_run_is_the_same_for_every_cut(rewrite):
    whole = states(100_000, rewrite=rewrite)
    assert len(whole) > 80
    assert states(61, rewrite=rewrite) == whole


def test_a_lost_and_a_repeated_version_are_seen():
    seen = Seen()
    version = {"id": "a", "sequence": 0, "detector": "rules", "key": "k", "status": "firing", "resolved_us": None}
    for one in (version, version, version | {"sequence": 5, "status": "resolved", "resolved_us": 7}, version):
        seen.take(one)
    assert (seen.states(), seen.duplicated) == ({"a": ("resolved", 7)}, 2)


@pytest.mark.kafka
@pytest.mark.timeout(400)
@pytest.mark.parametrize("members", [3, 1])
def test_no_fault_loses_or_invents_an_alert(members, tmp_path, capsys):
    if find_home() is None:
        pytest.skip("the broker of KAFKA_BOOTSTRAP or Docker can't be crashed, nor put behind proxies")
    seed = random.SystemRandom().randrange(1 << 31)
    with small_disk(tmp_path / "checkpoints") as disk:
        group = Group(tmp_path, members, seed, checkpoints=disk)
        try:
            group.start()
            with capsys.disabled():
                print(f"\nseed {seed}\n{HEADER}")
            for fault in (f for f in FAULTS if f.short == members):
                outcome = strike(group, fault, flow_s=2.5)
                with capsys.disabled():
                    print(outcome)
                assert outcome.passed, "\n".join([*outcome.lost, *outcome.invented, *(m.said() for m in group.members)])
        finally:
            group.close()


def test_a_proxy_passes_cuts_and_stalls():
    echo = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        far, _ = echo.accept()
        while data := far.recv(100):
            far.sendall(data)
        far.close()

    threading.Thread(target=serve, daemon=True).start()
    proxy = Proxy().start(echo.getsockname()[1])
    try:
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=0.5) as near:
            near.sendall(b"a")
            assert near.recv(1) == b"a"
            proxy.set("stall")
            near.sendall(b"b")
            with pytest.raises(TimeoutError):
                near.recv(1)
            proxy.set("pass")
            assert near.recv(1) == b"b"
            proxy.set("cut")
            assert near.recv(1) == b""
    finally:
        proxy.close()
        echo.close()
