"""`python -m potstill` is the `potstill` command."""

from .cli import main

if __name__ == "__main__":
    main()
