"""The BLAS back end of llamacore: a loadable module in `lib/`, described by `companion.json`.

There is nothing to import here. llamacore finds this package by its name and loads the module from it.
"""
