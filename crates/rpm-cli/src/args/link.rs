//! The arguments of `link`.

use clap::Args;

/// Of `link`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkArgs {
    /// The other name
    #[arg(value_parser = ["rpm", "pm2"])]
    pub(crate) name: String,
    /// Also where another program has that name
    #[arg(short, long)]
    pub(crate) force: bool,
}
