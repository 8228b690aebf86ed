//! Criterion benches of the hot spots: `cargo bench -p rpm-bench`. Each file of `benches/` is one.
