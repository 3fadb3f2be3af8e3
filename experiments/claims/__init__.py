"""The paper's claim, that fits and network improve each other, arm by arm (docs/loop.md has the figures)."""
