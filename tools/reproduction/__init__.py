"""Running the published recipes, and saying how close a run came: what ``tools/reproduce.py`` does.

``listing``, ``data``, ``run`` and ``report`` are its commands. ``commands`` says what trains and evaluates a recipe;
``metrics`` reads what the frameworks wrote; ``compare`` holds it to what was published. ``panoptic_coco`` and
``pascal_context`` prepare two of the datasets.
"""
