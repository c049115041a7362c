"""``python -m recast_gen``: the `recast` command."""

from .cli import main

if __name__ == "__main__":
    main()
