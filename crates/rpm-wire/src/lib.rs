//! Pure codecs: the IPC channel of Node workers, the control API between CLI and daemon, and PM2's
//! process list. No I/O, no clock, no threads: bytes and values in, bytes and values out.

pub mod alerts;
pub mod api;
pub mod channel;
pub mod dayjs;
pub mod events;
pub mod forward;
pub mod interpreter;
pub mod log_times;
pub mod options;
pub mod otlp;
pub mod pm2;
pub mod ratio;
pub mod receivers;
pub mod shell;
pub mod spans;
pub mod terminal;
