//! The package for Debian: the program as `rpmx` and the one that it executes, man pages and completions, and units for systemd. `dpkg-deb`
//! packs it.
//!
//! Nothing in it is of this machine or of the time of the build: the same program gives the same bytes.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use flate2::GzBuilder;

use super::{both, succeed};
use crate::man;
use crate::workspace::Workspace;

/// The command, and the package.
const NAME: &str = "rpmx";
const VERSION: &str = env!("CARGO_PKG_VERSION");
const MAINTAINER: &str = "The rpm authors <rpmx@users.noreply.github.com>";

/// The unit that `rpm startup` writes for one user.
const UNIT: &str = include_str!("../../../crates/rpm-cli/src/commands/startup/systemd.service");

/// The scripts that `rpmx completion` prints, and where each shell looks for them. They are not asked of the program: it may be one for another
/// processor.
const COMPLETIONS: [(&str, &str); 3] = [
    (
        include_str!("../../../crates/rpm-cli/src/complete/rpm.bash"),
        "usr/share/bash-completion/completions/rpmx",
    ),
    (
        include_str!("../../../crates/rpm-cli/src/complete/rpm.zsh"),
        "usr/share/zsh/vendor-completions/_rpmx",
    ),
    (
        include_str!("../../../crates/rpm-cli/src/complete/rpm.fish"),
        "usr/share/fish/vendor_completions.d/rpmx.fish",
    ),
];

/// What is not for the manager of a user's own services: it starts no other user's, raises no limit, and has no capability to give up.
const OF_THE_SYSTEM: &[&str] = &[
    "User=",
    "LimitNOFILE=",
    "LimitNPROC=",
    "LimitCORE=",
    "# The memory of an app",
    "# Neither the daemon of root",
    "CapabilityBoundingSet=",
    "@ENVIRONMENT@",
    "@NETWORK@",
];

/// How small the package is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Best,
}

/// The directory that becomes the package.
struct Tree {
    root: PathBuf,
}

impl Tree {
    fn file(&self, path: &str, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
        let path = self.root.join(path);
        let write = || {
            if let Some(directory) = path.parent() {
                fs::create_dir_all(directory)?;
            }
            fs::write(&path, bytes)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }

    fn compressed(&self, path: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let mut encoder = GzBuilder::new().write(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).context("cannot compress")?;
        self.file(
            &format!("{path}.gz"),
            &encoder.finish().context("cannot compress")?,
            0o644,
        )
    }

    /// Sets what is part of the archive and depends on the machine and the moment: the times of everything, and the modes of directories.
    fn settle(&self, time: &str) -> anyhow::Result<()> {
        let time = time.parse().context("the time of the files is not in seconds")?;
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(time);
        for path in below(&self.root)?.iter().chain([&self.root]) {
            let file = fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
            if path.is_dir() {
                file.set_permissions(fs::Permissions::from_mode(0o755))?;
            }
            file.set_modified(time)
                .with_context(|| format!("cannot set the time of {}", path.display()))?;
        }
        Ok(())
    }

    /// Installed-Size in KiB, as dpkg-gencontrol(1) estimates it: files rounded up, and 1 for everything else. What a directory takes differs
    /// from one file system to the next.
    fn installed_size(&self) -> anyhow::Result<u64> {
        let mut size = 0;
        for path in below(&self.root.join("usr"))? {
            let found = fs::metadata(&path)?;
            size += if found.is_file() {
                found.len().div_ceil(1024)
            } else {
                1
            };
        }
        Ok(size)
    }
}

/// Everything below a directory.
fn below(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut ahead = vec![directory.to_owned()];
    while let Some(directory) = ahead.pop() {
        let entries =
            fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                ahead.push(path.clone());
            }
            found.push(path);
        }
    }
    Ok(found)
}

/// Packs `program` and `rpm-observe` beside it, and returns the path of the package in `directory`.
pub(super) fn pack(
    workspace: &Workspace,
    program: &Path,
    directory: &Path,
    compression: Compression,
) -> anyhow::Result<PathBuf> {
    let tree = Tree {
        root: directory.join("deb"),
    };
    if tree.root.exists() {
        fs::remove_dir_all(&tree.root).with_context(|| format!("cannot remove {}", tree.root.display()))?;
    }
    let time = time(workspace)?;
    let [program, observe] = both(program)?;
    let architecture = architecture(&program)?;
    tree.file(&format!("usr/bin/{NAME}"), &program, 0o755)?;
    // Where `rpmx` looks for it when it is not beside it: nobody types its name.
    tree.file(&format!("usr/lib/{NAME}/rpm-observe"), &observe, 0o755)?;
    completions(&tree)?;
    man_pages(workspace, &tree)?;
    tree.file(
        &format!("usr/lib/systemd/system/{NAME}@.service"),
        system_unit().as_bytes(),
        0o644,
    )?;
    tree.file(
        &format!("usr/lib/systemd/user/{NAME}.service"),
        user_unit().as_bytes(),
        0o644,
    )?;
    documents(workspace, &tree, &time)?;
    control(workspace, &tree, architecture)?;
    let package = directory.join(format!("{NAME}_{VERSION}_{architecture}.deb"));
    tree.settle(&time)?;
    let mut build = Command::new("dpkg-deb");
    build
        .args(match compression {
            Compression::None => ["-Znone"].as_slice(),
            Compression::Best => &["-Zxz", "--threads-max=1"],
        })
        .args(["--root-owner-group", "--build"])
        .args([&tree.root, &package])
        .env("SOURCE_DATE_EPOCH", &time)
        .stdout(Stdio::null());
    succeed(&mut build)?;
    Ok(package)
}

/// Debian's name of the processor that an ELF program is for.
fn architecture(program: &[u8]) -> anyhow::Result<&'static str> {
    match crate::npm::platform(program)? {
        "linux-x64" => Ok("amd64"),
        _ => Ok("arm64"),
    }
}

/// The time of all files, in seconds since 1970: that of the last commit, unless `SOURCE_DATE_EPOCH` says another.
fn time(workspace: &Workspace) -> anyhow::Result<String> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(time) if !time.is_empty() => Ok(time),
        _ => {
            let mut git = Command::new("git");
            output(
                git.args(["log", "-1", "--format=%ct"])
                    .current_dir(&workspace.root),
            )
        }
    }
}

/// What a command prints, in one line.
fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

fn completions(tree: &Tree) -> anyhow::Result<()> {
    for (script, path) in COMPLETIONS {
        let script = script.replace("@NAME@", NAME).replace("@FUNCTION@", NAME);
        tree.file(path, script.as_bytes(), 0o644)?;
    }
    Ok(())
}

fn man_pages(workspace: &Workspace, tree: &Tree) -> anyhow::Result<()> {
    let written = tree.root.with_extension("man");
    man::write(workspace, &written, NAME)?;
    for entry in fs::read_dir(&written).with_context(|| format!("cannot read {}", written.display()))? {
        let entry = entry?;
        let page = fs::read(entry.path())?;
        tree.compressed(
            &format!("usr/share/man/man1/{}", entry.file_name().display()),
            &page,
        )?;
    }
    fs::remove_dir_all(&written).with_context(|| format!("cannot remove {}", written.display()))
}

/// For a user as the instance. systemd sets `HOME`, where the daemon's directory is.
fn system_unit() -> String {
    let unit = UNIT.replace("@NETWORK@", "Documentation=man:rpmx(1)\nAfter=network.target");
    finished(
        &unit.replace("@USER@", "%i"),
        "Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    )
}

/// For a user's own manager of services.
fn user_unit() -> String {
    let lines = UNIT
        .lines()
        .filter(|line| !OF_THE_SYSTEM.iter().any(|part| line.starts_with(part)));
    let unit: String = lines.flat_map(|line| [line, "\n"]).collect();
    let unit = unit.replace("rpm, the apps of @USER@", "rpm, the apps of this user");
    let unit = unit.replace("multi-user.target", "default.target");
    finished(
        &unit.replace("\n\n[Service]", "\nDocumentation=man:rpmx(1)\n\n[Service]"),
        "",
    )
}

fn finished(unit: &str, environment: &str) -> String {
    unit.replace("@ENVIRONMENT@", environment)
        .replace("@PROGRAM@", &format!("/usr/bin/{NAME}"))
}

fn documents(workspace: &Workspace, tree: &Tree, time: &str) -> anyhow::Result<()> {
    let read = |path: &str| {
        let path = workspace.root.join(path);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let place = |name: &str| format!("usr/share/doc/{NAME}/{name}");
    // As the format wants it: each line after a space, and a full stop where it is empty.
    let licence: Vec<String> = read("LICENSE-MIT")?
        .lines()
        .map(|line| {
            if line.is_empty() {
                " .".to_owned()
            } else {
                format!(" {line}")
            }
        })
        .collect();
    let copyright = read("packaging/debian/copyright")?.replace("@MIT@", &licence.join("\n"));
    tree.file(&place("copyright"), copyright.as_bytes(), 0o644)?;
    let date = output(
        Command::new("date")
            .args(["--utc", "--rfc-email"])
            .arg(format!("--date=@{time}")),
    )?;
    let changes = format!(
        "{NAME} ({VERSION}) unstable; urgency=medium\n\n  * CHANGELOG.md.gz beside this file has the changes.\n\n -- {MAINTAINER}  {date}\n"
    );
    tree.compressed(&place("changelog"), changes.as_bytes())?;
    tree.compressed(&place("CHANGELOG.md"), read("CHANGELOG.md")?.as_bytes())?;
    tree.file(
        &place("README.Debian"),
        read("packaging/debian/README.Debian")?.as_bytes(),
        0o644,
    )?;
    for name in ["Dockerfile.node", "Dockerfile.bun", "Dockerfile.python"] {
        let text = read(&format!("packaging/docker/{name}"))?;
        tree.file(&place(&format!("examples/{name}")), text.as_bytes(), 0o644)?;
    }
    let overrides = read("packaging/debian/lintian-overrides")?;
    tree.file(
        &format!("usr/share/lintian/overrides/{NAME}"),
        overrides.as_bytes(),
        0o644,
    )
}

/// What dpkg reads: the description, the sums of all files, and what it runs.
fn control(workspace: &Workspace, tree: &Tree, architecture: &str) -> anyhow::Result<()> {
    let read = |name: &str| {
        let path = workspace.root.join("packaging/debian").join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let list = "find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum";
    let sums = output(Command::new("sh").args(["-ec", list]).current_dir(&tree.root))?;
    tree.file("DEBIAN/md5sums", format!("{sums}\n").as_bytes(), 0o644)?;
    let control = read("control")?
        .replace("@VERSION@", VERSION)
        .replace("@ARCHITECTURE@", architecture)
        .replace("@MAINTAINER@", MAINTAINER)
        .replace("@SIZE@", &tree.installed_size()?.to_string());
    tree.file("DEBIAN/control", control.as_bytes(), 0o644)?;
    let daemons = read("daemons.sh")?;
    for script in ["postinst", "prerm", "postrm"] {
        let text = read(script)?.replace("@DAEMONS@", &daemons);
        tree.file(&format!("DEBIAN/{script}"), text.as_bytes(), 0o755)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_complete() {
        for unit in [system_unit(), user_unit()] {
            assert!(!unit.contains('@'), "{unit}");
            for line in [
                "Type=notify",
                "ExecStart=/usr/bin/rpmx daemon",
                "ExecReload=/usr/bin/rpmx update",
                "KillMode=process",
                "Documentation=man:rpmx(1)",
            ] {
                assert!(unit.lines().any(|it| it == line), "{line} in\n{unit}");
            }
        }
        assert!(system_unit().contains("\nUser=%i\n"), "{}", system_unit());
        let own = user_unit();
        assert!(!own.contains("User=") && !own.contains("Capability"), "{own}");
        assert!(own.contains("WantedBy=default.target"), "{own}");
    }

    /// Runs a command to its end, and returns what it prints.
    fn ok(command: &mut Command) -> String {
        let ran = command.stdin(Stdio::null()).output().expect("it runs");
        let [out, err] = [&ran.stdout, &ran.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        assert!(ran.status.success(), "{command:?}\n{out}\n{err}");
        out
    }

    /// Packs the same programs with another mask for new files, below a directory of its own.
    fn packed(name: &str, mask: &str) -> (PathBuf, PathBuf) {
        let directory = std::env::temp_dir().join(format!("xtask-deb-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory");
        // Members of its group own what is made in it, too.
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o2755)).expect("ours");
        let elf = [b"\x7fELF".as_slice(), &[0; 14], &[62, 0, 1, 2]].concat();
        for program in ["program", "rpm-observe"] {
            fs::write(directory.join(program), &elf).expect("a program");
        }
        let workspace = Workspace::load().expect("the workspace");
        let mut pack = Command::new("sh");
        pack.args(["-c", "umask \"$1\"; shift; exec \"$@\"", "sh", mask])
            .arg(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["xtask", "deb"])
            .args([directory.join("program"), directory.join("out")])
            .current_dir(&workspace.root)
            // The clock of a machine may be behind that of the one which made the commit.
            .env("SOURCE_DATE_EPOCH", "4102444800");
        let package = ok(&mut pack);
        (directory, PathBuf::from(package.trim()))
    }

    #[test]
    fn the_same_programs_give_the_same_package() {
        let (first, one) = packed("first", "022");
        let (second, other) = packed("the-second", "077");
        assert!(
            fs::read(&one).expect("it") == fs::read(&other).expect("it"),
            "{} differs from {}",
            one.display(),
            other.display()
        );
        let list = ok(Command::new("dpkg-deb")
            .arg("--contents")
            .arg(&one)
            .env("TZ", "UTC"));
        assert!(list.contains("./usr/share/man/man1/rpmx-start.1.gz"), "{list}");
        for line in list.lines() {
            let same = line.contains(" root/root ") && line.contains(" 2100-01-01 00:00 ");
            let mode = ["drwxr-xr-x ", "-rwxr-xr-x ", "-rw-r--r-- "];
            assert!(same && mode.iter().any(|mode| line.starts_with(mode)), "{line}");
        }
        for directory in [first, second] {
            fs::remove_dir_all(directory).expect("it is ours");
        }
    }
}
