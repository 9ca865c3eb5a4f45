"""Training itself: `python -m trainer_core.training RUN_DIR` carries out a run directory.

The only package that imports torch, transformers and peft. It knows no job, HTTP, SQL or Redis.
"""

import logging

# It warns when it is imported, on some processors, and at every product.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
