"""SPIN's training loop on Ray Train."""
