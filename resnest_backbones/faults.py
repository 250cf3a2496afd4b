"""The former place of ``check_finite`` and ``DivergedError`` of ``resnest_backbones.errors``."""

from resnest_backbones.errors import DivergedError as DivergedError
from resnest_backbones.errors import check_finite as check_finite
