"""Surprisal by dictionaries of tuples and a regular expression: no hashing, no table."""

import math
import re
from collections import Counter

WORD = re.compile(rb"[A-Za-z\x80-\xff]+|[0-9]+|[^A-Za-z0-9\x80-\xff \t\n\v\f\r]")
ORDERS, ALPHABET, PRIOR = (4, 2, 3), (256, 20_000, 1_000), 2.0


def sequences(text, common):
    words = WORD.findall(text)
    return [list(text), [lowered(w) for w in words], [shape(w, common) for w in words]]


def lowered(word):
    return bytes(b + 32 if 65 <= b <= 90 else b for b in word)


def shape(word, common):
    if lowered(word) in common:
        return lowered(word)
    if word[:1].isdigit():
        return ("digits", min(len(word), 5))
    if not (word[:1].isalpha() or word[0] >= 128):
        return ("symbol", word)
    uppers = sum(65 <= b <= 90 for b in word)
    kind = 2 if uppers == len(word) > 1 else int(65 <= word[0] <= 90)
    return ("letters", kind, tuple(b | 32 for b in word[-2:]))


class Model:
    def __init__(self):
        self.grams = [Counter() for _ in range(3)]
        self.totals = [0, 0, 0]

    def count(self, text, common, sign=1, totals=True):
        for m, symbols in enumerate(sequences(text, common)):
            padded = ["start", *symbols]
            for i in range(len(padded)):
                for k in range(1, min(ORDERS[m], i + 1) + 1):
                    self.grams[m][tuple(padded[i - k + 1 : i + 1])] += sign
            if totals:
                self.totals[m] += sign * len(symbols)

    def bits(self, text, common):
        out = []
        for m, symbols in enumerate(sequences(text, common)):
            padded, total = ["start", *symbols], 0.0
            for i in range(1, len(padded)):
                p = 1 / ALPHABET[m]
                for k in range(1, min(ORDERS[m], i + 1) + 1):
                    gram = tuple(padded[i - k + 1 : i + 1])
                    seen = self.grams[m][gram[:-1]] if k > 1 else self.totals[m]
                    if seen <= 0:
                        break
                    p = (min(self.grams[m][gram], seen) + PRIOR * p) / (seen + PRIOR)
                total -= math.log2(p)
            out.append(total / max(1, len(symbols)))
        return out
