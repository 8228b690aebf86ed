//! `--sort`: the columns by which processes can be ordered.

use std::cmp::Ordering;

use rpm_wire::api::Process;

/// A column of the list.
struct Column {
    name: &'static str,
    /// Other names that are accepted.
    aliases: &'static [&'static str],
    compare: fn(&Process, &Process) -> Ordering,
}

const COLUMNS: [Column; 9] = [
    column("id", &["pm_id"], |a, b| a.id.cmp(&b.id)),
    column("name", &[], |a, b| a.name.cmp(&b.name)),
    column("namespace", &[], |a, b| a.namespace.cmp(&b.namespace)),
    column("pid", &[], |a, b| a.pid.cmp(&b.pid)),
    column("uptime", &[], |a, b| a.uptime_ms.cmp(&b.uptime_ms)),
    column("restarts", &["restart"], |a, b| a.restarts.cmp(&b.restarts)),
    column("status", &[], |a, b| a.status.as_str().cmp(b.status.as_str())),
    column("cpu", &[], |a, b| a.cpu_percent.total_cmp(&b.cpu_percent)),
    column("memory", &["mem"], |a, b| a.memory_bytes.cmp(&b.memory_bytes)),
];

const fn column(
    name: &'static str,
    aliases: &'static [&'static str],
    compare: fn(&Process, &Process) -> Ordering,
) -> Column {
    Column {
        name,
        aliases,
        compare,
    }
}

/// An order of processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sort {
    /// Index into [`COLUMNS`].
    column: usize,
    descending: bool,
}

impl Sort {
    /// The names of the columns.
    pub(crate) fn columns() -> [&'static str; COLUMNS.len()] {
        COLUMNS.map(|column| column.name)
    }

    /// Parses `memory` or `memory:desc`.
    ///
    /// # Errors
    /// What is accepted.
    pub(crate) fn parse(text: &str) -> Result<Sort, String> {
        let (name, way) = text.split_once(':').unwrap_or((text, "asc"));
        let is_meant = |column: &Column| column.name == name || column.aliases.contains(&name);
        let column = COLUMNS.iter().position(is_meant);
        let column = column.ok_or_else(|| format!("expected {}", choice()))?;
        let descending = match way {
            "asc" => false,
            "desc" => true,
            _ => return Err("expected :asc or :desc after the column".to_owned()),
        };
        Ok(Sort { column, descending })
    }

    /// Sorts by the column; the order of equal processes stays, or is reversed with the rest.
    pub(crate) fn apply(self, processes: &mut [Process]) {
        processes.sort_by(COLUMNS[self.column].compare);
        if self.descending {
            processes.reverse();
        }
    }
}

/// The help of the option.
pub(super) fn help() -> String {
    format!("In the order of a column: {}; `:desc` reverses it", choice())
}

/// `id, name, … or memory`.
fn choice() -> String {
    let [names @ .., last] = Sort::columns();
    format!("{} or {last}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_known_by_all_their_names() {
        for column in COLUMNS {
            for name in [&[column.name], column.aliases].concat() {
                let sort = Sort::parse(name).expect("a column");
                assert_eq!((COLUMNS[sort.column].name, sort.descending), (column.name, false));
                assert_eq!(
                    Sort::parse(&format!("{name}:desc")),
                    Ok(Sort {
                        descending: true,
                        ..sort
                    })
                );
            }
        }
        assert_eq!(
            Sort::parse("colour"),
            Err("expected id, name, namespace, pid, uptime, restarts, status, cpu or memory".to_owned())
        );
        assert!(Sort::parse("cpu:down").is_err());
    }
}
