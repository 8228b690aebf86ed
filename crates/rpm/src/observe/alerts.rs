//! `alerts`: the rules, a test of them, and silence.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rpm_observe::{Alerts, table};
use rpm_shared::{report, tell};

use crate::columns::{Side, aligned};

/// The heads of the columns.
const HEAD: [&str; 5] = ["rule", "on", "apps", "when", "tells"];

/// Carries out the command.
pub(crate) fn run(what: &rpm_cli::Alerts) -> ExitCode {
    report(carried_out(what))
}

fn carried_out(what: &rpm_cli::Alerts) -> anyhow::Result<()> {
    let alerts = Alerts::new(rpm_cli::socket()?, rpm_cli::home_dir()?);
    match what {
        rpm_cli::Alerts::List => list(&alerts),
        rpm_cli::Alerts::Test { rule } => test(&alerts, *rule),
        rpm_cli::Alerts::Mute { lasting_ms } => {
            alerts.mute(Duration::from_millis(*lasting_ms))?;
            tell("nothing is sent for that time; `rpm alerts unmute` ends it");
            Ok(())
        }
        rpm_cli::Alerts::Unmute => {
            alerts.mute(Duration::ZERO)?;
            tell("messages are sent again");
            Ok(())
        }
    }
}

fn list(alerts: &Alerts) -> anyhow::Result<()> {
    let rules = alerts.rules()?;
    if rules.is_empty() {
        tell("no rules; they stand in `observe.alerts` of an ecosystem file: `rpm alerts --help`");
        return Ok(());
    }
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(table(&rules));
    for line in aligned(&rows, [Side::Left; 5]) {
        println!("{line}");
    }
    for (number, why) in alerts.blind(&rules) {
        tell(format!("rule {number} ({}): {why}", rules[number].on.name()));
    }
    if let Some(until) = alerts.muted_until() {
        let left = until.saturating_sub(rpm_observe::now_ms()).div_ceil(60_000);
        tell(format!(
            "muted for {left} more minutes; `rpm alerts unmute` ends that"
        ));
    }
    Ok(())
}

fn test(alerts: &Alerts, wanted: Option<usize>) -> anyhow::Result<()> {
    let rules = alerts.rules()?;
    ensure!(
        !rules.is_empty(),
        "there are no rules; they stand in `observe.alerts` of an ecosystem file, which `rpm start` puts in force"
    );
    if let Some(number) = wanted {
        ensure!(
            number < rules.len(),
            "there is no rule {number}; `rpm alerts` shows them"
        );
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot set up the event loop")?;
    let mut failed = 0;
    for (number, rule) in rules.iter().enumerate() {
        if wanted.is_some_and(|wanted| wanted != number) {
            continue;
        }
        for (sink, answer) in runtime.block_on(alerts.test(number, rule)) {
            let name = rule.on.name();
            match answer {
                Ok(said) => println!("rule {number} ({name}), {sink}: {said}"),
                Err(why) => {
                    failed += 1;
                    tell(format!("rule {number} ({name}), {sink}: {why}"));
                }
            }
        }
    }
    if failed > 0 {
        bail!("{failed} of them did not arrive");
    }
    Ok(())
}
