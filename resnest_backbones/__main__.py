"""``python -m resnest_backbones``."""

from resnest_backbones.cli import main

if __name__ == "__main__":
    main()
