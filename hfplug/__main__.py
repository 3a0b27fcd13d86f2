"""``python -m hfplug COMMAND …``, as ``accelerate launch -m hfplug`` and ``torchrun -m hfplug`` start it."""

from __future__ import annotations

import sys

from hfplug.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
