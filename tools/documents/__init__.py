"""The tables of the documentation, made from the records."""
