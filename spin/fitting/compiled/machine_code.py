"""How the functions of this package are compiled."""

from __future__ import annotations

from numba import njit

# Sums may be reordered and products fused; not-a-number and infinity keep their meaning.
FAST = {"contract", "reassoc", "nsz", "arcp"}
# Division by zero gives infinity, as in arrays: a depth of zero makes a cost that is rejected, not an exception.
machine_code = njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
