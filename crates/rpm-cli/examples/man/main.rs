//! Writes the man pages into a directory, for a program of a name (`rpm`): `cargo xtask man` runs it. They are made from the same grammar as `--help`, and no part of the
//! program.

mod pages;

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().unwrap_or_else(|| ".".to_owned()));
    let program = arguments.next().unwrap_or_else(|| "rpm".to_owned());
    std::fs::create_dir_all(&directory)?;
    for (name, text) in pages::all(&program)? {
        std::fs::write(directory.join(name), text)?;
    }
    Ok(())
}
