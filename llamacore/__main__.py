"""`python -m llamacore` is the `llamacore` command."""

from llamacore.cli.app import main

main()
