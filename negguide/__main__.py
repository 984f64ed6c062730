"""`python -m negguide`, the same as the command `negguide`; the form that `accelerate launch -m` wants."""

from negguide.cli import main

if __name__ == "__main__":
    main()
