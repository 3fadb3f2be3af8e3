"""Evaluation, piece by piece: what is true, what is measured, the numbers, the card that says how, the files."""
