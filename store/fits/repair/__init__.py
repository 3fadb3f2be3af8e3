"""Damage to a store: finding it, repairing it from a copy, salvaging what reads."""
