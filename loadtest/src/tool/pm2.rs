//! A PM2 of our own in a temporary home.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::ensure;
use tokio::process::Command;

use super::{pidfds, place};

static HOMES: AtomicU32 = AtomicU32::new(0);

/// Dropping it ends its daemon, and removes its home.
pub(crate) struct Pm2 {
    program: PathBuf,
    node: PathBuf,
    home: PathBuf,
}

impl Pm2 {
    /// That of the fixtures, run by this Node.
    ///
    /// # Errors
    /// It is not installed.
    pub(crate) async fn new(node: PathBuf) -> anyhow::Result<Pm2> {
        let number = HOMES.fetch_add(1, Ordering::Relaxed);
        let home = std::env::temp_dir().join(format!("rpm-peer-pm2-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&home)?;
        let program = place::npm("pm2/bin/pm2").await?;
        Ok(Pm2 { program, node, home })
    }

    /// A command that has not run yet, whose output nobody wants.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.node);
        command
            .arg(&self.program)
            .args(arguments)
            .env("PM2_HOME", &self.home);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.kill_on_drop(true);
        command
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// It fails.
    pub(crate) async fn run(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let status = self.command(arguments).status().await?;
        ensure!(status.success(), "pm2 {}: {status}", arguments.join(" "));
        Ok(())
    }
}

impl Drop for Pm2 {
    fn drop(&mut self) {
        let pid = std::fs::read_to_string(self.home.join("pm2.pid")).ok();
        let pid = pid.and_then(|text| text.trim().parse().ok());
        pidfds::end(&pidfds::hold(&pid.into_iter().collect::<Vec<u32>>()));
        let _ = std::fs::remove_dir_all(&self.home);
    }
}
