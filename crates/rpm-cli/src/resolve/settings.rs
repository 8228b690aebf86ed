//! The options of an app as the daemon takes them.

use std::path::Path;

use rpm_spec::keys::{self, Kind};
use rpm_spec::{AppOptions, Health, Logging, Watch};
use rpm_wire::api::{AppSpec, HealthCheck, LogSpec, LogTarget, WatchSpec};
use serde_json::Value;

use super::ResolveError;
use super::surroundings::path_from;

/// What `time` means.
const USUAL_DATE: &str = "YYYY-MM-DDTHH:mm:ss";

/// The specification with the given options applied; everything else stays as it is.
pub(super) fn with(
    mut spec: AppSpec,
    options: &AppOptions,
    home: Option<&str>,
) -> Result<AppSpec, ResolveError> {
    let cwd = Path::new(&spec.cwd).to_owned();
    let path = |path: &str| path_from(&cwd, path, home);
    for (name, value) in &options.settings {
        let wrong = |error: serde_json::Error| ResolveError::Value(format!("{name}: {error}"));
        let value = in_full(name, value, path);
        let known = spec.set(name, value.clone()).map_err(wrong)?
            || spec.logs.set(name, value.clone()).map_err(wrong)?
            || spec.proxy.set(name, value).map_err(wrong)?;
        debug_assert!(known, "{name} has no field and no code of its own");
    }
    Ok(AppSpec {
        // 0 removes the limit.
        max_memory_restart: spec.max_memory_restart.filter(|bytes| *bytes > 0),
        watch: watch(spec.watch, options, &cwd, path),
        logs: logs(spec.logs, options, path),
        pid_file: options.pid_file.as_deref().map(path).or(spec.pid_file),
        health_check: options.health_check.as_ref().map(health).or(spec.health_check),
        ..spec
    })
}

/// The paths of files made absolute.
fn in_full(name: &str, value: &Value, path: impl Fn(&str) -> String) -> Value {
    match (keys::find(name).map(|key| key.kind), value) {
        (Some(Kind::File), Value::String(file)) => path(file).into(),
        (Some(Kind::Files), Value::Array(files)) => {
            files.iter().filter_map(Value::as_str).map(path).collect()
        }
        _ => value.clone(),
    }
}

fn watch(
    before: Option<WatchSpec>,
    options: &AppOptions,
    cwd: &Path,
    path: impl Fn(&str) -> String,
) -> Option<WatchSpec> {
    let paths = match &options.watch {
        Some(Watch::Nothing) => return None,
        Some(Watch::Everything) => vec![cwd.display().to_string()],
        Some(Watch::Paths(paths)) => paths.iter().map(|it| path(it)).collect(),
        None => before.as_ref()?.paths.clone(),
    };
    let (ignore, delay_ms) = before.map_or_else(Default::default, |before| (before.ignore, before.delay_ms));
    Some(WatchSpec {
        paths,
        ignore: options.ignore_watch.clone().unwrap_or(ignore),
        delay_ms: options.watch_delay_ms.unwrap_or(delay_ms),
    })
}

fn logs(before: LogSpec, options: &AppOptions, path: impl Fn(&str) -> String) -> LogSpec {
    let target = |wanted: &Logging| match wanted {
        Logging::Usual => LogTarget::Usual,
        Logging::Nowhere => LogTarget::Nowhere,
        Logging::File(file) => LogTarget::File(path(file)),
    };
    let disabled = options.disable_logs == Some(true);
    let stream = |wanted: &Option<Logging>, before: LogTarget| match wanted {
        _ if disabled => LogTarget::Nowhere,
        Some(wanted) => target(wanted),
        None => before,
    };
    let both = match &options.log_file {
        _ if disabled => None,
        Some(wanted) => Some(target(wanted)).filter(|target| *target != LogTarget::Nowhere),
        None => before.both,
    };
    let usual = (options.time == Some(true)).then(|| USUAL_DATE.to_owned());
    let date_format = match options.time {
        Some(false) => None,
        Some(true) | None => before.date_format,
    };
    LogSpec {
        out: stream(&options.out_file, before.out),
        err: stream(&options.error_file, before.err),
        both,
        date_format: usual.or(options.log_date_format.clone()).or(date_format),
        json: options.log_json.unwrap_or(before.json),
        ..before
    }
}

fn health(health: &Health) -> HealthCheck {
    let default = HealthCheck::of(health.path.clone());
    HealthCheck {
        status: health.status.unwrap_or(default.status),
        interval_ms: health.interval_ms.unwrap_or(default.interval_ms),
        timeout_ms: health.timeout_ms.unwrap_or(default.timeout_ms),
        threshold: health.threshold.unwrap_or(default.threshold),
        ..default
    }
}
