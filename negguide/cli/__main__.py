"""`python -m negguide.cli` is the command `negguide`."""

from negguide.cli import main

if __name__ == "__main__":
    main()
