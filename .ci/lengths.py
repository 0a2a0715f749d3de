#!/usr/bin/env python3
"""This check fails if one of our Rust files or functions, tests included, is too long to be read in one go.

Every line counts, blank ones and comments too: a reader scrolls past them all. A function's lines are those from its
`fn` to its closing brace. We did not write `vendor`, and nobody builds `plan`.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# A reader keeps about this much in mind: beyond it a file has two subjects, and each deserves a file with a name.
FILE_LINES_MAX = 400
# A large screen shows this many lines: beyond it nobody sees a function's beginning and end at once.
FUNCTION_LINES_MAX = 70
NOT_OURS = ("vendor/",)

COMMENT = r"//[^\n]*|/\*.*?\*/"
STRING = r'\bb?r(?P<hashes>#*)".*?"(?P=hashes)|"(?:\\.|[^"\\])*"'
CHARACTER = r"'(?:\\.[^']*|[^\\'])'"
NOT_CODE = re.compile(f"{COMMENT}|{STRING}|{CHARACTER}", re.DOTALL)
FUNCTION = re.compile(r"\bfn\s+(\w+)")
BRACKET_OR_END = re.compile(r"[(\[{}\]);]")


def functions(code: str) -> Iterator[tuple[str, int, int]]:
    """Each function has a name, the place of its `fn`, and the place of its closing brace."""
    for function in FUNCTION.finditer(code):
        depth = 0
        for mark in BRACKET_OR_END.finditer(code, function.end()):
            depth += (mark[0] in "([{") - (mark[0] in ")]}")
            if depth == 0 and mark[0] == "}":
                yield function[1], function.start(), mark.start()
            if depth == 0 and mark[0] in ";}":  # a trait may declare a function that has no body
                break


def too_long(file: Path) -> Iterator[str]:
    source = file.read_text()
    lines = source.count("\n")
    if lines > FILE_LINES_MAX:
        yield f"{file}: {lines} lines, may have {FILE_LINES_MAX}"
    code = NOT_CODE.sub(lambda match: "\n" * match[0].count("\n"), source)
    for name, start, end in functions(code):
        length = code.count("\n", start, end) + 1
        if length > FUNCTION_LINES_MAX:
            line = code.count("\n", 0, start) + 1
            yield f"{file}:{line}: function {name} has {length} lines, may have {FUNCTION_LINES_MAX}"


def main() -> int:
    tracked = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "*.rs"], capture_output=True, text=True, check=True)
    files = [Path(line) for line in tracked.stdout.splitlines() if not line.startswith(NOT_OURS)]
    wrong = [finding for file in files if file.exists() for finding in too_long(file)]
    for line in wrong:
        print(line, file=sys.stderr)
    print(f"{len(files)} files, {len(wrong)} files or functions too long")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
