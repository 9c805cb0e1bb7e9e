"""kafka-python's group membership, mended for one consumer where it stops a busy member.

The client joins a group in its own thread, and forgets the answer when that comes while nobody waits in `poll`: the next `poll` joins
again. A member that works between polls then joins for ever, and makes the others join again each time. Here the answer is kept until
`poll` takes it, and heartbeats go on meanwhile. While a cooperative group rebalances, the client gives no records of the partitions
that stay; here they are fetched all the same.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import Any

import kafka
from kafka import errors as kafka_errors
from kafka.coordinator.assignors.abstract import RebalanceProtocol
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from kafka.structs import MemberState

log = logging.getLogger(__name__)

TESTED = ("3.0.12",)
ASSIGNORS = {a.name: a for a in (RangePartitionAssignor, RoundRobinPartitionAssignor, StickyPartitionAssignor, CooperativeStickyAssignor)}
GONE = (kafka_errors.UnknownMemberIdError, kafka_errors.IllegalGenerationError, kafka_errors.FencedInstanceIdError)


def assignors(names: Any) -> Any:
    """The client's classes for names such as `cooperative-sticky` (one, or several in order of preference). A consumer makes its own
    instances of them: shared ones would mix up their members. Raises ValueError for a name that there is not."""
    wanted = [names] if isinstance(names, str) else list(names)
    if unknown := [n for n in wanted if isinstance(n, str) and n not in ASSIGNORS]:
        raise ValueError(f"partition_assignment_strategy: there is no {unknown[0]!r}; there are {', '.join(sorted(ASSIGNORS))}")
    return [ASSIGNORS[n] if isinstance(n, str) else n for n in wanted]


class Membership:
    """One consumer's place in its group. Changes nothing in a kafka-python that it was not tested with, and says so."""

    def __init__(self, consumer: Any):
        self._fetcher, self._coordinator = consumer._fetcher, consumer._coordinator
        self._held: tuple[Any, bytes] | None = None
        self._session_s = consumer.config["session_timeout_ms"] / 1000
        self._alive_at = 0.0
        self.fenced = False
        """Whether another process took our `group_instance_id`."""
        self.cooperative = self._coordinator._rebalance_protocol is RebalanceProtocol.COOPERATIVE
        self.mended = kafka.__version__ in TESTED
        if not self.mended:
            log.warning("kafka-python %s is not one that group membership was tested with (%s)", kafka.__version__, ", ".join(TESTED))
            return
        self._join, self._beat = self._coordinator._do_join_and_sync_async, self._coordinator._send_heartbeat_request
        self._complete = self._coordinator._on_join_complete_async
        self._coordinator._do_join_and_sync_async, self._coordinator._on_join_complete_async = self._joined, self._taken
        self._coordinator._send_heartbeat_request = self._beaten

    @property
    def joining(self) -> bool:
        """Whether a join is on its way."""
        return self._coordinator._join_task is not None

    @property
    def lapsed(self) -> bool:
        """Whether the broker may hold us for dead: we are no member, or a session has passed since we sent the last heartbeat that it
        took. A process that was stopped and goes on finds this so before it hears from the broker."""
        silent = self.mended and time.monotonic() - self._alive_at > self._session_s
        return silent or self._coordinator._generation.is_lost()

    def confirm(self) -> bool:
        """Ask the broker whether we are a member of the present generation. Raises the client's error when it does not answer."""
        try:
            self._coordinator._net.run(self._coordinator._send_heartbeat_request)
        except kafka_errors.RebalanceInProgressError:
            return True  # a member; its partitions are not given away before it has been asked for them
        except GONE:
            return False
        return True

    def records_meanwhile(self, limit: int, timeout_ms: int) -> dict[Any, list[Any]]:
        """Records of the partitions that stay ours while a cooperative group rebalances."""
        return self._fetcher.fetch_records(limit, timeout_ms=timeout_ms)[0]

    async def _joined(self) -> bytes:
        """One attempt to join; or the answer to the last one, when nobody took it and it still holds."""
        held, self._held = self._held, None
        if held is not None and held[0] is self._coordinator._generation and not held[0].is_lost():
            return held[1]
        assignment = await self._join()
        with self._coordinator._lock:
            self._held = self._coordinator._generation, assignment
            self._coordinator.state = MemberState.STABLE
            self._coordinator._enable_heartbeat()
        with suppress(kafka_errors.RebalanceInProgressError):
            await self._coordinator._send_heartbeat_request()  # the join's answer may be old: this process may have been stopped
        return assignment

    async def _taken(self, *answer: Any) -> None:
        """`poll` has taken the answer: the next join is a new one."""
        self._held = None
        await self._complete(*answer)

    async def _beaten(self) -> None:
        """One heartbeat; remembers when one was sent that found us a member."""
        sent = time.monotonic()
        try:
            await self._beat()
        except kafka_errors.RebalanceInProgressError:
            self._alive_at = sent
            raise
        except kafka_errors.FencedInstanceIdError:
            self.fenced = True
            raise
        self._alive_at = sent
