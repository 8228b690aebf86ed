//! `cargo xtask dist`: the program as users get it, with its symbols in a separate file.
//!
//! Without symbols the program has half the size. A debugger, `addr2line` and `perf` find them in `rpm.debug` by the program's debug link.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use flate2::Compression;

use crate::npm;
use crate::workspace::{Workspace, cargo};

/// The profile of the same name in the root Cargo.toml.
const PROFILE: &str = "dist";

/// Builds the program, and reports the results on stdout.
pub(crate) fn run(workspace: &Workspace) -> anyhow::Result<()> {
    let mut build = Command::new(cargo());
    build
        .args(["build", "--profile", PROFILE, "--bin", "rpm"])
        .current_dir(&workspace.root);
    succeed(&mut build)?;
    let program = workspace.target.join(PROFILE).join("rpm");
    let symbols = split(&program)?;
    let directory = workspace.target.join(PROFILE);
    let packages = npm::pack(workspace, &program, &directory, Compression::best())?;
    for path in [&program, &symbols].into_iter().chain(&packages) {
        let size = std::fs::metadata(path)
            .with_context(|| format!("cannot read {}", path.display()))?
            .len();
        println!("{}: {size} bytes", path.display());
    }
    Ok(())
}

/// Moves the symbols of a program to `NAME.debug`, and returns the path of that.
fn split(program: &Path) -> anyhow::Result<PathBuf> {
    let symbols = program.with_added_extension("debug");
    let objcopy = || Command::new("objcopy");
    succeed(objcopy().arg("--only-keep-debug").arg(program).arg(&symbols))?;
    let mut link = std::ffi::OsString::from("--add-gnu-debuglink=");
    link.push(&symbols);
    succeed(objcopy().arg("--strip-all").arg(link).arg(program))?;
    Ok(symbols)
}

fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().to_owned();
    let program = program.display();
    let status = command
        .status()
        .with_context(|| format!("cannot run {program}; objcopy is in the package binutils"))?;
    if !status.success() {
        bail!("{program}: {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sections(file: &Path) -> String {
        let told = Command::new("readelf")
            .args(["--sections", "--wide"])
            .arg(file)
            .output();
        String::from_utf8(told.expect("readelf runs").stdout).expect("text")
    }

    #[test]
    fn symbols_are_beside_the_program_and_not_in_it() {
        let directory = std::env::temp_dir().join(format!("rpm-dist-{}", std::process::id()));
        std::fs::create_dir(&directory).expect("a directory");
        let program = directory.join("program");
        std::fs::copy("/proc/self/exe", &program).expect("a copy");
        let symbols = split(&program).expect("it is split");
        assert_eq!(symbols, directory.join("program.debug"));
        let [program, symbols] = [&program, &symbols].map(|file| sections(file));
        assert!(
            !program.contains(".symtab") && program.contains(".gnu_debuglink"),
            "{program}"
        );
        assert!(
            symbols.contains(".symtab") && symbols.contains(".debug_line"),
            "{symbols}"
        );
        std::fs::remove_dir_all(&directory).expect("it is ours");
    }
}
