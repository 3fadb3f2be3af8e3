"""Levenberg-Marquardt as machine code for the CPU: one sample at a time, so that a fit never depends on its neighbours.

Numba compiles these functions on first use and keeps the result on disk. The algebra is that of `spin.body.compact` and
`spin.fitting.levenberg_marquardt`, which run on any device; what is different is what is left out: points that no view sees,
joints that move no seen point, iterations after convergence.

Read in this order: `tables` (the numbers a sample is computed from), `body` (points and their derivatives), `objective`
(cost, gradient, curvature), `cholesky`, `solve` (the iteration, and the call from outside).
"""
