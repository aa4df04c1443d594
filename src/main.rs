//! The `ttdust` program.

fn main() {}
