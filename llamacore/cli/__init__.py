"""The `llamacore` command: one file per subcommand, on the public SDK only."""
