"""Fits over whole data sets, and what they need."""
