"""For all tests."""

import os

# Before torch is imported, here and in every process that a test starts: two workers of pytest-xdist, or a test and its
# subprocess, with a thread for each core would spend their time waiting for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
