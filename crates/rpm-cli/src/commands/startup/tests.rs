//! Service files, and the commands around them.

use super::*;

fn service() -> Service {
    Service {
        name: "rpm-deploy".to_owned(),
        user: "deploy".to_owned(),
        program: "/opt/my tools/rpm".to_owned(),
        home: "/srv/deploy/50%/.rpm".to_owned(),
        path: "/usr/bin:/bin".to_owned(),
        wait_ip: true,
        like_pm2: false,
    }
}

#[test]
fn a_unit_starts_what_was_saved_and_leaves_the_workers_to_the_next_daemon() {
    let unit = systemd(&service());
    for line in [
        "User=deploy",
        "After=network-online.target",
        "Environment=\"RPM_HOME=/srv/deploy/50%%/.rpm\"",
        "Type=notify",
        "KillMode=process",
        "ExecStart=\"/opt/my tools/rpm\" daemon",
        "ExecStartPost=-\"/opt/my tools/rpm\" resurrect",
        "ExecReload=\"/opt/my tools/rpm\" update",
        "ExecStop=\"/opt/my tools/rpm\" kill --service",
    ] {
        assert!(unit.lines().any(|it| it == line), "{line} in\n{unit}");
    }
    assert!(!unit.contains("RPM_COMPAT"));
}

#[test]
fn nothing_of_a_value_becomes_a_line_or_a_specifier() {
    let odd = Service {
        program: "/opt/a b/50%/$X/rpm".to_owned(),
        path: r#"/bin:/o"p t/%h/$HOME\"#.to_owned(),
        ..service()
    };
    check(Init::Systemd, &odd).expect("odd, but no more");
    let unit = systemd(&odd);
    for line in [
        r#"ExecStart="/opt/a b/50%%/$X/rpm" daemon"#,
        r#"Environment="PATH=/bin:/o\"p t/%%h/$HOME\\""#,
    ] {
        assert!(unit.lines().any(|it| it == line), "{line} in\n{unit}");
    }
    let bad: [fn(&mut Service); 8] = [
        |it| it.program.push('"'),
        |it| it.path.push_str("\nExecStartPre=/bin/x"),
        |it| it.home.push('\n'),
        |it| it.program.push('\r'),
        |it| it.user.push_str("\nX=1"),
        |it| it.user = "-x".to_owned(),
        |it| it.name.push_str("/../x"),
        |it| it.name = "--now".to_owned(),
    ];
    for spoil in bad {
        let mut it = service();
        spoil(&mut it);
        assert!(check(Init::Systemd, &it).is_err(), "{it:?}");
    }
}

#[test]
fn a_script_of_openrc_runs_as_the_user() {
    let script = openrc(&service());
    let start = r"su -s /bin/sh 'deploy' -c ''\''/opt/my tools/rpm'\'' resurrect'";
    assert!(script.lines().any(|line| line.trim() == start), "{script}");
}

#[test]
fn init_systems_are_known_or_said_not_to_be() {
    assert_eq!(Init::named("systemd").ok(), Some(Init::Systemd));
    assert_eq!(Init::named("alpine").ok(), Some(Init::OpenRc));
    let refused = |name| Init::named(name).expect_err("unknown").to_string();
    assert!(refused("launchd").contains("have it run `rpm resurrect` at boot"));
    assert!(refused("sysd").contains("expected systemd or openrc"));
}
