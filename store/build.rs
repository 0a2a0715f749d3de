//! Rebuilds the crate when a migration is added: the binary contains the migrations.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
