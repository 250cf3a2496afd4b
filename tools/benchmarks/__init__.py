"""Speed and memory side by side with the peers that are installed, in one run: what ``tools/benchmark.py`` does.

``cases.py`` says what is measured; ``peers.py`` builds the other networks; ``trunks.py`` and ``detectors.py`` make of a
case the contenders, each a function that runs once; ``measure.py`` runs them in turns, ``profiling.py`` says
where their time goes; ``report.py`` writes what came
out; ``cli.py`` is the command line.
"""
