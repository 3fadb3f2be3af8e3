"""`python -m experiments.claims`: run the arms (see `experiments.claims.run`)."""

from experiments.claims.run import main

if __name__ == "__main__":
    main()
