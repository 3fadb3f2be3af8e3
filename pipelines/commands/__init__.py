"""The commands of spin-pipe: each checks its options, calls its stage, and says what came of it."""
