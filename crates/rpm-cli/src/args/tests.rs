//! The parse table: what is typed, what comes out.

use rpm_spec::{AppOptions, EnvFilter, Health, Logging, Mode, Watch};
use serde_json::{Value, json};

use super::*;
use crate::args::start::HealthArgs;
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

fn said(line: &str) -> AppOptions {
    start(line).options.0
}

fn setting(line: &str, option: &str) -> Option<Value> {
    said(line).settings.get(option).cloned()
}

fn strings(all: &[&str]) -> Vec<String> {
    all.iter().map(|&text| text.to_owned()).collect()
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
        assert_eq!(said(line).instances, expected, "{line}");
    }
    assert!(error("rpm start a.js -i many").contains("expected a number of instances"));
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
    let settings = [
        ("listen", json!(["80", "127.0.0.1:81", "[::1]:82"])),
        ("wait_ready", json!(true)),
        ("listen_timeout", json!(1)),
        ("kill_timeout", json!(2)),
        ("max_restarts", json!(3)),
        ("min_uptime", json!(4)),
        ("restart_delay", json!(5)),
        ("exp_backoff_restart_delay", json!(6)),
        ("reload_timeout", json!(7)),
        ("drain_timeout", json!(8000)),
        ("watch_after", json!(60_000)),
        ("balance", json!("handoff")),
        ("policy", json!("ip-hash")),
        ("weights", json!([3, 1])),
        ("ports", json!([80, 81])),
        ("kill_signal", json!("SIGTERM")),
        ("treekill", json!(false)),
        ("intercept", json!(false)),
        ("parallel", json!(9)),
        ("max_surge", json!(1)),
        ("max_unavailable", json!(2)),
        ("allow_port_change", json!(true)),
        ("agent", json!(false)),
        ("autorestart", json!(false)),
    ];
    let options = AppOptions {
        name: Some("web".into()),
        cwd: Some("/srv".into()),
        interpreter: Some("bun".into()),
        interpreter_args: Some(strings(&["--smol", "-x"])),
        health_check: Some(Health {
            path: "/health".into(),
            status: None,
            interval_ms: None,
            timeout_ms: None,
            threshold: None,
        }),
        settings: settings.into(),
        ..AppOptions::default()
    };
    let expected = StartArgs {
        targets: vec!["srv/a.js".into()],
        options: OptionArgs(options),
        health: HealthArgs {
            health_status: Some(204),
            health_interval: Some(1000),
            health_timeout: Some(2000),
            health_threshold: Some(3),
        },
        no_wait: true,
        args: ["-p", "8", "--name", "y"].map(OsString::from).to_vec(),
        ..StartArgs::default()
    };
    assert_eq!(args, expected);
}

#[test]
fn values_that_options_of_start_refuse() {
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
        sort: Some(Sort::parse("memory:desc").expect("a column")),
        mini_list: true,
        ..ListArgs::default()
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
            hard: false,
            watch: false,
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
    assert!(matches!(command("rpm ping"), Command::Ping { json: false, .. }));
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
        for option in ["-v", "--version"] {
            let asked = try_parse(&format!("{argv0} {option}")).expect_err("the version");
            let version = format!("{name} {}", env!("CARGO_PKG_VERSION"));
            assert_eq!(asked.0.to_string(), format!("{version}\n"));
            let built = asked.version(Some("1234abcde 2026-11-30"));
            assert_eq!(built, Some(format!("{version} (1234abcde 2026-11-30)\n")));
        }
    }
}

#[test]
fn exit_codes_of_usage() {
    let code = |line: &str| format!("{:?}", try_parse(line).expect_err(line).report(None));
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
    let settings = [
        ("namespace", json!("shop")),
        ("max_memory_restart", json!(3 << 29)),
        ("cron_restart", json!(null)),
        ("kill_timeout", json!(3)),
        ("merge_logs", json!(true)),
        ("uid", json!("www")),
        ("gid", json!("33")),
        ("stop_exit_codes", json!([0, 2])),
        ("shutdown_with_message", json!(true)),
        ("autostart", json!(false)),
    ];
    let options = AppOptions {
        exec_mode: Some(Mode::Fork),
        force: Some(true),
        watch: Some(Watch::Paths(strings(&["src", "lib"]))),
        ignore_watch: Some(strings(&["node_modules", "logs"])),
        watch_delay_ms: Some(2000),
        out_file: Some(Logging::File("out.log".into())),
        error_file: Some(Logging::Nowhere),
        log_file: Some(Logging::Usual),
        disable_logs: Some(true),
        time: Some(true),
        log_json: Some(true),
        log_date_format: Some("YYYY".into()),
        pid_file: Some("web.pid".into()),
        filter_env: Some(EnvFilter::Containing(strings(&["A", "B"]))),
        settings: settings.into(),
        ..AppOptions::default()
    };
    let expected = StartArgs {
        targets: vec!["a.js".into()],
        options: OptionArgs(options),
        update_env: true,
        env: Some("production".into()),
        only: strings(&["web", "api"]),
        ..StartArgs::default()
    };
    assert_eq!(args, expected);
    assert_eq!(said("pm2 start a.js --watch").watch, Some(Watch::Everything));
    assert_eq!(start("pm2 start").targets, Vec::<OsString>::new());
    assert_eq!(start("pm2 start a.js b.js").targets.len(), 2);
    assert!(error("pm2 link").contains("no hosted dashboard"));
    assert!(error("pm2 link secret public").contains("no hosted dashboard"));
    let link = |force| LinkArgs {
        name: "pm2".to_owned(),
        force,
    };
    assert_eq!(command("rpmx link pm2"), Command::Link(link(false)));
    assert_eq!(command("rpmx link pm2 --force"), Command::Link(link(true)));
    assert!(error("pm2 restrat x").contains("restart x`?"));
}

#[test]
fn values_stand_behind_their_options() {
    for option in ["-l", "--log"] {
        let args = start(&format!("rpm start echo.js {option} t.log"));
        assert_eq!(
            (args.targets.len(), args.options.0.log_file),
            (1, Some(Logging::File("t.log".into()))),
            "{option}"
        );
    }
    let args = start("rpm start echo.js --log -i 2");
    assert_eq!(
        (args.targets.len(), args.options.0.log_file),
        (1, Some(Logging::Usual))
    );
    let args = start("rpm start echo.js --filter-env A,B");
    assert_eq!(
        (args.targets.len(), args.options.0.filter_env),
        (1, Some(EnvFilter::Containing(strings(&["A", "B"]))))
    );
    assert_eq!(
        said("rpm start echo.js --filter-env").filter_env,
        Some(EnvFilter::Everything)
    );
    let all = Some(json!(["0.0.0.0/0", "::/0"]));
    assert_eq!(
        setting("rpm start echo.js --trust-forwarded", "trust_forwarded"),
        all
    );
    assert!(error("rpm start echo.js --trust-forwarded=host").contains("expected true, false, an address"));
    assert_eq!(
        said("rpm start echo.js --node-args null").interpreter_args,
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
        let codes = args.options.0.settings.get("stop_exit_codes");
        assert_eq!((args.targets.len(), codes), (1, Some(&json!([0]))), "{line}");
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
    let settings = [
        ("max_memory_restart", json!(1 << 20)),
        ("kill_timeout", json!(2)),
        ("cron_restart", json!(null)),
        ("autorestart", json!(false)),
        ("namespace", json!("ns")),
    ];
    let options = AppOptions {
        name: Some("y".into()),
        interpreter_args: Some(vec!["--harmony".into()]),
        time: Some(true),
        watch: Some(Watch::Everything),
        settings: settings.into(),
        ..AppOptions::default()
    };
    let expected = StartArgs {
        targets: vec!["web".into()],
        options: OptionArgs(options),
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
