//! The screen as a terminal would show it, without a terminal.

use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::Color;
use rpm_wire::api::Status;

use super::super::daemon::Listeners;
use super::super::fleet::tests::{reloading, some};
use super::super::machine::Machine;
use super::super::screen::tests::{line, press, screen};
use super::*;

/// A terminal of this size that shows it.
fn drawn(screen: &mut Screen, (width, height): (u16, u16)) -> TestBackend {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("no terminal is needed");
    terminal
        .draw(|frame| {
            screen.lay_out(frame.area());
            draw(screen, frame);
        })
        .expect("it is drawn");
    terminal.backend().clone()
}

fn seen(screen: &mut Screen, size: (u16, u16)) -> String {
    drawn(screen, size).to_string()
}

fn machine(cores: usize) -> Machine {
    Machine {
        cores: vec![0.5; cores],
        busy: 0.5,
        used: 1 << 30,
        memory: 4 << 30,
        load: "0.50 0.25 0.10".to_owned(),
    }
}

#[track_caller]
fn assert_parts(seen: &str, parts: &[&str]) {
    for part in parts {
        assert!(seen.contains(part), "{part:?} is missing:\n{seen}");
    }
}

#[test]
fn the_list_shows_apps_their_figures_and_the_machine() {
    let screen = &mut screen();
    screen.handle_machine(Some(machine(2)));
    let mut processes = some();
    processes[3].status = Status::Errored;
    screen.handle_processes(Ok(processes), Duration::from_secs(1));
    let parts = [
        "3 apps",
        "● 4 online",
        "✖ 1 errored",
        "cpu0",
        "cpu1",
        " 50%",
        "1.0 GB of 4.0 GB",
        "load 0.50",
        "▸ web ×3",
        "● 3 online",
        "✖ errored",
        "7.0%",
        "60.0 MB",
        "1m 5s",
        "id▲",
        "output web",
        "▶ following",
        "? help",
        "q quit",
    ];
    assert_parts(&seen(screen, (80, 24)), &parts);
    let wide = seen(screen, (200, 50));
    assert_parts(
        &wide,
        &[
            "╭ cpu 7.0%",
            "╭ memory 60.0 MB",
            "╭ connections not known",
            "pid",
            "gen",
        ],
    );
    // A machine of many cores has a letter for each where bars would take the screen.
    screen.handle_machine(Some(machine(96)));
    assert_parts(&seen(screen, (80, 24)), &["cpu ▅▅▅▅"]);
}

#[test]
fn generations_stand_side_by_side_while_a_reload_runs() {
    let screen = &mut screen();
    screen.handle_processes(Ok(reloading()), Duration::from_secs(1));
    assert_parts(&seen(screen, (80, 24)), &["▸ web ×3", "◐ reload 1/3"]);
    press(screen, " ");
    let parts = [
        "▾ web",
        "├─ instance 0",
        "│  └ new gen 2",
        "◐ launching",
        "≤29s",
        "│  └ old gen 1",
        "◑ draining",
        "└─ instance 2",
    ];
    assert_parts(&seen(screen, (100, 30)), &parts);
    press(screen, "\n");
    assert_parts(
        &seen(screen, (100, 30)),
        &["new of 0", "gen 2 launching ≤29s", "1 of 3 done, 1 leaving"],
    );
}

#[test]
fn the_details_show_which_worker_gets_how_much() {
    let screen = &mut screen();
    press(screen, "\n");
    assert_eq!(screen.wanted_app().as_deref(), Some("web"));
    let slot = |instance: u32, steered: u64| {
        serde_json::json!({"instance": instance, "eligible": instance != 1, "queued": instance, "backlog": 511,
            "steered": steered, "rescued": 0})
    };
    let listener = serde_json::json!({"address": "tcp [::]:3000", "steering": "ebpf", "reason": "",
        "slots": [slot(0, 70), slot(1, 80), slot(2, 90)]});
    screen.listeners = Some(Listeners {
        app: "web".to_owned(),
        all: vec![serde_json::from_value(listener).expect("a listener")],
    });
    let parts = [
        "tcp [::]:3000",
        "ebpf",
        "● 70 conns",
        "○ 80 conns 1 wait",
        "● 90 conns 2 wait",
    ];
    assert_parts(&seen(screen, (80, 30)), &parts);
    press(screen, "\u{1b}ej\n");
    let one = seen(screen, (80, 30));
    assert!(one.contains("70 conns") && !one.contains("80 conns"), "{one}");
    press(screen, "G");
    assert!(!seen(screen, (80, 30)).contains("ebpf"), "those of another app");
    assert_eq!(screen.view, View::Detail);
}

#[test]
fn any_size_is_drawn() {
    for keys in ["", "\n", "l", "?", ":re", "r", "/w", "e"] {
        let screen = &mut screen();
        screen.handle_machine(Some(machine(64)));
        screen.handle_output((0..50).map(|number| line(&number.to_string())).collect());
        press(screen, keys);
        for width in [1, 2, 10, 37, 80, 149, 150, 250] {
            for height in [1, 2, 3, 8, 24, 60] {
                drawn(screen, (width, height));
            }
        }
    }
}

#[test]
fn a_question_names_what_it_is_about() {
    let screen = &mut screen();
    press(screen, "r");
    assert_parts(
        &seen(screen, (80, 24)),
        &["reload web?", "(3 instances)", "y reload", "n cancel", "y yes"],
    );
    press(screen, "n e");
    press(screen, "js");
    assert_parts(&seen(screen, (80, 24)), &["stop web (0)?"]);
}

#[test]
fn what_is_wrong_and_what_is_done_are_on_the_screen() {
    let screen = &mut screen();
    press(screen, "oo/api");
    screen.handle_processes(Err("the daemon is not running".to_owned()), Duration::ZERO);
    screen.notice = Some(super::super::screen::Notice {
        text: "reload web: done".to_owned(),
        failed: false,
        since: Duration::ZERO,
    });
    let parts = [
        "cpu▼",
        "/api (2 of 3)",
        "the daemon is not running; trying again",
        "✔ reload web: done",
        "/api▏",
        "Enter keeps it",
    ];
    let seen = seen(screen, (80, 24));
    assert_parts(&seen, &parts);
    assert!(!seen.contains(" web "), "{seen}");
}

#[test]
fn a_long_message_has_more_rows() {
    let screen = &mut screen();
    let words: Vec<String> = (0..30).map(|number| format!("word{number}")).collect();
    screen.notice = Some(super::super::screen::Notice {
        text: words.join(" "),
        failed: true,
        since: Duration::ZERO,
    });
    assert_parts(&seen(screen, (80, 24)), &["✖ word0 ", "word29", "q quit"]);
}

#[test]
fn logs_show_levels_and_matches() {
    let screen = &mut screen();
    let texts = ["INFO ready", "WARN slow", "ERROR no route to host", "all is well"];
    screen.handle_output(texts.iter().map(|text| line(text)).collect());
    press(screen, "l/route\n");
    let backend = drawn(screen, (80, 24));
    assert_parts(&backend.to_string(), &["/route 1 of 1", "4 lines", "paused"]);
    let styles: Vec<Style> = backend
        .buffer()
        .content()
        .iter()
        .map(|cell| cell.style())
        .collect();
    for colour in [Color::Red, Color::Yellow] {
        assert!(styles.iter().any(|style| style.fg == Some(colour)), "{colour}");
    }
    let marked = backend.buffer().content().iter().filter(|cell| {
        cell.style() == {
            let style: Style = cell.style();
            style
                .fg(Color::Magenta)
                .add_modifier(ratatui::style::Modifier::REVERSED)
        }
    });
    let marked: String = marked.map(|cell| cell.symbol()).collect();
    assert_eq!(marked, "route");
    press(screen, "\u{1b}");
    assert_parts(&seen(screen, (80, 24)), &["ERROR no route"]);
    assert_eq!(screen.book.matches(), None);
}

#[test]
fn without_colours_nothing_has_one() {
    for keys in ["", "e", "\n", "l", "?", ":", "r"] {
        let mut screen = screen();
        screen.theme = Theme::Plain;
        screen.handle_machine(Some(machine(2)));
        screen.handle_output(["ERROR x", "y"].iter().map(|text| line(text)).collect());
        press(&mut screen, keys);
        let backend = drawn(&mut screen, (160, 40));
        let coloured = backend
            .buffer()
            .content()
            .iter()
            .find(|cell| (cell.fg, cell.bg) != (Color::Reset, Color::Reset));
        assert_eq!(coloured, None, "{keys:?}");
    }
}

#[test]
fn the_palette_suggests_and_the_help_names_every_key() {
    let screen = &mut screen();
    press(screen, ":sc");
    assert_parts(
        &seen(screen, (80, 24)),
        &["scale", "change the number of instances", ":sc▏"],
    );
    press(screen, "\u{1b}?");
    let parts = [
        "reload, restart",
        "one instance more, or fewer",
        "search, next, previous",
        "pause, follow",
        "wheel",
    ];
    assert_parts(&seen(screen, (80, 24)), &parts);
}

#[test]
fn keys_that_lead_out_stay_at_the_foot() {
    let keys = [("a", "one"), ("b", "two"), ("?", "help"), ("q", "quit")];
    assert_eq!(fitting(&keys, 80), keys);
    assert_eq!(fitting(&keys, 23), [keys[0], keys[2], keys[3]]);
    assert_eq!(fitting(&keys, 5), [keys[2], keys[3]]);
}
