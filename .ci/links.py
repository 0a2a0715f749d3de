#!/usr/bin/env python3
"""Fails if a relative link leads to no file, or to no heading: links in Markdown, and links to Markdown in Rust comments.

Links to the web are not followed, and rustdoc checks links to items.
"""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
COMMENT = re.compile(r"^\s*//.*$", re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a text."""
    found: set[str] = set()
    for heading in HEADING.findall(FENCE.sub("", text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        again = sum(1 for known in found if re.fullmatch(re.escape(anchor) + r"(-\d+)?", known))
        found.add(f"{anchor}-{again}" if again else anchor)
    return found


def tracked(pattern: str) -> list[Path]:
    """Our files that match a pattern."""
    command = ["git", "ls-files", "-co", "--exclude-standard", pattern]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [Path(line) for line in listed if not line.startswith("vendor/") and Path(line).exists()]


def links(page: Path) -> list[str]:
    """The relative links of a page or a source file."""
    text = page.read_text()
    if page.suffix == ".md":
        found = LINK.findall(CODE.sub("", FENCE.sub("", text)))
    else:
        found = [link for link in LINK.findall("\n".join(COMMENT.findall(text))) if ".md" in link]
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def main() -> int:
    pages = tracked("*.md") + tracked("*.rs")
    broken = []
    for page in pages:
        for link in links(page):
            path, _, anchor = unquote(link).partition("#")
            target = page.parent / path if path else page
            if not target.exists():
                broken.append(f"{page}: {link}: no such file")
            elif anchor and anchor not in anchors(target.read_text()):
                broken.append(f"{page}: {link}: no such heading")
    for line in broken:
        print(line, file=sys.stderr)
    print(f"{len(pages)} files, {len(broken)} broken links")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
