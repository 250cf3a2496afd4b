"""The tables and drawings of the documentation, made from the records."""
