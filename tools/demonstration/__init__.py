"""The demonstration: a detector and a segmentor that ``make demo`` trains on a small dataset of digits."""
