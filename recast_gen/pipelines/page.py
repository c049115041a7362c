"""One self-contained HTML page: words, tables, pictures; readable on a telephone, in the dark, and read aloud."""

import html
import re
from dataclasses import dataclass

COLOURS = {  # name -> by day, by night; of the page and of its pictures
    "paper": ("#fdfdfc", "#15191e"), "ink": ("#1f2933", "#e3e7ec"), "soft": ("#52606d", "#a6b1bd"),
    "grey": ("#8a96a3", "#7d8996"), "line": ("#e4e7eb", "#333b44"), "blue": ("#2563a8", "#6fb0f2"),
    "orange": ("#c26a16", "#f0a04b"), "green": ("#2f7d4f", "#6cc491"),
}  # fmt: skip
GLOSSARY = {
    "linear probe": "a linear head trained on the frozen backbone's features; nothing else is trained",
    "coefficients": "the few trainable parameters that mix a bank's templates into the weights of a layer",
    "templates": "frozen tensors that the layers of a group share; every layer is a mixture of them",
    "bank": "templates, the coefficients that rebuild the original network, and all the rest of the backbone",
    "head": "the last layer, from features to one number a class; every task has its own",
    "spread": "standard deviation over the seeds, in points",
    "points": "difference of two accuracies in percent",
    "forgetting": "the most that the accuracy of any task fell while later tasks were learnt",
    "backward transfer": "how much the accuracies of earlier tasks changed on average while later ones were learnt",
    "validation": "images that training does not see, on which epochs and learning rates are chosen",
    "start": "accuracy on validation before any training: the head solved by ridge regression",
    "cosine": "cosine similarity of a layer to what the bank rebuilds; 1 is exact",
    "resolution": "how many output blocks of a layer have coefficients of their own",
    "distance": "to the nearest original after alignment, relative to that one's norm",
    "IoU of errors": "share of wrong answers that a network has in common with the original most like it; a copy has 1",
    "peak MiB": "the most memory of one training, on top of what was there before",
    "norms": "trainable parameters that are coefficients of normalisation layers",
    "adapter": "trainable parameters of an adapter beside or instead of coefficients",
}
MEANINGS = {word.lower(): meaning for word, meaning in GLOSSARY.items()}
WORDS = re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, GLOSSARY))})(?![\w-])", re.IGNORECASE)
CSS = """
body{font:16px/1.55 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:58rem;margin:1.5rem auto;
padding:0 1rem;overflow-wrap:break-word}
h1{font-size:1.5rem;margin:.4rem 0}h2{font-size:1.15rem;margin:2.4rem 0 .2rem}p{margin:.5rem 0}
.verdict{font-size:1.15rem;line-height:1.5}.note,.name,dt,figcaption{color:var(--soft)}
svg{display:block;width:100%;height:auto}figure{margin:.6rem 0;max-width:44rem}
.panels{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(21rem,100%),1fr));gap:.4rem 1.2rem}
.panels figure{max-width:29rem}
dl{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:.1rem 1rem}dd{margin:0}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin:.6rem 0}
td,th{padding:.25rem .7rem;text-align:right;border-bottom:1px solid var(--line);vertical-align:top}
td:first-child,th:first-child{text-align:left;padding-left:0}th{font-weight:600}
abbr{text-decoration:underline dotted;cursor:help}
pre{background:var(--line);padding:.6rem .8rem;border-radius:4px;white-space:pre-wrap;overflow-wrap:anywhere;
font-size:.85rem}
@media(max-width:640px){thead{position:absolute;left:-9999px}tr{display:block;padding:.4rem 0;
border-bottom:1px solid var(--line)}td,td:first-child{display:flex;justify-content:space-between;gap:1rem;border:0;
padding:.1rem 0;text-align:right}td:first-child{font-weight:600}td:not(:first-child)::before{content:attr(data-name);
color:var(--soft);text-align:left}td:empty{display:none}dl{grid-template-columns:1fr}dd{margin-bottom:.4rem}}
"""


@dataclass
class Section:
    """A heading, what the picture or table shows in a sentence, and the HTML of it."""

    title: str
    sentence: str
    body: str


def page(title: str, verdict: str, top: str, sections: list[Section]) -> str:
    """One page.  verdict: the answer in two sentences.  top: HTML that comes before the first heading."""
    day, night = ("".join(f"--{name}:{pair[side]};" for name, pair in COLOURS.items()) for side in (0, 1))
    parts = [f"<section><h2>{html.escape(s.title)}</h2><p class=note>{explained(s.sentence)}</p>{s.body}</section>"
             for s in sections]  # fmt: skip
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'><meta name=color-scheme content='light dark'>"
        f"<title>{html.escape(title)}</title><style>:root{{{day}}}"
        f"@media(prefers-color-scheme:dark){{:root{{{night}}}}}{CSS}</style>"
        f"<main><h1>{html.escape(title)}</h1><p class=verdict>{explained(verdict)}</p>{top}"
        f"{''.join(parts)}</main></html>\n"
    )


def explained(text: str) -> str:
    """Text as HTML; the first use of each word of the glossary says what it means where the pointer rests on it."""
    seen: set[str] = set()

    def mark(found: re.Match) -> str:
        word = found.group().lower()
        if word in seen:
            return found.group()
        seen.add(word)
        return f'<abbr title="{html.escape(MEANINGS[word], quote=True)}">{found.group()}</abbr>'

    return WORDS.sub(mark, html.escape(text))


def table(rows: list[list], head: list[str]) -> str:
    """An HTML table of strings and numbers; on a narrow screen each row is a list of names and values."""
    names = "".join(f"<th scope=col>{explained(name)}</th>" for name in head)
    cells = "".join(
        "<tr>" + "".join(f"<td data-name='{html.escape(name, quote=True)}'>{html.escape(str(cell))}</td>"
                         for name, cell in zip(head, row)) + "</tr>"
        for row in rows
    )  # fmt: skip
    return f"<table><thead><tr>{names}</tr></thead><tbody>{cells}</tbody></table>"


def facts(rows: dict[str, str]) -> str:
    """Names and values, side by side."""
    pairs = (f"<dt>{explained(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in rows.items())
    return f"<dl>{''.join(pairs)}</dl>"


def figure(svg: str, caption: str = "") -> str:
    return f"<figure>{svg}{f'<figcaption>{html.escape(caption)}</figcaption>' if caption else ''}</figure>"


def panels(pictures: list[str]) -> str:
    """Small pictures beside each other, as many as fit."""
    return f"<div class=panels>{''.join(map(figure, pictures))}</div>"


def commands(lines: list[str]) -> str:
    return f"<pre>{html.escape(chr(10).join(lines))}</pre>"
