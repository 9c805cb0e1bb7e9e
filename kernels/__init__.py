"""Maths on arrays: each op folds rows into state, on the CPU by Numba and on a GPU by Triton, with the same signature."""
