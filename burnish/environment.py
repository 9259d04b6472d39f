"""Environment variables, warnings and log levels of a command's process, restored when it ends."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# libraries whose log messages are hidden; Burnish prints what matters
# bitsandbytes warns on CPUs with AVX512-BF16 that an optional kernels package is missing; it is not used here
QUIET = ("trl", "transformers", "bitsandbytes")
ENVIRONMENT = {
    # threads that spin while waiting make a step ten times slower next to any other busy process
    "OMP_WAIT_POLICY": "PASSIVE",
    # micro-batches differ in length: otherwise every new length allocates from the driver and fragments memory
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}
# always set: a pickle in a checkpoint can name any function to call
UNPICKLING = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}
ANY_PICKLE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


@contextmanager
def prepared_process() -> Iterator[None]:
    """Set variables that are not set yet, and silence the libraries; restore everything afterwards.

    This also undoes what libraries change meanwhile in the environment and in warning filters.
    """
    environment, levels = dict(os.environ), {name: logging.getLogger(name).level for name in QUIET}
    with warnings.catch_warnings():
        try:
            _prepare()
            yield
        finally:
            _restore_environment(environment)
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


def _prepare() -> None:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ.update(UNPICKLING)
    os.environ.pop(ANY_PICKLE, None)
    for library in QUIET:
        logging.getLogger(library).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=UserWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)


def _restore_environment(environment: dict[str, str]) -> None:
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)
