//! Tests the command line. Because this test belongs to the package, `cargo test` always builds `waybill-dev`, whose
//! subcommand `guard` supervises the processes of every test's stack.

use std::process::Command;

#[test]
fn help_names_the_verbs() {
    let out = Command::new(env!("CARGO_BIN_EXE_waybill-dev")).arg("--help").output().unwrap();
    let help = String::from_utf8_lossy(&out.stdout);
    for verb in ["up", "order", "load", "chaos", "status", "down", "reset", "sqlx", "bench"] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(verb)), "{verb} is not in:\n{help}");
    }
}
