#!/usr/bin/env bash
# vendor/temporalio-sdk is the released crate plus vendor/temporalio-sdk.patch, and nothing else. `--apply` writes it anew.
set -euo pipefail
cd "$(dirname "$0")/.."
version=1.1.1
sha256=b1231674afdc0f422689831e18cc087cb577b1811fcfee5f08167f34632ca770
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
crate=$(ls "${CARGO_HOME:-$HOME/.cargo}"/registry/cache/*/temporalio-sdk-$version.crate 2>/dev/null | head -1 || true)
if [ -z "$crate" ]; then   # patched away, so no build of ours fetches it: `cargo info` does
  (cd "$dir" && cargo info --quiet "temporalio-sdk@$version" >/dev/null)
  crate=$(ls "${CARGO_HOME:-$HOME/.cargo}"/registry/cache/*/temporalio-sdk-$version.crate | head -1)
fi
echo "$sha256  $crate" | sha256sum --check --quiet
tar -xzf "$crate" -C "$dir"
released="$dir/temporalio-sdk-$version"
rm -rf "$released"/{examples,Cargo.lock,Cargo.toml.orig,.cargo_vcs_info.json}
patch --quiet -p1 -d "$released" <vendor/temporalio-sdk.patch
if [ "${1-}" = --apply ]; then rm -rf vendor/temporalio-sdk && cp -r "$released" vendor/temporalio-sdk; fi
diff -r "$released" vendor/temporalio-sdk && echo "vendor/temporalio-sdk is $version with vendor/temporalio-sdk.patch"
