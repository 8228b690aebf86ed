//! Pure codecs: the IPC channel of Node workers, and the control API between CLI and daemon.

pub mod api;
