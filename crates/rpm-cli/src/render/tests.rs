//! What a person sees, to the character.

use rpm_wire::api::{
    AppInfo, AppSpec, ExecMode, ListenerInfo, LogLine, OBSERVE, Other, Phase, Process, Served, SlotInfo,
    Status, Stream,
};
use rpm_wire::pm2::Versions;

use super::*;

pub(super) fn online(id: u32) -> Process {
    Process {
        id,
        name: "web".into(),
        namespace: "default".into(),
        watching: false,
        instance: id,
        generation: 1,
        exec_mode: ExecMode::Cluster,
        plane: "direct".into(),
        status: Status::Online,
        pid: Some(4711 + id),
        uptime_ms: Some(200_000),
        started_at_ms: 0,
        created_at_ms: 0,
        restarts: id,
        unstable_restarts: 0,
        cpu_percent: 12.25,
        memory_bytes: 51_896_320,
        connections: Some(7),
        serves: vec![serves("tcp [::]:3000", Some("http://localhost:3000"))],
        exit_code: None,
        others: Vec::new(),
        out_log: format!("/srv/logs/web-out-{id}.log"),
        err_log: format!("/srv/logs/web-error-{id}.log"),
        spec: None,
        details: None,
    }
}

fn serves(address: &str, url: Option<&str>) -> Served {
    Served {
        address: address.to_owned(),
        url: url.map(str::to_owned),
    }
}

fn errored() -> Process {
    Process {
        name: "bad\u{1b}[2J".into(),
        exec_mode: ExecMode::Fork,
        plane: "none".into(),
        status: Status::Errored,
        pid: None,
        uptime_ms: None,
        connections: None,
        serves: Vec::new(),
        exit_code: Some(1),
        ..online(16)
    }
}

fn spec() -> AppSpec {
    AppSpec {
        name: "web".into(),
        script: "/srv/web/app.js".into(),
        interpreter: Some("/usr/bin/node".into()),
        args: vec!["a b".into()],
        cwd: "/srv/web".into(),
        env: [("SECRET".to_owned(), "hidden".to_owned())].into(),
        exec_mode: ExecMode::Cluster,
        instances: -1,
        listen: vec!["8080".into()],
        balance: rpm_wire::api::Balance::Handoff,
        policy: rpm_wire::api::BalancePolicy::IpHash,
        wait_ready: true,
        listen_timeout_ms: Some(5000),
        kill_signal: rpm_wire::api::StopSignal::Terminate,
        ..AppSpec::default()
    }
}

fn listener(slots: Vec<SlotInfo>) -> ListenerInfo {
    ListenerInfo {
        address: "tcp [::]:3000".into(),
        steering: "ebpf".into(),
        reason: "CAP_BPF".into(),
        slots,
    }
}

#[test]
fn a_hidden_process_is_listed_by_its_name() {
    let hidden = Process {
        name: OBSERVE.into(),
        id: 1 << 31,
        ..online(1)
    };
    let table = processes(&[online(0), hidden], Look::Plain).to_string();
    let row = table.lines().find(|line| line.contains(OBSERVE)).expect("a row");
    assert!(!table.contains("2147483648") && row.contains("│  - ┆"), "{table}");
}

#[test]
fn the_table_of_processes() {
    let expected = "\
╭────┬─────────┬─────────┬────────┬──────┬────────┬────┬─────────┬──────┬───────┬─────────┬───────╮
│ id ┆ name    ┆ mode    ┆ plane  ┆  pid ┆ uptime ┆  ↺ ┆ status  ┆ port ┆   cpu ┆  memory ┆ conns │
╞════╪═════════╪═════════╪════════╪══════╪════════╪════╪═════════╪══════╪═══════╪═════════╪═══════╡
│  0 ┆ web     ┆ cluster ┆ direct ┆ 4711 ┆ 3m 20s ┆  0 ┆ online  ┆ 3000 ┆ 12.2% ┆ 49.5 MB ┆     7 │
│ 16 ┆ bad�[2J ┆ fork    ┆ none   ┆    - ┆      - ┆ 16 ┆ errored ┆    - ┆     - ┆       - ┆     - │
╰────┴─────────┴─────────┴────────┴──────┴────────┴────┴─────────┴──────┴───────┴─────────┴───────╯";
    assert_eq!(
        processes(&[online(0), errored()], Look::Plain).to_string(),
        expected
    );
}

#[test]
fn what_comes_and_goes_is_listed_below_its_instance() {
    let other = |phase, left_ms| Other {
        pid: 99,
        generation: 1,
        phase,
        connections: Some(3),
        left_ms,
    };
    let process = Process {
        others: vec![
            other(Phase::Standby, None),
            other(Phase::Draining, Some(12_000)),
            other(Phase::Stopping, Some(1600)),
        ],
        ..online(0)
    };
    let text = processes(&[process], Look::Plain).to_string();
    for line in ["standby  ", "draining ≤12s ", "stopping ≤1s "] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

/// A name of twenty letters in each instance, and one worker that drains beside the first.
fn draining(count: u32, name: &str) -> Vec<Process> {
    let mut all: Vec<Process> = (0..count).map(online).collect();
    for process in &mut all {
        name.clone_into(&mut process.name);
        process.pid = Some(1_234_567);
        process.uptime_ms = Some(86_399_000);
    }
    all[0].others.push(Other {
        pid: 1_234_566,
        generation: 1,
        phase: Phase::Draining,
        connections: Some(3),
        left_ms: Some(31_000),
    });
    all
}

#[test]
fn a_terminal_of_any_width_has_whole_words_and_one_line_for_each_process() {
    let names = [
        "w",
        "server",
        "payment-service-for-all-the-customers-of-the-shop",
        "支払いサービスの本番環境と試験環境",
    ];
    for width in [34, 40, 60, 72, 80, 100, 160] {
        for name in names {
            for count in [1, 12] {
                let all = draining(count, name);
                let text = table::processes_within(&all, Look::Terminal, Some(width)).to_string();
                let case = format!("{width} columns, {count} × {name:?}\n{text}");
                let widest = text
                    .lines()
                    .map(|line| ratatui::text::Span::raw(line).width())
                    .max();
                assert!(widest <= Some(usize::from(width)), "{case}");
                assert_eq!(text.lines().count(), 4 + all.len() + 1, "{case}");
                assert_eq!(text.matches(" online ").count(), all.len(), "{case}");
                assert!(text.contains("draining ≤31s "), "{case}");
                assert!(text.contains(name) || text.contains('…'), "{case}");
            }
        }
    }
}

#[test]
fn a_narrow_terminal_has_the_columns_that_are_most_wanted() {
    let shown = |width, name: &str| {
        let text = table::processes_within(&draining(1, name), Look::Terminal, width).to_string();
        let header = text.lines().nth(1).expect("a header").to_owned();
        let words = header
            .split(['│', '┆'])
            .map(str::trim)
            .filter(|word| !word.is_empty());
        words.map(str::to_owned).collect::<Vec<_>>().join(" ")
    };
    let all = "id name mode plane pid uptime ↺ status port cpu memory conns";
    assert_eq!(shown(Some(160), "server"), all);
    assert_eq!(
        shown(Some(80), "server"),
        "id name pid uptime ↺ status port cpu memory"
    );
    assert_eq!(shown(Some(60), "server"), "id name ↺ status port memory");
    assert_eq!(shown(Some(34), "server"), "id name status");
    for unknown in [None, Some(0)] {
        assert_eq!(shown(unknown, &"long".repeat(50)), all);
    }
}

#[test]
fn a_port_is_named_once_and_many_are_counted() {
    let cases: [(&[&str], &str); 6] = [
        (&[], "-"),
        (&["tcp 0.0.0.0:3000", "tcp [::]:3000"], "3000"),
        (&["tcp [::]:80", "tcp [::]:443"], "80 443"),
        (
            &["tcp [::]:80", "tcp [::]:443", "tcp [::]:8080", "tcp [::]:9229"],
            "80 443 +2",
        ),
        (&["udp 0.0.0.0:53", "unix /run/x.sock"], "53/udp unix"),
        (&["tcp \u{1b}[2J"], "\u{fffd}[2J"),
    ];
    for (addresses, port) in cases {
        let process = Process {
            serves: addresses.iter().map(|address| serves(address, None)).collect(),
            ..online(0)
        };
        let text = processes(&[process], Look::Plain).to_string();
        assert!(text.contains(&format!(" {port} ┆")), "{port}\n{text}");
    }
}

#[test]
fn where_an_app_is_found_is_said_once() {
    let url = "http://localhost:3000";
    assert_eq!(served(&[online(0), online(1)]), [format!("serving {url}")]);
    let other = Process {
        name: "db".into(),
        serves: vec![
            serves("tcp [::]:5432", None),
            serves("tcp [::]:80", Some("http://localhost")),
        ],
        ..online(2)
    };
    assert_eq!(
        served(&[online(0), online(1), other]),
        [
            format!("web: serving {url}"),
            "db: serving http://localhost".to_owned()
        ]
    );
    assert!(served(&[errored()]).is_empty() && served(&[]).is_empty());
}

#[test]
fn a_description_has_its_sections_and_no_secrets() {
    let slot = SlotInfo {
        instance: 0,
        eligible: false,
        queued: 3,
        backlog: 511,
        steered: None,
        connections: Some(7),
        rescued: 2,
        proxied: None,
    };
    let mut info = AppInfo {
        spec: spec(),
        plane: "direct".into(),
        plane_reason: "Linux".into(),
        generation: 2,
        processes: vec![online(0)],
        listeners: vec![listener(vec![slot]), listener(Vec::new())],
    };
    let text = app(&info, &Versions::default(), Look::Plain);
    let expected = "\
web
╭───────────────────┬─────────────────────────────────────╮
│ field             ┆ value                               │
╞═══════════════════╪═════════════════════════════════════╡
│ mode              ┆ cluster                             │
│ instances         ┆ all CPUs but 1 (1 now)              │
│ plane             ┆ direct (Linux)                      │
│ generation        ┆ 2                                   │
│ command           ┆ /usr/bin/node /srv/web/app.js \"a b\" │
│ working directory ┆ /srv/web                            │
│ autorestart       ┆ yes                                 │
│ balance           ┆ handoff                             │
│ kill_signal       ┆ SIGTERM                             │
│ listen            ┆ 8080                                │
│ listen_timeout    ┆ 5s                                  │
│ policy            ┆ ip-hash                             │
│ wait_ready        ┆ true                                │
╰───────────────────┴─────────────────────────────────────╯

processes
";
    assert!(text.starts_with(expected), "{text}");
    let expected = "
listener tcp [::]:3000: ebpf (CAP_BPF)
╭──────────┬──────────┬──────┬────────┬─────────┬─────────┬─────────╮
│ instance ┆ eligible ┆ open ┆ queued ┆ backlog ┆ steered ┆ rescued │
╞══════════╪══════════╪══════╪════════╪═════════╪═════════╪═════════╡
│        0 ┆ no       ┆    7 ┆      3 ┆     511 ┆       - ┆       2 │
╰──────────┴──────────┴──────┴────────┴─────────┴─────────┴─────────╯

listener tcp [::]:3000: ebpf (CAP_BPF)
";
    assert!(text.ends_with(expected), "{text}");
    assert!(
        text.contains("/srv/logs/web-error-0.log") && !text.contains("hidden"),
        "{text}"
    );
    info.listeners.clear();
    assert!(app(&info, &Versions::default(), Look::Plain).ends_with("\n\nno listeners\n"));
}

#[test]
fn escape_sequences_only_where_colours_are_wanted() {
    let info = AppInfo {
        spec: spec(),
        plane: "direct".into(),
        plane_reason: "Linux".into(),
        generation: 2,
        processes: vec![online(0)],
        listeners: Vec::new(),
    };
    for look in [Look::Plain, Look::Terminal] {
        assert!(
            !processes(&[online(0), errored()], look)
                .to_string()
                .contains('\u{1b}')
        );
        assert!(!app(&info, &Versions::default(), look).contains('\u{1b}'));
    }
    let mut table = processes(&[online(0), errored()], Look::Coloured);
    let coloured = table.enforce_styling().to_string();
    assert!(coloured.contains('\u{1b}'), "{coloured}");
    assert!(!coloured.contains("\u{1b}[2J"), "{coloured:?}");
}

#[test]
fn log_lines_align_and_show_their_stream() {
    let line = |id: u32, name: &str, stream| LogLine {
        id,
        name: name.into(),
        stream,
        line: "hello".into(),
        shared: false,
        time_ms: None,
        to: None,
    };
    let (short, long) = (line(0, "web", Stream::Out), line(12, "worker", Stream::Err));
    let mut width = origin_width(0, &short);
    assert_eq!(log_line(&short, width, Look::Plain), "0|web | hello");
    width = origin_width(width, &long);
    assert_eq!(log_line(&long, width, Look::Terminal), "12|worker | hello");
    assert_eq!(log_line(&short, width, Look::Plain), "0|web     | hello");
    assert!(log_line(&short, width, Look::Coloured).starts_with("\u{1b}[32m0|web"));
    assert!(log_line(&long, width, Look::Coloured).starts_with("\u{1b}[31m12|worker"));
    let (other, same) = (line(1, "web", Stream::Out), line(6, "web", Stream::Out));
    assert!(log_line(&other, width, Look::Coloured).starts_with("\u{1b}[36m1|web"));
    assert!(log_line(&same, width, Look::Coloured).starts_with("\u{1b}[36m6|web"));
    let shared = LogLine {
        shared: true,
        ..short
    };
    assert_eq!(log_line(&shared, width, Look::Plain), "web       | hello");
    let endless = line(1, &"n".repeat(500), Stream::Out);
    assert!(origin_width(width, &endless) < 100);
}

#[test]
fn a_description_is_not_broken_within_words() {
    let mut listener = listener(Vec::new());
    listener.reason = "exact round-robin by an eBPF program, queues can migrate to any other worker".into();
    let info = AppInfo {
        spec: spec(),
        plane: "direct".into(),
        plane_reason: "Node workers take their slots over node:cluster's channel".into(),
        generation: 1,
        processes: vec![online(0), online(1)],
        listeners: vec![listener],
    };
    for width in [60, 72, 80, 90, 160] {
        let text = app::app_within(&info, &Versions::default(), Look::Terminal, Some(width));
        let widest = text
            .lines()
            .map(|line| ratatui::text::Span::raw(line).width())
            .max();
        assert!(widest <= Some(usize::from(width)), "{width} columns\n{text}");
        let words: Vec<&str> = text.split([' ', '\n']).collect();
        for word in info.listeners[0].reason.split(' ').chain(["node:cluster's"]) {
            let whole = words.iter().any(|shown| shown.trim_matches(['(', ')']) == word);
            assert!(whole, "{word} at {width} columns\n{text}");
        }
        for path in ["/srv/logs/web-out-1.log", "/srv/logs/web-error-1.log"] {
            assert!(words.contains(&path), "{path} at {width} columns\n{text}");
        }
    }
}

#[test]
fn settings_that_are_not_the_usual_ones_are_shown() {
    let described = |spec: AppSpec| {
        let info = AppInfo {
            spec,
            plane: "proxy".into(),
            plane_reason: "asked for".into(),
            generation: 1,
            processes: Vec::new(),
            listeners: Vec::new(),
        };
        app(&info, &Versions::default(), Look::Plain)
    };
    let usual = described(AppSpec::default());
    let rows = |text: &str| text.lines().filter(|line| line.starts_with('│')).count();
    let mut spec = AppSpec::default();
    spec.proxy.sticky = Some("sid".into());
    spec.policy = rpm_wire::api::BalancePolicy::IpHash;
    spec.ports = vec![80, 81];
    spec.max_memory_restart = Some(1 << 20);
    spec.cron_restart = Some("0 3 * * *".into());
    spec.keep_alive_timeout_ms = Some(65_000);
    spec.env.insert("SECRET".into(), "x".into());
    let text = described(spec);
    for line in [
        ("policy", "ip-hash"),
        ("sticky", "sid"),
        ("ports", "80, 81"),
        ("max_memory_restart", "1.0 MB"),
        ("cron_restart", "0 3 * * *"),
        ("keep_alive_timeout", "65s"),
    ] {
        let shown =
            |row: &&str| row.contains(&format!("│ {} ", line.0)) && row.contains(&format!("┆ {} ", line.1));
        assert_eq!(text.lines().filter(shown).count(), 1, "{line:?} in\n{text}");
    }
    assert_eq!(rows(&text), rows(&usual) + 6, "{text}");
    assert!(!text.contains("SECRET"), "{text}");
}

#[test]
fn what_runs_and_since_when_is_shown() {
    let mut info = AppInfo {
        spec: spec(),
        plane: "direct".into(),
        plane_reason: "asked for".into(),
        generation: 1,
        processes: vec![online(0), online(1)],
        listeners: Vec::new(),
    };
    let said = |info: &AppInfo, versions: &Versions, field: &str| {
        let text = app(info, versions, Look::Plain);
        let row = text.lines().find(|row| row.starts_with(&format!("│ {field} ")));
        row.map(|row| row.split(['┆', '│']).nth(2).unwrap_or_default().trim().to_owned())
    };
    for (process, at) in info
        .processes
        .iter_mut()
        .zip([1_700_000_001_000, 1_700_000_000_000])
    {
        process.created_at_ms = at;
    }
    info.spec.env.clear();
    for field in ["version", "Node.js", "NODE_ENV"] {
        assert_eq!(said(&info, &Versions::default(), field), None, "{field}");
    }
    info.spec.env.insert("NODE_ENV".into(), "production".into());
    let versions = Versions {
        app: Some("2.0.1".into()),
        node: Some("24.1.0".into()),
    };
    let shown = |field| said(&info, &versions, field).unwrap_or_default();
    assert_eq!(shown("version"), "2.0.1");
    assert_eq!(shown("Node.js"), "24.1.0");
    assert_eq!(shown("NODE_ENV"), "production");
    let created = jiff::Timestamp::strptime("%Y-%m-%d %H:%M:%S %:z", shown("created"));
    let created = created.expect("a time with its zone");
    assert_eq!(created.as_second(), 1_700_000_000);
}
