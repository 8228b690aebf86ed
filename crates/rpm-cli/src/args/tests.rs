//! The parse table: what is typed, what comes out.

use rpm_wire::api::{Balance, Policy, StopSignal};

use super::*;
use crate::complete::Shell;

fn try_parse(line: &str) -> Result<Invocation, Usage> {
    parse(line.split(' ').map(OsString::from))
}

fn command(line: &str) -> Command {
    match try_parse(line) {
        Ok(Invocation::Client(client)) => client.command,
        other => panic!("{line}: {other:?}"),
    }
}

fn start(line: &str) -> StartArgs {
    match command(line) {
        Command::Start(args) => *args,
        other => panic!("{line}: {other:?}"),
    }
}

fn error(line: &str) -> String {
    try_parse(line).expect_err(line).0.to_string()
}

fn targets(names: &[&str]) -> Targets {
    Targets {
        targets: names.iter().map(|&name| name.to_owned()).collect(),
        no_wait: false,
    }
}

#[test]
fn instances_of_every_form() {
    for (line, expected) in [
        ("rpm start a.js", None),
        ("rpm start a.js -i 4", Some(4)),
        ("rpm start -i max a.js", Some(0)),
        ("rpm start a.js -i 0", Some(0)),
        ("rpm start a.js -i -1", Some(-1)),
        ("rpm start a.js -i-2", Some(-2)),
        ("rpm start a.js --instances=-3", Some(-3)),
        ("rpm start a.js --instances max", Some(0)),
    ] {
        assert_eq!(start(line).instances, expected, "{line}");
    }
    assert!(error("rpm start a.js -i many").contains("expected a number, `max`"));
}

#[test]
fn every_option_of_start() {
    let args = start(
        "rpm start srv/a.js -n web --cwd /srv --interpreter bun --node-args --smol --interpreter-args -x \
         --listen 80,127.0.0.1:81 --listen [::1]:82 --wait-ready --listen-timeout 1 --kill-timeout 2 --max-restarts 3 \
         --min-uptime 4 --restart-delay 5 --exp-backoff-restart-delay 6 --reload-timeout 7 --drain-timeout 8s \
         --watch-after 1m --parallel 9 --max-surge 1 --max-unavailable 2 --health-check /health --health-status 204 --health-interval 1s --health-timeout 2s \
         --health-threshold 3 --allow-port-change --ports 80,81 --no-intercept --balance handoff --policy ip-hash --weights 3,1 --kill-signal term --no-treekill --no-agent --no-autorestart --no-wait -- -p 8 --name y",
    );
    let strings = |all: &[&str]| all.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    let expected = StartArgs {
        targets: vec!["srv/a.js".into()],
        instances: None,
        name: Some("web".into()),
        cwd: Some("/srv".into()),
        interpreter: Some("bun".into()),
        interpreter_args: strings(&["--smol", "-x"]),
        listen: strings(&["80", "127.0.0.1:81", "[::1]:82"]),
        wait_ready: true,
        listen_timeout: Some(1),
        kill_timeout: Some(2),
        max_restarts: Some(3),
        min_uptime: Some(4),
        restart_delay: Some(5),
        exp_backoff_restart_delay: Some(6),
        reload_timeout: Some(7),
        drain_timeout: Some(8000),
        watch_after: Some(60_000),
        balance: Some(Balance::Handoff),
        policy: Some(Policy::IpHash),
        weights: vec![3, 1],
        ports: vec![80, 81],
        kill_signal: Some(StopSignal::Terminate),
        no_treekill: true,
        no_intercept: true,
        parallel: Some(9),
        max_surge: Some(1),
        max_unavailable: Some(2),
        health_check: Some("/health".into()),
        health_status: Some(204),
        health_interval: Some(1000),
        health_timeout: Some(2000),
        health_threshold: Some(3),
        allow_port_change: true,
        no_agent: true,
        no_autorestart: true,
        no_wait: true,
        args: ["-p", "8", "--name", "y"].map(OsString::from).to_vec(),
        ..StartArgs::default()
    };
    assert_eq!(args, expected);
    assert!(error("rpm start a.js --listen example.org:80").contains("expected a port"));
    for wrong in ["health", "/a b", ""] {
        let mut words: Vec<&str> = "rpm start a.js --health-check".split(' ').collect();
        words.push(wrong);
        let refused = parse(words.into_iter().map(OsString::from));
        assert!(refused.is_err(), "{wrong:?}");
    }
    assert!(error("rpm start a.js --health-status 200").contains("--health-check"));
    for wrong in ["5x", "s", "-1", "1..5s", "99999999999999999h"] {
        let error = error(&format!("rpm start a.js --drain-timeout={wrong}"));
        assert!(error.contains("expected a time"), "{wrong}: {error}");
    }
}

#[test]
fn commands_and_their_other_names() {
    for name in ["list", "ls", "l", "ps", "status"] {
        assert_eq!(
            command(&format!("rpm {name}")),
            Command::List(ListArgs::default())
        );
    }
    let expected = Command::List(ListArgs {
        targets: vec!["web".into(), "3".into()],
        json: true,
        sort: Some((Column::Memory, true)),
        mini_list: true,
        watch: false,
    });
    assert_eq!(command("rpm ls web --json --sort memory:desc -m 3"), expected);
    let expected = Command::List(ListArgs {
        watch: true,
        ..ListArgs::default()
    });
    assert_eq!(command("rpm ls --watch"), expected);
    assert!(try_parse("rpm ls --watch --json").is_err());
    assert!(try_parse("rpm ls --sort colour").is_err());
    for name in ["describe", "desc", "info", "show"] {
        let expected = Command::Describe {
            target: "web".into(),
            json: false,
        };
        assert_eq!(command(&format!("rpm {name} web")), expected);
    }
    assert_eq!(
        command("rpm stop web 3"),
        Command::Stop {
            targets: targets(&["web", "3"]),
            files: FileArgs::default(),
            hard: false
        }
    );
    assert_eq!(
        command("rpm restart all"),
        Command::Restart {
            start: Box::new(StartArgs {
                targets: vec!["all".into()],
                ..StartArgs::default()
            }),
            hard: false,
            wait: false
        }
    );
    assert!(error("rpm reload web --wait --no-wait").contains("cannot be used with"));
    assert_eq!(
        command("rpm del 0"),
        Command::Delete {
            targets: targets(&["0"]),
            files: FileArgs::default(),
            hard: false
        }
    );
    assert_eq!(
        command("rpm delete 0"),
        Command::Delete {
            targets: targets(&["0"]),
            files: FileArgs::default(),
            hard: false
        }
    );
}

#[test]
fn commands_that_only_show() {
    for name in ["logs", "log"] {
        let expected = Command::Logs(LogsArgs {
            lines: 15,
            ..LogsArgs::default()
        });
        assert_eq!(command(&format!("rpm {name}")), expected);
    }
    let expected = Command::Logs(LogsArgs {
        targets: vec!["web".into()],
        lines: 3,
        nostream: true,
        json: true,
        ..LogsArgs::default()
    });
    assert_eq!(command("rpm logs web --lines 3 --nostream --json"), expected);
    assert_eq!(command("rpm logs web -n 3 --no-follow --json"), expected);
    assert_eq!(
        command("rpm logs -f"),
        Command::Logs(LogsArgs {
            lines: 15,
            follow: true,
            ..LogsArgs::default()
        })
    );
    let Command::Logs(since) = command("rpm logs --since 1764410400 -n 7") else {
        panic!("another command");
    };
    assert_eq!((since.since, since.lines), (Some(1_764_410_400_000), 7));
    for past in ["--since 10m", "--until 2026-11-29T10:00"] {
        let Command::Logs(all) = command(&format!("rpm logs {past}")) else {
            panic!("another command");
        };
        assert_eq!(all.lines, 10_000, "all that there are, {past}");
    }
    for bad in ["--since soon", "--until 1h -f", "--until 1h -n 5"] {
        assert!(try_parse(&format!("rpm logs {bad}")).is_err(), "{bad}");
    }
    assert_eq!(command("rpm jlist"), Command::Jlist);
    assert_eq!(command("rpm ping"), Command::Ping { json: false });
    assert_eq!(command("rpm kill"), Command::Kill);
    assert_eq!(
        command("rpm completion zsh"),
        Command::Completion { shell: Shell::Zsh }
    );
}

#[test]
fn counts_of_scale() {
    for count in ["4", "+2", "-1", "max"] {
        let expected = Command::Scale {
            app: "web".into(),
            count: count.into(),
            no_wait: false,
        };
        assert_eq!(command(&format!("rpm scale web {count}")), expected);
    }
    for count in ["", "--1", "+-1", "1.5", "two", "+"] {
        assert!(try_parse(&format!("rpm scale web {count}")).is_err(), "{count}");
    }
    let expected = Command::Scale {
        app: "web".into(),
        count: "-1".into(),
        no_wait: true,
    };
    assert_eq!(command("rpm scale web -1 --no-wait"), expected);
}

#[test]
fn what_the_binary_itself_does() {
    assert_eq!(
        try_parse("rpm daemon").ok(),
        Some(Invocation::Daemon { check: false })
    );
    assert_eq!(try_parse("rpm demo").ok(), Some(Invocation::Demo { port: None }));
    assert_eq!(
        try_parse("rpm demo --port 3000").ok(),
        Some(Invocation::Demo { port: Some(3000) })
    );
}

#[test]
fn help_and_version_carry_the_name_it_was_called_by() {
    for (argv0, name) in [("/usr/bin/pm2", "pm2"), ("rpm", "rpm"), ("./x/keeper", "keeper")] {
        let help = error(&format!("{argv0} --help"));
        assert!(
            help.contains(&format!("Usage: {name} [OPTIONS] <COMMAND>")),
            "{help}"
        );
        assert!(!help.contains("daemon  "), "{help}");
        let help = error(&format!("{argv0} start --help"));
        assert!(help.contains(&format!("Usage: {name} start ")), "{help}");
        assert_eq!(
            error(&format!("{argv0} -v")),
            format!("{name} {}\n", env!("CARGO_PKG_VERSION"))
        );
        assert_eq!(
            error(&format!("{argv0} --version")),
            error(&format!("{argv0} -v"))
        );
    }
}

#[test]
fn exit_codes_of_usage() {
    let code = |line: &str| format!("{:?}", try_parse(line).expect_err(line).report());
    assert_eq!(code("rpm --help"), format!("{:?}", ExitCode::SUCCESS));
    for line in ["rpm", "rpm nonsense", "rpm stop", "rpm start a.js --frobnicate"] {
        assert_eq!(code(line), format!("{:?}", ExitCode::FAILURE), "{line}");
    }
}

#[test]
fn the_grammar_is_sound() {
    grammar("rpm").debug_assert();
}

#[test]
fn options_of_pm2() {
    let args = start(
        "pm2 start a.js -x -f -a --namespace shop --env production --only web,api --max-memory-restart 1.5G -c 0 --watch=src,lib \
         --ignore-watch node_modules,logs --watch-delay 2s -k 3 -o out.log -e NULL --log --disable-logs --merge-logs --time --log-type json \
         --log-date-format YYYY -p web.pid --uid www --gid 33 --filter-env=A,B --stop-exit-codes 0 2 --shutdown-with-message --no-autostart",
    );
    let strings = |all: &[&str]| all.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    let expected = StartArgs {
        targets: vec!["a.js".into()],
        execute_command: true,
        force: true,
        update_env: true,
        namespace: Some("shop".into()),
        env: Some("production".into()),
        only: strings(&["web", "api"]),
        max_memory_restart: Some(3 << 29),
        cron_restart: Some("0".into()),
        watch: Some(strings(&["src", "lib"])),
        ignore_watch: strings(&["node_modules", "logs"]),
        watch_delay: Some(2000),
        kill_timeout: Some(3),
        output: Some("out.log".into()),
        error: Some("NULL".into()),
        log: Some(String::new()),
        disable_logs: true,
        merge_logs: true,
        time: true,
        log_type: Some("json".into()),
        log_date_format: Some("YYYY".into()),
        pid: Some("web.pid".into()),
        uid: Some("www".into()),
        gid: Some("33".into()),
        filter_env: Some(strings(&["A", "B"])),
        stop_exit_codes: vec![0, 2],
        shutdown_with_message: true,
        no_autostart: true,
        ..StartArgs::default()
    };
    assert_eq!(args, expected);
    assert_eq!(start("pm2 start a.js --watch").watch, Some(Vec::new()));
    assert_eq!(start("pm2 start").targets, Vec::<OsString>::new());
    assert_eq!(start("pm2 start a.js b.js").targets.len(), 2);
    assert!(error("pm2 link").contains("no hosted dashboard"));
    assert!(error("pm2 restrat x").contains("restart x`?"));
}

#[test]
fn values_stand_behind_their_options() {
    for option in ["-l", "--log"] {
        let args = start(&format!("rpm start echo.js {option} t.log"));
        assert_eq!(
            (args.targets.len(), args.log.as_deref()),
            (1, Some("t.log")),
            "{option}"
        );
    }
    let args = start("rpm start echo.js --log -i 2");
    assert_eq!((args.targets.len(), args.log.as_deref()), (1, Some("")));
    let args = start("rpm start echo.js --filter-env A,B");
    assert_eq!(
        (args.targets.len(), args.filter_env),
        (1, Some(vec!["A".into(), "B".into()]))
    );
    assert_eq!(
        start("rpm start echo.js --filter-env").filter_env,
        Some(Vec::new())
    );
    let Command::Logs(logs) = command("rpm logs web --timestamp HH:mm") else {
        panic!("logs");
    };
    assert_eq!(
        (
            logs.targets.first().map(String::as_str),
            logs.timestamp.as_deref()
        ),
        (Some("web"), Some("HH:mm"))
    );
    for line in [
        "rpm start --stop-exit-codes 0 echo.js",
        "rpm start --stop-exit-codes 0 echo.js -i 2",
        "rpm start echo.js --stop-exit-codes 0",
        "rpm start echo.js --stop-exit-codes=0 -- --stop-exit-codes 3 4",
    ] {
        let args = start(line);
        assert_eq!((args.targets.len(), args.stop_exit_codes), (1, vec![0]), "{line}");
    }
    let one_word = ["rpm", "start", "eco.json", "--only", "one, two"].map(OsString::from);
    let Ok(Invocation::Client(client)) = parse(one_word) else {
        panic!("a command");
    };
    let Command::Start(args) = client.command else {
        panic!("start");
    };
    assert_eq!(args.only, ["one", "two"]);
    assert!(try_parse("rpm start app.js -m -u me --hp /home/me --sort name -k 10").is_ok());
}

#[test]
fn what_is_known_is_renewed_with_the_options_of_start() {
    let Command::Restart {
        start, hard: true, ..
    } = command(
        "rpm restart web --hard --name y --node-args --harmony --max-memory-restart 1M --kill-timeout 2 --cron-restart 0 --time \
         --no-autorestart --namespace ns --watch -- -a b",
    )
    else {
        panic!("restart");
    };
    let expected = StartArgs {
        targets: vec!["web".into()],
        name: Some("y".into()),
        interpreter_args: vec!["--harmony".into()],
        max_memory_restart: Some(1 << 20),
        kill_timeout: Some(2),
        cron_restart: Some("0".into()),
        time: true,
        no_autorestart: true,
        namespace: Some("ns".into()),
        watch: Some(Vec::new()),
        args: vec!["-a".into(), "b".into()],
        ..StartArgs::default()
    };
    assert_eq!(*start, expected);
    assert!(try_parse("rpm restart").is_err());
    let help = error("rpm reload --help");
    assert!(
        help.contains("--watch-after") && !help.contains("--tls-cert"),
        "{help}"
    );
}
