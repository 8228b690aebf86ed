//! The stored state: what a daemon leaves for the next one, and how that is written.
//!
//! There are two documents, the *state* ([`State`]: the core, the workers, the sockets) and the *apps* ([`AppsDocument`]: what workers are
//! started from). Each is JSON that begins with its header, `{"format":4,"version":"0.1.0",…`, and ends with a sum. The header alone says
//! how the rest is read, so it is read first and by itself; its place and its two fields are the same in every format.
//!
//! The types of a format are in the module that is named after it, and are those of nothing else: `rpm-core` and the daemon may change
//! what they keep in memory without changing what is stored. A program reads the present format and the one before it, `v3`, and writes
//! the present one. CONTRIBUTING.md says how a format is changed.
//!
//! The crate reads and writes memory: files are the daemon's business.

mod convert;
mod envelope;
mod v3;
mod v4;

pub use envelope::{FORMAT, Header, OLDEST, ReadError, Unsupported, header, seal};
pub use v4::{
    AppsDocument, Core, Group, Listeners, Logs, Nanos, Policy, Process, Revision, Shared, SharedKind, Slot,
    Socket, State, StoredApp, Table, Tokens,
};

use std::io;

use serde::Serialize;

/// Writes a document, with its sum.
///
/// # Errors
/// `out` takes no more.
pub fn write(document: &impl Document, out: impl io::Write) -> io::Result<()> {
    envelope::write(document, out)
}

/// The state that is in `text`, of the present format or the one before.
///
/// # Errors
/// It is of another format, or damaged.
pub fn read_state(text: &[u8]) -> Result<State, ReadError> {
    match header(text) {
        Some(header) if header.format == FORMAT => envelope::body(text),
        Some(header) if header.format == v3::FORMAT => {
            let old: v3::State = envelope::body_of_v3(text)?;
            Ok(old.try_into()?)
        }
        Some(header) => Err(Unsupported(header).into()),
        None => Err(ReadError::NoHeader),
    }
}

/// The apps that are in `text`. In the format before the present one they had no header.
///
/// # Errors
/// They are of another format, or damaged.
pub fn read_apps(text: &[u8]) -> Result<AppsDocument, ReadError> {
    match header(text) {
        Some(header) if header.format == FORMAT => envelope::body(text),
        Some(header) => Err(Unsupported(header).into()),
        None => envelope::body_of_v3::<v3::Apps>(text).map(AppsDocument::from),
    }
}

/// What is written as a whole: [`State`] and [`AppsDocument`].
pub trait Document: Serialize {}

impl Document for State {}
impl Document for AppsDocument {}
