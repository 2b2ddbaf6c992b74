"""From the Markdown that docstrings and pages are written in to what Sphinx reads."""

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

SECTION = re.compile(r"(Args|Attributes|Example|Examples|Note|Raises|References|Returns|Warns|Yields):$")
INLINE = re.compile(r"(?P<kept>``.+?``)|`(?P<code>[^`]+)`|(?P<mark>\||(?<=\w)_(?!\w))")
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<path>[^)\s#:]+)(?P<anchor>#[^)\s]*)?\)")

Link = Callable[[str], str | None]


def to_rst(lines: list[str], link: Link = lambda name: None) -> list[str]:
    """A docstring's lines in reStructuredText.

    `name` becomes code, or a link where `link` gives the full name of something public. A bar stays a bar and `R_·k` an
    index, which RST would take for references. An indented block is code, as in Markdown. What belongs to a section
    such as "Args:" stays where it is, for napoleon.
    """
    result: list[str] = []
    section = doctest = literal = False
    for number, line in enumerate(lines):
        blank, indented = not line.strip(), line.startswith("    ")
        if not blank and not indented:
            section, literal = bool(SECTION.match(line)), False
        doctest = not blank and (doctest or line.lstrip().startswith(">>>"))
        starts_block = (
            indented and not section and not doctest and not literal and number > 0 and not result[-1].strip()
        )
        if starts_block and not _in_list(lines[:number]):
            result += ["::", ""]
            literal = True
        if doctest and not section:
            line = line.removeprefix("    ")
        result.append(line if doctest or literal else inline(line, link))
    return result


def _in_list(before: list[str]) -> bool:
    """Whether an indented line goes on with the item of a list."""
    unindented = [line for line in before if line.strip() and not line.startswith(" ")]
    return bool(unindented) and unindented[-1].startswith(("* ", "- "))


def inline(line: str, link: Link = lambda name: None) -> str:
    """One line of prose; see `to_rst`."""

    def replace(match: re.Match[str]) -> str:
        if match["kept"]:
            return match["kept"]
        if match["mark"]:
            return "\\" + match["mark"]
        code = match["code"].strip()
        target = link(code)
        text = f":py:obj:`{code} <{target}>`" if target else f"``{code}``"
        before, after = line[: match.start()][-1:], line[match.end() :][:1]
        return (r"\ " if before.isalnum() else "") + text + (r"\ " if after.isalnum() else "")

    return INLINE.sub(replace, line)


def relink(text: str, folder: str, pages: Mapping[str, str], root: Path) -> str:
    """The links of a Markdown page that lies in `folder` of the repository, as links within the site.

    Args:
        text: the page.
        folder: where it lies, relative to `root`; "" for the root itself.
        pages: the repository's files that are pages of the site, and their addresses there.
        root: of the repository. A link to a file that isn't a page becomes the file's name. One that leads nowhere is
            left as it is, so that Sphinx warns of it.
    """

    def replace(match: re.Match[str]) -> str:
        label, anchor = match["text"], match["anchor"] or ""
        file = posixpath.normpath(posixpath.join(folder, match["path"]))
        if file in pages:
            page = pages[file]
            return f"{match['image']}[{label}]({page}{'' if page == '/index.md' else anchor})"
        if match["image"] and file.startswith("docs/"):
            return f"![{label}](/{file.removeprefix('docs/')})"
        if match["image"] or not (root / file).exists() or file.startswith(".."):
            return match[0]
        return label if "`" in label else f"{label} (`{file}`)"

    return "".join(part if is_code else LINK.sub(replace, part) for part, is_code in _by_fences(text))


def links(text: str) -> Iterator[tuple[str, str]]:
    """Path and anchor of each link of a page to a file or a place in it, code blocks left out."""
    for part, is_code in _by_fences(text):
        if not is_code:
            for match in re.finditer(r"\]\((?P<path>[^)\s#:]*)(?:#(?P<anchor>[^)\s]*))?\)", part):
                if match["path"] or match["anchor"]:
                    yield match["path"], match["anchor"] or ""


def _by_fences(text: str) -> Iterator[tuple[str, bool]]:
    """A page in parts, each with whether it is a fenced block of code."""
    for index, part in enumerate(re.split(r"(^```.*?^```[ ]*$)", text, flags=re.DOTALL | re.MULTILINE)):
        yield part, index % 2 == 1
