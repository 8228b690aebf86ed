//! `dashboard`: a link for a browser.

use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use rpm_cli::Dashboard;
use rpm_observe::{Keys, LINK_MS, Role, now_ms};
use rpm_shared::report;

/// Carries out the command.
pub(crate) fn run(wish: &Dashboard) -> ExitCode {
    report(carried_out(wish))
}

fn carried_out(wish: &Dashboard) -> anyhow::Result<()> {
    let keys = Keys::new(&rpm_cli::home_dir()?);
    if wish.sign_out {
        let ended = keys.end_all().context("cannot end the sessions")?;
        eprintln!("sessions and links that were ended: {ended}");
        return Ok(());
    }
    let listen = rpm_cli::observed()?;
    ensure!(
        listen.ip().is_loopback(),
        "`rpm observe` listens on {listen}, which other machines can reach, and the dashboard is served on a loopback address alone; \
         `rpm observe on` without an address listens there"
    );
    let role = match wish.read_only {
        true => Role::Viewer,
        false => Role::Operator,
    };
    let link = keys.link(role, now_ms()).context("cannot make a link")?;
    println!("http://{listen}/#link={link}");
    eprintln!(
        "it opens once, within {} minutes; from another machine, first: ssh -L {port}:{listen} HOST",
        LINK_MS / 60_000,
        port = listen.port()
    );
    Ok(())
}
