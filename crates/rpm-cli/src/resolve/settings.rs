//! How an app is run, balanced, watched and logged: its options as the daemon has them.

use std::path::Path;

use rpm_spec::{AppOptions, Health, Logging, Watch};
use rpm_wire::api::{AppSpec, HealthCheck, LogSpec, LogTarget, WatchSpec};

use super::ResolveError;
use super::proxy::proxy;
use super::surroundings::absolute_from;

/// What `time` means.
const USUAL_DATE: &str = "YYYY-MM-DDTHH:mm:ss";

/// The specification, with all that has a default.
pub(super) fn with(spec: AppSpec, options: &AppOptions) -> Result<AppSpec, ResolveError> {
    let plain = AppSpec::default();
    let cwd = Path::new(&spec.cwd).to_owned();
    let path = |path: &String| absolute_from(&cwd, Path::new(path)).display().to_string();
    Ok(AppSpec {
        namespace: options.namespace.clone().unwrap_or(plain.namespace),
        autorestart: options.autorestart.unwrap_or(true),
        autostart: options.autostart.unwrap_or(true),
        max_restarts: options.max_restarts,
        min_uptime_ms: options.min_uptime_ms,
        restart_delay_ms: options.restart_delay_ms,
        exp_backoff_restart_delay_ms: options.exp_backoff_restart_delay_ms,
        stop_exit_codes: options.stop_exit_codes.clone().unwrap_or_default(),
        max_memory_restart: options.max_memory_restart.filter(|bytes| *bytes > 0),
        cron_restart: options.cron_restart.clone().filter(|text| !text.is_empty()),
        cron_timezone: options.cron_timezone.clone(),
        kill_timeout_ms: options.kill_timeout_ms,
        wait_ready: options.wait_ready.unwrap_or(false),
        listen_timeout_ms: options.listen_timeout_ms,
        shutdown_with_message: options.shutdown_with_message.unwrap_or(false),
        treekill: options.treekill.unwrap_or(true),
        watch: watch(options, &cwd),
        instance_var: options.instance_var.clone(),
        increment_var: options.increment_var.clone(),
        uid: options.uid.clone(),
        gid: options.gid.clone(),
        source_map_support: options.source_map_support.unwrap_or(true),
        logs: logs(options, path),
        pid_file: options.pid_file.as_ref().map(path),
        balance: parsed(options.balance.as_deref())?,
        policy: parsed(options.policy.as_deref())?,
        kill_signal: parsed(options.kill_signal.as_deref())?,
        weights: options.weights.clone().unwrap_or_default(),
        listen: options.listen.clone().unwrap_or_default(),
        ports: options.ports.clone().unwrap_or_default(),
        intercept: options.intercept.unwrap_or(true),
        reload_timeout_ms: options.reload_timeout_ms,
        drain_timeout_ms: options.drain_timeout_ms,
        watch_after_ms: options.watch_after_ms,
        parallel: options.parallel.unwrap_or(0),
        max_surge: options.max_surge,
        max_unavailable: options.max_unavailable.unwrap_or(0),
        allow_port_change: options.allow_port_change.unwrap_or(false),
        health_check: options.health_check.as_ref().map(health),
        agent: options.agent.unwrap_or(true),
        proxy: proxy(&options.proxy, &cwd),
        ..spec
    })
}

fn parsed<T: Default + std::str::FromStr<Err: std::fmt::Display>>(
    text: Option<&str>,
) -> Result<T, ResolveError> {
    let text = text.map(|text| {
        text.parse()
            .map_err(|error: T::Err| ResolveError::Value(error.to_string()))
    });
    Ok(text.transpose()?.unwrap_or_default())
}

fn watch(options: &AppOptions, cwd: &Path) -> Option<WatchSpec> {
    let paths = match options.watch.as_ref()? {
        Watch::Nothing => return None,
        Watch::Everything => vec![cwd.display().to_string()],
        Watch::Paths(paths) => {
            let absolute = |path: &String| absolute_from(cwd, Path::new(path)).display().to_string();
            paths.iter().map(absolute).collect()
        }
    };
    Some(WatchSpec {
        paths,
        ignore: options.ignore_watch.clone().unwrap_or_default(),
        delay_ms: options.watch_delay_ms.unwrap_or(0),
    })
}

fn logs(options: &AppOptions, path: impl Fn(&String) -> String) -> LogSpec {
    let target = |wanted: &Logging| match wanted {
        Logging::Usual => LogTarget::Usual,
        Logging::Nowhere => LogTarget::Nowhere,
        Logging::File(file) => LogTarget::File(path(file)),
    };
    let stream = |wanted: &Option<Logging>| match wanted {
        _ if options.disable_logs == Some(true) => LogTarget::Nowhere,
        Some(wanted) => target(wanted),
        None => LogTarget::Usual,
    };
    let both = options
        .log_file
        .as_ref()
        .filter(|_| options.disable_logs != Some(true));
    let usual = (options.time == Some(true)).then(|| USUAL_DATE.to_owned());
    LogSpec {
        out: stream(&options.out_file),
        err: stream(&options.error_file),
        both: both.map(target).filter(|target| *target != LogTarget::Nowhere),
        merge: options.merge_logs.unwrap_or(false),
        date_format: options.log_date_format.clone().or(usual),
        json: options.log_json.unwrap_or(false),
        max_bytes: options.log_max_size,
        keep: options.log_keep,
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
