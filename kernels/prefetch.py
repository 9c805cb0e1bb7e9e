"""A prefetch for Numba: memory that is needed soon is asked for while something else is computed."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

READ, INTO_L2, DATA = 0, 2, 1


@intrinsic
def prefetch(typing: Any, array: Any, index: Any):
    """prefetch(array, index): fetch the cache line of array[index] into the L2 cache; an index beyond the array does no harm.

    For contiguous arrays of one dimension. Source: LLVM Language Reference, llvm.prefetch.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        place = builder.bitcast(builder.gep(data, [arguments[1]]), cgutils.voidptr_t)
        word = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, word, word, word])
        function = builder.module.declare_intrinsic("llvm.prefetch", [cgutils.voidptr_t], kind)
        builder.call(function, [place, *(ir.Constant(word, value) for value in (READ, INTO_L2, DATA))])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate
