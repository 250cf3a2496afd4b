# What `make demo` trains: as on any CPU, with a seed.
_base_ = "paper_cpu.py"
randomness = dict(seed=1)
