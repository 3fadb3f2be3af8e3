"""A Cholesky factorisation for matrices of this size (85), which stay in the first-level cache."""

from __future__ import annotations

import numpy as np

from spin.fitting.compiled.machine_code import machine_code
from spin.fitting.compiled.tables import PARAMETERS, STRIDE


@machine_code
def factorise(a: np.ndarray) -> bool:
    """The upper U with UᵀU = A, in place; True if A is positive definite. Entries below the diagonal have no meaning.

    Four rows are eliminated at a time, so that each element of the rest is read and written once for four products.
    Rows begin at a multiple of eight and end at the stride: whole vectors, nothing left over.
    """
    for k in range(0, PARAMETERS - 1, 4):
        for r in range(k, k + 4):
            pivot = a[r, r]
            if not pivot > 0:
                return False
            inverse = a.dtype.type(1) / np.sqrt(pivot)
            for j in range(r & ~7, STRIDE):
                a[r, j] *= inverse
            for i in range(r + 1, k + 4):
                f = a[r, i]
                for j in range(i & ~7, STRIDE):
                    a[i, j] -= f * a[r, j]
        for i in range(k + 4, PARAMETERS):
            f0, f1, f2, f3 = a[k, i], a[k + 1, i], a[k + 2, i], a[k + 3, i]
            for j in range(i & ~7, STRIDE):
                a[i, j] -= f0 * a[k, j] + f1 * a[k + 1, j] + f2 * a[k + 2, j] + f3 * a[k + 3, j]
    last = PARAMETERS - 1
    if not a[last, last] > 0:
        return False
    a[last, last] = np.sqrt(a[last, last])
    return True


@machine_code
def solve_factorised(u: np.ndarray, b: np.ndarray, x: np.ndarray) -> None:
    """x with UᵀU x = b."""
    for i in range(PARAMETERS):
        x[i] = b[i]
    for i in range(PARAMETERS):
        value = x[i] / u[i, i]
        x[i] = value
        for j in range(i + 1, PARAMETERS):
            x[j] -= value * u[i, j]
    for i in range(PARAMETERS - 1, -1, -1):
        total = x[i]
        for j in range(i + 1, PARAMETERS):
            total -= u[i, j] * x[j]
        x[i] = total / u[i, i]
