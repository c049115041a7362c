"""Lightning without its notes on hardware and workers: we train many small models."""

import logging
import warnings


class quiet(warnings.catch_warnings):
    """Inside it Lightning tells errors alone."""

    def __enter__(self):
        super().__enter__()
        warnings.filterwarnings("ignore", module="lightning")
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
