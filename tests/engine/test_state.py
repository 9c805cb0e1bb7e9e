"""Key tables and state: growth, reuse, bounds, and that what alarms is never evicted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.state import NEVER, ArraySpec, State


def test_arrays_grow_with_their_tables_and_keep_their_contents():
    state = State()
    state.declare([ArraySpec("sum", "float64", ("device", 3), fill=-1), ArraySpec("cov", "float64", ("device", "metric", "metric"))])
    slots = state.slots("device", [f"d{i}" for i in range(5)], now_us=1)
    state.slots("metric", ["a", "b"], now_us=1)
    state["sum"][slots] = np.arange(5)[:, None]
    state["cov"][4, 1, 0] = 7
    state.slots("device", [f"e{i}" for i in range(100)], now_us=2)
    state.slots("metric", ["c"], now_us=2)
    assert state["sum"].shape[0] >= 105
    assert state["sum"][:5, 0].tolist() == [0, 1, 2, 3, 4]
    assert (state["sum"][5:105] == -1).all()
    assert state["cov"].shape[1:] == (3, 3)
    assert state["cov"][4, 1, 0] == 7


def test_full_table_gives_up_the_oldest_and_resets_their_rows():
    state = State({"default": 32})
    state.declare([ArraySpec("n", "int64", ("principal",))])
    state.slots("principal", [f"old{i}" for i in range(32)], now_us=1)
    state["n"][:] = 5
    slot = state.slots("principal", ["new"], now_us=2)[0]
    assert state["n"][slot] == 0
    assert state.table("principal").evicted == 2
    assert "old0" not in state.table("principal").index


def test_a_flood_evicts_nothing_that_alarms():
    state = State({"default": 64})
    state.declare([ArraySpec("n", "int64", ("principal",))])
    attackers = [f"attacker{i}" for i in range(8)]
    slots = state.slots("principal", attackers, now_us=0)
    state["n"][slots] = 99
    state.protected.update(attackers)
    for i in range(5000):
        state.slots("principal", [f"flood{i}"], now_us=1 + i)
    assert state.slots("principal", attackers, now_us=9999).tolist() == slots.tolist()
    assert (state["n"][slots] == 99).all()
    assert len(state.table("principal")) <= 64


def test_a_table_full_of_alarms_refuses_and_counts():
    state = State({"default": 4})
    state.protected.update("abcd")
    state.slots("principal", list("abcd"), now_us=0)
    assert state.slots("principal", ["e"], now_us=1).tolist() == [-1]
    assert state.table("principal").refused == 1


@given(st.lists(st.lists(st.sampled_from("abcdefghijkl"), max_size=6), max_size=20))
def test_slots_and_keys_stay_each_others_inverse(batches):
    state = State({"default": 8})
    state.declare([ArraySpec("n", "int64", ("k",))])
    for now, keys in enumerate(batches):
        slots = state.slots("k", keys, now)
        table = state.table("k")
        for key, slot in zip(keys, slots.tolist(), strict=True):
            if slot >= 0:
                assert table.keys[slot] == key
        assert {table.keys[s]: s for s in table.index.values()} == table.index
        assert sorted([*table.index.values(), *table.free]) == list(range(len(table.keys)))
        assert all(table.last_us[s] == NEVER for s in table.free)


def test_release_resets_every_array_of_the_table():
    state = State()
    state.declare([ArraySpec("a", "int64", ("k",), 3), ArraySpec("b", "float32", (2, "k"), 0)])
    slot = int(state.slots("k", ["x"], 1)[0])
    state["a"][slot], state["b"][:, slot] = 8, 8
    state.release("k", [slot])
    assert state["a"][slot] == 3
    assert state["b"][:, slot].tolist() == [0, 0]
    with pytest.raises(KeyError):
        state.release("k", [slot])
