//! The arguments of `logs` and of `events`.

use clap::Args;
use clap::builder::ArgPredicate;

use super::values;

/// Of `logs`.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogsArgs {
    /// Names, ids, namespaces or /patterns/; without any, all
    pub(crate) targets: Vec<String>,
    /// How many lines of the past, of each file
    #[arg(
        short = 'n',
        long,
        default_value_t = 15,
        default_value_if("since", ArgPredicate::IsPresent, "10000"),
        default_value_if("until", ArgPredicate::IsPresent, "10000")
    )]
    pub(crate) lines: u32,
    /// Only lines written since then: 10m, 1h, 2d ago, or 2026-11-29T10:00; those of an unknown time are left out
    #[arg(long, value_name = "TIME", value_parser = values::moment)]
    pub(crate) since: Option<u64>,
    /// Only lines written until then, and do not follow
    #[arg(long, value_name = "TIME", value_parser = values::moment, conflicts_with_all = ["lines", "follow"])]
    pub(crate) until: Option<u64>,
    /// Do not follow
    #[arg(long, visible_alias = "no-follow")]
    pub(crate) nostream: bool,
    /// Follow, which is the default
    #[arg(short, long, hide = true, conflicts_with = "nostream")]
    pub(crate) follow: bool,
    /// Only standard output
    #[arg(long, conflicts_with = "err")]
    pub(crate) out: bool,
    /// Only standard error
    #[arg(long)]
    pub(crate) err: bool,
    /// The lines alone, on a terminal too with all that it obeys; otherwise it gets their colours and no other control characters
    #[arg(long, conflicts_with_all = ["json", "format"])]
    pub(crate) raw: bool,
    /// Print JSON, one object a line
    #[arg(long, conflicts_with = "format")]
    pub(crate) json: bool,
    /// Print timestamp=… app=… id=… type=… message=…
    #[arg(long)]
    pub(crate) format: bool,
    /// Before each line the time at which it was written, in this format [default: YYYY-MM-DDTHH:mm:ss]
    #[arg(
        long,
        value_name = "FORMAT",
        num_args = 0..=1,
        default_missing_value = "YYYY-MM-DDTHH:mm:ss"
    )]
    pub(crate) timestamp: Option<String>,
    /// Make this text stand out
    #[arg(long, value_name = "TEXT")]
    pub(crate) highlight: Option<String>,
}

/// Of `events`.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EventsArgs {
    /// Only of these: names, ids, namespaces or /patterns/, of apps that are gone as well
    pub(crate) targets: Vec<String>,
    /// How many events of the past
    #[arg(
        short = 'n',
        long,
        default_value_t = 100,
        default_value_if("since", ArgPredicate::IsPresent, "10000")
    )]
    pub(crate) lines: u32,
    /// Only events since then: 10m, 1h, 2d, or 2026-11-29T10:00
    #[arg(long, value_name = "TIME", value_parser = values::moment)]
    pub(crate) since: Option<u64>,
    /// Follow new events
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Print JSON, one object a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches as _;

    use super::*;

    fn events(line: &str) -> EventsArgs {
        let matches = crate::args::grammar("rpm").try_get_matches_from(line.split(' '));
        let matches = matches.expect(line);
        let (_, own) = matches.subcommand().expect(line);
        EventsArgs::from_arg_matches(own).expect(line)
    }

    #[test]
    fn events_are_the_last_ones_or_all_since_a_time() {
        let usual = EventsArgs {
            lines: 100,
            ..EventsArgs::default()
        };
        assert_eq!(events("rpm events"), usual);
        let since = EventsArgs {
            targets: vec!["web".into(), "api".into()],
            lines: 10_000,
            since: Some(1_764_410_400_000),
            follow: true,
            json: true,
        };
        assert_eq!(events("rpm events web api --since 1764410400 -f --json"), since);
        assert_eq!(events("rpm events -n 7 --since 1764410400").lines, 7);
    }
}
