"""textsketch: what texts look alike, from their bytes in one pass: a projection of their n-grams, a SimHash and a MinHash.

A text is read as bytes, ASCII letters in lower case, each run of ASCII blanks as one space, none at its ends. Its grams are
- characters: each 3, 4 and 5 consecutive bytes of " text " (so that the ends of words are seen), hence whatever the language
- words: each word and each pair of neighbouring words; a word is a run of ASCII letters, digits, and bytes of multi-byte characters
A gram's 64-bit hash is `mix` of its bytes, packed with their number in the top byte, or of what its words make.

- projection float32[n, d]: each occurrence of a gram adds +1 or -1 to one coordinate, both chosen by its hash; then divided by the
  Euclidean norm. The inner product of two rows estimates the cosine of the texts' gram counts, with standard deviation about 1/sqrt(d)
- simhash uint64[n]: 64 signs of a rotation of the projection (random signs, then Hadamard's transform); two texts differ in about
  64 angle / pi bits
- minhash uint64[n, k]: word grams fall into k classes by their hash; the least hash of each, NO_HASH for a class without any. Of classes
  that two texts do not both leave empty, the share with equal hashes estimates the Jaccard similarity of their sets of word grams. The
  MinHash of texts put together is the elementwise minimum. (One permutation: a gram costs one comparison, whatever k is.)

A text without grams, empty or null has projection 0, simhash 0 and only NO_HASH.

Weinberger et al. 2009, Feature Hashing (arXiv 0902.2206); Charikar 2002, Similarity Estimation (SimHash); Li, Owen and Zhang 2012, One
Permutation Hashing (arXiv 1208.1259).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["NO_HASH", "TextSketch", "textsketch"]

NO_HASH = np.uint64(2**64 - 1)


class TextSketch(NamedTuple):
    """Sketches of n texts; see the module. `minhash` has no columns where none were asked for."""

    projection: np.ndarray
    simhash: np.ndarray
    minhash: np.ndarray


def textsketch(data, offsets, *, dims: int = 256, hashes: int = 32, valid=None, first_bit: int = 0) -> TextSketch:
    """Sketch n texts, as they lie in an Arrow string array.

    data: uint8, the bytes of all texts; offsets: int32 or int64 [n + 1], ascending: text i is data[offsets[i]:offsets[i + 1]].
    dims: length of a projection, a power of two from 64 to 65,536; hashes: length of a MinHash, a power of two up to 1,024, 0 for none.
    valid: uint8 validity bitmap as Arrow has it, whose bit `first_bit` belongs to the first text.

    Raises ValueError for shapes or types that do not fit. The result of a text depends on its bytes only.

    >>> text = b"Reset the password of alice. " + b"reset  the password of bob." + b"An entirely other question"
    >>> sketch = textsketch(np.frombuffer(text, np.uint8), np.array([0, 29, 56, 82]))
    >>> near, far = (sketch.projection @ sketch.projection[0])[1:]
    >>> bool(near > 0.6 > 0.3 > far), [int(np.bitwise_count(sketch.simhash[0] ^ h)) < 20 for h in sketch.simhash]
    (True, [True, True, False])
    """
    if type(data).__module__.partition(".")[0] == "torch":
        from kernels.textsketch import gpu

        return gpu.textsketch(data, offsets, dims=dims, hashes=hashes, valid=valid, first_bit=first_bit)
    from kernels.textsketch import cpu

    check(dims, hashes)
    if data.dtype != np.uint8 or data.ndim != 1:
        raise ValueError(f"data must be uint8[bytes], not {data.dtype}{list(data.shape)}")
    if offsets.dtype not in (np.int32, np.int64) or offsets.ndim != 1 or not len(offsets):
        raise ValueError(f"offsets must be int32 or int64 [n + 1], not {offsets.dtype}{list(offsets.shape)}")
    if offsets[0] < 0 or offsets[-1] > len(data) or (np.diff(offsets) < 0).any():
        raise ValueError("offsets must ascend within data")
    n = len(offsets) - 1
    if valid is not None and (valid.dtype != np.uint8 or first_bit < 0 or 8 * len(valid) < first_bit + n):
        raise ValueError("valid must be uint8 with a bit for every text")
    out = TextSketch(np.zeros((n, dims), np.float32), np.zeros(n, np.uint64), np.full((n, hashes), NO_HASH))
    if n:
        cpu.sketch(data, offsets, np.zeros(0, np.uint8) if valid is None else valid, first_bit, cpu.tasks(offsets), *out)
    return out


def check(dims: int, hashes: int) -> None:
    """ValueError for a size of sketch that is not offered."""
    if not 64 <= dims <= 65536 or dims & (dims - 1):
        raise ValueError(f"dims must be a power of two from 64 to 65,536, not {dims}")
    if not 0 <= hashes <= 1024 or hashes & (hashes - 1):
        raise ValueError(f"hashes must be 0 or a power of two up to 1,024, not {hashes}")
