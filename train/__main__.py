"""``python -m train``."""

import sys

from train.train import main

if __name__ == "__main__":
    sys.exit(main())
