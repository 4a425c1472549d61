"""Every test runs offline and quietly."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tiny models are faster on one thread, and two test processes then do not fight over two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
