"""MPI-INF-3DHP: training recordings, published fits, and the evaluation set."""
