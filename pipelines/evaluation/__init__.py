"""Evaluation, piece by piece: the truth, the measured bodies, the numbers, the protocol card, the files."""
