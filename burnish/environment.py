"""Environment variables, warnings and log levels for a command, restored when it ends."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# libraries whose log messages are hidden; Burnish prints what matters
# on CPUs with AVX512-BF16 bitsandbytes warns about a missing optional kernels package, which is not used here
QUIET = ("trl", "transformers", "bitsandbytes")
ENVIRONMENT = {
    # threads that spin while waiting make a step ten times slower if any other process is busy
    "OMP_WAIT_POLICY": "PASSIVE",
    # micro-batches vary in length: otherwise every new length allocates from the driver and fragments memory
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}
# always set: a pickle in a checkpoint can call any function
UNPICKLING = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}
ANY_PICKLE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


@contextmanager
def prepared_process() -> Iterator[None]:
    """Set variables that are not yet set, and silence the libraries; restore everything afterwards.

    This also reverts the libraries' own changes to the environment and warning filters.
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
