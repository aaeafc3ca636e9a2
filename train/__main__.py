"""``python -m train``."""

import sys

from train.stop import end_at_signals

if __name__ == "__main__":
    end_at_signals()
    from train.train import main

    sys.exit(main())
