//! What was typed after `start`, as the options that an ecosystem file would have.

use std::ffi::{OsStr, OsString};

use rpm_spec::{AppOptions, EnvFilter, Health, Logging, Mode, Watch, split_words};

use super::{ResolveError, utf8};
use crate::args::StartArgs;

/// What the flags say of an app; nothing of what was not given.
pub(crate) fn options_of(args: &StartArgs, script: Option<&OsStr>) -> Result<AppOptions, ResolveError> {
    let script = script
        .map(|script| utf8("the path of the script", script.to_owned()))
        .transpose()?;
    let text = |what, value: &OsString| utf8(what, value.clone());
    let cwd = args
        .cwd
        .as_ref()
        .map(|dir| text("the working directory", dir))
        .transpose()?;
    let own_args: Vec<String> = args
        .args
        .iter()
        .map(|arg| text("an argument", arg))
        .collect::<Result<_, _>>()?;
    Ok(AppOptions {
        script,
        cwd,
        args: some(own_args),
        name: args.name.clone(),
        namespace: args.namespace.clone(),
        interpreter: args.interpreter.clone(),
        interpreter_args: interpreter_args(&args.interpreter_args),
        instances: args.instances,
        exec_mode: args.execute_command.then_some(Mode::Fork),
        autostart: args.no_autostart.then_some(false),
        autorestart: args.no_autorestart.then_some(false),
        force: args.force.then_some(true),
        watch: args.watch.as_ref().map(|paths| match paths.is_empty() {
            true => Watch::Everything,
            false => Watch::Paths(paths.clone()),
        }),
        ignore_watch: some(patterns(&args.ignore_watch)),
        watch_delay_ms: args.watch_delay,
        stop_exit_codes: some(args.stop_exit_codes.clone()),
        max_memory_restart: args.max_memory_restart,
        cron_restart: args
            .cron_restart
            .clone()
            .map(|text| if text == "0" { String::new() } else { text }),
        max_restarts: args.max_restarts,
        min_uptime_ms: args.min_uptime,
        restart_delay_ms: args.restart_delay,
        exp_backoff_restart_delay_ms: args.exp_backoff_restart_delay,
        shutdown_with_message: args.shutdown_with_message.then_some(true),
        kill_timeout_ms: args.kill_timeout,
        kill_signal: args.kill_signal.map(|signal| signal.to_string()),
        treekill: args.no_treekill.then_some(false),
        wait_ready: args.wait_ready.then_some(true),
        listen_timeout_ms: args.listen_timeout,
        uid: args.uid.clone(),
        gid: args.gid.clone(),
        env_file: some(args.env_file.clone()),
        filter_env: args.filter_env.as_ref().map(|names| match names.is_empty() {
            true => EnvFilter::Everything,
            false => EnvFilter::Containing(names.clone()),
        }),
        source_map_support: args.disable_source_map_support.then_some(false),
        ..balance(args, output(args))
    })
}

fn output(args: &StartArgs) -> AppOptions {
    let file = |path: &String| match path.as_str() {
        "" => Logging::Usual,
        "NULL" | "/dev/null" => Logging::Nowhere,
        path => Logging::File(path.to_owned()),
    };
    AppOptions {
        out_file: args.output.as_ref().map(file),
        error_file: args.error.as_ref().map(file),
        log_file: args.log.as_ref().map(file),
        disable_logs: args.disable_logs.then_some(true),
        merge_logs: args.merge_logs.then_some(true),
        log_date_format: args.log_date_format.clone(),
        time: args.time.then_some(true),
        log_json: args.log_type.as_ref().map(|kind| kind == "json"),
        log_max_size: args.log_max_size,
        log_keep: args.log_keep,
        pid_file: args.pid.clone(),
        ..AppOptions::default()
    }
}

fn balance(args: &StartArgs, options: AppOptions) -> AppOptions {
    AppOptions {
        balance: args.balance.map(|balance| balance.to_string()),
        policy: args.policy.map(|policy| policy.to_string()),
        weights: some(args.weights.clone()),
        listen: some(args.listen.clone()),
        ports: some(args.ports.clone()),
        intercept: args.no_intercept.then_some(false),
        reload_timeout_ms: args.reload_timeout,
        drain_timeout_ms: args.drain_timeout,
        watch_after_ms: args.watch_after,
        parallel: args.parallel,
        max_surge: args.max_surge,
        max_unavailable: args.max_unavailable,
        allow_port_change: args.allow_port_change.then_some(true),
        health_check: args.health_check.clone().map(|path| Health {
            path,
            status: args.health_status,
            interval_ms: args.health_interval,
            timeout_ms: args.health_timeout,
            threshold: args.health_threshold,
        }),
        agent: args.no_agent.then_some(false),
        proxy: args.proxy.options(),
        ..options
    }
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// As PM2 has them on the command line: separated by blanks, too.
fn patterns(values: &[String]) -> Vec<String> {
    let words = values.iter().flat_map(|value| value.split_whitespace());
    words.map(str::to_owned).collect()
}

/// `null` takes away what a file says.
fn interpreter_args(values: &[String]) -> Option<Vec<String>> {
    if values == ["null"] {
        return Some(Vec::new());
    }
    some(values.iter().flat_map(|value| split_words(value)).collect())
}

/// What is said by the flags wins over what the file says.
#[rustfmt::skip]
pub(crate) fn overlay(mut app: AppOptions, flags: AppOptions) -> AppOptions {
    if flags.log_date_format.is_some() {
        // It would win over a format.
        app.time = None;
    }
    macro_rules! first {
        ($($field:ident),* $(,)?) => {
            AppOptions {
                $($field: flags.$field.or(app.$field),)*
                env: app.env,
                envs: app.envs,
            }
        };
    }
    first!(
        script, name, cwd, args, interpreter, interpreter_args, instances, exec_mode, out_file, error_file, log_file,
        merge_logs, log_date_format, time, log_json, log_max_size, log_keep, disable_logs, pid_file, autorestart, autostart, max_restarts,
        min_uptime_ms, restart_delay_ms, exp_backoff_restart_delay_ms, stop_exit_codes, max_memory_restart, cron_restart,
        cron_timezone, kill_timeout_ms, wait_ready, listen_timeout_ms, shutdown_with_message, treekill, watch, ignore_watch,
        watch_delay_ms, env_file, instance_var, increment_var, namespace, filter_env, port, uid, gid, append_env_to_name, name_prefix,
        force, source_map_support, balance, policy, weights, listen, ports, intercept, kill_signal, reload_timeout_ms,
        drain_timeout_ms, watch_after_ms, parallel, max_surge, max_unavailable, allow_port_change, health_check, agent,
        proxy,
    )
}
