#!/usr/bin/env python
"""Make the label maps and lists of PASCAL-Context with 59 classes from its published annotations.

python tools/prepare_pascal_context.py --data-root datasets
"""

from reproduction.pascal_context import main

if __name__ == "__main__":
    main()
