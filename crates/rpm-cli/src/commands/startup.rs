//! `startup`, `unstartup`: start the daemon and the saved apps at boot.

pub(super) mod restarting;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, anyhow, bail};
use rpm_wire::api::ApiError;
use rpm_wire::shell::word;

use super::tell;
use crate::args::StartupArgs;
use crate::files::replace;
use crate::home::like_pm2;
use crate::http::RequestError;
use crate::output::Output;

/// The package's service for users who have no root.
const PACKAGED: &str = "/usr/lib/systemd/user/rpmx.service";

/// An init system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Init {
    Systemd,
    OpenRc,
}

/// A service that runs the daemon of a user.
#[derive(Debug, PartialEq, Eq)]
struct Service {
    name: String,
    user: String,
    /// This program.
    program: String,
    /// The directory of the daemon.
    home: String,
    path: String,
    wait_ip: bool,
    like_pm2: bool,
}

/// `startup` or `unstartup`.
#[derive(Clone, Copy)]
enum Verb {
    Install,
    Remove,
}

/// Init systems that PM2 supports and this program does not.
const OTHERS: [&str; 7] = [
    "upstart",
    "systemv",
    "launchd",
    "rcd",
    "rcd-openbsd",
    "smf",
    "rcd-freebsd",
];

impl Init {
    fn named(name: &str) -> anyhow::Result<Init> {
        match name {
            // PM2 also accepts names of distributions.
            "systemd" | "ubuntu" | "debian" | "centos" | "redhat" | "arch" | "amazon" | "oracle" => {
                Ok(Init::Systemd)
            }
            "openrc" | "gentoo" | "alpine" => Ok(Init::OpenRc),
            other if OTHERS.contains(&other) => bail!(
                "rpm does not write services for {other}; have it run `rpm resurrect` at boot, as the user who owns the apps"
            ),
            other => bail!("unknown init system {other:?}; expected systemd or openrc"),
        }
    }

    /// Fails with the command to type.
    fn of_this_system(verb: Verb) -> anyhow::Result<Init> {
        let runs = |path: &str| Path::new(path).exists();
        if runs("/run/systemd/system") {
            Ok(Init::Systemd)
        } else if runs("/run/openrc") {
            Ok(Init::OpenRc)
        } else {
            Err(anyhow!(match verb {
                Verb::Install => {
                    "neither systemd nor OpenRC runs here; name the one that will: `rpm startup systemd` (in a container, \
                     `rpm runtime ecosystem.config.js` instead)"
                }
                Verb::Remove => {
                    "neither systemd nor OpenRC runs here; name the one the service was written for: `rpm unstartup systemd`"
                }
            }))
        }
    }

    fn name(self) -> &'static str {
        match self {
            Init::Systemd => "systemd",
            Init::OpenRc => "openrc",
        }
    }

    fn file(self, service: &str) -> PathBuf {
        match self {
            Init::Systemd => format!("/etc/systemd/system/{service}.service").into(),
            Init::OpenRc => format!("/etc/init.d/{service}").into(),
        }
    }

    fn mode(self) -> u32 {
        match self {
            Init::Systemd => 0o644,
            Init::OpenRc => 0o755,
        }
    }

    fn text(self, service: &Service) -> String {
        match self {
            Init::Systemd => systemd(service),
            Init::OpenRc => openrc(service),
        }
    }

    /// The commands that enable the service.
    fn enable(self, service: &str) -> Vec<Vec<&str>> {
        match self {
            Init::Systemd => vec![
                vec!["systemctl", "daemon-reload"],
                vec!["systemctl", "enable", service],
            ],
            Init::OpenRc => vec![vec!["rc-update", "add", service, "default"]],
        }
    }

    /// The commands that disable it. They do not stop what runs.
    fn disable(self, service: &str) -> Vec<Vec<&str>> {
        match self {
            Init::Systemd => vec![vec!["systemctl", "disable", service]],
            Init::OpenRc => vec![vec!["rc-update", "del", service, "default"]],
        }
    }
}

/// `startup`.
pub(super) fn install(args: &StartupArgs, output: &mut Output) -> anyhow::Result<()> {
    let init = init_of(Verb::Install, args)?;
    let service = service(init, args)?;
    let (path, text) = (init.file(&service.name), init.text(&service));
    if args.print {
        return Ok(output.bytes(text.as_bytes())?);
    }
    refuse_others("startup", init, args, output)?;
    let before = fs::read(&path).ok();
    write(&path, text.as_bytes(), init.mode())?;
    tell(format!("{} written", path.display()));
    if let Err(error) = init.enable(&service.name).iter().try_for_each(|words| run(words)) {
        // A half-installed service might start at some later boot.
        match before {
            Some(before) => write(&path, &before, init.mode())?,
            None => fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?,
        }
        return Err(error.context(format!("{} is as it was before", path.display())));
    }
    tell(format!(
        "the daemon of {} starts at boot; `rpm save` makes it start the apps that run now",
        service.user
    ));
    Ok(())
}

/// `unstartup`.
pub(super) fn remove(args: &StartupArgs, output: &mut Output) -> anyhow::Result<()> {
    let init = init_of(Verb::Remove, args)?;
    let service = service(init, args)?;
    let path = init.file(&service.name);
    refuse_others("unstartup", init, args, output)?;
    if !path.exists() {
        tell(format!("{} is not there; nothing to do", path.display()));
        return Ok(());
    }
    for words in init.disable(&service.name) {
        run(&words)?;
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove {}", path.display()));
        }
        Ok(()) | Err(_) => {}
    }
    tell(format!(
        "{} removed; apps keep running until `rpm kill`",
        path.display()
    ));
    Ok(())
}

fn init_of(verb: Verb, args: &StartupArgs) -> anyhow::Result<Init> {
    match &args.platform {
        Some(name) => Init::named(name),
        None => Init::of_this_system(verb),
    }
}

/// Only root may write services. For other users the command to type is printed on standard output, as by PM2.
fn refuse_others(command: &str, init: Init, args: &StartupArgs, output: &mut Output) -> anyhow::Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let service = service(init, args)?;
    let home = args
        .hp
        .clone()
        .or_else(|| std::env::var_os("HOME").map(PathBuf::from));
    let home = home
        .map(|home| format!(" --hp {}", word(&home.to_string_lossy())))
        .unwrap_or_default();
    // sudo passes on neither variable.
    let own = std::env::var_os("RPM_HOME").filter(|own| !own.is_empty());
    let own = own
        .map(|own| format!("RPM_HOME={} ", word(&own.to_string_lossy())))
        .unwrap_or_default();
    output.line(format_args!(
        "sudo env PATH={} {own}{} {command} {} -u {}{home}",
        word(&service.path),
        word(&service.program),
        init.name(),
        word(&service.user)
    ))?;
    let packaged = init == Init::Systemd && Path::new(PACKAGED).exists();
    let own = ", or without root `systemctl --user enable --now rpmx` and `loginctl enable-linger`";
    let own = if packaged { own } else { "" };
    let refused = ApiError {
        error: "only root may do that".to_owned(),
        hint: Some(format!("type the line above{own}")),
        last_lines: Vec::new(),
        unknown: None,
    };
    Err(RequestError::Api(refused).into())
}

fn service(init: Init, args: &StartupArgs) -> anyhow::Result<Service> {
    let user = match &args.user {
        Some(user) => user.clone(),
        None => own_name()?,
    };
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let home = match (
        std::env::var_os("RPM_HOME").filter(|home| !home.is_empty()),
        &args.hp,
    ) {
        (Some(home), _) => PathBuf::from(home),
        (None, Some(home)) => home.join(".rpm"),
        (None, None) => home_of(&user)?.join(".rpm"),
    };
    let text = |path: PathBuf| {
        let text = path.into_os_string().into_string();
        text.map_err(|path| anyhow!("not UTF-8: {}", path.to_string_lossy()))
    };
    let name = args.service_name.clone().unwrap_or_else(|| format!("rpm-{user}"));
    let service = Service {
        name,
        user,
        program: text(program)?,
        home: text(home)?,
        path: std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".to_owned()),
        wait_ip: args.wait_ip,
        like_pm2: like_pm2(),
    };
    check(init, &service)?;
    Ok(service)
}

/// Rejects values that would become a separate line, option or path in a file that root reads.
fn check(init: Init, service: &Service) -> anyhow::Result<()> {
    let Service { name, user, .. } = service;
    let plain =
        |letter: char| letter.is_alphanumeric() || matches!(letter, '-' | '_' | '.' | '@' | ':' | '\\');
    if name.is_empty() || name.starts_with('-') || !name.chars().all(plain) {
        bail!("{name:?} cannot be the name of a service; give another with --service-name");
    }
    let of_user = |letter: char| plain(letter) || letter == '$';
    if user.is_empty() || user.starts_with('-') || !user.chars().all(of_user) {
        bail!("{user:?} cannot be the name of a user; correct -u");
    }
    for (what, text) in [
        ("the path of this program", &service.program),
        ("the daemon's directory", &service.home),
        ("PATH", &service.path),
    ] {
        if text.contains(char::is_control) {
            bail!(
                "{what} has a line break or another control character, which a service cannot name: {text:?}"
            );
        }
    }
    // systemd rejects such a path, however it is quoted.
    if init == Init::Systemd && service.program.contains(['"', '\'', '\\']) {
        bail!(
            "systemd starts no program whose path has quotes or backslashes: {}; install it elsewhere",
            service.program
        );
    }
    Ok(())
}

/// A line of passwd(5), in fields.
fn account(wanted: impl Fn(&[&str]) -> bool) -> Option<(String, PathBuf)> {
    let accounts = fs::read_to_string("/etc/passwd").ok()?;
    let fields = accounts.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let mut known = fields.filter(|fields| fields.len() >= 6);
    let found = known.find(|fields| wanted(fields))?;
    Some((found[0].to_owned(), PathBuf::from(found[5])))
}

fn own_name() -> anyhow::Result<String> {
    let id = rustix::process::geteuid().as_raw().to_string();
    let own = account(|fields| fields[2] == id).map(|(name, _)| name);
    own.or_else(|| std::env::var("USER").ok())
        .with_context(|| format!("user {id} has no name here; give one with -u"))
}

fn home_of(user: &str) -> anyhow::Result<PathBuf> {
    let known = account(|fields| fields[0] == user).map(|(_, home)| home);
    known.with_context(|| {
        format!("there is no user {user:?} in /etc/passwd; give the home directory with --hp")
    })
}

/// The unit, with places for what differs. The package for Debian has its units from this file, too.
const UNIT: &str = include_str!("startup/systemd.service");

/// Quotes a value for systemd (systemd.syntax(7)), with specifiers escaped. A dollar sign has no meaning where this is used: systemd
/// expands variables in the arguments of commands, but not in the path of the program or in `Environment=` (systemd.service(5)).
fn quoted(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", escaped.replace('%', "%%"))
}

fn systemd(service: &Service) -> String {
    let Service { user, home, path, .. } = service;
    let network = match service.wait_ip {
        true => "Wants=network-online.target\nAfter=network-online.target",
        false => "After=network.target",
    };
    let mut environment = vec![
        quoted(&format!("PATH={path}")),
        quoted(&format!("RPM_HOME={home}")),
    ];
    if service.like_pm2 {
        environment.push("RPM_COMPAT=pm2".to_owned());
    }
    let environment: Vec<String> = environment
        .iter()
        .map(|variable| format!("Environment={variable}"))
        .collect();
    // What the user has named comes last: nothing in it is a place for another value.
    UNIT.replace("@NETWORK@", network)
        .replace("@USER@", user)
        .replace("@PROGRAM@", &quoted(&service.program))
        .replace("@ENVIRONMENT@", &environment.join("\n"))
}

/// Quotes a value for a shell.
fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn openrc(service: &Service) -> String {
    let compat = if service.like_pm2 {
        "export RPM_COMPAT=pm2\n"
    } else {
        ""
    };
    let program = shell_quoted(&service.program);
    let as_user = format!("su -s /bin/sh {} -c", shell_quoted(&service.user));
    let run = |command: &str| format!("{as_user} {}", shell_quoted(&format!("{program} {command}")));
    format!(
        "#!/sbin/openrc-run
description={}
export PATH={}
export RPM_HOME={}
{compat}extra_started_commands='reload'

depend() {{
    need {}
    use logger dns
}}

start() {{
    ebegin 'Starting rpm'
    {}
    eend $?
}}

stop() {{
    ebegin 'Stopping rpm'
    {}
    eend $?
}}

reload() {{
    ebegin 'Reloading the apps of rpm'
    {}
    eend $?
}}
",
        shell_quoted(&format!("rpm, the apps of {}", service.user)),
        shell_quoted(&service.path),
        shell_quoted(&service.home),
        if service.wait_ip { "net" } else { "localmount" },
        run("resurrect"),
        run("kill"),
        run("reload all"),
    )
}

fn write(path: &Path, text: &[u8], mode: u32) -> anyhow::Result<()> {
    let written = replace(path, text, mode);
    written.with_context(|| format!("cannot write {}", path.display()))
}

fn run(words: &[&str]) -> anyhow::Result<()> {
    let line = words.join(" ");
    let [program, rest @ ..] = words else {
        return Ok(());
    };
    let status = Command::new(program)
        .args(rest)
        .status()
        .with_context(|| format!("cannot run `{line}`"))?;
    if !status.success() {
        bail!("`{line}` has failed ({status})");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
