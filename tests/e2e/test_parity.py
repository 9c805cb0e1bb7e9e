"""The same rows through Kafka, over several partitions, and through a backtest give the same alerts."""

import pytest

from benchmarks.parity import compare

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]


def test_kafka_and_backtest_agree(tmp_path, kafka):
    said = compare(tmp_path, 30_000, 3)
    assert said["alerts"], "the rows are made to drift"
    assert (said["only_kafka"], said["only_backtest"], said["exit_code"]) == ([], [], 0)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_million_rows_agree(tmp_path, kafka):
    said = compare(tmp_path, 1_000_000, 4)
    assert (said["only_kafka"], said["only_backtest"], said["exit_code"]) == ([], [], 0)
