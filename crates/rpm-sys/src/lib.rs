//! rpm-sys.
