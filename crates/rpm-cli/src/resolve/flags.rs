//! What was typed after `start`, as the options that an ecosystem file would have.

use std::ffi::OsStr;

use rpm_spec::{AppOptions, Health};

use super::{ResolveError, utf8};
use crate::args::StartArgs;

/// What the flags say of an app; nothing of what was not given.
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

/// What is said by the flags wins over what the file says.
pub(crate) fn overlay(mut app: AppOptions, flags: AppOptions) -> AppOptions {
    if flags.log_date_format.is_some() {
        // It would win over a format.
        app.time = None;
    }
    flags.or(app)
}
