"""What a terminal shows: tables, and Lightning without its notes on hardware and workers."""

import logging
import signal
import sys
import warnings


def show(rows: list[list], title: str = "") -> None:
    """Prints rows, the first of which is the head: ruled on a terminal, plain lines anywhere else.

    The first column is set left, the others right; whole numbers have commas.
    """
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _ruled(cells, title)
        return
    widths = [max(map(len, column)) for column in zip(*cells)]
    if title:
        print(title)
    for first, *others in cells:
        print(first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:])), sep="  ")


def _ruled(cells: list[list[str]], title: str) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left", box=SIMPLE, show_edge=False, padding=(0, 1, 0, 0))
    for index, name in enumerate(cells[0]):
        table.add_column(escape(name), justify="right" if index else "left", overflow="fold")
    for row in cells[1:]:
        table.add_row(*map(escape, row))
    Console().print(table)


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
