//! Options of PM2 without an effect here: they are accepted, and a note says why.

use clap::Args;

const DASHBOARD: &str = "there is no hosted dashboard; `rpm observe` gives metrics to Prometheus";
const NOTHING_INJECTED: &str = "nothing is injected for a dashboard";

/// Of `start`.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option")]
pub(crate) struct Needless {
    #[arg(long, hide = true)]
    no_vizion: bool,
    #[arg(long, hide = true)]
    no_pmx: bool,
    #[arg(long, hide = true)]
    no_automation: bool,
    #[arg(long, hide = true)]
    trace: bool,
    #[arg(long, hide = true)]
    disable_trace: bool,
    #[arg(long, hide = true)]
    v8: bool,
    #[arg(long, hide = true)]
    event_loop_inspector: bool,
    #[arg(long, hide = true)]
    deep_monitoring: bool,
    #[arg(long, hide = true)]
    source_map_support: bool,
    #[arg(short, long, hide = true)]
    write: bool,
    #[arg(long, hide = true, value_name = "EXTENSIONS")]
    ext: Option<String>,
    #[arg(short, long, hide = true)]
    mini_list: bool,
    #[arg(long, hide = true, value_name = "COLUMN")]
    sort: Option<String>,
    #[arg(short, long, hide = true)]
    user: Option<String>,
    #[arg(long, hide = true, value_name = "DIR")]
    hp: Option<String>,
}

impl Needless {
    /// What each does here, by its name. The documentation has the same lines. (`-m`, `--sort`, `-u` and `--hp` are of other commands, and
    /// PM2 takes them everywhere.)
    pub(crate) const NAMES: [(&'static str, &'static str); 11] = [
        ("no-vizion", "git is not asked"),
        ("no-pmx", NOTHING_INJECTED),
        ("no-automation", NOTHING_INJECTED),
        ("trace", DASHBOARD),
        ("disable-trace", DASHBOARD),
        ("v8", DASHBOARD),
        ("event-loop-inspector", DASHBOARD),
        ("deep-monitoring", DASHBOARD),
        ("source-map-support", "it is on"),
        ("write", "it is for PM2's own files"),
        ("ext", "use --ignore-watch"),
    ];

    /// A line for each that was given.
    pub(crate) fn said(&self) -> Vec<String> {
        let given = [
            self.no_vizion,
            self.no_pmx,
            self.no_automation,
            self.trace,
            self.disable_trace,
            self.v8,
            self.event_loop_inspector,
            self.deep_monitoring,
            self.source_map_support,
            self.write,
            self.ext.is_some(),
        ];
        let both = Self::NAMES.into_iter().zip(given);
        both.filter(|(_, given)| *given)
            .map(|((name, what), _)| format!("note: --{name} does nothing: {what}"))
            .collect()
    }
}
