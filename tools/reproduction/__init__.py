"""Running the published rows, and saying how close a run came: what ``tools/reproduce.py`` does.

``cli`` is the command line. ``rows`` chooses rows by name and ``cost`` estimates their GPU-hours; ``data`` checks a
data root; ``steps`` says which commands train and evaluate a row, and ``run`` carries them out; ``smoke`` does so for a
few iterations on a demo data set (``smoke_data``); ``results`` is what a run leaves behind, and ``report`` compares it
with what was published: ``compare`` judges by ``spread``, ``curves`` reads the frameworks' metric files, ``page`` and
``markdown`` show it in the words of ``wording``. ``panoptic_coco`` and ``pascal_context`` prepare data for two of the
rows' data sets.
"""
