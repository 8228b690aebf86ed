//! The arguments of `start`: the options of an app, and what to do with it.

use std::ffi::OsString;

use clap::Args;

use super::needless::Needless;
use super::table::OptionArgs;
use super::values::{duration, trimmed};

/// Of `start`. `display_order` is the place below the heading: options of the table are ten apart, see `table.rs`.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StartArgs {
    /// A script or program, an ecosystem file (`-` reads one from standard input), or a name or id that is known [default: ecosystem.config.js]
    pub(crate) targets: Vec<OsString>,
    #[command(flatten)]
    pub(crate) options: OptionArgs,
    /// Only these apps of the ecosystem file
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = trimmed)]
    pub(crate) only: Vec<String>,
    /// Add the variables of env_<NAME> in the ecosystem file
    #[arg(long, value_name = "NAME")]
    pub(crate) env: Option<String>,
    /// Update the environment of apps that are already known
    #[arg(short = 'a', long, display_order = 0)]
    pub(crate) update_env: bool,
    /// Show what would change, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Stay in the foreground, for containers: see `runtime`
    #[arg(long, display_order = 22)]
    pub(crate) no_daemon: bool,
    /// Follow the apps' output once they are started
    #[arg(long, conflicts_with = "no_daemon", display_order = 23)]
    pub(crate) attach: bool,
    #[command(flatten)]
    pub(crate) health: HealthArgs,
    /// Return once the workers are spawned
    #[arg(long)]
    pub(crate) no_wait: bool,
    #[command(flatten)]
    pub(crate) needless: Needless,
    /// Arguments of the script
    #[arg(last = true)]
    pub(crate) args: Vec<OsString>,
}

/// The other fields of `health_check` in an ecosystem file.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HealthArgs {
    /// Status of a good response to the health check [default: 200]
    #[arg(long, value_name = "CODE", requires = "health_check", value_parser = clap::value_parser!(u16).range(100..600))]
    pub(crate) health_status: Option<u16>,
    /// Time between two health checks [default: 250ms]
    #[arg(long, value_name = "TIME", requires = "health_check", value_parser = duration)]
    pub(crate) health_interval: Option<u64>,
    /// Time for the response to a health check [default: 2s]
    #[arg(long, value_name = "TIME", requires = "health_check", value_parser = duration)]
    pub(crate) health_timeout: Option<u64>,
    /// Number of good responses in a row [default: 1]
    #[arg(long, value_name = "N", requires = "health_check", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) health_threshold: Option<u32>,
}
