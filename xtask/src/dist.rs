//! `cargo xtask dist`: everything that is given to users, in `target/dist`: the programs and their symbols, the packages for npm, the package
//! for Debian, a bill of materials, and the sums of all of them.
//!
//! The programs carry no symbols, which halves them; a debugger, `addr2line` and `perf` find them in `rpm.debug` and `rpm-observe.debug` by
//! the link that each program carries.

mod deb;
mod program;
mod sbom;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use flate2::Compression;

use crate::npm;
use crate::workspace::Workspace;
use program::Target;

/// The program with the daemon, and most bytes that it may have: it is copied into images, and kept in memory for months.
const RPM: (&str, u64) = ("rpm", 12_000_000);
/// What `rpm` executes for those who watch it, beside it in each package.
const OBSERVE: (&str, u64) = ("rpm-observe", 12_000_000);

/// Builds everything, and prints what came out.
pub(crate) fn run(workspace: &Workspace) -> anyhow::Result<()> {
    let directory = workspace.target.join("dist");
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let mut made = Vec::new();
    let mut too_large = Vec::new();
    for target in Target::all() {
        if target.is_native() {
            target.install()?;
        }
        match target.missing()? {
            Some(missing) if target.is_native() => bail!(missing),
            Some(missing) => println!("nothing is made for {}: {missing}", target.platform),
            None => {
                let (packages, large) = make(workspace, &target, &directory)?;
                made.extend(packages);
                too_large.extend(large);
            }
        }
    }
    made.push(sbom::write(workspace, &directory)?);
    // The package for npm that chooses among the others is the same for each.
    made.sort();
    made.dedup();
    made.push(sums(&directory, &made)?);
    for path in &made {
        println!("{}: {} bytes", path.display(), size(path)?);
    }
    if !too_large.is_empty() {
        bail!(
            "all of this was made and can be used, but there are programs with more bytes than a release may have: {}; make room first",
            too_large.join(", ")
        );
    }
    Ok(())
}

/// Builds and packs what there is for one processor. Returns the files, and the programs that are too large.
fn make(
    workspace: &Workspace,
    target: &Target,
    directory: &Path,
) -> anyhow::Result<(Vec<PathBuf>, Vec<String>)> {
    let programs = match target.is_native() {
        true => directory.to_owned(),
        false => directory.join(target.platform),
    };
    let mut made = Vec::new();
    let mut too_large = Vec::new();
    for (name, largest) in [RPM, OBSERVE] {
        made.extend(program::build(workspace, target, name, &programs)?);
        let program = programs.join(name);
        let bytes = size(&program)?;
        if bytes > largest {
            too_large.push(format!("{} ({bytes}, not {largest})", program.display()));
        }
    }
    let program = programs.join(RPM.0);
    made.extend(npm::pack(workspace, &program, directory, Compression::best())?);
    made.push(deb::pack(workspace, &program, directory, deb::Compression::Best)?);
    Ok((made, too_large))
}

/// The bytes of a program that was built before, and those of `rpm-observe` beside it.
pub(crate) fn both(program: &Path) -> anyhow::Result<[Vec<u8>; 2]> {
    let read = |path: &Path| {
        fs::read(path).with_context(|| {
            format!(
                "cannot read {}; a package has both {} and {}",
                path.display(),
                RPM.0,
                OBSERVE.0
            )
        })
    };
    Ok([read(program)?, read(&program.with_file_name(OBSERVE.0))?])
}

/// Packs a program that was built before, and `rpm-observe` beside it, for Debian: `[--fast] PROGRAM DIRECTORY`. With `--fast` nothing is
/// compressed, for tests.
pub(crate) fn deb(workspace: &Workspace, arguments: &[String]) -> anyhow::Result<()> {
    let (fast, rest) = match arguments {
        [flag, rest @ ..] if flag == "--fast" => (true, rest),
        rest => (false, rest),
    };
    let [program, directory] = rest else {
        bail!("usage: cargo xtask deb [--fast] PROGRAM DIRECTORY");
    };
    let compression = if fast {
        deb::Compression::None
    } else {
        deb::Compression::Best
    };
    let package = deb::pack(workspace, Path::new(program), Path::new(directory), compression)?;
    println!("{}", package.display());
    Ok(())
}

fn size(path: &Path) -> anyhow::Result<u64> {
    let found = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(found.len())
}

/// Writes what `sha256sum --check` reads.
fn sums(directory: &Path, files: &[PathBuf]) -> anyhow::Result<PathBuf> {
    let path = directory.join("SHA256SUMS");
    let output = fs::File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    let names = files.iter().filter_map(|file| file.strip_prefix(directory).ok());
    let mut sum = Command::new("sha256sum");
    succeed(sum.args(names).current_dir(directory).stdout(output))?;
    Ok(path)
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
