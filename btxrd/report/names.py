"""Names that the project did not write, as text in Markdown.

Images, centers, folders, experiments and errors are called as somebody else wants: `*P*_1`,
`x<b>1.png`. What a notebook says of them in Markdown passes through here. Templates, which make
HTML, escape by themselves.
"""

import re

__all__ = ["as_text"]

MARKUP = re.compile(
    "|".join(
        (
            r"[\\`*\[\]<>&$~|{}]",  # means something anywhere
            r"(?<![^\W_])_|_(?![^\W_])",  # but within a word
            r"(?<=[\\\]])[()]",  # after these: \( begins a formula, ]( an address
            r":(?=//)|(?<=www)\.",  # in an address, which becomes a link
            r"\A[!-/:-?]|\A\d+[.)]",  # where a line begins: a heading, a list, …
        )
    )
)
"""Signs that Markdown, as nbconvert and JupyterLab read it, may take for markup."""


def as_text(name: object) -> str:
    r"""Write a name, an error or any other text so that Markdown shows it as it stands.

    A backslash before punctuation makes it text (CommonMark 0.31, section 2.4): at the start of a
    line, within it, and as the text of a link. White space, of which HTML shows one blank, is one
    blank: a text of several lines stays in its paragraph.

    On a page this holds for dollar signs, too; JupyterLab 4.6 looks for formulas in what Markdown
    has become, and finds `$a$` there.

    >>> print(as_text("x<b>1.png"), as_text("*P*_1"), as_text("two\n\nlines"))
    x\<b\>1.png \*P\*\_1 two lines
    """
    text = " ".join(str(name).split())
    return MARKUP.sub(lambda found: f"{found[0][:-1]}\\{found[0][-1]}", text)
