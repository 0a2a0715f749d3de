"""Checks which Waybill crates may depend on which, and their forbidden dependencies, from `cargo metadata`."""

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
    # Not in production: no crate above depends on these.
    "simulators": set(),
    "stack": {"domain", "store", "simulators"},
    "load": {"domain", "store", "simulators", "stack"},
    "dev": {"simulators", "stack", "load"},
    "bench": {"domain", "store", "simulators", "stack", "load"},
    "tests": set(),
}
# Crates that a layer must not depend on: ARCHITECTURE.md gives the reason in its description of the layer.
FORBIDDEN = {
    "domain": {"sqlx", "reqwest", "axum", "tokio", "temporalio-sdk", "temporalio-client", "temporalio-workflow"},
    "workflows": {"sqlx", "reqwest", "axum", "tokio", "uuid", "jiff", "rand"},
    "store": {"axum", "reqwest", "temporalio-sdk", "temporalio-client"},
    "api": {"sqlx", "temporalio-sdk"},
    "worker": {"sqlx"},
    "activities": {"sqlx", "axum"},
    "runtime": {"sqlx"},
}
# Crates that only macro-generated code names, or that unify features (see Cargo.toml).
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
        wrong.append(f"{name} is not listed in .ci/arrows.py: add its allowed dependencies, and an ADR")
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
            wrong.append(f"{name} enables the feature 'experimental' of {dependency['name']}")
        if dependency["kind"] is not None:
            continue  # tests may use internals
        if ours and other not in ALLOWED[name]:
            wrong.append(f"{name} -> {other} is a new dependency: it needs an ADR")
        if not ours and dependency["name"] in FORBIDDEN.get(name, set()):
            wrong.append(f"{name} must not depend on {dependency['name']}")
for line in wrong:
    print(line, file=sys.stderr)
print(f"{len(metadata['packages'])} crates, {len(wrong)} dependency errors")
sys.exit(bool(wrong))
