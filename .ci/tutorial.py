#!/usr/bin/env python3
"""Does what a new user does: starts the stack, places the README's order, follows the tutorial, stops everything.

The commands and the outputs come from the Markdown itself:

- A ```sh block is run. All blocks of the tutorial share one bash, so variables and functions carry over. The bash has
  `set -euo pipefail`: a block fails with its first failing command. Of the README, the blocks that contain `curl` run.
- The ```text block directly after it is what the block must print, standard error included.
- `<!-- first terminal -->` before a ```sh block: it starts the stack. It runs beside the bash until the stack ends, and
  has succeeded as soon as its output is the one shown. It first waits for the earlier stack to end by itself.
- `<!-- not run: reason -->` before a ```sh block skips it.

Outputs are compared by shape:

- `…` matches anything in a line; alone on a line it matches any number of lines.
- White space matches any white space, also none and also line breaks, and brackets may have some inside: long lines can
  be wrapped, and indented JSON can be folded.
- An id (UUID, `pi_` and the like, 32 hex digits), a tracking number, an API key, a time, a duration or a port matches
  any other of its kind, also where it is cut short with `…`.
- `"status":"confirmed"` also matches `fulfilling`: the label may be booked before the API answers. `"version":N` matches
  any number.
- All else must be equal: amounts, statuses, event types, codes.
"""

import contextlib
import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
STEPS = sorted((ROOT / "docs/tutorial").glob("[0-9]*.md"))

# The slowest block follows an order while the machine is busy; a cold `cargo dev` builds, and fetches the servers.
BLOCK_SECONDS_MAX = 90
START_SECONDS_MAX = 300
STOP_SECONDS_MAX = 60
POLL_SECONDS = 0.2

UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
# What is shown, and what it stands for. The first that matches wins.
SHAPES: list[tuple[str, str]] = [
    (r"\s*(?m:^[ \t]*…[ \t]*$)\s*", r"(?:.|\n)*?"),
    (r"\s+", r"\s*"),
    (r"\{", r"\{\s*"),
    (r"\[", r"\[\s*"),
    (r"\}", r"\s*\}"),
    (r"\]", r"\s*\]"),
    (r'"status":"confirmed"', r'"status":"(?:confirmed|fulfilling)"'),
    (r'"version":\d+', r'"version":\d+'),
    (r"\b[0-9a-f]{8}-[0-9a-f-]*…?", UUID),
    (r"\b(?:pi|ch|re)_[0-9a-f]{4,}…?", r"(?:pi|ch|re)_[0-9a-f]+"),
    (r"\b[0-9a-f]{32}\b", r"[0-9a-f]{32}"),
    (r"\bWBSIM[0-9A-F]+…?", r"WBSIM[0-9A-F]+"),
    (r"\bwb_[\w-]*…?", r"wb_[\w-]+"),
    (r"\d{4}-\d\d-\d\dT[\d:.]+Z", r"\d{4}-\d\d-\d\dT[\d:.]+Z"),
    (r"\b\d+\.\d+ m?s\b", r"\d+\.\d+ m?s"),
    (r"127\.0\.0\.1:\d+", r"127\.0\.0\.1:\d+"),
    (r"\bport \d+", r"port \d+"),
    (r"…", r"[^\n]*?"),
]
SHAPE = re.compile("|".join(f"({shown})" for shown, _ in SHAPES))
EXPORT = re.compile(r"^ *(export (?:WAYBILL_API|TEMPORAL_ADDRESS)=.*)$", re.MULTILINE)
FENCE = re.compile(
    r"^(?:<!-- (?P<mark>.*?) -->\n)?```(?P<lang>\w*)\n(?P<body>.*?)^```\n(?P<gap>\n*)", re.MULTILINE | re.DOTALL
)


class Failure(Exception):
    """Something is not as the Markdown says."""


@dataclass
class Block:
    """A ```sh block and what it must print, if the Markdown says that."""

    page: Path
    line: int
    mark: str
    command: str
    shown: str | None = None
    shown_line: int = 0

    def at(self, line: int) -> str:
        return f"{self.page.relative_to(ROOT)}:{line}"

    def failure(self, line: int, what: str, output: str) -> Failure:
        expected = "" if self.shown is None else f"--- expected\n{self.shown}"
        return Failure(f"{self.at(line)}: {what}\n--- command\n{self.command}{expected}--- output\n{output}")


def blocks(page: Path) -> list[Block]:
    """The ```sh blocks of a page in their order."""
    text = page.read_text()
    found: list[Block] = []
    end_of_last = -1
    for fence in FENCE.finditer(text):
        line = text.count("\n", 0, fence.start("lang")) + 1
        if fence["lang"] == "sh":
            found.append(Block(page, line, fence["mark"] or "", fence["body"]))
            end_of_last = fence.end()
        elif fence["lang"] == "text" and fence.start() == end_of_last:
            found[-1].shown, found[-1].shown_line = fence["body"], line
        elif page != README:
            raise Failure(f"{page.relative_to(ROOT)}:{line}: this block is neither a command nor its output")
    return found


def shape(shown: str) -> str:
    """A regular expression for all outputs that look like this one."""
    parts: list[str] = []
    at = 0
    for found in SHAPE.finditer(shown):
        parts += [re.escape(shown[at : found.start()]), SHAPES[(found.lastindex or 1) - 1][1]]
        at = found.end()
    return "".join([*parts, re.escape(shown[at:])])


def compare(block: Block, output: str) -> None:
    """Fails, naming the first line that differs, if a block has printed something else than is shown."""
    if block.shown is None or re.fullmatch(rf"\s*{shape(block.shown)}\s*", output):
        return
    lines = block.shown.splitlines(keepends=True)
    for number in range(1, len(lines) + 1):
        if not re.match(rf"\s*{shape(''.join(lines[:number]))}", output):
            raise block.failure(block.shown_line + number, "this line is not in the output", output)
    raise block.failure(block.shown_line, "the output has more than is shown", output)


class Bash:
    """One bash for many blocks."""

    def __init__(self, scratch: Path) -> None:
        self.script = scratch / "block.sh"
        self.process = subprocess.Popen(
            ["bash", "--norc"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.send("set -euo pipefail")

    def send(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def run(self, block: Block) -> str:
        """Answers what a block printed; fails if it fails or hangs."""
        assert self.process.stdout
        self.script.write_text(block.command)
        end = uuid.uuid4().hex
        self.send(f"source {self.script} </dev/null; echo {end}")
        deadline = time.monotonic() + BLOCK_SECONDS_MAX
        output = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while not output.endswith(f"{end}\n".encode()):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise block.failure(block.line, f"no end after {BLOCK_SECONDS_MAX} s", output.decode())
                piece = os.read(self.process.stdout.fileno(), 65536)
                if not piece:
                    code = self.process.wait()
                    raise block.failure(block.line, f"a command failed with exit code {code}", output.decode())
                output += piece
        return output.decode().removesuffix(f"{end}\n")

    def close(self) -> None:
        """Ends the bash and what it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Stack:
    """The first terminal: `cargo dev` in a directory of its own."""

    def __init__(self, scratch: Path) -> None:
        self.dir = scratch / "stack"
        os.environ["WAYBILL_DEV_DIR"] = str(self.dir)
        self.log = scratch / "first-terminal.log"
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, block: Block) -> None:
        """Starts the stack with a block's command, and waits until it has printed what is shown."""
        earlier = self.process
        if earlier and not wait(lambda: earlier.poll() is not None, STOP_SECONDS_MAX):
            raise block.failure(block.line, "the earlier stack still runs", self.log.read_text())
        with self.log.open("w") as log:
            process = subprocess.Popen(
                ["bash", "-c", block.command], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.process = process
        matches = re.compile(rf"\s*{shape(block.shown or '…')}\s*")
        wait(lambda: bool(matches.fullmatch(self.log.read_text())) or process.poll() is not None, START_SECONDS_MAX)
        compare(block, self.log.read_text())
        if process.poll() is not None:
            raise block.failure(block.line, "the stack has ended by itself", self.log.read_text())

    def exports(self) -> str:
        return "".join(f"{line}\n" for line in EXPORT.findall(self.log.read_text()))

    def interrupt(self) -> None:
        """Ctrl-C: everything must stop, and no process may be left."""
        file = (self.dir / "stack.json").read_text()
        pid = re.search(r'"pid": (\d+)', file)
        process = self.process
        if not process or not pid:
            raise Failure(f"no stack runs at the end of the tutorial: {file}")
        os.kill(int(pid[1]), signal.SIGINT)
        if not wait(lambda: process.poll() is not None, STOP_SECONDS_MAX):
            raise Failure(f"cargo dev still runs after Ctrl-C\n{self.log.read_text()}")
        left = subprocess.run(["pgrep", "-af", str(self.dir)], capture_output=True, text=True).stdout
        if process.returncode or left:
            raise Failure(f"exit code {process.returncode} after Ctrl-C, processes left: {left}\n{self.log.read_text()}")

    def down(self) -> None:
        """Stops what a failure has left."""
        subprocess.run(["cargo", "--quiet", "dev", "down"], cwd=ROOT, capture_output=True)
        process = self.process
        if process and not wait(lambda: process.poll() is not None, STOP_SECONDS_MAX):
            process.kill()


def wait(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether a condition came true within the time."""
    deadline = time.monotonic() + seconds
    while not (true := condition()) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return true


def follow(page: Path, todo: list[Block], bash: Bash, stack: Stack) -> tuple[int, int]:
    """Runs the blocks of a page; answers how many it has run and skipped."""
    started = time.monotonic()
    ran = 0
    for block in todo:
        mark, _, reason = block.mark.partition(":")
        if mark == "first terminal":
            stack.run(block)
            bash.send(stack.exports())
        elif mark == "not run":
            if not reason.strip():
                raise block.failure(block.line, "it is skipped without a reason", "")
            continue
        elif mark:
            raise block.failure(block.line, f"no such mark: {block.mark}", "")
        else:
            compare(block, bash.run(block))
        ran += 1
    if not ran:
        raise Failure(f"{page.relative_to(ROOT)}: no command was run")
    print(f"{page.relative_to(ROOT)}: {ran} blocks in {time.monotonic() - started:.1f} s", flush=True)
    return ran, len(todo) - ran


def readme(scratch: Path, stack: Stack) -> tuple[int, int]:
    """The README's order, in a terminal of its own."""
    bash = Bash(scratch)
    try:
        bash.send(stack.exports())
        return follow(README, [block for block in blocks(README) if "curl" in block.command], bash, stack)
    finally:
        bash.close()


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="waybill-tutorial.", ignore_cleanup_errors=True) as name:
        scratch = Path(name)
        scratch.chmod(0o755)  # Postgres may run as another user
        stack, bash = Stack(scratch), Bash(scratch)
        try:
            counts = []
            for number, page in enumerate(STEPS):
                counts.append(follow(page, blocks(page), bash, stack))
                if number == 0:
                    counts.append(readme(scratch, stack))
            stack.interrupt()
            ran, skipped = (sum(column) for column in zip(*counts, strict=True))
            print(f"{ran} blocks run, {skipped} skipped; everything is stopped")
            return 0
        except Failure as failure:
            print(failure, file=sys.stderr)
            return 1
        finally:
            bash.close()
            stack.down()


if __name__ == "__main__":
    sys.exit(main())
