"""What all tests share. Threads: small models are fastest on one, and tests must not fight over the cores."""

import os

from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# A machine that does other work, too, is slow at times, which says nothing of the code.
settings.register_profile("entail", deadline=None)
settings.load_profile("entail")
