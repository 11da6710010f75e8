"""`python -m qpc_cli` is `qpc`."""

from qpc_cli.app import main

if __name__ == "__main__":
    main()
