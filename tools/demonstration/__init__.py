"""The demonstration that `make demo` runs, on a small data set of digits that needs no download."""
