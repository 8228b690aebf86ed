//! What a shell is answered.

use super::*;

fn process(id: u32, name: &str, namespace: &str, status: Status) -> Known {
    Known {
        id,
        name: name.into(),
        namespace: namespace.into(),
        script: "/srv/app.js".into(),
        status,
        actions: vec![format!("gc-{id}"), "reload-config".into()],
    }
}

fn some_apps() -> Vec<Known> {
    vec![
        process(0, "api", "shop", Status::Online),
        process(1, "api", "shop", Status::Stopped),
        process(2, "web", "default", Status::Online),
        process(13, "npm start", "default", Status::Online),
        process(14, "@acme:db", "default", Status::Online),
    ]
}

/// These apps, and some values.
struct Stub(fn() -> Vec<Known>);

impl Source for Stub {
    fn known(&self) -> Vec<Known> {
        (self.0)()
    }

    fn values(&self) -> Vec<String> {
        ["api.PORT", "colour"].map(str::to_owned).into()
    }

    fn variables(&self, app: &str) -> Vec<String> {
        let names: &[&str] = if app == "api" { &["NODE_ENV", "PORT"] } else { &[] };
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn environments(&self, words: &[String]) -> Vec<String> {
        let file = words.iter().any(|word| word == "apps.json");
        let names: &[&str] = if file { &["production", "staging"] } else { &[] };
        names.iter().map(|name| (*name).to_owned()).collect()
    }
}

/// What bash is answered for a line up to the cursor.
fn bash(line: &str) -> Vec<String> {
    bash_from(line, some_apps)
}

fn bash_from(line: &str, known: fn() -> Vec<Known>) -> Vec<String> {
    let args = ["bash", " \t\n\"'><=;|&(:", line].map(OsString::from);
    let question = Completion::of("rpm", &args).expect("a question");
    let answer = question.answer_from(&Stub(known));
    answer.lines().map(str::to_owned).collect()
}

fn of(shell: &str, words: &[&str]) -> Vec<String> {
    let args: Vec<OsString> = [shell].iter().chain(words).map(OsString::from).collect();
    let question = Completion::of("rpm", &args).expect("a question");
    question
        .answer_from(&Stub(some_apps))
        .lines()
        .map(str::to_owned)
        .collect()
}

#[test]
fn names_groups_ids_and_all() {
    for command in [
        "stop", "restart", "reload", "delete", "logs", "list", "describe", "reset", "flush", "events",
    ] {
        let found = bash(&format!("rpm {command} "));
        let expected = [
            "@acme:db",
            "api",
            "npm\\ start",
            "web",
            "shop",
            "all",
            "0",
            "1",
            "2",
            "13",
            "14",
        ];
        assert_eq!(found, expected, "{command}");
    }
    for (line, expected) in [
        ("rpm stop a", vec!["api", "all"]),
        ("rpm stop 1", vec!["1", "13", "14"]),
        ("rpm stop api a", vec!["all"]),
        ("rpm stop --hard w", vec!["web"]),
        ("rpm -s stop w", vec!["web"]),
        ("rpm scale w", vec!["web"]),
        ("rpm scale web m", vec!["max"]),
        ("rpm scale web 2 ", vec![]),
        ("rpm sendSignal SIGU", vec!["SIGUSR1", "SIGUSR2"]),
        ("rpm sendSignal SIGUSR2 w", vec!["web"]),
        ("rpm logs --lines 5 w", vec!["web"]),
        ("rpm logs --lines w", vec![]),
        ("/usr/bin/rpm  stop\tw", vec!["web"]),
        ("rpm stop sh", vec!["shop"]),
        ("rpm ping ", vec![]),
        ("rpm nonsense ", vec![]),
    ] {
        assert_eq!(bash(line), expected, "{line}");
    }
}

#[test]
fn commands_and_options() {
    assert_eq!(bash("rpm rel"), ["reload", "reloadLogs"]);
    assert!(!bash("rpm ").contains(&"daemon".to_owned()));
    assert_eq!(bash("rpm help roll"), ["rollback"]);
    assert_eq!(bash("rpm stop --ha"), ["--hard"]);
    assert_eq!(bash("rpm --no-c"), ["--no-color"]);
    assert!(bash("rpm start --").contains(&"--watch-after".to_owned()));
    assert!(!bash("rpm start --").contains(&"--no-vizion".to_owned()));
}

#[test]
fn values_of_options() {
    for (line, expected) in [
        (
            "rpm start app.js --balance ",
            vec!["auto", "direct", "handoff", "proxy"],
        ),
        ("rpm start app.js --policy le", vec!["least-connections"]),
        // bash has cut off what stands before the sign.
        ("rpm start app.js --balance=pr", vec!["proxy"]),
        ("rpm start app.js --kill-signal SIGT", vec!["SIGTERM"]),
        ("rpm start -i ", vec!["max"]),
        ("rpm reload web --log-type ", vec!["json", "raw"]),
        ("rpm list --sort me", vec!["memory"]),
        ("rpm completion ", vec!["bash", "fish", "zsh"]),
        ("rpm startup s", vec!["systemd"]),
        ("rpm reload apps.json --only api,w", vec!["api,web"]),
        ("rpm start --namespace s", vec!["shop"]),
    ] {
        assert_eq!(bash(line), expected, "{line}");
    }
    assert_eq!(of("fish", &["start", "--balance=pr"]), ["--balance=proxy\t"]);
    assert_eq!(of("zsh", &["start", "--balance=pr"]), ["proxy\t"]);
    assert_eq!(of("zsh", &["reload", "--only=api,w"]), ["api,web\t1 of 1 online"]);
}

#[test]
fn actions_keys_variables_and_environments() {
    for (line, expected) in [
        ("rpm trigger web ", vec!["gc-2", "reload-config"]),
        ("rpm trigger api gc", vec!["gc-0", "gc-1"]),
        ("rpm trigger 13 gc", vec!["gc-13"]),
        ("rpm trigger shop gc", vec!["gc-0", "gc-1"]),
        ("rpm trigger nobody ", vec![]),
        ("rpm trigger web gc-2 ", vec![]),
        ("rpm get ", vec!["api.PORT", "colour"]),
        ("rpm unset co", vec!["colour"]),
        (
            "rpm set ",
            vec!["api.PORT", "colour", "@acme:db.", "api.", "npm\\ start.", "web."],
        ),
        ("rpm conf w", vec!["web."]),
        ("rpm set api.", vec!["api.PORT", "api.NODE_ENV"]),
        ("rpm set api.NO", vec!["api.NODE_ENV"]),
        // bash has cut off what stands before the colon.
        ("rpm set api:NO", vec!["NODE_ENV"]),
        ("rpm set colour ", vec![]),
        ("rpm start apps.json --env ", vec!["production", "staging"]),
        ("rpm reload apps.json --env=p", vec!["production"]),
        ("rpm stop apps.json --env st", vec!["staging"]),
    ] {
        assert_eq!(bash(line), expected, "{line}");
    }
    assert_eq!(of("fish", &["set", "w"]), ["web.\tvariables of the app"]);
    assert_eq!(of("zsh", &["start", "apps.json", "--env=p"]), ["production\t"]);
}

#[test]
fn what_is_special_to_a_shell_is_escaped() {
    for (line, expected) in [
        ("rpm stop np", "npm\\ start"),
        ("rpm stop npm\\ s", "npm\\ start"),
        ("rpm stop \"np", "npm start"),
        ("rpm stop 'npm s", "npm start"),
        ("rpm stop @a", "@acme:db"),
        ("rpm stop @acme:d", "db"),
        ("rpm stop \"@acme:d", "@acme:db"),
    ] {
        assert_eq!(bash(line), [expected], "{line}");
    }
    assert_eq!(of("fish", &["stop", "npm\\ s"]), ["npm start\t1 of 1 online"]);
    assert_eq!(of("zsh", &["stop", "npm s"]), ["npm start\t1 of 1 online"]);
    assert_eq!(of("fish", &["stop", "api", "1"])[0], "1\tapi (app.js), stopped");
    assert_eq!(of("fish", &["stop", "ap"]), ["api\t1 of 2 online"]);
}

#[test]
fn files_where_they_may_be_named() {
    let place = std::env::temp_dir().join(format!("rpm-complete-{}", std::process::id()));
    std::fs::create_dir_all(place.join("src dir")).expect("a directory");
    for file in ["app.js", "apps.json", ".hidden"] {
        std::fs::write(place.join(file), "").expect("a file");
    }
    let root = place.display().to_string();
    let line = |rest: &str| bash(&format!("rpm {rest}")).join(" ").replace(&root, "R");
    assert_eq!(
        line(&format!("start {root}/")),
        "R/app.js R/apps.json R/src\\ dir/"
    );
    assert_eq!(line(&format!("reload {root}/apps")), "R/apps.json");
    assert_eq!(line(&format!("start app.js -o {root}/a")), "R/app.js R/apps.json");
    assert_eq!(line(&format!("serve {root}/")), "R/src\\ dir/");
    assert_eq!(line(&format!("start a.js -- {root}/.h")), "R/.hidden");
    std::fs::remove_dir_all(&place).expect("it is removed");
    for shell in ["fish", "zsh"] {
        assert_eq!(of(shell, &["validate", ""]), [":files"]);
        assert_eq!(of(shell, &["serve", ""]), [":directories"]);
        assert_eq!(of(shell, &["reload", "eco"]), [":files"]);
        assert!(of(shell, &["start", ""]).contains(&":files".to_owned()));
        assert!(
            of(shell, &["start", ""])
                .iter()
                .any(|line| line.starts_with("web\t"))
        );
        assert!(!of(shell, &["reload", "w"]).contains(&":files".to_owned()));
    }
}

#[test]
fn without_a_daemon_there_is_the_grammar() {
    let nothing = || Vec::new();
    assert_eq!(bash_from("rpm stop w", nothing), Vec::<String>::new());
    assert_eq!(bash_from("rpm sto", nothing), ["stop"]);
    let asked = || panic!("the daemon is asked for what the grammar knows");
    assert_eq!(bash_from("rpm start --balance pr", asked), ["proxy"]);
}

#[test]
fn scripts_are_for_the_name_that_is_called() {
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        let script = shell.script("rpm-2");
        assert!(script.contains("rpm-2") && script.contains("rpm_2"), "{script}");
        assert!(!script.contains('@') || shell != Shell::Fish, "{script}");
        assert!(
            !script.contains("@NAME@") && !script.contains("@FUNCTION@"),
            "{script}"
        );
    }
}

#[test]
fn what_is_no_question_is_a_command() {
    for args in [&["tcsh", "x"][..], &[], &["bash"], &["fish"]] {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        assert_eq!(Completion::of("rpm", &args), None, "{args:?}");
    }
    let args = ["fish", "app.js", "--bal"].map(OsString::from);
    let question = Completion::of("pm2-runtime", &args).expect("a question");
    assert_eq!(
        question.answer_from(&Stub(Vec::new)),
        "--balance\tHow connections reach the workers: the kernel delivers them (direct), the daemon accepts them (handoff, for Node), or it speaks HTTP and forwards each request (proxy); auto is direct [default: auto]\n"
    );
}
