//! kvctl
fn main() {}
