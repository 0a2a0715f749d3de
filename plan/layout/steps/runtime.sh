set -eu
git mv service runtime
git mv docs/adr/0002-crate-service.md docs/adr/0002-crate-runtime.md
sed -i 's/waybill-service/waybill-runtime/g' Cargo.toml Cargo.lock api/Cargo.toml worker/Cargo.toml runtime/Cargo.toml
sed -i 's/"service", "activities"/"runtime", "activities"/; s#path = "service"#path = "runtime"#' Cargo.toml
grep -rl waybill_service --include=*.rs api worker runtime bench dev | xargs sed -i 's/waybill_service/waybill_runtime/g'
sed -i 's/"service"/"runtime"/g' .ci/arrows.py
sed -i 's/^!service$/!runtime/' .dockerignore
sed -i 's#service/src/#runtime/src/#g; s#`service/#`runtime/#g' ARCHITECTURE.md docs/testing.md
sed -i 's/`service`/`runtime`/g; s/<- service, activities/<- runtime, activities/; s/^          service  /          runtime  /; s#0002-crate-service#0002-crate-runtime#g' ARCHITECTURE.md docs/adr/0002-crate-runtime.md
