//! What large things cost the daemon: an ecosystem file of hundreds of apps, a watched tree of tens of thousands of files.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::json;

use super::private_rpm::{PrivateRpm, argument};
use super::stats::median;
use super::{place, procfs};

const APPS: usize = 500;
const DIRECTORIES: usize = 500;
const FILES_EACH: usize = 100;
/// How long nothing changes.
const IDLE: Duration = Duration::from_secs(20);
/// The walk through the tree is over by then.
const SETTLE: Duration = Duration::from_secs(3);
const CHANGES: usize = 5;
/// For the worker before a change to be gone.
const REACTION_LIMIT: Duration = Duration::from_secs(10);

/// Seconds of the daemon's CPU time that a file of 500 apps takes: to be started, and to be applied with other arguments.
pub(crate) async fn file_of_many_apps() -> anyhow::Result<(f64, f64)> {
    let rpm = PrivateRpm::new(place::rpm().await?, Vec::new())?;
    let file = rpm.home().join("many.json");
    let write = |seconds: &str| {
        let apps = (0..APPS).map(|number| {
            json!({
                "name": format!("app-{number}"), "script": "/bin/sleep", "interpreter": "none", "args": [seconds],
                "exec_mode": "fork"
            })
        });
        let text = json!({ "apps": apps.collect::<Vec<_>>() }).to_string();
        fs::write(&file, text).context("writing the ecosystem file")
    };
    write("1000")?;
    rpm.command(&["ping"]).await?;
    let daemon = BTreeSet::from([rpm.daemon().await?]);
    let spent = || procfs::cpu(&daemon).as_secs_f64();
    let before = spent();
    rpm.command(&["start", argument(&file)?]).await?;
    let started = spent();
    write("1001")?;
    rpm.command(&["reload", argument(&file)?]).await?;
    Ok((started - before, spent() - started))
}

/// What watching 50,000 files takes: percent of a CPU while nothing changes, and milliseconds from a change to the end of the
/// worker before it.
pub(crate) async fn watched_tree() -> anyhow::Result<(f64, f64)> {
    let node = place::node().await?;
    let rpm = PrivateRpm::new(place::rpm().await?, Vec::new())?;
    let app = rpm.home().with_extension("watched");
    let tree = Tree::new(&app)?;
    let script = tree.0.join("app.js");
    fs::write(&script, "setInterval(() => {}, 1000);\n")?;
    let start = [
        "start",
        argument(&script)?,
        "--name",
        "watched",
        "--cwd",
        argument(tree.0)?,
        "--watch",
        "--watch-delay",
        "0",
        "--interpreter",
        argument(&node)?,
    ];
    rpm.command(&start).await?;
    let daemon = BTreeSet::from([rpm.daemon().await?]);
    tokio::time::sleep(SETTLE).await;
    let (before, from) = (procfs::cpu(&daemon), Instant::now());
    tokio::time::sleep(IDLE).await;
    let used = procfs::cpu(&daemon).saturating_sub(before);
    let idle_percent = 100.0 * used.as_secs_f64() / from.elapsed().as_secs_f64();
    let mut reactions = Vec::new();
    for number in 0..CHANGES {
        let workers = rpm.workers().await?;
        let worker = *workers.first().context("the watched app does not run")?;
        let file = tree
            .0
            .join(format!("d{}/f{number}.js", number * 97 % DIRECTORIES));
        let changed = Instant::now();
        fs::write(file, "//\n")?;
        while procfs::parent(worker).is_some() {
            if changed.elapsed() > REACTION_LIMIT {
                bail!("a change was not answered within {REACTION_LIMIT:?}");
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        reactions.push(changed.elapsed().as_secs_f64() * 1000.0);
        tokio::time::sleep(SETTLE).await;
    }
    Ok((idle_percent, median(&reactions)))
}

/// A tree of files, removed when it is dropped.
struct Tree<'a>(&'a Path);

impl<'a> Tree<'a> {
    fn new(root: &'a Path) -> anyhow::Result<Tree<'a>> {
        let tree = Tree(root);
        for number in 0..DIRECTORIES {
            let directory = root.join(format!("d{number}"));
            fs::create_dir_all(&directory)?;
            for file in 0..FILES_EACH {
                fs::write(directory.join(format!("f{file}.js")), "")?;
            }
        }
        Ok(tree)
    }
}

impl Drop for Tree<'_> {
    fn drop(&mut self) {
        // What is left of it is in the directory for temporary files.
        let _ = fs::remove_dir_all(self.0);
    }
}
