//! The options of an app on the command line, and how they go over those of a file.

use std::ffi::OsStr;

use rpm_spec::{AppOptions, Health};

use super::{ResolveError, utf8};
use crate::args::StartArgs;

/// The options that were given on the command line.
pub(crate) fn options_of(args: &StartArgs, script: Option<&OsStr>) -> Result<AppOptions, ResolveError> {
    let text = |what, value: &OsStr| utf8(what, value.to_owned());
    let script = script.map(|script| text("the path of the script", script));
    let own_args = args.args.iter().map(|arg| text("an argument", arg));
    let own_args: Vec<String> = own_args.collect::<Result<_, _>>()?;
    let said = args.options.0.clone();
    let health = &args.health;
    Ok(AppOptions {
        script: script.transpose()?,
        args: (!own_args.is_empty()).then_some(own_args),
        health_check: said.health_check.map(|check| Health {
            status: health.health_status,
            interval_ms: health.health_interval,
            timeout_ms: health.health_timeout,
            threshold: health.health_threshold,
            ..check
        }),
        ..said
    })
}

/// The options of a file, with those of the command line over them.
pub(crate) fn overlay(mut app: AppOptions, flags: AppOptions) -> AppOptions {
    if flags.log_date_format.is_some() {
        // Otherwise `time` of the file would override the format.
        app.time = None;
    }
    flags.or(app)
}
