//! The `rpm` command: client, daemon and demonstration in one binary.

mod demo;
mod serve;

use std::io::{self, Write as _};
use std::process::ExitCode;

use rpm_cli::Invocation;
use rpm_shared::{companion, report, say};

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: rpm_sys::allocator::Cached = rpm_sys::allocator::Cached;

fn main() -> ExitCode {
    if std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == demo::WORKER)
    {
        return demo::worker::run();
    }
    if std::env::args_os().skip(1).eq([rpm_daemon::KEEPER]) {
        return report(rpm_daemon::hold().map_err(Into::into));
    }
    // What the parser of arguments touches stays in the memory of a process that runs for months.
    if std::env::args_os().skip(1).eq([rpm_cli::DAEMON]) {
        return daemon();
    }
    match rpm_cli::parse(std::env::args_os()) {
        Ok(Invocation::Client(client)) => rpm_cli::run(&client, rpm_daemon::faults),
        Ok(Invocation::Daemon { check: false }) => daemon(),
        Ok(Invocation::Daemon { check: true }) => check(),
        Ok(Invocation::Complete(question)) => {
            // The shell may have gone.
            let _ = io::stdout().write_all(question.answer().as_bytes());
            ExitCode::SUCCESS
        }
        Ok(Invocation::Demo { port }) => report(demo::run(port)),
        Ok(
            Invocation::Monit(_)
            | Invocation::Past(_)
            | Invocation::Dashboard(_)
            | Invocation::Observe(_)
            | Invocation::Alerts(_)
            | Invocation::Mcp(_),
        ) => report(companion::become_it()),
        Ok(Invocation::Static(site)) => report(serve::run(&site)),
        Err(usage) => usage.report(option_env!("RPM_COMMIT")),
    }
}

/// The daemon tells the command that started it, through its standard output, why it cannot run.
fn daemon() -> ExitCode {
    let home = match rpm_cli::home_dir() {
        Ok(home) => home,
        Err(error) => return refuse(&error.into()),
    };
    match rpm_daemon::run(&home) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(&error.into()),
    }
}

/// The daemon that runs asks whether this binary could take over.
fn check() -> ExitCode {
    let home = match rpm_cli::home_dir() {
        Ok(home) => home,
        Err(error) => return refuse(&error.into()),
    };
    match rpm_daemon::check(&home) {
        Ok(version) => {
            let _ = say(format_args!("{}{version}", rpm_daemon::CAN_TAKE_OVER));
            ExitCode::SUCCESS
        }
        Err(error) => refuse(&error.into()),
    }
}

fn refuse(error: &anyhow::Error) -> ExitCode {
    let _ = say(format_args!("{error:#}"));
    ExitCode::FAILURE
}
