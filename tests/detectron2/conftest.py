"""These hold no tests, and need Detectron2 to be imported."""

collect_ignore = ["helpers.py", "distributed_worker.py"]
