//! rpm-listen.
