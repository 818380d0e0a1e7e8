"""The scripts that make the bundled model from nothing; they are not part of the installed package."""
