"""`make docs`: every relative link in the Markdown files must lead to a file, and to a heading where it names one."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")


def anchors(page: Path) -> set[str]:
    """The names that a page's headings can be linked by."""
    headings = re.findall(r"^#+\s+(.+?)\s*$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def problems(page: Path) -> list[str]:
    """What is wrong with the links of one page."""
    found = []
    for path, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            found.append(f"{page.relative_to(ROOT)}: no such file: {path}")
        elif anchor and target.suffix == ".md" and anchor not in anchors(target):
            found.append(f"{page.relative_to(ROOT)}: no such heading: {path}#{anchor}")
    return found


def main() -> int:
    """Print the problems; 1 if there are any."""
    pages = [page for page in ROOT.rglob("*.md") if not {".venv", "node_modules"} & set(page.parts)]
    found = [problem for page in sorted(pages) for problem in problems(page)]
    sys.stdout.write(("\n".join(found) or f"{len(pages)} pages, all links lead somewhere") + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
