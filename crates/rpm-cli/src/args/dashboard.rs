//! What `dashboard` is asked for.

use std::path::PathBuf;

use clap::Subcommand;

/// A link for a browser, the end of all sessions, or who may sign in.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Dashboard {
    /// Whoever opens the link may look, and not act
    #[arg(long)]
    pub read_only: bool,
    /// Print no link: end all sessions, and take back links that nobody has opened
    #[arg(long, conflicts_with = "read_only")]
    pub sign_out: bool,
    /// Present: no link.
    #[command(subcommand)]
    pub entry: Option<Entry>,
}

/// Who gets into the dashboard without a link, and what it shows besides.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Entry {
    /// Let a user sign in with a password, asked for here or read from standard input
    Password {
        /// The name to sign in with
        user: String,
        /// The user may look, and not act
        #[arg(long)]
        read_only: bool,
        /// Take the user's password away, and end the sessions
        #[arg(long, conflicts_with = "read_only")]
        remove: bool,
    },
    /// Show the apps of another machine, too, by its `rpm observe`
    Host {
        /// What it is called
        name: String,
        /// Where it listens, such as https://10.0.0.2:9209
        #[arg(required_unless_present = "remove", requires = "token_file")]
        url: Option<String>,
        /// The file with the token of that machine
        #[arg(long, value_name = "FILE", requires = "url")]
        token_file: Option<PathBuf>,
        /// Trust the authorities in this file (PEM) alone
        #[arg(long, value_name = "FILE", requires = "url")]
        tls_ca: Option<PathBuf>,
        /// Show it no more
        #[arg(long, conflicts_with = "url")]
        remove: bool,
    },
}
