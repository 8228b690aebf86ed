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

/// What cargo's output says of arguments within one variable.
const SEPARATOR: &str = "\x1f";

/// Arguments of the linker, which is LLVM's.
///
/// Functions of the same code become one, and the addresses that are set at the start are a bitmap instead of 24 bytes for each: the C library
/// that is linked in reads that (musl since 1.2.4), whatever the system has.
const LINK: &[&str] = &["-Wl,--icf=all", "-Wl,-z,pack-relative-relocs"];

/// What programs are built for: a processor, and Linux with any C library or none.
pub(super) struct Target {
    /// As Rust names it.
    processor: &'static str,
    /// As npm names it.
    pub(super) platform: &'static str,
}

/// All that users get programs for.
const TARGETS: [Target; 2] = [
    Target {
        processor: "x86_64",
        platform: "linux-x64",
    },
    Target {
        processor: "aarch64",
        platform: "linux-arm64",
    },
];

impl Target {
    /// All of them, with that of this machine first.
    pub(super) fn all() -> Vec<Target> {
        let mut all = Vec::from(TARGETS);
        all.sort_by_key(|target| !target.is_native());
        all
    }

    /// Is it that of this machine?
    pub(super) fn is_native(&self) -> bool {
        self.processor == std::env::consts::ARCH
    }

    /// Rust's name of it.
    pub(super) fn triple(&self) -> String {
        format!("{}-unknown-linux-musl", self.processor)
    }

    /// A program of the GNU tools for this processor, as Debian calls it.
    fn tool(&self, name: &str) -> String {
        if self.is_native() {
            name.to_owned()
        } else {
            format!("{}-linux-gnu-{name}", self.processor)
        }
    }

    /// Compiles the C of ring, which uses nothing of a C library but the types and functions that all have. For this machine it does so with the
    /// headers of the library that is linked.
    fn c_compiler(&self) -> String {
        if self.is_native() {
            "musl-gcc".to_owned()
        } else {
            self.tool("gcc")
        }
    }

    /// What this machine lacks to build for it, with what to do about it.
    ///
    /// # Errors
    ///
    /// Fails if rustc does not answer.
    pub(super) fn missing(&self) -> anyhow::Result<Option<String>> {
        let triple = self.triple();
        let library = PathBuf::from(rustc(&["--print", "target-libdir", "--target", &triple])?);
        if !library.is_dir() {
            return Ok(Some(format!(
                "there is no standard library for {triple}; install it: rustup target add {triple}"
            )));
        }
        let compiler = self.c_compiler();
        let runs = Command::new(&compiler)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if runs.is_ok_and(|status| status.success()) {
            return Ok(None);
        }
        let package = match self.is_native() {
            true => "musl-tools".to_owned(),
            false => format!("gcc-{}-linux-gnu", self.processor.replace('_', "-")),
        };
        Ok(Some(format!(
            "{compiler} does not run; it is in Debian's package {package}"
        )))
    }

    /// Installs Rust's standard library for it where that is missing.
    ///
    /// # Errors
    ///
    /// Fails if rustc does not answer. What cannot be installed is still missing.
    pub(super) fn install(&self) -> anyhow::Result<()> {
        let triple = self.triple();
        let library = PathBuf::from(rustc(&["--print", "target-libdir", "--target", &triple])?);
        if !library.is_dir() {
            println!("installing Rust's standard library for {triple}");
            let _ = Command::new("rustup").args(["target", "add", &triple]).status();
        }
        Ok(())
    }
}

/// Builds the program of this name in `directory`, and returns where it and its symbols are.
pub(super) fn build(
    workspace: &Workspace,
    target: &Target,
    name: &str,
    directory: &Path,
) -> anyhow::Result<[PathBuf; 2]> {
    succeed(&mut command(workspace, target, name)?)?;
    let built = workspace.target.join(target.triple()).join(PROFILE).join(name);
    let place = directory.join(name);
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    fs::copy(&built, &place)
        .with_context(|| format!("cannot copy {} to {}", built.display(), place.display()))?;
    let symbols = split(&place, &target.tool("objcopy"))?;
    Ok([place, symbols])
}

fn command(workspace: &Workspace, target: &Target, name: &str) -> anyhow::Result<Command> {
    let triple = target.triple();
    let variable = triple.replace('-', "_");
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
        .args(["rustc", "--locked", "--profile", PROFILE, "--target", &triple])
        .args(["--package", "rpm", "--bin", name, "--"])
        .arg(format!("-Clink-arg=-B{}", linker()?.display()))
        .arg("-Clink-arg=-fuse-ld=lld")
        .args(LINK.iter().map(|argument| format!("-Clink-arg={argument}")))
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            flags("--remap-path-prefix").join(SEPARATOR),
        )
        .env(format!("CFLAGS_{variable}"), c.join(" "))
        .env(format!("CC_{variable}"), target.c_compiler())
        .current_dir(&workspace.root);
    if !target.is_native() {
        let linker = format!("CARGO_TARGET_{}_LINKER", variable.to_uppercase());
        build.env(linker, target.tool("gcc"));
        // Otherwise the C library would be the one of that compiler.
        build.arg("-Clink-self-contained=yes");
    }
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
    let places = [
        packages.clone().map(|path| (path, "/cargo")),
        // What is shared between users is often a link.
        packages.map(|path| (path.join("registry"), "/cargo/registry")),
        Some((workspace.root.clone(), "/rpm")),
        // Of the files that build scripts write; it need not be in the checkout.
        Some((workspace.target.clone(), "/rpm/target")),
    ];
    in_order(with_links(places.into_iter().flatten().collect()))
}

/// Adds what links lead to: a compiler names files as they are given to it, and the directory that it works in as the kernel does.
fn with_links(mut places: Vec<(PathBuf, &'static str)>) -> Vec<(PathBuf, &'static str)> {
    let real = |(path, to): &(PathBuf, &'static str)| Some((path.canonicalize().ok()?, *to));
    let others: Vec<_> = places.iter().filter_map(real).collect();
    places.extend(others);
    places
}

/// The compilers use the last that matches, so that a directory comes after the one that it is in.
fn in_order(mut places: Vec<(PathBuf, &'static str)>) -> Vec<(String, &'static str)> {
    places.sort_by_key(|(path, _)| path.components().count());
    places.dedup();
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    places.into_iter().map(|(path, to)| (text(path), to)).collect()
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
fn split(program: &Path, objcopy: &str) -> anyhow::Result<PathBuf> {
    let symbols = program.with_added_extension("debug");
    let objcopy = || Command::new(objcopy);
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
    fn a_directory_is_named_after_the_one_that_it_is_in() {
        let ordered = |cargo: &str, root: &str, target: &str| {
            let places = [(cargo, "/cargo"), (root, "/rpm"), (target, "/rpm/target")];
            let places = places.map(|(path, to)| (PathBuf::from(path), to));
            in_order(places.into())
                .into_iter()
                .map(|(_, to)| to)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            ordered("/srv/.cargo", "/srv/src/rpm", "/srv/src/rpm/target"),
            ["/cargo", "/rpm", "/rpm/target"]
        );
        assert_eq!(
            ordered("/rpm/target/cargo", "/rpm", "/rpm/target"),
            ["/rpm", "/rpm/target", "/cargo"]
        );
    }

    #[test]
    fn a_library_behind_a_link_is_compiled_to_the_same_bytes() {
        let all = fs::canonicalize(std::env::temp_dir()).expect("it is there");
        let directory = all.join(format!("rpm-links-{}", std::process::id()));
        let package = directory.join("real/registry/x");
        fs::create_dir_all(&package).expect("directories");
        fs::create_dir(directory.join("linked")).expect("a directory");
        std::os::unix::fs::symlink("../real/registry", directory.join("linked/registry")).expect("a link");
        fs::write(
            package.join("lib.rs"),
            "pub fn f(x: u32) -> u32 { if x > 3 { panic!() } x }",
        )
        .expect("a file");
        let compiled = |home: &str| {
            let home = directory.join(home);
            let places = [
                (home.clone(), "/cargo"),
                (home.join("registry"), "/cargo/registry"),
            ];
            let mut rustc = Command::new("rustc");
            rustc
                .args([
                    "--crate-type=lib",
                    "--crate-name=x",
                    "--emit=obj",
                    "-Cdebuginfo=line-tables-only",
                    "-o",
                ])
                .args([directory.join("x.o"), home.join("registry/x/lib.rs")])
                .current_dir(&package);
            for (from, to) in in_order(with_links(places.into())) {
                rustc.arg(format!("--remap-path-prefix={from}={to}"));
            }
            succeed(&mut rustc).expect("it compiles");
            fs::read(directory.join("x.o")).expect("it is there")
        };
        assert!(compiled("real") == compiled("linked"), "{}", directory.display());
        fs::remove_dir_all(&directory).expect("it is ours");
    }

    #[test]
    fn symbols_are_beside_the_program_and_not_in_it() {
        let directory = std::env::temp_dir().join(format!("rpm-dist-{}", std::process::id()));
        fs::create_dir(&directory).expect("a directory");
        let program = directory.join("program");
        fs::copy("/proc/self/exe", &program).expect("a copy");
        let symbols = split(&program, "objcopy").expect("it is split");
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
