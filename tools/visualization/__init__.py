"""Pictures of what a model does: what ``tools/visualize.py`` draws.

``detection.py`` and ``segmentation.py`` draw truth, predictions, false positives and misses side by side; ``curves.py``
draws precision over recall and the confusion of classes; ``attention.py`` the weights that split attention gives;
``page.py`` puts all into one HTML file; ``cli.py`` is the command line.
"""
