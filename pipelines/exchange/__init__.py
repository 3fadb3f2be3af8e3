"""Fits and annotations out to other programs' files, and in from them."""
