"""What a data folder holds, and how good its fits are."""
