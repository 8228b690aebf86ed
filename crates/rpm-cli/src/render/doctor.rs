//! The table of `doctor`.

use comfy_table::{Cell, Color, Table};
use rpm_wire::api::Finding;

use super::Look;
use super::table::{painted, table, visible};

/// One line for each mechanism.
pub(crate) fn doctor(findings: &[Finding], look: Look) -> Table {
    let mut table = table(
        &["mechanism", "works", "what it gives, or why not", "how to get it"],
        &[],
        look,
    );
    for finding in findings {
        let (word, colour) = if finding.works {
            ("yes", Color::Green)
        } else {
            ("no", Color::Yellow)
        };
        table.add_row([
            Cell::new(visible(&finding.mechanism)),
            painted(Cell::new(word), colour, look),
            Cell::new(visible(&finding.detail)),
            Cell::new(visible(finding.advice.as_deref().unwrap_or_default())),
        ]);
    }
    table
}
