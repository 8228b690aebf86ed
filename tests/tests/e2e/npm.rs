//! The npm packages, installed from their files, without a network.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rpm_e2e::app::App;
use rpm_e2e::clients::beside;
use rpm_e2e::process::xtask;
use rpm_testkit::{Port, Rpm, Traffic, bun, get, javascript, wait_until};
use rustix::process::{Pid, Signal, kill_process};

const BOUND: Duration = Duration::from_secs(30);

/// The command's package and the program's, built from the program under test.
fn packages(rpm: &Rpm) -> Vec<PathBuf> {
    let program = rpm.home().join("program");
    // With symbols, packing them would take most of the time.
    let companion = "rpm-observe";
    for (built, stripped) in [
        (rpm.binary(), &program),
        (
            &rpm.binary().with_file_name(companion),
            &rpm.home().join(companion),
        ),
    ] {
        let mut strip = Command::new("objcopy");
        ok(strip.arg("--strip-all").args([built, stripped]));
    }
    let mut pack = xtask();
    pack.args(["npm", "--fast"]);
    let printed = ok(pack.args([&program, &rpm.home().join("packages")]));
    printed.lines().map(PathBuf::from).collect()
}

fn ok(command: &mut Command) -> String {
    let ran = command.stdin(Stdio::null()).output().expect("it runs");
    let [out, err] = [&ran.stdout, &ran.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(ran.status.success(), "{command:?}\n{out}\n{err}");
    out
}

/// Runs npm without registry and without state of other installations.
fn npm(rpm: &Rpm, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> String {
    let mut npm = Command::new("npm");
    npm.args(arguments)
        .args(["--offline", "--no-audit", "--no-fund", "--cache"])
        .arg(rpm.home().join("cache"))
        .current_dir(rpm.home().join("project"));
    ok(&mut npm)
}

fn begins(path: &Path) -> Vec<u8> {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    bytes[..4].to_vec()
}

/// The same app, started by the installed command.
fn by(program: &Path, app: &App, rpm: &Rpm) -> Command {
    let command = app.command(rpm);
    let mut installed = Command::new(program);
    installed.args(command.get_args()).stdin(Stdio::null());
    for (key, value) in command.get_envs() {
        installed.env(key, value.unwrap_or_default());
    }
    installed
}

fn run(program: &Path, rpm: &Rpm, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("RPM_HOME", rpm.home())
        .stdin(Stdio::null());
    command.output().expect("it runs")
}

/// `rpm-observe` carries out what it refuses here.
fn watches(program: &Path, rpm: &Rpm) {
    for (arguments, part) in [
        (&["observe", "--listen", "0.0.0.0:0"][..], "--token-file"),
        (&["monit"], "needs a terminal"),
    ] {
        let refused = run(program, rpm, arguments);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            refused.status.code() == Some(1) && said.contains(part),
            "{arguments:?}: {said}"
        );
    }
}

#[test]
fn installed_globally_the_command_is_the_program() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let packages = packages(&rpm);
    std::fs::create_dir(rpm.home().join("project")).expect("a directory");
    let prefix = rpm.home().join("prefix");
    let global = [OsStr::new("-g"), OsStr::new("--prefix"), prefix.as_os_str()];
    let files = packages.iter().map(|path| path.as_os_str());
    npm(
        &rpm,
        [OsStr::new("install")].into_iter().chain(global).chain(files),
    );
    let program = prefix.join("bin/rpmx");
    assert_eq!(begins(&program), b"\x7fELF", "no Node is started to start it");

    let app = App::cluster("hello.js", "2").port(&port);
    ok(&mut by(&program, &app, &rpm));
    assert_eq!(get(port.number(), "/").expect("it answers").status, 200);
    let traffic = Traffic::start(&beside(&port, 2));
    let reloaded = run(&program, &rpm, &["reload", "hello"]);
    assert!(reloaded.status.success(), "{reloaded:?}");
    traffic.wait_ok(20);
    traffic.finish().check_clean().expect("nothing is lost");
    let unknown = run(&program, &rpm, &["send", "hello", "x"]);
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(
        unknown.status.code() == Some(1) && said.contains("bin/rpmx sendSignal"),
        "messages name the command as it was called: {said}"
    );
    watches(&program, &rpm);
    assert!(run(&program, &rpm, &["kill"]).status.success());
    let uninstall = [OsStr::new("uninstall"), OsStr::new("rpmx"), OsStr::new(PLATFORM)];
    npm(&rpm, uninstall.into_iter().chain(global));
    assert!(!program.exists() && !prefix.join("lib/node_modules/rpmx").exists());
    assert_eq!(rpm.daemon_pid(), None);
    assert_eq!(rpm.processes_of_workers(), Vec::<u32>::new());
}

#[cfg(target_arch = "x86_64")]
const PLATFORM: &str = "@rpmx/linux-x64";
#[cfg(not(target_arch = "x86_64"))]
const PLATFORM: &str = "@rpmx/linux-arm64";

/// Installed in a project, under its own name and as `pm2`, without install scripts.
fn project(rpm: &Rpm) -> PathBuf {
    let packages = packages(rpm);
    let project = rpm.home().join("project");
    std::fs::create_dir(&project).expect("a directory");
    let file = |path: &Path| format!("file:{}", path.display());
    let manifest = serde_json::json!({
        "private": true,
        "dependencies": {
            "rpmx": file(&packages[0]),
            "pm2": file(&packages[0]),
            PLATFORM: file(&packages[1]),
        },
    });
    std::fs::write(project.join("package.json"), manifest.to_string()).expect("a file");
    npm(rpm, ["install", "--ignore-scripts"]);
    project
}

#[test]
fn without_install_scripts_a_shim_runs_the_program() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let project = project(&rpm);
    let program = project.join("node_modules/.bin/rpmx");
    assert_eq!(begins(&program), b"#!/u");

    let app = App::cluster("hello.js", "2").port(&port);
    ok(&mut by(&program, &app, &rpm));
    assert_eq!(get(port.number(), "/").expect("it answers").status, 200);
    let unknown = run(&program, &rpm, &["send", "hello", "x"]);
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(
        unknown.status.code() == Some(1) && said.contains(" rpmx sendSignal"),
        "{said}"
    );
    watches(&program, &rpm);

    // Tools for PM2 find it under that name, and it finds the program.
    let list = "require('pm2').list((error, list) => console.log(error, list.map(({ name }) => name)))";
    let mut tool = Command::new("node");
    tool.args(["-e", list])
        .current_dir(&project)
        .env("RPM_HOME", rpm.home());
    assert_eq!(ok(&mut tool), "null [ 'hello', 'hello' ]\n");
    let elsewhere = "Object.defineProperty(process, 'platform', { value: 'win32' }); require('./node_modules/rpmx/bin/rpmx')";
    let refused = Command::new("node")
        .args(["-e", elsewhere])
        .current_dir(&project)
        .output();
    let refused = refused.expect("node runs");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        refused.status.code() == Some(1) && said.starts_with("error: rpmx does not support win32 on "),
        "{said}"
    );
    assert!(run(&program, &rpm, &["kill"]).status.success());
    passes_signals_on(&program, &rpm, &port);
}

/// A package manager, and how it installs what a manifest names without asking a registry and with a cache of its own.
fn managers(rpm: &Rpm) -> [Command; 3] {
    let tools = javascript().join("node_modules/.bin");
    let cache = rpm.home().join("cache");
    let mut bun = Command::new(bun());
    bun.arg("install").env("BUN_INSTALL_CACHE_DIR", &cache);
    let mut pnpm = Command::new(tools.join("pnpm"));
    pnpm.args(["install", "--offline", "--store-dir"]).arg(&cache);
    let mut yarn = Command::new(tools.join("yarn"));
    yarn.args(["install", "--offline", "--cache-folder"]).arg(&cache);
    [bun, pnpm, yarn]
}

#[test]
fn other_package_managers_install_it_too() {
    let rpm = Rpm::new();
    let packages = packages(&rpm);
    let file = |path: &Path| format!("file:{}", path.display());
    let manifest = serde_json::json!({
        "private": true,
        "dependencies": { "rpmx": file(&packages[0]), PLATFORM: file(&packages[1]) },
        // Where they would ask a registry: nothing of these versions is there.
        "resolutions": { "@rpmx/linux-x64": file(&packages[1]), "@rpmx/linux-arm64": file(&packages[1]) },
    });
    for mut manager in managers(&rpm) {
        let name = PathBuf::from(manager.get_program());
        let name = name.file_name().expect("a name").display();
        let project = rpm.home().join(format!("by-{name}"));
        std::fs::create_dir(&project).expect("a directory");
        std::fs::write(project.join("package.json"), manifest.to_string()).expect("a file");
        ok(manager.current_dir(&project).env("HOME", &project));
        let program = project.join("node_modules/.bin/rpmx");
        let port = Port::reserve();
        ok(&mut by(
            &program,
            &App::cluster("hello.js", "2").port(&port),
            &rpm,
        ));
        let traffic = Traffic::start(&beside(&port, 2));
        let reloaded = run(&program, &rpm, &["reload", "hello"]);
        assert!(reloaded.status.success(), "{name}: {reloaded:?}");
        traffic.wait_ok(20);
        traffic.finish().check_clean().expect("nothing is lost");
        assert!(run(&program, &rpm, &["kill"]).status.success(), "{name}");
        assert_eq!(rpm.processes_of_workers(), Vec::<u32>::new(), "{name}");
    }
}

fn passes_signals_on(program: &Path, rpm: &Rpm, port: &Port) {
    let mut foreground = by(
        program,
        &App::new("hello.js").port(port).args(["--no-daemon"]),
        rpm,
    );
    let mut shim = foreground.stdout(Stdio::null()).spawn().expect("it runs");
    let answers = || get(port.number(), "/").is_ok();
    wait_until("the app answers", BOUND, answers, |answers| *answers);
    kill_process(Pid::from_child(&shim), Signal::INT).expect("it runs");
    let ended = wait_until(
        "its end",
        BOUND,
        || shim.try_wait().expect("ours"),
        Option::is_some,
    );
    assert_eq!(ended.and_then(|status| status.code()), Some(0));
    assert!(get(port.number(), "/").is_err(), "the app has ended");
}
