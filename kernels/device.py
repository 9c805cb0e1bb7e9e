"""Where the kernels run, and how arrays get there: chosen once, copied without waiting, replayed without launch costs.

Importing this module does not import torch; choosing "cpu" never does.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np

log = logging.getLogger(__name__)

Wanted = Literal["auto", "cuda", "cpu"]
INSTALL = "install the GPU extra (pip install 'telltale-engine[gpu]') on a machine with an NVIDIA driver, or set device to cpu"


class DeviceError(RuntimeError):
    """The device that was asked for explicitly is not there; the message says what is missing."""


@dataclass(frozen=True)
class Device:
    """`kind` is "cpu" or "cuda"; `name` is what to show: the GPU's name and architecture, or "cpu"."""

    kind: Literal["cpu", "cuda"]
    name: str


class Column(NamedTuple):
    """A primitive Arrow array as NumPy sees it, without a copy: values, validity bitmap (None: no nulls) and the bitmap's first bit."""

    values: np.ndarray
    valid: np.ndarray | None
    first_bit: int


def choose(wanted: Wanted) -> Device:
    """The device to use, logged; call it once at the start. "auto" takes CUDA where torch, Triton and a GPU are there.

    Raises DeviceError when "cuda" was asked for and is not there, ValueError for any other word.

    >>> choose("cpu")
    Device(kind='cpu', name='cpu')
    """
    if wanted not in ("auto", "cuda", "cpu"):
        raise ValueError(f"device must be auto, cuda or cpu, not {wanted!r}")
    missing = None if wanted == "cpu" else cuda_missing()
    if wanted == "cuda" and missing:
        raise DeviceError(f"device cuda: {missing}; {INSTALL}")
    if wanted == "cpu" or missing:
        device = Device("cpu", "cpu")
    else:
        torch = importlib.import_module("torch")
        major, minor = torch.cuda.get_device_capability()
        device = Device("cuda", f"{torch.cuda.get_device_name()} (sm_{major}{minor})")
    log.info("kernels run on %s%s", device.name, f" ({missing})" if missing else "")
    return device


def cuda_missing() -> str | None:
    """What keeps CUDA from being used, or None."""
    for name in ("torch", "triton"):
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            return f"{error.name} is not installed"
        if name == "torch" and not module.cuda.is_available():
            return "torch sees no CUDA device"
    return None


def column(array: Any) -> Column:
    """A primitive pyarrow.Array (numbers; not booleans, which are bits) as NumPy, sharing its memory.

    Raises TypeError for other types and for a ChunkedArray of several chunks (combine them first).

    >>> import pyarrow as pa
    >>> column(pa.array([1.5, None, 3.0])[1:]).values.tolist()[1]
    3.0
    """
    if hasattr(array, "chunks"):
        if array.num_chunks != 1:
            raise TypeError(f"a column of {array.num_chunks} chunks is not one run of memory: combine them first")
        array = array.chunk(0)
    try:
        dtype = np.dtype(array.type.to_pandas_dtype())
        primitive = array.type.bit_width == 8 * dtype.itemsize and dtype.kind in "iuf"
    except (NotImplementedError, ValueError, TypeError):
        primitive = False
    if not primitive:
        raise TypeError(f"a column of {array.type} is not an array of numbers")
    bitmap, data = array.buffers()[:2]
    if data is None:
        return Column(np.empty(0, dtype), None, 0)
    values = np.frombuffer(data, dtype, count=array.offset + len(array))[array.offset :]
    valid = np.frombuffer(bitmap, np.uint8) if bitmap is not None and array.null_count else None
    return Column(values, valid, array.offset)


class Upload:
    """Copies of host arrays on a device, overlapping with compute: while one batch is computed, the next one travels.

    On the CPU a copy is the array itself, as a tensor. On CUDA each name has two pinned buffers and two device buffers that grow
    as needed; copies run on a stream of their own. What `send` returned may be used until the next but one `send`.
    """

    def __init__(self, device: Device):
        self.torch = importlib.import_module("torch")
        self.device = device
        self.turn = 0
        self.pinned: dict[tuple[str, int], Any] = {}
        self.there: dict[tuple[str, int], Any] = {}
        self.computed: list[Any] = [None, None]
        self.stream = self.torch.cuda.Stream() if device.kind == "cuda" else None

    def send(self, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The arrays as tensors on the device, in order with what the current stream does after this call."""
        if self.device.kind == "cpu":
            return {name: tensor_of(self.torch, array) for name, array in arrays.items()}
        torch, turn = self.torch, self.turn
        compute = torch.cuda.current_stream()
        # 1. This turn's buffers were last read by the compute queued before the previous send: wait for that, not for the latest.
        if self.computed[turn] is not None:
            self.computed[turn].synchronize()
        # 2. What is queued by now reads the other turn's buffers.
        self.computed[1 - turn] = compute.record_event()
        out = {}
        with torch.cuda.stream(self.stream):
            for name, array in arrays.items():
                source = tensor_of(torch, np.ascontiguousarray(array))
                pinned, there = self._buffers(name, turn, source)
                pinned[: source.numel()].copy_(source.view(-1))
                there[: source.numel()].copy_(pinned[: source.numel()], non_blocking=True)
                out[name] = there[: source.numel()].view(source.shape)
        # 3. Compute queued from now on starts when the copies are there.
        compute.wait_stream(self.stream)
        self.turn = 1 - turn
        return out

    def _buffers(self, name: str, turn: int, source: Any) -> tuple[Any, Any]:
        key = (name, turn)
        held = self.pinned.get(key)
        if held is None or held.numel() < source.numel() or held.dtype != source.dtype:
            size = max(1, source.numel() + source.numel() // 4)
            self.pinned[key] = self.torch.empty(size, dtype=source.dtype, pin_memory=True)
            self.there[key] = self.torch.empty(size, dtype=source.dtype, device="cuda")
        return self.pinned[key], self.there[key]


def tensor_of(torch: ModuleType, array: np.ndarray) -> Any:
    """A CPU tensor sharing the array's memory; uint64 becomes int64 of the same bits, since few torch operators know uint64."""
    array = array.view(np.int64) if array.dtype == np.uint64 else array
    with warnings.catch_warnings():
        # torch warns of arrays that are read-only, as Arrow's are; kernels never write to their inputs
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(array)


def tick(device: Device, sequence: Callable[[], Any]) -> Callable[[], Any]:
    """A sequence of kernel launches to repeat: on CUDA captured once as a graph and replayed, so that a tick costs one launch.

    The sequence must work in place on tensors that stay where they are, and not look at values on the host: an op's own call checks its
    arguments there, so call `launch` of its `gpu` module, or a verb of `cardinality.gpu`, on arguments that were checked once. All shapes
    are static: fill up the rows that a tick has not with slot -1. What the ops allocate comes from the graph's own memory, when it is
    captured and not at a tick. neighbors alone has no `launch` and stays outside: only its values say how many candidates must be measured
    or sought again. The sequence runs once here, to compile its kernels, before it is captured: reset the state afterwards. On the CPU it
    is returned as it is, not run.
    """
    if device.kind == "cpu":
        return sequence
    torch = importlib.import_module("torch")
    warm = torch.cuda.Stream()
    warm.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warm):
        sequence()
    torch.cuda.current_stream().wait_stream(warm)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        sequence()
    replay: Callable[[], Any] = graph.replay
    return replay
