"""How the libraries behave in every program: no network, no remote code, no chatter, and nothing imported in vain."""

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Imported in passing, and of no use to what imports them: bitsandbytes by PEFT (with torch's compiler: a fifth of all
# time to import), datasets with pandas by transformers' Trainer, boto3 by accelerate's questions about SageMaker.
# Each is there for who asks for it afterwards.
IN_PASSING = ("bitsandbytes", "datasets", "boto3")
LIBRARIES = ("torch", "transformers", "transformers.trainer", "transformers.models.auto", "accelerate", "peft")


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
    # Where the linters are installed, jsonschema would read a grammar of web addresses for a second at every start.
    sys.modules.setdefault("rfc3987_syntax", None)
    if rank != 0:
        warnings.filterwarnings("ignore")


def import_libraries() -> None:
    """Import what training, merge and evaluation use, and not what those libraries would import in passing."""
    with hidden(IN_PASSING):
        for name in LIBRARIES:
            importlib.import_module(name)


@contextmanager
def hidden(names: tuple[str, ...]) -> Iterator[None]:
    """Modules that cannot be imported meanwhile, as if they were not installed; those that are imported already stay.

    An entry None in sys.modules says so to Python's import and to importlib.util.find_spec.
    """
    absent = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


@contextmanager
def without_bitsandbytes() -> Iterator[None]:
    """PEFT need not import bitsandbytes to see that the weights it puts an adapter on are not 4-bit."""
    with hidden(IN_PASSING):
        from peft.import_utils import is_bnb_4bit_available, is_bnb_available

        try:
            yield
        finally:  # it remembers the answer
            is_bnb_available.cache_clear()
            is_bnb_4bit_available.cache_clear()
