//! rpm-cli.
