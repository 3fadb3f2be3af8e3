"""Metrics and the protocols that say how they were measured."""
