#!/usr/bin/env python3
"""This check fails if files of a crate import each other in a circle, however long the way round.

Without circles you can read and change a file together with only those below it. Rust's compiler allows circles, so
nothing else finds them. A file imports another if it names something that the other defines, in a `use` or in a path
such as `state::App`. Three things do not count: a parent that uses its children, because it only wires them up; tests;
and calls of methods, because a call does not name the file that defines the method.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# Cargo calls a crate by this prefix and its folder's name, and we keep the crate's first file at one of these places.
CRATE_PREFIX = "waybill_"
ROOT_FILES = ("src/lib.rs", "src/main.rs", "it/main.rs")
# We follow a name through at most this many `use`s to its definition: far more than ours have, and it ends a loop.
ALIASES_MAX = 6

COMMENT = r"//[^\n]*|/\*.*?\*/"
STRING = r'\bb?r(?P<hashes>#*)".*?"(?P=hashes)|"(?:\\.|[^"\\])*"'
CHARACTER_OR_LIFETIME = r"'(?:\\.[^']*|[^\\'])'|'[A-Za-z_]\w*"
NOT_CODE = re.compile(f"{COMMENT}|{STRING}|{CHARACTER_OR_LIFETIME}", re.DOTALL)
# We rely on rustfmt: an item ends with the first line that is indented like its attribute and ends in `;`, `,` or `}`.
TEST_ITEM = re.compile(r"^( *)#\[cfg\(test\)\] *\n.*?^\1(?! )[^\n]*[;,}] *$", re.DOTALL | re.MULTILINE)
CHILD = re.compile(r"\bmod\s+(\w+)\s*;")
USE = re.compile(r"\buse\s+(?P<tree>[^;$]+;)")
PART_OF_TREE = re.compile(r"\bas\s+(?P<alias>\w+)|[\w*]+|[{},;]")
PATH_ELSEWHERE = re.compile(r"(?<![\w.])(?<!::)[A-Za-z_]\w*(?:\s*::\s*[A-Za-z_]\w*)+")

# What Rust writes with `::`. A module has its path from the crate's root: `crate::a::b` is ("a", "b"), the root is ().
RustPath = tuple[str, ...]


class Mention(NamedTuple):
    path: RustPath
    alias: str  # what a `use` calls it (`*`: by all its names); empty outside of `use`
    place: int


def blank(match: re.Match[str]) -> str:
    """We put blanks in the place of text, so that all other text keeps its place and line."""
    return re.sub(r"[^\n]", " ", match[0])


def mentions_in(code: str) -> Iterator[Mention]:
    for use in USE.finditer(code):
        yield from leaves(code, *use.span("tree"))
    for path in PATH_ELSEWHERE.finditer(USE.sub(blank, code)):
        yield Mention(tuple(re.split(r"\s*::\s*", path[0])), "", path.start())


def leaves(code: str, start: int, end: int) -> Iterator[Mention]:
    """A `use` may be a tree: `a::{b, c::d as e}` imports `a::b` and `a::c::d`."""
    trunks: list[RustPath] = [()]
    path: RustPath = ()
    alias, place = "", start
    for part in PART_OF_TREE.finditer(code, start, end):
        if part["alias"]:
            alias = part["alias"]
        elif part[0] == "{":
            trunks.append(path)
        elif part[0] in ",};":
            if path != trunks[-1]:
                name = path[-1] if path[-1] != "self" else path[-2]
                yield Mention(path[:-1] if path[-1] in ("self", "*") else path, alias or name, place)
            if part[0] == "}":
                trunks.pop()
            path, alias = trunks[-1], ""
        else:
            path, place = (*path, part[0]), part.start()


class Crate:
    """Rust reads a crate as a tree: each file names its children, and any file may import any other."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.files: dict[RustPath, Path] = {}
        self.mentions: list[tuple[RustPath, Mention]] = []
        self.load((), root, root.parent)
        self.aliases: dict[RustPath, dict[str, RustPath]] = {module: {} for module in self.files}
        for module, mention in self.mentions:
            full = self.from_root(module, mention.path)
            if mention.alias and full is not None:
                self.aliases[module][mention.alias] = full
        # The places in the first module's file that import the second.
        self.edges: dict[RustPath, dict[RustPath, list[int]]] = {module: {} for module in self.files}
        self.find_edges()

    def load(self, module: RustPath, file: Path, folder: Path) -> None:
        """A file that says `mod name;` keeps that module in a folder of its own, as `name.rs` or `name/mod.rs`."""
        code = TEST_ITEM.sub(blank, NOT_CODE.sub(blank, file.read_text()))
        self.files[module] = file
        self.mentions += ((module, mention) for mention in mentions_in(code))
        for name in CHILD.findall(code):
            for child in (folder / f"{name}.rs", folder / name / "mod.rs"):
                if child.exists():
                    self.load((*module, name), child, folder / name)

    def from_root(self, module: RustPath, path: RustPath) -> RustPath | None:
        """A module writes a path from where it is; we write it from the root. None: another crate's, or an alias."""
        while path[:2] == ("super", "super"):
            module, path = module[:-1], path[1:]
        starts: dict[str, RustPath] = {"crate": (), self.name: (), "self": module, "super": module[:-1]}
        if path[0] in starts:
            return starts[path[0]] + path[1:]
        return module + path if (*module, path[0]) in self.files else None

    def definer(self, path: RustPath, followed: int = 0) -> RustPath:
        """A module may pass on (`pub use`) what another one defines: we follow the path to the latter."""
        module = max((path[:end] for end in range(len(path) + 1) if path[:end] in self.files), key=len)
        item = path[len(module) :]
        if item and item[0] in self.aliases[module] and followed < ALIASES_MAX:
            return self.definer(self.aliases[module][item[0]] + item[1:], followed + 1)
        return module

    def find_edges(self) -> None:
        for module, (path, alias, place) in self.mentions:
            full = self.from_root(module, path)
            if full is None and not alias and path[0] in self.aliases[module]:
                full = self.aliases[module][path[0]] + path[1:]
            target = module if full is None else self.definer(full)
            if target[: len(module)] != module:  # neither the module itself nor a child of it
                self.edges[module].setdefault(target, []).append(place)

    def circles(self) -> list[list[RustPath]]:
        """Two files are in one circle if each reaches the other."""
        reached = {module: set(targets) for module, targets in self.edges.items()}
        for between in reached:
            for targets in reached.values():
                if between in targets:
                    targets |= reached[between]
        found = {frozenset(b for b in reached[a] if a in reached[b]) for a in reached if a in reached[a]}
        return sorted(sorted(circle) for circle in found)


def report(crate: Crate, circle: list[RustPath]) -> None:
    print(f"{len(circle)} files import each other in a circle:", file=sys.stderr)
    for module in circle:
        source = crate.files[module].read_text()
        for target in (target for target in circle if target in crate.edges[module]):
            first, *more = sorted({source.count("\n", 0, place) + 1 for place in crate.edges[module][target]})
            line = source.split("\n")[first - 1].strip()
            also = f" (more lines: {', '.join(map(str, more))})" if more else ""
            print(f"  {crate.files[module]}:{first} imports {crate.files[target]}: {line}{also}", file=sys.stderr)


def main() -> int:
    files = wrong = 0
    for member in tomllib.loads(Path("Cargo.toml").read_text())["workspace"]["members"]:
        for root in filter(Path.exists, (Path(member, file) for file in ROOT_FILES)):
            crate = Crate(CRATE_PREFIX + member, root)
            for circle in crate.circles():
                report(crate, circle)
                wrong += 1
            files += len(crate.files)
    if wrong:
        print("To open a circle, move what two of its files share into a file that both import.", file=sys.stderr)
    print(f"{files} files, {wrong} circles")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
