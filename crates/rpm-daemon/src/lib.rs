//! rpm-daemon.
