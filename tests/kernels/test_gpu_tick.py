"""The launches of a tick ask the device nothing, so that a CUDA graph can hold them, and give what the checked ops give."""

import importlib

import numpy as np
import pytest

from kernels import cardinality, mahalanobis, peers, profile, rff
from kernels.device import Device, tick
from kernels.edetector import PARTS, edetector
from kernels.evidence import bets_for, evidence
from kernels.textsketch import textsketch
from kernels.transitions import transitions
from tests.kernels.test_edetector import case
from tests.kernels.test_profile import sample
from tests.kernels.test_textsketch import ragged

pytestmark = [pytest.mark.gpu_code, pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")]
ASKS = (
    "_local_scalar_dense",
    "nonzero",
    "_unique2",
    "unique_consecutive",
    "unique_dim",
    "bincount",
    "masked_select",
    "lift_fresh",
    "equal",
)


class AskedError(AssertionError):
    """A launch looked at a value on the host, or brought one from there."""


@pytest.fixture
def unasked(monkeypatch):
    """A context in which whatever makes the host wait for the device raises AskedError; kernels themselves are left alone."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
    from triton.runtime import interpreter

    watching = [False]

    class Unasked(TorchDispatchMode):
        def __enter__(self):
            watching[0] = True
            return super().__enter__()

        def __exit__(self, *raised):
            watching[0] = False
            return super().__exit__(*raised)

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            name = func.overloadpacket.__name__
            by_mask = name in ("index", "index_put_") and any(a is not None and a.dtype == torch.bool for a in args[1])
            if name in ASKS or by_mask:
                raise AskedError(name)
            return func(*args, **(kwargs or {}))

    run = interpreter.GridExecutor.__call__

    def kernel(self, *arguments, **options):
        watched, watching[0] = watching[0], False
        with _disable_current_modes():
            run(self, *arguments, **options)
        watching[0] = watched

    def refused(method):
        def call(*arguments, **options):
            if watching[0]:
                raise AskedError(method)
            return method(*arguments, **options)

        return call

    monkeypatch.setattr(interpreter.GridExecutor, "__call__", kernel)
    for name in ("cpu", "numpy", "tolist"):
        monkeypatch.setattr(torch.Tensor, name, refused(getattr(torch.Tensor, name)))
    for name in ("from_numpy", "as_tensor", "tensor"):
        monkeypatch.setattr(torch, name, refused(getattr(torch, name)))
    return Unasked


def test_the_guard_sees_a_question(on_gpu, unasked):
    import torch

    x = torch.arange(3)
    for question in (
        lambda: x.max().item(), lambda: bool((x > 1).all()), lambda: int(x[0]), lambda: x[x > 1], x.nonzero, lambda: x.tolist(), lambda: x.cpu(),  # noqa: PLW0108
        lambda: torch.unique_consecutive(x), lambda: torch.tensor([1]), lambda: torch.bincount(x),
    ):  # fmt: skip
        with unasked(), pytest.raises(AskedError):
            question()


@pytest.mark.parametrize("n", [1, 6, 70])
def test_a_tick_of_launches_asks_nothing_and_gives_what_the_ops_give(on_gpu, unasked, n):
    import torch

    if torch.cuda.is_available():
        pytest.skip("on a GPU a graph itself refuses what this guard refuses")
    rng = np.random.default_rng(n)
    gpu = {
        name: importlib.import_module(f"kernels.{name}.gpu")
        for name in ("profile", "evidence", "mahalanobis", "peers", "rff", "cardinality")
    }
    rows, metrics = 9, 5
    columns = np.stack([sample(rng, n, np.float32) for _ in range(3)])
    edges, places = profile.quantile_edges(sample(rng, 500, np.float32)), np.arange(3, dtype=np.int32)
    slots, group = rng.integers(-1, rows, n).astype(np.int32), rng.integers(-1, 3, n).astype(np.int32)
    x, vectors = rng.normal(size=(n, metrics)), rng.normal(size=(n, 16)).astype(np.float32)
    vectors[::4, 0] = np.nan
    share, items, w = rng.random(n), rng.integers(0, 2**63, n).astype(np.uint64), rff.frequencies(16, 16, 4.0)

    def fresh():
        return (
            profile.empty(3), np.zeros((rows, 8)), mahalanobis.empty(rows, metrics, 4), rff.empty(rows, 16), np.zeros((rows, 64), np.uint8),
            np.zeros((rows, 2, 64), np.int32), np.zeros((rows, 8), np.uint64),
        )  # fmt: skip

    def moved(state):
        if isinstance(state, np.ndarray):
            return on_gpu(state)
        parts = [on_gpu(a) for a in state]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)

    there = [moved(state) for state in fresh()]
    on = {name: on_gpu(a) for name, a in {"columns": columns, "places": places, "slots": slots, "group": group, "x": x, "v": vectors,
                                          "share": share, "items": items}.items()}  # fmt: skip
    settings = gpu["evidence"].prepare(0.5, bets_for(0.5), None, "cusum", 1e15, there[1])
    rule, spread = gpu["mahalanobis"].prepare(mahalanobis.Rule(), on["x"].device), gpu["peers"].prepare(torch.zeros(metrics).double())
    table = gpu["rff"].halves(on_gpu(w))
    gpu["profile"].tables_on(edges, on["columns"].dtype, on["columns"].device)
    said = []

    def sequence():
        gpu["profile"].launch(on["columns"], on["places"], edges, there[0])
        scores = gpu["mahalanobis"].launch(on["x"], on["slots"], there[2], rule, 1, 100, 3, False)
        odd = gpu["peers"].launch(on["x"], on["group"], 3, spread)
        e = gpu["evidence"].launch(on["share"], on["slots"], there[1], *settings)
        gpu["rff"].launch(on["v"], on["slots"], table, *there[3])
        gpu["cardinality"].add_distinct(on["items"], on["slots"], there[4])
        gpu["cardinality"].add_counts(on["items"], on["slots"], there[5], None)
        gpu["cardinality"].add_members(on["items"], on["slots"], there[6], 4)
        said.append((*scores[:3], *odd, e))

    again = tick(Device("cpu", "cpu"), sequence)
    want = fresh()
    for _ in range(2):
        with unasked():
            again()
        profile.profile(columns, places, edges, want[0])
        scores = mahalanobis.mahalanobis(x, slots, want[2], warmup=1, learning_ticks=100, every=3)
        odd = peers.peers(x, group, 3)
        _, e = evidence(share, slots, 0.5, bets_for(0.5), want[1], kind="cusum")
        rff.rff(vectors, slots, w, *want[3])
        cardinality.add_distinct(items, slots, want[4])
        cardinality.add_counts(items, slots, want[5])
        cardinality.add_members(items, slots, want[6])
    for got, expected in zip(said[-1], (*scores[:3], *odd, e), strict=True):
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-6, atol=1e-8)
    for got, expected in zip(there, want, strict=True):
        for a, b in zip(got if isinstance(got, tuple) else [got], expected if isinstance(expected, tuple) else [expected], strict=True):
            close = 2 * max(2, n) if expected is want[3] else 1e-8  # a rounding to 1 / SCALE may fall the other way
            np.testing.assert_allclose(a.numpy().view(b.dtype), b, rtol=1e-6, atol=close)


@pytest.mark.parametrize("n", [1, 70])
def test_launches_on_texts_tokens_and_steps_ask_nothing_either(on_gpu, unasked, n):
    import torch

    if torch.cuda.is_available():
        pytest.skip("on a GPU a graph itself refuses what this guard refuses")
    rng = np.random.default_rng(n)
    gpu = {name: importlib.import_module(f"kernels.{name}.gpu") for name in ("textsketch", "transitions", "edetector")}
    data, offsets = ragged([rng.integers(32, 123, k, np.uint8).tobytes() for k in rng.integers(0, 12, n)])
    valid = rng.integers(0, 256, n // 8 + 1, np.uint8)
    tokens, slots = rng.integers(1, 6, n).astype(np.uint64), rng.integers(-1, 4, n).astype(np.int32)
    groups, steps = rng.integers(0, 2, n).astype(np.int32), case(n, n)
    rows = [on_gpu(steps[name]) for name in ("successes", "totals", "spend", "time_us", "slots")]
    bets = [steps[name] for name in ("null", "alternative", "power", "weights")]
    contexts, counts, state = np.zeros((4, 2), np.uint64), np.zeros((2, 64), np.int32), np.zeros((5, PARTS, 6))
    there = [on_gpu(a) for a in (data, offsets, valid, tokens, slots, groups, contexts, counts, state)]
    table, scale = gpu["textsketch"].table_on("cpu"), gpu["transitions"].prepare(1000.0, 2.0, "cpu")
    tables = gpu["edetector"].prepare(*bets, there[-1])
    said = []

    def sequence():
        said.append(gpu["textsketch"].launch(there[0], there[1], table, 64, 4, there[2], 0))
        said.append([gpu["transitions"].launch(*there[3:5], there[6], there[7], there[5], scale, learn) for learn in (False, True)])
        said.append(gpu["edetector"].launch(*rows, there[-1], *tables))

    for _ in range(2):
        said.clear()
        with unasked():
            tick(Device("cpu", "cpu"), sequence)()
        texts = textsketch(data, offsets, dims=64, hashes=4, valid=valid)
        bits = [transitions(tokens, slots, contexts, counts, groups=groups, learn=learn)[2] for learn in (False, True)]
        found = edetector(**steps, state=state)[1]
        for got, expected in zip(said, (texts, bits, found), strict=True):
            for a, b in zip(got, expected, strict=True):
                np.testing.assert_allclose(a.numpy().view(b.dtype), b, rtol=1e-6, atol=1e-8)
    for got, expected in zip(there[6:], (contexts, counts, state), strict=True):
        np.testing.assert_allclose(got.numpy().view(expected.dtype), expected, rtol=1e-6)
