"""Which of our crates may use which, and what they must never see. Reads `cargo metadata`, so it is the truth."""

import json
import pathlib
import re
import subprocess
import sys

ALLOWED = {
    "domain": set(),
    "store": {"domain"},
    "workflows": {"domain"},
    "runtime": {"domain", "store", "workflows"},
    "activities": {"domain", "store", "workflows"},
    "worker": {"domain", "store", "workflows", "activities", "runtime"},
    "api": {"domain", "store", "workflows", "runtime"},
    # Not in production: nothing above depends on these.
    "simulators": set(),
    "stack": {"domain", "store", "simulators"},
    "load": {"domain", "store", "simulators", "stack"},
    "dev": {"simulators", "stack", "load"},
    "bench": {"domain", "store", "simulators", "stack", "load"},
    "tests": set(),
}
# Crates that a layer must not even name: the reason is the layer's own sentence in ARCHITECTURE.md.
FORBIDDEN = {
    "domain": {"sqlx", "reqwest", "axum", "tokio", "temporalio-sdk", "temporalio-client", "temporalio-workflow"},
    "workflows": {"sqlx", "reqwest", "axum", "tokio", "uuid", "jiff", "rand"},
    "store": {"axum", "reqwest", "temporalio-sdk", "temporalio-client"},
    "api": {"sqlx", "temporalio-sdk"},
    "worker": {"sqlx"},
    "activities": {"sqlx", "axum"},
    "runtime": {"sqlx"},
}
# Named by code that macros write, not by ours; or there to unify features (see Cargo.toml).
NOT_NAMED = {"regex-syntax", "futures", "futures-util", "temporalio-common", "temporalio-workflow", "temporalio-macros"}
FORBIDDEN_FEATURES = {"experimental"}

metadata = json.loads(
    subprocess.run(
        ["cargo", "metadata", "--format-version", "1", "--no-deps", "--locked"], check=True, capture_output=True
    ).stdout
)
wrong = []
for package in metadata["packages"]:
    name = package["name"].removeprefix("waybill-")
    if name not in ALLOWED:
        wrong.append(f"{name} is a crate that .ci/arrows.py does not know: give it its arrows, and an ADR")
        continue
    folder = pathlib.Path(package["manifest_path"]).parent
    source = "\n".join(file.read_text() for file in folder.glob("**/*.rs"))
    for dependency in package["dependencies"]:
        word = re.escape(dependency["name"].replace("-", "_"))
        if not re.search(rf"\b{word}\b", source) and dependency["name"] not in NOT_NAMED:
            wrong.append(f"{name} does not use {dependency['name']}")
        other = dependency["name"].removeprefix("waybill-")
        ours = dependency["name"].startswith("waybill-")
        if FORBIDDEN_FEATURES & set(dependency["features"]):
            wrong.append(f"{name} asks for the feature 'experimental' of {dependency['name']}")
        if dependency["kind"] is not None:
            continue  # tests may look behind the scenes
        if ours and other not in ALLOWED[name]:
            wrong.append(f"{name} -> {other} is a new arrow: it needs an ADR")
        if not ours and dependency["name"] in FORBIDDEN.get(name, set()):
            wrong.append(f"{name} must not depend on {dependency['name']}")
for line in wrong:
    print(line, file=sys.stderr)
print(f"{len(metadata['packages'])} crates, {len(wrong)} wrong arrows")
sys.exit(bool(wrong))
