//! Keys and clicks, and what they do to the screen.

use ratatui::crossterm::event::{KeyCode, KeyModifiers};
use ratatui::layout::Position;
use rpm_wire::api::{LogLine, Stream};

use super::super::fleet::Sort;
use super::super::fleet::tests::{process, some};
use super::super::input::{Input, Key};
use super::*;

fn key(code: KeyCode) -> Input {
    let with = KeyModifiers::NONE;
    Input::Key(Key { code, with })
}

/// What is done when these keys are pressed, one after the other.
pub(in super::super) fn press(screen: &mut Screen, keys: &str) -> Vec<Effect> {
    let press = |letter| {
        screen.handle_input(key(match letter {
            '\u{1b}' => KeyCode::Esc,
            '\n' => KeyCode::Enter,
            '\t' => KeyCode::Tab,
            '\u{8}' => KeyCode::Backspace,
            letter => KeyCode::Char(letter),
        }))
    };
    let effects = keys.chars().map(press);
    effects.filter(|effect| *effect != Effect::Nothing).collect()
}

pub(in super::super) fn line(text: &str) -> Output {
    Output::Line(LogLine {
        id: 0,
        name: "web".to_owned(),
        stream: Stream::Out,
        line: text.to_owned(),
        shared: false,
        time_ms: None,
        to: None,
    })
}

pub(in super::super) fn screen() -> Screen {
    let mut screen = Screen::new(Theme::Sixteen);
    screen.handle_processes(Ok(some()), Duration::ZERO);
    screen.lay_out(Rect::new(0, 0, 80, 24));
    screen
}

fn chosen(screen: &Screen) -> String {
    screen
        .target(&Verb::Stop)
        .map_or_else(String::new, |target| target.label)
}

fn run(verb: Verb, word: &str, label: &str, instances: usize) -> Effect {
    let (word, label) = (word.to_owned(), label.to_owned());
    Effect::Run(Request {
        verb,
        target: Target {
            word,
            label,
            instances,
        },
    })
}

#[test]
fn nothing_is_changed_without_a_yes() {
    for typed in [
        "clear; rpm ls",
        "rrr",
        "sns",
        "yyy",
        "r\u{1b}y",
        "ssy",
        "rqy",
        "/sy\n",
        ":stop web\nn",
        ":restart\n\ny",
        "\nrn",
        "l+n",
        "?y",
    ] {
        let effects = press(&mut screen(), typed);
        let changes = effects.iter().any(|effect| matches!(effect, Effect::Run(_)));
        assert!(!changes, "{typed:?}: {effects:?}");
    }
    let changes = [
        ("ry", Verb::Reload),
        ("ty", Verb::Restart),
        ("sY", Verb::Stop),
        ("Sy", Verb::Start),
        ("+y", Verb::Scale("+1".to_owned())),
        ("-y", Verb::Scale("-1".to_owned())),
        (":rollback\ny", Verb::Rollback),
        (":scale 4\ny", Verb::Scale("4".to_owned())),
    ];
    for (keys, verb) in changes {
        let screen = &mut screen();
        assert_eq!(press(screen, keys), [run(verb, "web", "web", 3)], "{keys:?}");
        assert_eq!(screen.running.len(), 1);
    }
}

#[test]
fn a_change_is_about_what_is_chosen() {
    assert_eq!(press(&mut screen(), "ejsy"), [run(Verb::Stop, "0", "web (0)", 1)]);
    assert_eq!(press(&mut screen(), "jry"), [run(Verb::Reload, "Api", "Api", 1)]);
    let whole = [run(Verb::Reload, "web", "web", 3)];
    assert_eq!(
        press(&mut screen(), "ejry"),
        whole,
        "an app is reloaded as a whole"
    );
    assert_eq!(
        press(&mut screen(), ":stop 1\ny"),
        [run(Verb::Stop, "1", "web (1)", 1)],
        "of an app that is closed"
    );
    assert_eq!(
        press(&mut screen(), "/web\n:reload Api\ny"),
        [run(Verb::Reload, "Api", "Api", 1)],
        "which is filtered out"
    );
    let screen = &mut screen();
    assert_eq!(press(screen, ":stop nosuch\ny"), []);
    let notice = screen.notice.clone().expect("nobody has read it yet");
    assert!(notice.failed && notice.text.contains("nosuch"), "{notice:?}");
    screen.now += READ;
    press(screen, "j");
    assert_eq!(screen.notice, None);
}

#[test]
fn an_app_may_be_named_like_an_id() {
    let screen = &mut screen();
    let mut processes = some();
    processes.push(process(9, "1", (0.0, 0, 0)));
    screen.handle_processes(Ok(processes), Duration::ZERO);
    assert_eq!(press(screen, ":stop 1\ny"), [run(Verb::Stop, "1", "1", 1)]);
    screen.view = View::List;
    press(screen, "gejj");
    assert_eq!(screen.fleet.chosen(), Some(&RowId::Instance(1)));
    assert_eq!(press(screen, "sy"), [], "the daemon would stop the app");
    let notice = screen.notice.clone().expect("the reason");
    assert!(
        notice.failed && notice.text.contains("also the name of an app"),
        "{notice:?}"
    );
    assert_eq!(press(screen, "ry"), [run(Verb::Reload, "web", "web", 3)]);
    let source = screen.source().expect("output");
    assert_eq!((source.target.as_str(), source.several), ("web", true));
}

#[test]
fn a_reply_ends_what_is_under_way() {
    let screen = &mut screen();
    press(screen, "ry");
    let reply = |result: Result<&str, &str>| Reply {
        label: "reload web".to_owned(),
        result: result.map(str::to_owned).map_err(str::to_owned),
    };
    screen.handle_reply(reply(Err("reload web: it does not become ready")));
    assert!(screen.running.is_empty() && screen.notice.as_ref().is_some_and(|notice| notice.failed));
    press(screen, "j");
    assert!(screen.notice.is_some(), "nobody has read it yet");
    screen.now += READ;
    press(screen, "j");
    assert_eq!(screen.notice, None);
}

#[test]
fn escape_goes_back_by_one_step() {
    let screen = &mut screen();
    press(screen, "/api\nl/x\n");
    assert_eq!((screen.view, screen.book.wanted()), (View::Logs, "x"));
    press(screen, "\u{1b}");
    assert_eq!((screen.view, screen.book.wanted()), (View::Logs, ""));
    press(screen, "\u{1b}");
    assert_eq!((screen.view, screen.fleet.filter.as_str()), (View::List, "api"));
    assert_eq!(press(screen, "\u{1b}"), []);
    assert_eq!(screen.fleet.filter, "");
    assert_eq!(press(screen, "\u{1b}"), [Effect::Quit]);
}

#[test]
fn views_follow_each_other() {
    let screen = &mut screen();
    let mut views = Vec::new();
    for keys in [
        "\n",
        "\n",
        "\n",
        "\t",
        "\t",
        "\t",
        "l",
        "l",
        ":details\n",
        ":logs 7\n",
    ] {
        press(screen, keys);
        views.push(screen.view);
    }
    use View::{Detail, List, Logs};
    assert_eq!(
        views,
        [Detail, Logs, List, Detail, Logs, List, Logs, List, Detail, Logs]
    );
    assert_eq!(chosen(screen), "api-jobs");
    assert_eq!(press(screen, "q"), [Effect::Quit]);
}

#[test]
fn a_filter_is_typed_kept_and_dropped() {
    let screen = &mut screen();
    assert_eq!(press(screen, "/API"), []);
    assert_eq!((screen.fleet.groups.len(), chosen(screen).as_str()), (2, "Api"));
    assert_eq!(press(screen, "-q\u{8}j\u{8}\n"), [], "letters are letters");
    assert_eq!(
        (screen.fleet.filter.as_str(), chosen(screen).as_str()),
        ("API-", "api-jobs")
    );
    press(screen, "\u{1b}");
    assert_eq!(
        (screen.fleet.groups.len(), chosen(screen).as_str()),
        (3, "api-jobs")
    );
    press(screen, "/x\u{1b}");
    assert_eq!(screen.fleet.groups.len(), 3);
    press(screen, &format!("/{}", "x".repeat(500)));
    assert_eq!(screen.fleet.filter.len(), MAX_TYPED);
    let interrupt = Input::Key(Key {
        code: KeyCode::Char('c'),
        with: KeyModifiers::CONTROL,
    });
    assert_eq!(screen.handle_input(interrupt), Effect::Quit);
}

#[test]
fn commands_are_completed_and_chosen() {
    let screen = &mut screen();
    press(screen, ":so\tme\t\n");
    assert_eq!(screen.fleet.sort, Sort::Memory);
    press(screen, ":");
    for code in [KeyCode::Up, KeyCode::Down, KeyCode::Up, KeyCode::Up] {
        screen.handle_input(key(code));
    }
    // From below: quit, quit, help, expand.
    press(screen, "\n");
    assert_eq!(screen.fleet.rows.len(), 6, "all are open");
    assert_eq!(press(screen, ":q\n"), [Effect::Quit]);
    assert_eq!(press(screen, ":bogus\n"), []);
    assert!(screen.notice.as_ref().is_some_and(|notice| notice.failed));
}

#[test]
fn a_page_and_an_end_of_the_list_are_one_key_away() {
    let mut screen = Screen::new(Theme::Sixteen);
    let many = (0..25)
        .map(|id| process(id, &format!("app{id}"), (0.0, 0, 0)))
        .collect();
    screen.handle_processes(Ok(many), Duration::ZERO);
    let steps = [
        (KeyCode::End, "app24"),
        (KeyCode::PageDown, "app24"),
        (KeyCode::PageUp, "app14"),
        (KeyCode::Home, "app0"),
        (KeyCode::Up, "app0"),
        (KeyCode::PageDown, "app10"),
        (KeyCode::Char('G'), "app24"),
        (KeyCode::Char('g'), "app0"),
    ];
    for (code, name) in steps {
        assert_eq!(screen.handle_input(key(code)), Effect::Nothing);
        assert_eq!(chosen(&screen), name, "{code:?}");
    }
}

#[test]
fn the_mouse_chooses_opens_orders_and_scrolls() {
    let screen = &mut screen();
    let rows = screen.areas.rows;
    let at = |row| Position::new(rows.x + 5, rows.y + row);
    screen.handle_input(Input::Click(at(2)));
    assert_eq!(chosen(screen), "api-jobs");
    screen.handle_input(Input::Click(at(0)));
    assert_eq!((chosen(screen).as_str(), screen.fleet.rows.len()), ("web", 3));
    screen.handle_input(Input::Click(at(0)));
    assert_eq!(screen.fleet.rows.len(), 6, "it was chosen: it opens");
    screen.handle_input(Input::Click(at(9)));
    assert_eq!(chosen(screen), "web", "there is nothing");
    screen.handle_input(Input::Wheel(at(0), 3));
    assert_eq!(chosen(screen), "web (0)");
    let columns = screen.areas.columns;
    screen.handle_input(Input::Click(Position::new(columns.x + 8, columns.y)));
    assert_eq!(screen.fleet.sort, Sort::Name);
    screen.handle_output((0..100).map(|number| line(&number.to_string())).collect());
    let output = screen.areas.output;
    screen.handle_input(Input::Wheel(Position::new(output.x + 1, output.y + 1), -3));
    assert!(!screen.book.is_followed());
    press(screen, "r");
    screen.handle_input(Input::Click(at(0)));
    assert_eq!(press(screen, "y"), [], "a click means no");
    assert_eq!(press(screen, "mm"), [Effect::Mouse(false), Effect::Mouse(true)]);
}

#[test]
fn output_is_that_of_the_chosen_app_or_instance() {
    let screen = &mut screen();
    let target = |screen: &Screen| screen.source().map(|source| (source.target, source.several));
    assert_eq!(target(screen), Some(("web".to_owned(), true)));
    press(screen, "ej");
    assert_eq!(target(screen), Some(("0".to_owned(), false)));
    press(screen, "G");
    assert_eq!(target(screen), Some(("7".to_owned(), false)), "its only one");
    screen.handle_output([line("one"), Output::Anew, line("two")].into());
    assert_eq!(screen.book.len(), 1, "the stream brings them again");
    screen.handle_processes(Ok(Vec::new()), Duration::ZERO);
    assert_eq!(target(screen), None);
    press(screen, "rnjk \nl");
}

#[test]
fn what_was_known_stays_while_the_daemon_is_gone() {
    let screen = &mut screen();
    screen.handle_processes(Err("it is gone".to_owned()), Duration::from_secs(1));
    assert_eq!(
        (screen.fleet.rows.len(), screen.trouble.as_deref()),
        (3, Some("it is gone"))
    );
    screen.handle_processes(Ok(some()), Duration::from_secs(2));
    assert_eq!(screen.trouble, None);
}
