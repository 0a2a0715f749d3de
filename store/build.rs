//! The migrations are part of the binary: a new one has to be compiled in.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
