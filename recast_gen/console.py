"""What a terminal shows: tables, and Lightning without its notes on hardware and workers."""

import logging
import signal
import sys
import warnings


def show(rows: list[list]) -> None:
    """Prints rows, the first of which is the head: ruled on a terminal, plain lines anywhere else.

    The first column is set left, the others right; whole numbers have commas.  On a terminal that is too narrow, the
    head has a word a line, and where that is not enough a row's first cell has a line of its own.
    """
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _ruled(cells)
        return
    widths = _widths(cells)
    for first, *others in cells:
        print(first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:])), sep="  ")


def _widths(cells: list[list[str]]) -> list[int]:
    return [max(len(line) for cell in column for line in cell.split("\n")) for column in zip(*cells)]


def _ruled(cells: list[list[str]]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    room = Console().width or 80  # of a terminal that does not know
    _, *widths = _widths(cells)
    head, between = cells[0], 2 * len(widths) + 1
    if sum(_widths(cells)) + between > room:
        head = [name.replace(" ", "\n") for name in head]
    if sum(_widths([head, *cells[1:]])) + between > room >= sum(widths) + len(widths):
        for first, *others in cells:
            print(first, " ".join(["", *(cell.rjust(width) for cell, width in zip(others, widths))]), sep="\n")
        return
    table = Table(box=SIMPLE, show_edge=False, padding=(0, 1, 0, 0))
    for index, name in enumerate(head):
        table.add_column(escape(name), justify="right" if index else "left", overflow="fold")
    for row in cells[1:]:
        table.add_row(*map(escape, row))
    Console(width=room).print(table)


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
