set -eu
mkdir -p tests
git mv dev/tests/it tests/it
git mv dev/tests/histories tests/histories
python3 plan/layout/steps/mk.py tests test waybill-activities waybill-domain waybill-load waybill-simulators waybill-stack waybill-store waybill-workflows base64 futures futures-util hex hmac jiff prometheus reqwest rustls serde_json sha2 sqlx temporalio-client temporalio-common temporalio-macros temporalio-sdk temporalio-workflow tokio url uuid
sed -i 's/"dev", "bench"/"dev", "bench", "tests"/; /^waybill-dev = /d' Cargo.toml
sed -i '/^waybill-dev.workspace/d' bench/Cargo.toml
sed -i 's#join("tests/histories")#join("histories")#; s#cargo test --workspace --test it replay::record#cargo test -p waybill-tests replay::record#' tests/it/replay.rs
sed -i 's#^!worker$#!tests\n&#' .dockerignore
# dev is the command line alone: a binary
python3 plan/layout/steps/mk.py dev lib waybill-load waybill-simulators waybill-stack anyhow clap regex-syntax rustix rustls serde_json sqlx tokio uuid
git rm -q dev/src/lib.rs
python3 - <<'P'
import sys; sys.path.insert(0,'plan/layout/steps'); from edit import *
m='dev/src/main.rs'
sub(m,'use std::process::ExitCode;','mod bench;\nmod cli;\nmod follow;\nmod orders;\nmod sqlx_data;\nmod up;\nmod verbs;\n\nuse std::process::ExitCode;')
sub(m,'use waybill_dev::cli::{Cli, Verb};\nuse waybill_dev::{bench, sqlx_data, up, verbs};\n','use cli::{Cli, Verb};\n')
put('dev/tests/cli.rs','''//! The command line itself. Because this test belongs to the package, `cargo test` always builds `waybill-dev`, under
//! whose verb `guard` the processes of every test's stack run.

use std::process::Command;

#[test]
fn help_names_the_verbs() {
    let out = Command::new(env!("CARGO_BIN_EXE_waybill-dev")).arg("--help").output().unwrap();
    let help = String::from_utf8_lossy(&out.stdout);
    for verb in ["up", "order", "load", "chaos", "status", "down", "reset", "sqlx", "bench"] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(verb)), "{verb} is not in:\\n{help}");
    }
}
''')
P
