//! What can be said of an app before it is started: whether it could be, and if not, everything that is in the way.
//!
//! Nothing of a running daemon is needed for that, so that `validate` and `import` ask the same as `start`.

use std::path::Path;

use rpm_listen::MAX_WEIGHT;
use rpm_wire::api::{ApiError, AppSpec, Balance, BalancePolicy, LogTarget, RESERVED_PREFIX};
use rpm_wire::terminal::is_obeyed;

use crate::apps::app;
use crate::apps::delivery::Delivery;
use crate::failure::failure;
use crate::orders::commands::{INSTANCE_LIMIT, passable, too_many};
use crate::os::mounts::is_remote;
use crate::os::users;
use crate::processes::health;
use crate::proxy::settings as front_settings;
use crate::upkeep::files;
use crate::upkeep::schedule::Schedule;

/// Longest name, in bytes: with what is added to it (`-error-<id>.log.<n>`) it is the name of a file.
const NAME_LIMIT: usize = 200;

/// A fault, if there is one.
type Checked = Result<(), ApiError>;

/// Everything for which the daemon would refuse to start an app.
#[must_use]
pub fn faults(spec: &AppSpec) -> Vec<ApiError> {
    let delivery = Delivery::of(spec);
    let checks = [
        name(spec),
        namespace(spec),
        texts(spec),
        count(spec),
        balance(spec, delivery),
        front_settings::check(spec),
        watch(spec),
        health::check_spec(spec, delivery),
        metrics(spec, delivery),
        weights(spec),
        surge(spec),
        keep_alive(spec),
        schedule(spec),
        user(spec),
        logs(spec),
    ];
    checks.into_iter().filter_map(Checked::err).collect()
}

/// All of them as one.
pub(crate) fn check(spec: &AppSpec) -> Checked {
    let mut faults = faults(spec);
    match faults.len() {
        0 => Ok(()),
        1 => Err(faults.remove(0)),
        _ => {
            let lines: Vec<String> = faults.iter().map(in_a_line).collect();
            Err(failure(lines.join("; "), None))
        }
    }
}

/// With what to do about it.
pub(crate) fn in_a_line(error: &ApiError) -> String {
    match &error.hint {
        Some(hint) => format!("{} ({hint})", error.error),
        None => error.error.clone(),
    }
}

fn name(spec: &AppSpec) -> Checked {
    let name = &spec.name;
    if name.len() > NAME_LIMIT {
        let start: String = name.chars().take(20).collect();
        return Err(failure(
            format!("a name of {} bytes ({start:?}…) is too long", name.len()),
            Some(&format!(
                "choose another with --name, of at most {NAME_LIMIT} bytes"
            )),
        ));
    }
    if name.starts_with(RESERVED_PREFIX) {
        return Err(failure(
            format!(
                "{name:?} cannot be the name of an app: names that begin with {RESERVED_PREFIX:?} are reserved"
            ),
            Some("choose another with --name; `rpm observe on` starts rpm-observe"),
        ));
    }
    if name.trim().is_empty() || name == "all" || name.contains(is_obeyed) {
        return Err(failure(
            format!("{name:?} cannot be the name of an app"),
            Some(
                "choose another with --name; it must not be empty, \"all\", or contain line breaks or other control characters",
            ),
        ));
    }
    Ok(())
}

fn namespace(spec: &AppSpec) -> Checked {
    let name = &spec.namespace;
    if name.len() > NAME_LIMIT || name.contains(is_obeyed) {
        let start: String = name.chars().take(20).collect();
        return Err(failure(
            format!("{start:?} cannot be the name of a namespace"),
            Some(&format!(
                "choose another with --namespace, of at most {NAME_LIMIT} bytes and without control characters"
            )),
        ));
    }
    Ok(())
}

fn texts(spec: &AppSpec) -> Checked {
    let mut texts = [&spec.script, &spec.cwd]
        .into_iter()
        .chain(&spec.args)
        .chain(&spec.interpreter_args);
    if texts.any(|text| text.contains('\0')) || !passable(&spec.env) {
        return Err(failure(
            "the script, an argument or a variable contains a NUL byte",
            None,
        ));
    }
    Ok(())
}

fn count(spec: &AppSpec) -> Checked {
    let count = app::instances(spec.instances, app::cpus());
    if count > INSTANCE_LIMIT {
        return Err(too_many(count));
    }
    Ok(())
}

/// Can connections reach it as the user wants?
fn balance(spec: &AppSpec, delivery: Delivery) -> Checked {
    if spec.balance == Balance::Handoff && !delivery.is_handed() {
        return Err(failure(
            format!(
                "{} does not support --balance handoff: that needs Node and several instances",
                spec.name
            ),
            Some(
                "leave --balance out: the kernel delivers connections to any program; or, for Node, add -i max",
            ),
        ));
    }
    if spec.balance == Balance::Proxy && !delivery.is_fronted() {
        return Err(failure(
            format!("{} cannot be behind the proxy: it runs in fork mode", spec.name),
            Some("give it instances, also a single one: -i 1"),
        ));
    }
    if delivery.is_fronted() && delivery.is_hidden() {
        return Err(failure(
            format!(
                "{} cannot be behind the proxy: it is not Node, and with --no-intercept the daemon does not see its listeners",
                spec.name
            ),
            Some("leave --no-intercept out, or pass the listener with --listen"),
        ));
    }
    Ok(())
}

fn watch(spec: &AppSpec) -> Checked {
    match spec.watch.as_ref().map(files::check) {
        Some(Err(error)) => Err(failure(
            format!("invalid expression in ignore_watch: {error}"),
            Some("write it without look-around and back references, or as names and paths with *"),
        )),
        Some(Ok(())) | None => Ok(()),
    }
}

/// A log that can never be written: what it is given would be lost, and only the daemon's own log would say so.
fn logs(spec: &AppSpec) -> Checked {
    let logs = &spec.logs;
    let all = [Some(&logs.out), Some(&logs.err), logs.both.as_ref()];
    let wrong = all.into_iter().flatten().find_map(|target| match target {
        LogTarget::File(path) if target.standard_stream().is_none() => unwritable(Path::new(path)),
        LogTarget::File(_) | LogTarget::Usual | LogTarget::Nowhere => None,
    });
    match wrong {
        Some(why) => Err(failure(
            why,
            Some("name a file, in a directory that there is or can be"),
        )),
        None => Ok(()),
    }
}

fn unwritable(path: &Path) -> Option<String> {
    // It is not asked here, on the event loop, for it may never answer.
    if is_remote(path) {
        return None;
    }
    if path.is_dir() {
        return Some(format!("{} is a directory, and cannot be a log", path.display()));
    }
    let above = path.ancestors().skip(1).find(|above| above.exists())?;
    let is_file = !above.is_dir();
    is_file.then(|| {
        format!(
            "{} is no directory, so {} cannot be a log",
            above.display(),
            path.display()
        )
    })
}

fn metrics(spec: &AppSpec, delivery: Delivery) -> Checked {
    if spec.asks_prom_client() && !delivery.may_be_handed() {
        return Err(failure(
            "prom_client is for Node in cluster mode: its workers get the messages of prom-client",
            Some("add -i 1, or use --metrics-path"),
        ));
    }
    if spec.asks_prom_client() && spec.metrics_path.is_some() {
        return Err(failure(
            "metrics_path and prom_client are two ways to the same metrics",
            Some("choose one of them"),
        ));
    }
    let path = spec.metrics_path.as_deref().unwrap_or("/");
    if path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    Err(failure(
        format!("{path:?} cannot be the path of metrics"),
        Some("--metrics-path begins with / and is percent-encoded: /metrics"),
    ))
}

fn weights(spec: &AppSpec) -> Checked {
    let wrong = |weight: &u32| !(1..=MAX_WEIGHT).contains(weight);
    if spec.weights.iter().any(wrong) || spec.weights.is_empty() == (spec.policy == BalancePolicy::Weighted) {
        return Err(failure(
            "--policy and --weights do not match",
            Some(
                "--policy weighted and --weights belong together, each weight from 1 to 100: --policy weighted --weights 3,1",
            ),
        ));
    }
    Ok(())
}

fn surge(spec: &AppSpec) -> Checked {
    if spec.max_surge == Some(0) && spec.max_unavailable == 0 {
        return Err(failure(
            "max_surge 0 with max_unavailable 0 leaves no room to replace a worker",
            Some("--max-surge must be at least 1, or --max-unavailable"),
        ));
    }
    Ok(())
}

fn keep_alive(spec: &AppSpec) -> Checked {
    if spec.keep_alive_timeout_ms.is_some() && !spec.agent {
        return Err(failure(
            "the agent sets the time for idle connections, and it is switched off",
            Some("leave out either --no-agent or --keep-alive-timeout"),
        ));
    }
    Ok(())
}

fn schedule(spec: &AppSpec) -> Checked {
    let text = spec.cron_restart.as_deref().filter(|text| !text.is_empty());
    let parsed = text.map(|text| Schedule::parse(text, spec.cron_timezone.as_deref()));
    match parsed {
        Some(Err(error)) => Err(failure(
            format!("{}: invalid cron_restart: {error}", spec.name),
            Some("'0 3 * * *' is every day at 3:00"),
        )),
        Some(Ok(_)) | None => Ok(()),
    }
}

fn user(spec: &AppSpec) -> Checked {
    if (spec.uid.is_some() || spec.gid.is_some()) && rpm_sys::peer::effective_uid() != 0 {
        return Err(failure(
            format!(
                "{} cannot run as another user: the daemon does not run as root",
                spec.name
            ),
            Some("leave uid and gid out, or run the daemon as root"),
        ));
    }
    users::user(spec)
        .map(drop)
        .map_err(|error| failure(format!("{}: {error}", spec.name), Some("correct uid and gid")))
}

#[cfg(test)]
mod tests {
    use rpm_wire::api::{ExecMode, ProxySpec, WatchSpec};

    use super::*;

    fn named(name: &str) -> AppSpec {
        AppSpec {
            name: name.to_owned(),
            ..AppSpec::default()
        }
    }

    #[test]
    fn names_may_be_anything_that_a_file_can_be_called_after() {
        for good in [
            "web",
            "@acme/api",
            "../../etc/x",
            "..",
            "a b",
            "/x/",
            "日本",
            "rpm",
            "my-rpm-observe",
            &"x".repeat(NAME_LIMIT),
        ] {
            assert_eq!(faults(&named(good)), [], "{good:?}");
        }
        for bad in [
            "",
            " ",
            "all",
            "a\nb",
            "a\0b",
            "\x1b[2J",
            "gpj\u{202e}exe",
            "rpm-observe",
            "rpm-",
            &"x".repeat(NAME_LIMIT + 1),
        ] {
            assert_eq!(faults(&named(bad)).len(), 1, "{bad:?}");
        }
    }

    #[test]
    fn a_log_is_no_directory_and_is_in_one() {
        let directory = std::env::temp_dir().join(format!("rpm-check-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("file"), "").unwrap();
        for (path, told) in [
            ("", Some("is a directory")),
            ("file/x.log", Some("is no directory")),
            ("file/deep/x.log", Some("is no directory")),
            ("file", None),
            ("new/deep/x.log", None),
        ] {
            let target = LogTarget::File(directory.join(path).display().to_string());
            let mut spec = named("web");
            spec.logs.err = target;
            let fault = logs(&spec).err().map(|fault| fault.error);
            match told {
                None => assert_eq!(fault, None, "{path}"),
                Some(told) => assert!(
                    fault.as_ref().is_some_and(|fault| fault.contains(told)),
                    "{path}: {fault:?}"
                ),
            }
        }
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn so_may_names_of_namespaces() {
        let of = |namespace: &str| AppSpec {
            namespace: namespace.to_owned(),
            ..named("web")
        };
        assert_eq!(faults(&of("shop: 日本 / a")), []);
        for bad in ["a\nb", "\x1b]0;x\x07", &"x".repeat(NAME_LIMIT + 1)] {
            assert_eq!(faults(&of(bad)).len(), 1, "{bad:?}");
        }
    }

    #[test]
    fn the_path_of_metrics_is_a_path() {
        for (path, count) in [
            ("/metrics", 0),
            ("/m?a=%20", 0),
            ("metrics", 1),
            ("", 1),
            ("/a b", 1),
            ("/é", 1),
        ] {
            let spec = AppSpec {
                metrics_path: Some(path.to_owned()),
                ..named("web")
            };
            assert_eq!(faults(&spec).len(), count, "{path:?}");
        }
    }

    #[test]
    fn a_time_for_idle_connections_needs_the_agent() {
        let with = |agent| AppSpec {
            keep_alive_timeout_ms: Some(20_000),
            agent,
            ..named("web")
        };
        assert_eq!(faults(&with(true)), []);
        let faults = faults(&with(false));
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].error.contains("idle connections"), "{faults:?}");
    }

    #[test]
    fn everything_that_is_in_the_way_is_said_at_once() {
        let spec = AppSpec {
            cron_restart: Some("x y".to_owned()),
            balance: Balance::Handoff,
            policy: BalancePolicy::Weighted,
            max_surge: Some(0),
            instances: 100_000,
            exec_mode: ExecMode::Fork,
            uid: Some("nobody-has-this-name".to_owned()),
            args: vec!["\0".to_owned()],
            watch: Some(WatchSpec {
                paths: vec!["/".to_owned()],
                ignore: vec!["regex:(".to_owned()],
                delay_ms: 0,
            }),
            proxy: ProxySpec {
                sticky: Some("w".to_owned()),
                ..ProxySpec::default()
            },
            ..named("all")
        };
        let said: Vec<String> = faults(&spec).iter().map(in_a_line).collect();
        assert_eq!(said.len(), 10, "{said:#?}");
        let one = check(&spec).expect_err("it cannot be started").error;
        assert!(said.iter().all(|fault| one.contains(fault)), "{one}");
    }
}
