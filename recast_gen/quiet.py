"""Lightning without its notes on hardware and workers: we train many small models."""

import logging
import signal
import warnings


class quiet(warnings.catch_warnings):
    """Inside it Lightning tells errors alone, and Ctrl+C is a KeyboardInterrupt, not the end of the process."""

    def __enter__(self):
        super().__enter__()
        self.interrupt = signal.getsignal(signal.SIGINT)
        warnings.filterwarnings("ignore", module="lightning")
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    def __exit__(self, kind, error, trace):
        super().__exit__(kind, error, trace)
        if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):
            signal.signal(signal.SIGINT, self.interrupt)  # Lightning ignores it from then on
            raise KeyboardInterrupt from None
