"""``python -m hfplug``."""

from __future__ import annotations

import sys

from hfplug.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
