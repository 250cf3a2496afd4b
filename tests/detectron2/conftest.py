"""The helpers hold no tests, and need Detectron2 to be imported; small data are shared."""

import pytest

collect_ignore = ["helpers.py", "trainings.py"]


@pytest.fixture(scope="session")
def bccd(shared, tmp_path_factory) -> list:
    """Of the blood-cell set (boxes)."""
    from tests.detectron2.trainings import custom_data

    return custom_data(shared / "data" / "bccd", tmp_path_factory.mktemp("bccd"), images="images")


@pytest.fixture(scope="session")
def coco_mini(shared, tmp_path_factory) -> list:
    """Of COCO (boxes and masks, 80 classes)."""
    from tests.detectron2.trainings import custom_data

    return custom_data(shared / "data" / "coco_mini", tmp_path_factory.mktemp("coco"), year="2017")
