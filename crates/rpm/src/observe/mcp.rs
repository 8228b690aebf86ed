//! `mcp`: the apps for models.

use std::io::{IsTerminal as _, stdin};

use anyhow::Context as _;
use rpm_observe::Mcp;

/// Serves the client that has started it, until that goes.
///
/// # Errors
/// The client speaks something else.
pub(crate) fn run(wish: rpm_cli::Mcp) -> anyhow::Result<()> {
    let server = Mcp {
        socket: rpm_cli::socket()?,
        allow_actions: wish.allow_actions,
        pasteable: rpm_cli::pasteable,
    };
    if stdin().is_terminal() {
        let text = "the client of a model starts this: `rpm mcp --help` says how; Ctrl+C ends it";
        eprintln!("{}", rpm_cli::pasteable(text));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot set up the event loop")?;
    let served = runtime.block_on(server.serve());
    // A thread that reads standard input cannot be interrupted.
    runtime.shutdown_background();
    Ok(served?)
}
