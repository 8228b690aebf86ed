//! `dashboard`: a link for a browser, and who may sign in with a password.

use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use rpm_cli::{Dashboard, Entry};
use rpm_observe::{Channel, Host, Hosts, Keys, LINK_MS, Role, Users, host_name, now_ms};
use rpm_shared::report;
use rpm_wire::api::ObserveSpec;

use crate::secret;

/// Carries out the command.
pub(crate) fn run(wish: &Dashboard) -> ExitCode {
    report(carried_out(wish))
}

fn carried_out(wish: &Dashboard) -> anyhow::Result<()> {
    if let Some(entry) = &wish.entry {
        return set(entry);
    }
    let keys = Keys::new(&rpm_cli::home_dir()?);
    if wish.sign_out {
        let ended = keys.end_all().context("cannot end the sessions")?;
        eprintln!("sessions and links that were ended: {ended}");
        return Ok(());
    }
    let served = rpm_cli::observed()?;
    let listen = served.listen;
    ensure!(
        Channel::of(listen.ip(), served.tls.is_some()) != Channel::Open,
        "`rpm observe` listens on {listen}, which other machines can reach, and the dashboard is not served to them in clear text; \
         `rpm observe on` without an address listens on 127.0.0.1, and with --tls-cert and --tls-key it serves HTTPS"
    );
    let host = host(&served)?;
    let link = keys
        .link(role(wish.read_only), now_ms())
        .context("cannot make a link")?;
    let port = listen.port();
    println!("{}://{host}:{port}/#link={link}", served.scheme());
    let way = match listen.ip().is_loopback() {
        true => format!("; from another machine, first: ssh -L {port}:{listen} HOST"),
        false => String::new(),
    };
    eprintln!("it opens once, within {} minutes{way}", LINK_MS / 60_000);
    Ok(())
}

fn role(read_only: bool) -> Role {
    match read_only {
        true => Role::Viewer,
        false => Role::Operator,
    }
}

/// Has the overview show another machine.
fn show(name: &str, url: &str, token_file: &Path, tls_ca: Option<&Path>) -> anyhow::Result<()> {
    let there = |path: &Path| {
        let found = path.canonicalize();
        found.with_context(|| format!("cannot find {}", path.display()))
    };
    let host = Host {
        name: name.to_owned(),
        url: url.to_owned(),
        token_file: there(token_file)?,
        tls_ca: tls_ca.map(there).transpose()?,
    };
    Hosts::add(&rpm_cli::home_dir()?, host)?;
    eprintln!("the overview of the dashboard shows {name}, from the next time that it is opened");
    Ok(())
}

/// Gives a user a password, or takes it away; or changes which other machines are shown.
fn set(entry: &Entry) -> anyhow::Result<()> {
    let home = rpm_cli::home_dir()?;
    let (user, read_only, remove) = match entry {
        Entry::Password {
            user,
            read_only,
            remove,
        } => (user, read_only, remove),
        Entry::Host {
            name,
            url,
            token_file,
            tls_ca,
            ..
        } => {
            return match (url, token_file) {
                (Some(url), Some(token_file)) => show(name, url, token_file, tls_ca.as_deref()),
                _ => {
                    Hosts::remove(&home, name)?;
                    eprintln!("{name} is not shown any more");
                    Ok(())
                }
            };
        }
    };
    if *remove {
        Users::remove(&home, user)?;
        eprintln!("{user} cannot sign in any more, and has no session");
        return Ok(());
    }
    let password = secret::ask(&format!("Password for {user}"))?;
    Users::add(&home, user, role(*read_only), &password)?;
    let may = match read_only {
        true => "look",
        false => "look and act",
    };
    eprintln!("{user} may sign in to {may}; sessions of an earlier password have ended");
    Ok(())
}

/// What a browser asks for: by HTTPS it must be a name that the certificate has.
fn host(served: &ObserveSpec) -> anyhow::Result<String> {
    let address = served.listen.ip();
    let names = match &served.tls {
        Some(tls) => rpm_tls::names(tls.cert.as_ref())?,
        None => Vec::new(),
    };
    let literal = match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    };
    let is_local = |name: &String| name == "localhost";
    let name = match address.is_loopback() {
        true => names.into_iter().find(is_local),
        false => names.into_iter().find(|name| !is_local(name)),
    };
    Ok(match name {
        Some(name) => name,
        None if address.is_unspecified() => host_name(),
        None => literal,
    })
}
