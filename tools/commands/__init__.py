"""What ``demo.py``, ``infer_seg.py``, ``export.py`` and ``quantize.py`` do once their command line is parsed.

They import this late: PyTorch takes seconds, and ``--help`` and a mistyped option need none of it.
"""
