//! `cargo xtask npm`: builds the npm packages from `npm/` and the programs. The same input gives the same bytes.
//!
//! `npm pack` takes times, owners and compression from the machine and its npm version, so the archives are written here.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use flate2::{Compression, GzBuilder};

use crate::dist::both;
use crate::workspace::Workspace;

/// The workspace version, which replaces the one in `npm/*/package.json`.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The modification time of every file, as in npm's own archives: 1985-10-26.
const MODIFIED: u64 = 499_162_500;

/// Block size of an archive.
const BLOCK: usize = 512;

/// Platforms that have a package with a program.
const PLATFORMS: &[&str] = &["linux-x64", "linux-arm64"];

/// The files of an archive: names below `package/`, and contents. Those in `bin` are executable.
type Files = Vec<(String, Vec<u8>)>;

/// Packs a program that was built already, and `rpm-observe` beside it: `[--fast] PROGRAM DIRECTORY`.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> anyhow::Result<()> {
    let (level, paths) = match arguments {
        [flag, rest @ ..] if flag == "--fast" => (Compression::fast(), rest),
        all => (Compression::best(), all),
    };
    let [program, directory] = paths else {
        bail!("usage: cargo xtask npm [--fast] PROGRAM DIRECTORY");
    };
    for path in pack(workspace, Path::new(program), Path::new(directory), level)? {
        println!("{}", path.display());
    }
    Ok(())
}

/// Writes `npm-rpmx-VERSION.tgz` and `npm-PLATFORM-VERSION.tgz`, for the platform of the program.
pub(crate) fn pack(
    workspace: &Workspace,
    program: &Path,
    directory: &Path,
    level: Compression,
) -> anyhow::Result<Vec<PathBuf>> {
    let [program, observe] = both(program)?;
    let platform = platform(&program)?;
    let programs = vec![
        ("bin/rpmx".to_owned(), program),
        ("bin/rpm-observe".to_owned(), observe),
    ];
    let sources = workspace.root.join("npm");
    let licences = ["LICENSE-APACHE", "LICENSE-MIT"].map(|name| (name.to_owned(), workspace.root.join(name)));
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let mut written = Vec::new();
    for (name, programs) in [("rpmx", Files::new()), (platform, programs)] {
        let mut files = contents(&sources.join(name))?;
        for (name, path) in &licences {
            files.push((name.clone(), read(path)?));
        }
        files.extend(programs);
        for (file, bytes) in &mut files {
            if file == "package.json" {
                *bytes = manifest(bytes, name == "rpmx")?;
            }
        }
        files.sort();
        let path = directory.join(format!("npm-{name}-{VERSION}.tgz"));
        fs::write(&path, compressed(&archive(&files)?, level)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        written.push(path);
    }
    Ok(written)
}

/// The platform of an ELF program, as npm names it.
pub(crate) fn platform(program: &[u8]) -> anyhow::Result<&'static str> {
    // Offset 18 is e_machine: 62 is x86-64, 183 is AArch64.
    match (program.get(..4), program.get(18..20)) {
        (Some(b"\x7fELF"), Some([62, 0])) => Ok("linux-x64"),
        (Some(b"\x7fELF"), Some([183, 0])) => Ok("linux-arm64"),
        _ => bail!("the program is not one for Linux on x64 or arm64"),
    }
}

/// The manifest with the version, and with the packages that contain programs.
fn manifest(text: &[u8], with_programs: bool) -> anyhow::Result<Vec<u8>> {
    let text = std::str::from_utf8(text).context("package.json is not UTF-8")?;
    let template = "\"version\": \"0.0.0\"";
    if text.matches(template).count() != 1 {
        bail!("package.json has no {template}, in whose place the version of Cargo.toml comes");
    }
    let mut fields = format!("\"version\": \"{VERSION}\"");
    if with_programs {
        let programs = PLATFORMS
            .iter()
            .map(|it| format!("    \"@rpmx/{it}\": \"{VERSION}\""));
        let programs: Vec<String> = programs.collect();
        fields.push_str(&format!(
            ",\n  \"optionalDependencies\": {{\n{}\n  }}",
            programs.join(",\n")
        ));
    }
    Ok(text.replace(template, &fields).into_bytes())
}

/// All files of a directory and those below it, except what npm installs there.
fn contents(directory: &Path) -> anyhow::Result<Files> {
    let mut files = Files::new();
    let mut below = vec![(String::new(), directory.to_owned())];
    while let Some((prefix, directory)) = below.pop() {
        let entries =
            fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
        for entry in entries {
            let path = entry?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if path.is_dir() {
                if name != "node_modules" {
                    below.push((format!("{prefix}{name}/"), path));
                }
            } else {
                files.push((format!("{prefix}{name}"), read(&path)?));
            }
        }
    }
    Ok(files)
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// A tar archive (ustar) that contains nothing of this machine.
fn archive(files: &[(String, Vec<u8>)]) -> anyhow::Result<Vec<u8>> {
    let mut archive = Vec::new();
    for (name, bytes) in files {
        archive.extend(header(
            &format!("package/{name}"),
            bytes.len(),
            name.starts_with("bin/"),
        )?);
        archive.extend(bytes);
        archive.resize(archive.len().next_multiple_of(BLOCK), 0);
    }
    archive.resize(archive.len() + 2 * BLOCK, 0);
    Ok(archive)
}

fn header(name: &str, size: usize, executable: bool) -> anyhow::Result<[u8; BLOCK]> {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    if name.len() > 100 {
        bail!("the name {name} is too long for an archive");
    }
    put(0, name);
    put(100, if executable { "0000755" } else { "0000644" });
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{size:011o}"));
    put(136, &format!("{MODIFIED:011o}"));
    // The checksum of a header is computed with spaces in its place. The type is a file.
    put(148, "        0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    Ok(header)
}

fn compressed(bytes: &[u8], level: Compression) -> anyhow::Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().write(Vec::new(), level);
    encoder.write_all(bytes).context("cannot compress")?;
    encoder.finish().context("cannot compress")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Packs a program of this machine's platform to a directory of its own.
    fn packed(name: &str) -> (PathBuf, Vec<PathBuf>) {
        let directory = std::env::temp_dir().join(format!("xtask-npm-{name}-{}", std::process::id()));
        let program = directory.join("program");
        fs::create_dir_all(&directory).expect("a directory");
        let elf = [b"\x7fELF".as_slice(), &[0; 14], &[62, 0, 1, 2]].concat();
        for name in ["program", "rpm-observe"] {
            fs::write(directory.join(name), &elf).expect("a program");
        }
        let workspace = Workspace::load().expect("the workspace");
        let packages = pack(&workspace, &program, &directory.join("out"), Compression::fast());
        (directory, packages.expect("packages"))
    }

    fn tar(arguments: &[&str], archive: &Path) -> String {
        let ran = Command::new("tar").args(arguments).arg(archive).output();
        let ran = ran.expect("tar runs");
        assert!(ran.status.success(), "{ran:?}");
        String::from_utf8(ran.stdout).expect("text")
    }

    #[test]
    fn the_same_input_gives_the_same_bytes() {
        let (first, one) = packed("first");
        let (second, other) = packed("second");
        for (one, other) in one.iter().zip(&other) {
            assert!(
                fs::read(one).expect("it") == fs::read(other).expect("it"),
                "{}",
                one.display()
            );
        }
        for directory in [first, second] {
            fs::remove_dir_all(directory).expect("it is ours");
        }
    }

    #[test]
    fn a_package_has_what_belongs_in_it() {
        let (directory, packages) = packed("has");
        let [rpmx, platform] = packages.as_slice() else {
            panic!("{packages:?}")
        };
        assert!(platform.ends_with(format!("npm-linux-x64-{VERSION}.tgz")));
        let list = tar(&["-tvzf"], rpmx);
        for part in [
            "-rwxr-xr-x 0/0",
            "1985-10-26",
            "package/lib/client.js",
            "package/LICENSE-MIT",
        ] {
            assert!(list.contains(part), "{part} in\n{list}");
        }
        let manifest = tar(&["-xOz", "package/package.json", "-f"], rpmx);
        let manifest: serde_json::Value = serde_json::from_str(&manifest).expect("JSON");
        assert_eq!(manifest["version"], VERSION);
        assert_eq!(manifest["optionalDependencies"]["@rpmx/linux-arm64"], VERSION);
        for name in ["rpmx", "rpm-observe"] {
            let program = tar(&["-xOz", &format!("package/bin/{name}"), "-f"], platform);
            assert!(program.starts_with("\x7fELF"), "{name}");
        }
        let programs = tar(&["-tvzf"], platform);
        assert_eq!(programs.matches("-rwxr-xr-x").count(), 2, "{programs}");
        fs::remove_dir_all(directory).expect("it is ours");
    }

    #[test]
    fn what_is_no_program_is_refused() {
        assert_eq!(
            platform(&[b"\x7fELF".as_slice(), &[0; 14], &[183, 0]].concat()).ok(),
            Some("linux-arm64")
        );
        assert!(platform(b"#!/bin/sh\n").is_err());
        assert!(manifest(b"{}", false).is_err());
    }
}
