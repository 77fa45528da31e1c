"""Converts text to LaTeX that pdflatex accepts with its default encoding, and writes the document that includes every table and figure."""

import unicodedata
from collections.abc import Sequence

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": "'",
    "`": r"\textasciigrave{}",
    "—": "---",
    "–": "--",
    "−": r"$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "≈": r"$\approx$",
    "→": r"$\rightarrow$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "∞": r"$\infty$",
    "…": r"\ldots{}",
    "°": r"$^\circ$",
    "Δ": r"$\Delta$",
    "λ": r"$\lambda$",
    "σ": r"$\sigma$",
    "τ": r"$\tau$",
    "ε": r"$\varepsilon$",
    "²": r"$^2$",
    "ß": r"\ss{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "œ": r"\oe{}",
    "ł": r"\l{}",
    "“": "``",
    "”": "''",
    "‘": "`",
    "’": "'",
    "\u00a0": "~",
}
_ACCENTS = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0304": "=",
    "\u0306": "u",
    "\u0307": ".",
    "\u0308": '"',
    "\u030a": "r",
    "\u030b": "H",
    "\u030c": "v",
    "\u0327": "c",
    "\u0328": "k",
}
_LIGATURES = "-'"
"""Characters that TeX replaces if two follow each other: -- would become an en dash, and '' a quotation mark."""
_NO_OGONEK = "\u0328"  # \k is not in the default encoding


def escape(text: str) -> str:
    """`text` as pdflatex prints it with no package for fonts: specials escaped, accents composed, symbols in mathematics.

    A character that it could not print becomes its code, as [U+4E2D]. Control characters, line ends too, become spaces.
    """
    composed = unicodedata.normalize("NFC", text)
    parts = []
    for before, character in zip(" " + composed, composed, strict=False):
        parts += ["{}"] if character == before and character in _LIGATURES else []
        parts.append(_escaped(character))
    return "".join(parts).replace("\\textquotedbl{}", "''")


def _escaped(character: str) -> str:
    if character in _SPECIAL:
        return _SPECIAL[character]
    if " " <= character <= "~":
        return character
    if unicodedata.category(character).startswith(("C", "Z")):
        return " "
    base, *marks = list(unicodedata.normalize("NFD", character))
    if base.isascii() and base.isalpha() and len(marks) == 1 and marks[0] in _ACCENTS and marks[0] != _NO_OGONEK:
        letter = {"i": r"\i", "j": r"\j"}.get(base, base)
        return f"\\{_ACCENTS[marks[0]]}{{{letter}}}"
    return f"[U+{ord(character):04X}]"


def fitted(body: str) -> str:
    """`body` shrunk to the width of the line where it is wider (graphicx)."""
    return "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%\n" + body + "%\n}"


def notes(lines: Sequence[str]) -> str:
    """Footnotes below a table or figure; `lines` are LaTeX already."""
    if not lines:
        return ""
    return "\\par\\smallskip\n{\\footnotesize\\raggedright\n" + "\n".join(f"{line}\\par" for line in lines) + "\n}\n"


def picture(file: str, width: float, caption: str = "") -> str:
    """A figure's PDF in its own width in inches, shrunk where it is wider than the line or higher than most of a page, and its caption
    below. Needs graphicx."""
    fits = f"\\ifdim{width:g}in>\\linewidth\\linewidth\\else{width:g}in\\fi"
    included = f"\\includegraphics[width={fits},height=0.8\\textheight,keepaspectratio]{{{file}}}\\par\\smallskip\n"
    return included + (notes([escape(caption)]) if caption else "")


def document(entries: Sequence[tuple[str, str]]) -> str:
    """A document that inputs every fragment; `entries` are (title, file name without .tex)."""
    head = [
        "% Compile in this folder: pdflatex all.tex",
        "\\documentclass[10pt]{article}",
        "\\usepackage[margin=2cm]{geometry}",
        "\\usepackage{booktabs}",
        "\\usepackage{graphicx}",
        "\\setlength{\\parindent}{0pt}",
        "\\pdfsuppressptexinfo=-1 \\pdfinfoomitdate=1 \\pdftrailerid{}",
        "\\begin{document}",
    ]
    body = []
    for title, name in entries:
        body += [f"\\section*{{{escape(title)}}}", f"\\input{{{name}}}", "\\clearpage"]
    return "\n".join([*head, *body, "\\end{document}"]) + "\n"
