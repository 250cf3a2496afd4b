"""It holds no tests, and needs Detectron2 to be imported."""

collect_ignore = ["helpers.py"]
