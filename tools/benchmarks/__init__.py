"""Speed and memory side by side with the peers that are installed: the code of ``tools/benchmark.py``.

``cases.py`` says what is measured; ``peers.py`` builds the other networks;
``trunks.py`` and ``detectors.py`` turn a case into contenders, functions that ``measure.py`` runs in turns;
``report.py`` writes the results. ``small_records.py`` belongs to ``tools/small_benchmark.py``.
"""
