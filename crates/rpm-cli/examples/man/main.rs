//! Writes the man pages into a directory: `cargo xtask man` runs it. They are made from the same grammar as `--help`, and no part of the
//! program.

mod pages;

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let directory: PathBuf = std::env::args_os().nth(1).unwrap_or_else(|| ".".into()).into();
    std::fs::create_dir_all(&directory)?;
    for (name, text) in pages::all()? {
        std::fs::write(directory.join(name), text)?;
    }
    Ok(())
}
