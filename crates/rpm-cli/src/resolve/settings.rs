//! How an app is run, balanced, watched and logged: its options as the daemon has them.

use std::path::Path;

use rpm_spec::{AppOptions, Health, Logging, Watch};
use rpm_wire::api::{AppSpec, HealthCheck, LogSpec, LogTarget, WatchSpec};

use super::ResolveError;
use super::proxy::proxy;
use super::surroundings::path_from;

/// What `time` means.
const USUAL_DATE: &str = "YYYY-MM-DDTHH:mm:ss";

/// The specification with what the options say; what they do not say stays as it is.
pub(super) fn with(spec: AppSpec, options: &AppOptions, home: Option<&str>) -> Result<AppSpec, ResolveError> {
    let cwd = Path::new(&spec.cwd).to_owned();
    let path = |path: &str| path_from(&cwd, path, home);
    Ok(AppSpec {
        namespace: options.namespace.clone().unwrap_or(spec.namespace),
        autorestart: options.autorestart.unwrap_or(spec.autorestart),
        autostart: options.autostart.unwrap_or(spec.autostart),
        max_restarts: options.max_restarts.or(spec.max_restarts),
        min_uptime_ms: options.min_uptime_ms.or(spec.min_uptime_ms),
        restart_delay_ms: options.restart_delay_ms.or(spec.restart_delay_ms),
        exp_backoff_restart_delay_ms: options
            .exp_backoff_restart_delay_ms
            .or(spec.exp_backoff_restart_delay_ms),
        stop_exit_codes: options.stop_exit_codes.clone().unwrap_or(spec.stop_exit_codes),
        max_memory_restart: options
            .max_memory_restart
            .or(spec.max_memory_restart)
            .filter(|bytes| *bytes > 0),
        cron_restart: options
            .cron_restart
            .clone()
            .or(spec.cron_restart)
            .filter(|text| !text.is_empty()),
        cron_timezone: options.cron_timezone.clone().or(spec.cron_timezone),
        kill_timeout_ms: options.kill_timeout_ms.or(spec.kill_timeout_ms),
        wait_ready: options.wait_ready.unwrap_or(spec.wait_ready),
        listen_timeout_ms: options.listen_timeout_ms.or(spec.listen_timeout_ms),
        shutdown_with_message: options
            .shutdown_with_message
            .unwrap_or(spec.shutdown_with_message),
        treekill: options.treekill.unwrap_or(spec.treekill),
        watch: watch(spec.watch, options, &cwd, path),
        instance_var: options.instance_var.clone().or(spec.instance_var),
        increment_var: options.increment_var.clone().or(spec.increment_var),
        uid: options.uid.clone().or(spec.uid),
        gid: options.gid.clone().or(spec.gid),
        source_map_support: options.source_map_support.unwrap_or(spec.source_map_support),
        logs: logs(spec.logs, options, path),
        pid_file: options.pid_file.as_deref().map(path).or(spec.pid_file),
        balance: parsed(options.balance.as_deref())?.unwrap_or(spec.balance),
        policy: parsed(options.policy.as_deref())?.unwrap_or(spec.policy),
        kill_signal: parsed(options.kill_signal.as_deref())?.unwrap_or(spec.kill_signal),
        weights: options.weights.clone().unwrap_or(spec.weights),
        listen: options.listen.clone().unwrap_or(spec.listen),
        ports: options.ports.clone().unwrap_or(spec.ports),
        intercept: options.intercept.unwrap_or(spec.intercept),
        reload_timeout_ms: options.reload_timeout_ms.or(spec.reload_timeout_ms),
        drain_timeout_ms: options.drain_timeout_ms.or(spec.drain_timeout_ms),
        watch_after_ms: options.watch_after_ms.or(spec.watch_after_ms),
        parallel: options.parallel.unwrap_or(spec.parallel),
        max_surge: options.max_surge.or(spec.max_surge),
        max_unavailable: options.max_unavailable.unwrap_or(spec.max_unavailable),
        allow_port_change: options.allow_port_change.unwrap_or(spec.allow_port_change),
        health_check: options.health_check.as_ref().map(health).or(spec.health_check),
        agent: options.agent.unwrap_or(spec.agent),
        proxy: proxy(spec.proxy, &options.proxy, path),
        ..spec
    })
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
    text: Option<&str>,
) -> Result<Option<T>, ResolveError> {
    let text = text.map(|text| {
        text.parse()
            .map_err(|error: T::Err| ResolveError::Value(error.to_string()))
    });
    text.transpose()
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
        merge: options.merge_logs.unwrap_or(before.merge),
        date_format: usual.or(options.log_date_format.clone()).or(date_format),
        json: options.log_json.unwrap_or(before.json),
        max_bytes: options.log_max_size.or(before.max_bytes),
        keep: options.log_keep.or(before.keep),
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
