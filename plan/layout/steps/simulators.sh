set -eu
mkdir -p simulators/src
git mv dev/src/sim/mod.rs simulators/src/lib.rs
for f in dev/src/sim/*; do git mv "$f" simulators/src/; done
cat > simulators/Cargo.toml <<'T'
[package]
name = "waybill-simulators"
version.workspace = true
edition.workspace = true
rust-version.workspace = true
license.workspace = true
publish.workspace = true

[dependencies]
anyhow.workspace = true
axum.workspace = true
base64.workspace = true
futures.workspace = true
hex.workspace = true
hmac.workspace = true
jiff.workspace = true
reqwest.workspace = true
rustls.workspace = true
serde.workspace = true
serde_json.workspace = true
sha2.workspace = true
tokio.workspace = true
tokio-util.workspace = true
tracing.workspace = true
url.workspace = true
uuid.workspace = true

[lints]
workspace = true
T
sed -i 's/"api", "dev", "bench"/"api", "simulators", "dev", "bench"/; s#^waybill-dev = .*#waybill-simulators = { path = "simulators" }\n&#' Cargo.toml
sed -i 's#^waybill-store.workspace = true#waybill-simulators.workspace = true\n&#' dev/Cargo.toml bench/Cargo.toml
grep -rl 'pub(in crate::sim)' simulators/src | xargs sed -i 's/pub(in crate::sim)/pub(crate)/g'
sed -i '/^pub mod sim;$/d' dev/src/lib.rs
printf '!simulators\n' >> .dockerignore
find dev/src/sim -type d -empty -delete 2>/dev/null || true
