"""`python -m nullspace_cli` and the `vitnull` script."""

from nullspace_cli.commands.app import main

if __name__ == "__main__":
    main()
