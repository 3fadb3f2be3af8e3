"""Experiments on the method itself: hours long, run by people, read by no other part."""
