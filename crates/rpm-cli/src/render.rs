//! Answers as text for people.

mod app;
mod doctor;
mod events;
mod inspect;
mod logs;
mod plan;
mod receivers;
mod table;
pub(crate) mod units;

pub(crate) use app::app;
pub(crate) use doctor::doctor;
pub(crate) use events::EventLines;
pub(crate) use inspect::inspected;
pub(crate) use logs::{highlighted, log_line, origin_width};
pub(crate) use plan::plan;
pub(crate) use receivers::receivers;
pub(crate) use table::{cut, lines, processes, served, visible};

/// What the reader's end can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// A file or a program: as wide as it gets.
    Plain,
    /// A terminal that wants no colours.
    Terminal,
    /// A terminal.
    Coloured,
}

#[cfg(test)]
mod tests;
