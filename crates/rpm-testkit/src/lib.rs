//! rpm-testkit.
