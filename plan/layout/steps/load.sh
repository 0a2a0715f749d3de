set -eu
mkdir -p load/src
git mv dev/src/load/mod.rs load/src/lib.rs
for f in dev/src/load/*; do git mv "$f" load/src/; done
git mv dev/src/chaos load/src/chaos
git mv dev/src/simulate.rs load/src/simulate.rs
python3 plan/layout/steps/mk.py load lib waybill-domain waybill-simulators waybill-stack waybill-store anyhow clap futures hdrhistogram reqwest serde serde_json sqlx tokio uuid
sed -i 's/"stack", "dev"/"stack", "load", "dev"/; s#^waybill-dev = .*#waybill-load = { path = "load" }\n&#' Cargo.toml
sed -i 's#^waybill-stack.workspace = true#waybill-load.workspace = true\n&#' dev/Cargo.toml bench/Cargo.toml
for m in load chaos simulate; do sed -i "/^pub mod $m;\$/d" dev/src/lib.rs; done
printf '!load\n' >> .dockerignore
python3 - <<'P'
import sys; sys.path.insert(0,'plan/layout/steps'); from edit import *
L='load/src/lib.rs'
sub(L,'pub mod books;','pub mod books;\npub mod chaos;'); sub(L,'pub mod shop;','pub mod shop;\npub mod simulate;')
# `cargo dev load`'s own function no longer shares its name with crate and struct
P
cat > plan/layout/steps/load.map <<'M'
[load]
crate::load crate
M
cat > plan/layout/steps/load.dev.map <<'M'
crate::load waybill_load
crate::chaos waybill_load::chaos
crate::simulate waybill_load::simulate
M
cat > plan/layout/steps/load.users.map <<'M'
waybill_dev::load waybill_load
waybill_dev::chaos waybill_load::chaos
waybill_dev::simulate waybill_load::simulate
M
python3 plan/layout/repath.py plan/layout/steps/load.map load
python3 plan/layout/repath.py plan/layout/steps/load.dev.map dev/src
python3 plan/layout/repath.py plan/layout/steps/load.users.map dev bench
find dev/src/load -type d -empty -delete 2>/dev/null || true
