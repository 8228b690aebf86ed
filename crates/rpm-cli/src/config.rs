//! Ecosystem files from the disk, from standard input, and from the user's own JavaScript runtime.

use std::ffi::{OsStr, OsString};
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, io};

use anyhow::{Context as _, anyhow, bail};
use rpm_spec::{AppOptions, Format, MAX_BYTES, Observing, format_of, parse};
use rpm_wire::alerts::{Sink, SmtpServer};
use rpm_wire::api::ObserveTls;

use crate::resolve::Surroundings;

/// The variable with the mail server of rules that name none.
const MAIL_SERVER: &str = "RPM_SMTP";

/// Default names of the file.
pub(crate) const USUAL: [&str; 9] = [
    "ecosystem.config.js",
    "ecosystem.config.cjs",
    "ecosystem.config.mjs",
    "ecosystem.config.ts",
    "ecosystem.json",
    "ecosystem.yaml",
    "ecosystem.yml",
    "ecosystem.toml",
    "pm2.config.js",
];
/// Time to evaluate a file: Node alone takes seconds to start on a machine that is starting up.
const EVALUATED_WITHIN: Duration = Duration::from_secs(20);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// Evaluates the module whose path follows, and writes what it exports as JSON to descriptor 0, which is a socket: so the module may print
/// what it likes. Regular expressions become patterns of the daemon.
const EVALUATE: &str = "\
const { pathToFileURL } = require('node:url');
const plain = (key, value) => (value instanceof RegExp ? `regex:${value.ignoreCase ? '(?i)' : ''}${value.source}` : value);
import(pathToFileURL(process.argv[1]).href)
  .then(async (module) => {
    let value = module.default ?? module;
    if (typeof value === 'function') value = value();
    value = await value;
    if (value && value.__esModule && value.default) value = value.default;
    const text = JSON.stringify(value, plain);
    if (text === undefined) throw new Error('it exports nothing that can be read: module.exports = { apps: [...] }');
    const bytes = Buffer.from(text);
    for (let at = 0; at < bytes.length;) at += require('node:fs').writeSync(0, bytes, at);
    process.exit(0);
  })
  .catch((error) => {
    console.error(error?.stack ?? error);
    process.exit(1);
  });
";

/// An ecosystem file that was read.
#[derive(Debug)]
pub(crate) struct File {
    /// As it was named.
    pub(crate) name: String,
    /// Its directory; `None` for standard input.
    pub(crate) dir: Option<PathBuf>,
    /// Its apps, as far as they could be read.
    pub(crate) apps: Vec<AppOptions>,
    /// Whether the metrics are served, if it says so; the path is absolute.
    pub(crate) observe: Option<Observing>,
    /// Keys that are ignored, a line each.
    pub(crate) warnings: Vec<String>,
    /// Errors, a line each: nothing may be started then.
    pub(crate) problems: Vec<String>,
}

/// Whether this argument is an ecosystem file. `-` is standard input.
pub(crate) fn is_file(argument: &OsStr, around: &Surroundings) -> bool {
    let named = || argument.to_str().is_some_and(|name| format_of(name).is_some());
    argument == "-" || (named() && around.absolute(argument.as_ref()).is_file())
}

/// The default file; `what` can be named instead.
pub(crate) fn usual(around: &Surroundings, what: &str) -> anyhow::Result<OsString> {
    let there = USUAL.iter().find(|name| around.absolute(name.as_ref()).is_file());
    there.map(OsString::from).ok_or_else(|| {
        anyhow!(
            "there is no {} here; name {what}, or write one with `rpm init`",
            USUAL[0]
        )
    })
}

/// Reads an ecosystem file. Errors in it are in [`File::problems`].
///
/// # Errors
/// It cannot be read or evaluated at all.
pub(crate) fn load(argument: &OsStr, around: &Surroundings) -> anyhow::Result<File> {
    let name = argument.to_string_lossy().into_owned();
    let (value, dir) = value_and_place(argument, around)?;
    let (found, problems) = match rpm_spec::read(&value) {
        Ok(found) => (found, Vec::new()),
        Err(faults) => (faults.found, faults.problems),
    };
    Ok(File {
        problems: problems
            .iter()
            .map(|problem| format!("{name}: {problem}"))
            .collect(),
        warnings: found
            .warnings
            .iter()
            .map(|warning| format!("{name}: {warning}"))
            .collect(),
        name,
        observe: found
            .observe
            .map(|observe| located(*observe, dir.as_deref(), around)),
        dir,
        apps: found.apps,
    })
}

/// Rules that send mail and name no server have that of the variable. Returns what is wrong: whoever puts the rules in force must know the server.
pub(crate) fn set_mail_server(file: &mut File, around: &Surroundings) -> Option<String> {
    let server = around.env.get(MAIL_SERVER).map(String::as_str);
    let Some(Observing::On { alerts, .. }) = &mut file.observe else {
        return None;
    };
    let name = &file.name;
    for (number, rule) in alerts.iter_mut().enumerate() {
        for sink in &mut rule.sinks {
            let Sink::Mail { smtp, .. } = sink else { continue };
            if !smtp.is_empty() {
                continue;
            }
            let example = "such as smtp://USER:PASSWORD@HOST:587";
            match server {
                None => {
                    return Some(format!(
                        "{name}: `observe.alerts[{number}]` sends mail: give it `smtp`, or set {MAIL_SERVER}, {example}"
                    ));
                }
                // What it is may be a password.
                Some(server) if SmtpServer::parse(server).is_none() => {
                    return Some(format!(
                        "{name}: the variable {MAIL_SERVER} must be an address {example}"
                    ));
                }
                Some(server) => server.clone_into(smtp),
            }
        }
    }
    None
}

/// The same, with the path of the token and the commands of alerts seen from the directory of the file.
fn located(observe: Observing, dir: Option<&Path>, around: &Surroundings) -> Observing {
    let located = |path: String| {
        let path = dir.unwrap_or(&around.cwd).join(path);
        around.absolute(&path).to_string_lossy().into_owned()
    };
    match observe {
        Observing::Off => Observing::Off,
        Observing::On {
            listen,
            token_file,
            tls,
            mut alerts,
            logs,
            otlp,
        } => {
            let here = located(String::new());
            for sink in alerts.iter_mut().flat_map(|rule| &mut rule.sinks) {
                if let Sink::Exec { cwd, .. } = sink {
                    cwd.clone_from(&here);
                }
            }
            Observing::On {
                listen,
                token_file: token_file.map(located),
                tls: tls.map(|tls| ObserveTls {
                    cert: located(tls.cert),
                    key: located(tls.key),
                    client_ca: tls.client_ca.map(located),
                }),
                alerts,
                logs,
                otlp,
            }
        }
    }
}

/// The whole value of an ecosystem file.
///
/// # Errors
/// It cannot be read or evaluated.
pub(crate) fn value(argument: &OsStr, around: &Surroundings) -> anyhow::Result<serde_json::Value> {
    Ok(value_and_place(argument, around)?.0)
}

fn value_and_place(
    argument: &OsStr,
    around: &Surroundings,
) -> anyhow::Result<(serde_json::Value, Option<PathBuf>)> {
    let name = argument.to_string_lossy().into_owned();
    let (value, dir) = if argument == "-" {
        let mut text = String::new();
        io::stdin()
            .take(MAX_BYTES as u64 + 1)
            .read_to_string(&mut text)
            .context("cannot read standard input")?;
        (parse(&text, Format::Json), None)
    } else {
        let path = around.absolute(argument.as_ref());
        let dir = path.parent().map(Path::to_owned);
        (text_of(&name, &path, around)?, dir)
    };
    let value = value.map_err(|error| anyhow!("{name} cannot be read: {error}"))?;
    Ok((value, dir))
}

type Parsed = Result<serde_json::Value, rpm_spec::ParseError>;

fn text_of(name: &str, path: &Path, around: &Surroundings) -> anyhow::Result<Parsed> {
    let format = format_of(name).ok_or_else(|| anyhow!("{name} is not an ecosystem file"))?;
    if format == Format::Script {
        let text = evaluate(path, around).with_context(|| format!("{name} cannot be evaluated"))?;
        return Ok(parse(&text, Format::Script));
    }
    let size = fs::metadata(path)
        .with_context(|| format!("cannot read {name}"))?
        .len();
    if size > MAX_BYTES as u64 {
        return Ok(Err(rpm_spec::ParseError::TooLong));
    }
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
    let parsed = parse(&text, format);
    match (format, &parsed) {
        // PM2 evaluates .json as JavaScript.
        (Format::Json, Err(rpm_spec::ParseError::Syntax(_)))
            if text.contains("process.") || text.contains("require(") =>
        {
            let script = format!("module.exports = (\n{text}\n)");
            let text = evaluate_text(&script, path, around)
                .with_context(|| format!("{name} cannot be evaluated"))?;
            Ok(parse(&text, Format::Script))
        }
        _ => Ok(parsed),
    }
}

/// What a module exports, as JSON.
fn evaluate(path: &Path, around: &Surroundings) -> anyhow::Result<String> {
    let is_typed = path
        .extension()
        .is_some_and(|extension| extension.to_string_lossy().ends_with("ts"));
    let names = if is_typed {
        ["bun", "node"]
    } else {
        ["node", "bun"]
    };
    let runtime = names.iter().find_map(|name| around.which(OsStr::new(name)));
    let Some(runtime) = runtime else {
        bail!(
            "it is JavaScript, and neither node nor bun is in PATH: install one, or use .json, .yaml or .toml"
        );
    };
    let (ours, theirs) = UnixStream::pair().context("no file descriptor is left")?;
    let child = Command::new(&runtime)
        .args(["-e", EVALUATE])
        .arg(path)
        .current_dir(&around.cwd)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        // Its output is for people.
        .stdout(Stdio::from(errors()?))
        .spawn()
        .with_context(|| format!("cannot run {}", runtime.display()))?;
    collect(ours, child)
}

/// Evaluates a text as a module beside the file.
fn evaluate_text(script: &str, path: &Path, around: &Surroundings) -> anyhow::Result<String> {
    let beside = path.with_file_name(format!(".rpm-{}.config.cjs", std::process::id()));
    fs::write(&beside, script).with_context(|| format!("cannot write {}", beside.display()))?;
    let value = evaluate(&beside, around);
    // The temporary file is not needed any more.
    let _ = fs::remove_file(&beside);
    value
}

fn collect(mut from: UnixStream, mut child: Child) -> anyhow::Result<String> {
    let deadline = Instant::now() + EVALUATED_WITHIN;
    let read = read_until(&mut from, deadline);
    let status = match &read {
        Ok(_) => wait_until(&mut child, deadline)?,
        Err(_) => None,
    };
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let text = read?;
    match status {
        Some(status) if status.success() => Ok(text),
        Some(status) => bail!("it ended with {status}"),
        None => bail!("it did not finish within {} s", EVALUATED_WITHIN.as_secs()),
    }
}

fn read_until(from: &mut UnixStream, deadline: Instant) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!("it did not finish within {} s", EVALUATED_WITHIN.as_secs());
        }
        from.set_read_timeout(Some(left))?;
        match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // It has ended without reading everything.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
            Err(error) => return Err(error.into()),
        }
        if bytes.len() > MAX_BYTES {
            bail!("what it exports has more than {MAX_BYTES} bytes");
        }
    }
    String::from_utf8(bytes).context("what it exports is not UTF-8")
}

fn wait_until(child: &mut Child, deadline: Instant) -> io::Result<Option<std::process::ExitStatus>> {
    loop {
        match child.try_wait()? {
            Some(status) => return Ok(Some(status)),
            None if Instant::now() >= deadline => return Ok(None),
            None => std::thread::sleep(PAUSE),
        }
    }
}

/// Standard error, as the standard output of another program.
fn errors() -> io::Result<OwnedFd> {
    use std::os::fd::AsFd as _;
    io::stderr().as_fd().try_clone_to_owned()
}
