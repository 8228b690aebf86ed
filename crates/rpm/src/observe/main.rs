//! The program `rpm-observe`: what `rpm` does for those who watch it. `rpm` executes it for its commands `monit`, `top`, `dashboard`, `observe`,
//! `alerts` and `mcp`.

mod alerts;
mod columns;
mod dashboard;
mod mcp;
mod metrics;
mod past;
mod secret;

use std::process::ExitCode;

use anyhow::anyhow;
use rpm_cli::Invocation;
use rpm_shared::{companion, report};

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: rpm_sys::allocator::Cached = rpm_sys::allocator::Cached;

fn main() -> ExitCode {
    // A password that is checked takes 19 MiB for a moment.
    rpm_sys::memory::map_large_blocks();
    let called = match companion::called(std::env::args_os()) {
        Ok(called) => called,
        Err(error) => {
            // It was not called by `rpm`: how that is called is not known.
            eprintln!("error: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    rpm_cli::set_program(called.program);
    match rpm_cli::parse(called.words) {
        Ok(Invocation::Monit(client)) => rpm_cli::monit(&client),
        Ok(Invocation::Observe(wish)) => report(metrics::run(&wish)),
        Ok(Invocation::Alerts(what)) => alerts::run(&what),
        Ok(Invocation::Past(wish)) => past::run(&wish),
        Ok(Invocation::Dashboard(wish)) => dashboard::run(&wish),
        Ok(Invocation::Mcp(wish)) => report(mcp::run(wish)),
        Ok(_) => report(Err(anyhow!("{} does not do this", companion::PROGRAM))),
        Err(usage) => usage.report(option_env!("RPM_COMMIT")),
    }
}
