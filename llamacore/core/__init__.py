"""Owned native objects, one C concept a file."""
