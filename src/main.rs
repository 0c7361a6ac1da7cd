//! The `tahoefs` program.

fn main() {}
