"""How the libraries behave in every program: no network, no remote code, no chatter."""

import logging
import os
import warnings


def set_up_libraries(rank: int = 0) -> None:
    """The hub is never asked, since what is trained on was fetched before. Warnings that tell a user nothing to act on
    are silenced; errors are not.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # bitsandbytes warns at every import that an optional kernel for 4-bit inference is absent; nothing here uses it.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", category=FutureWarning)
    if rank != 0:
        warnings.filterwarnings("ignore")
