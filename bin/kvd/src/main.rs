//! kvd
fn main() {}
