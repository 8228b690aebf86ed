//! The programs that users get: each is one file without any library, for every Linux of its processor, with its symbols in a file beside it.
//!
//! The same sources, compiler and C compiler give the same bytes, wherever the checkout lies.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use super::succeed;
use crate::workspace::{Workspace, cargo};

/// The profile of the same name in the root Cargo.toml.
const PROFILE: &str = "dist";

/// Compiles the C of ring with the headers of the C library that is linked.
const C_COMPILER: &str = "musl-gcc";

/// What cargo's output says of arguments within one variable.
const SEPARATOR: &str = "\x1f";

/// Arguments of the linker, which is LLVM's.
///
/// Functions of the same code become one, and the addresses that are set at the start are a bitmap instead of 24 bytes for each: the C library
/// that is linked in reads that (musl since 1.2.4), whatever the system has.
const LINK: &[&str] = &["-Wl,--icf=all", "-Wl,-z,pack-relative-relocs"];

/// What the programs are built for.
pub(super) fn target() -> String {
    format!("{}-unknown-linux-musl", std::env::consts::ARCH)
}

/// Builds the program of this name in `directory`, and returns where it and its symbols are.
pub(super) fn build(workspace: &Workspace, name: &str, directory: &Path) -> anyhow::Result<[PathBuf; 2]> {
    let target = target();
    require(&target)?;
    succeed(&mut command(workspace, &target, name)?)?;
    let built = workspace.target.join(&target).join(PROFILE).join(name);
    let place = directory.join(name);
    fs::copy(&built, &place)
        .with_context(|| format!("cannot copy {} to {}", built.display(), place.display()))?;
    let symbols = split(&place)?;
    Ok([place, symbols])
}

fn command(workspace: &Workspace, target: &str, name: &str) -> anyhow::Result<Command> {
    let moved = moved(workspace);
    let flags = |option: &str| {
        moved
            .iter()
            .map(|(from, to)| format!("{option}={from}={to}"))
            .collect::<Vec<_>>()
    };
    // Without NDEBUG it would be compiled for development: cc takes line tables for a sign of that.
    let mut c = flags("-ffile-prefix-map");
    c.push("-DNDEBUG".to_owned());
    let mut build = cargo();
    build
        .args(["rustc", "--locked", "--profile", PROFILE, "--target", target])
        .args(["--package", "rpm", "--bin", name, "--"])
        .arg(format!("-Clink-arg=-B{}", linker()?.display()))
        .arg("-Clink-arg=-fuse-ld=lld")
        .args(LINK.iter().map(|argument| format!("-Clink-arg={argument}")))
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            flags("--remap-path-prefix").join(SEPARATOR),
        )
        .env(format!("CFLAGS_{}", target.replace('-', "_")), c.join(" "))
        .current_dir(&workspace.root);
    Ok(build)
}

/// Directories of this machine, and what stands in their place wherever the program names a file.
fn moved(workspace: &Workspace) -> Vec<(String, &'static str)> {
    let set = |name| {
        std::env::var_os(name)
            .filter(|value: &OsString| !value.is_empty())
            .map(PathBuf::from)
    };
    let packages = set("CARGO_HOME").or_else(|| Some(set("HOME")?.join(".cargo")));
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let packages = packages.map(|path| (text(path), "/cargo"));
    packages
        .into_iter()
        .chain([(text(workspace.root.clone()), "/rpm")])
        .collect()
}

/// Installs the standard library for `target` if it is missing, and says what else is.
fn require(target: &str) -> anyhow::Result<()> {
    let library = PathBuf::from(rustc(&["--print", "target-libdir", "--target", target])?);
    if !library.is_dir() {
        println!("installing Rust's standard library for {target}");
        let added = Command::new("rustup").args(["target", "add", target]).status();
        if !added.is_ok_and(|status| status.success()) {
            bail!("there is no standard library for {target}; install it: rustup target add {target}");
        }
    }
    let compiler = Command::new(C_COMPILER)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !compiler.is_ok_and(|status| status.success()) {
        bail!("{C_COMPILER} does not run; it is in Debian's package musl-tools");
    }
    Ok(())
}

/// The directory in which a C compiler finds the linker that comes with rustc.
fn linker() -> anyhow::Result<PathBuf> {
    let host = rustc(&["--print", "host-tuple"])?;
    let directory = Path::new(&rustc(&["--print", "sysroot"])?)
        .join("lib/rustlib")
        .join(host)
        .join("bin/gcc-ld");
    if !directory.join("ld.lld").is_file() {
        bail!(
            "this Rust has no linker in {}; install one with rustup",
            directory.display()
        );
    }
    Ok(directory)
}

/// What rustc answers, in one line.
fn rustc(arguments: &[&str]) -> anyhow::Result<String> {
    let program = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(program)
        .args(arguments)
        .output()
        .context("cannot run rustc")?;
    if !output.status.success() {
        bail!("rustc: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Moves the symbols of a program to `NAME.debug`, and returns where that is.
fn split(program: &Path) -> anyhow::Result<PathBuf> {
    let symbols = program.with_added_extension("debug");
    let objcopy = || Command::new("objcopy");
    succeed(objcopy().arg("--only-keep-debug").arg(program).arg(&symbols))?;
    let mut link = OsString::from("--add-gnu-debuglink=");
    link.push(&symbols);
    succeed(objcopy().arg("--strip-all").arg(link).arg(program))?;
    Ok(symbols)
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
        fs::create_dir(&directory).expect("a directory");
        let program = directory.join("program");
        fs::copy("/proc/self/exe", &program).expect("a copy");
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
        fs::remove_dir_all(&directory).expect("it is ours");
    }
}
