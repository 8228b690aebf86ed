//! The state of the screen: what comes from the daemon, from the machine and from the terminal goes in, what is to be done comes out. Nothing
//! here needs a terminal.

use std::collections::VecDeque;
use std::time::Duration;

use ratatui::layout::Rect;
use rpm_wire::api::Process;

use super::book::Book;
use super::daemon::{Listeners, Output, Reply};
use super::fleet::{Fleet, RowId};
use super::history::{History, Series};
use super::layout::Areas;
use super::machine::Machine;
use super::palette::{Command, Suggestion, parse, suggestions};
use super::request::{Request, Target, Verb};
use super::theme::Theme;
use crate::render;

/// Whoever types on does not see a notice at once: for so long keys leave it.
const READ: Duration = Duration::from_secs(3);
/// Maximum length of what is typed, in characters.
const MAX_TYPED: usize = 128;

/// What fills the screen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum View {
    /// The apps, and the output of the chosen one.
    #[default]
    List,
    /// Facts and charts of the chosen one.
    Detail,
    /// Its output alone.
    Logs,
}

/// What keys mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    /// Each has its own meaning.
    #[default]
    Browse,
    /// They are the answer.
    Confirm(Request),
    /// They are typed.
    Prompt(Prompt),
    /// Any of them closes the help.
    Help,
}

/// What a line that is typed is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Filter,
    Search,
    Command,
}

/// A line that is being typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Prompt {
    pub(super) purpose: Purpose,
    pub(super) text: String,
    /// What applies again if it is abandoned.
    before: String,
    /// The chosen suggestion.
    pub(super) choice: Option<usize>,
}

/// Effect of an input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Nothing,
    Quit,
    Run(Request),
    /// Whether the mouse is ours, or the terminal's.
    Mouse(bool),
}

/// Result of the last command, until a key that comes when it could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    pub(super) text: String,
    pub(super) failed: bool,
    /// Since when it is shown.
    pub(super) since: Duration,
}

/// Whose output is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// As the daemon is told.
    pub(super) target: String,
    /// As it is shown.
    pub(super) label: String,
    /// It is that of several instances.
    pub(super) several: bool,
}

/// The state of the screen.
#[derive(Default)]
pub(super) struct Screen {
    pub(super) fleet: Fleet,
    pub(super) history: History,
    pub(super) book: Book,
    pub(super) machine: Option<Machine>,
    /// Those of the app whose details are shown, once they are known.
    pub(super) listeners: Option<Listeners>,
    pub(super) view: View,
    pub(super) mode: Mode,
    pub(super) theme: Theme,
    pub(super) notice: Option<Notice>,
    /// The time on the screen.
    pub(super) now: Duration,
    /// Changes that are under way.
    pub(super) running: Vec<String>,
    /// Why what is shown is old.
    pub(super) trouble: Option<String>,
    /// Where everything was drawn last.
    pub(super) areas: Areas,
    pub(super) mouse: bool,
    /// The name of this machine.
    pub(super) host: String,
    /// The time zone of the times of lines.
    pub(super) zone: Option<jiff::tz::TimeZone>,
}

impl Screen {
    pub(super) fn new(theme: Theme) -> Screen {
        Screen {
            theme,
            mouse: true,
            ..Screen::default()
        }
    }

    /// What the daemon knows, after this time on the screen. If it does not say it, what it said last stays.
    pub(super) fn handle_processes(&mut self, known: Result<Vec<Process>, String>, at: Duration) {
        match known {
            Ok(processes) => {
                self.history.record(at, &processes);
                self.fleet.update(processes);
                self.trouble = None;
            }
            Err(trouble) => self.trouble = Some(trouble),
        }
    }

    pub(super) fn handle_machine(&mut self, machine: Option<Machine>) {
        self.machine = machine;
    }

    pub(super) fn handle_output(&mut self, output: VecDeque<Output>) {
        for part in output {
            match part {
                Output::Anew => self.book.clear(),
                Output::Line(line) => self.book.push(&line),
            }
        }
    }

    /// Result of a change.
    pub(super) fn handle_reply(&mut self, reply: Reply) {
        let place = self.running.iter().position(|running| *running == reply.label);
        if let Some(place) = place {
            self.running.remove(place);
        }
        match reply.result {
            Ok(text) => self.notify(text, false),
            Err(text) => self.notify(text, true),
        }
    }

    fn notify(&mut self, text: String, failed: bool) {
        let since = self.now;
        self.notice = Some(Notice { text, failed, since });
    }

    /// A key was pressed: a notice that could be read goes.
    pub(super) fn dismiss(&mut self) {
        let now = self.now;
        self.notice
            .take_if(|notice| now.saturating_sub(notice.since) >= READ);
    }

    /// Finds the places for everything on a screen of this size.
    pub(super) fn lay_out(&mut self, area: Rect) {
        self.areas = Areas::of(self, area);
        self.fleet.scroll(usize::from(self.areas.rows.height));
        let taken = super::draw::margin(self);
        let columns = usize::from(self.areas.lines.width).saturating_sub(taken);
        self.book.resize(columns, usize::from(self.areas.lines.height));
    }

    /// Whose output belongs on the screen.
    pub(super) fn source(&self) -> Option<Source> {
        let instance = self.fleet.instance();
        if let Some(process) = instance.filter(|process| !self.fleet.is_taken(process.id)) {
            return Some(Source {
                target: process.id.to_string(),
                label: format!("{} ({})", render::visible(&process.name), process.id),
                several: false,
            });
        }
        let group = self.fleet.group()?;
        Some(Source {
            target: group.name.clone(),
            label: render::visible(&group.name),
            several: group.members.len() > 1,
        })
    }

    /// The app whose listeners belong on the screen.
    pub(super) fn wanted_app(&self) -> Option<String> {
        match self.view {
            View::Detail => self.fleet.group().map(|group| group.name.clone()),
            View::List | View::Logs => None,
        }
    }

    /// What the chosen row has used.
    pub(super) fn series(&self) -> Option<&Series> {
        match self.fleet.chosen()? {
            RowId::App(name) => self.history.app(name),
            RowId::Instance(id) | RowId::Other { instance: id, .. } => self.history.instance(*id),
        }
    }

    /// What a change is about: the chosen app or instance, and the whole app where there is no less.
    fn target(&self, verb: &Verb) -> Option<Target> {
        let named = |label| Target {
            word: String::new(),
            label,
            instances: 1,
        };
        let group = self.fleet.group()?;
        let whole = || Target {
            word: group.name.clone(),
            instances: group.members.len(),
            ..named(render::visible(&group.name))
        };
        Some(match self.fleet.chosen()? {
            RowId::App(_) => whole(),
            _ if matches!(verb, Verb::Reload | Verb::Scale(_) | Verb::Rollback) => whole(),
            RowId::Instance(id) | RowId::Other { instance: id, .. } => {
                let name = &self.fleet.process(*id)?.name;
                Target {
                    word: id.to_string(),
                    ..named(format!("{} ({id})", render::visible(name)))
                }
            }
        })
    }

    /// Asks whether to do this with what is chosen.
    pub(super) fn ask(&mut self, verb: Verb) {
        match self.target(&verb) {
            Some(Target {
                word, instances: 1, ..
            }) if word
                .parse()
                .is_ok_and(|id| self.is_instance(id) && self.fleet.is_taken(id)) =>
            {
                self.fail(format!(
                    "{word} is also the name of an app or a namespace, which the daemon would take it for: choose the app of this instance"
                ));
            }
            Some(target) => self.mode = Mode::Confirm(Request { verb, target }),
            None => {
                self.fail("no app is chosen; start one with `rpm start app.js`, or drop the filter with Esc");
            }
        }
    }

    /// Whether a change is about this instance, and not about an app with such a name.
    fn is_instance(&self, id: u32) -> bool {
        match self.fleet.chosen() {
            Some(RowId::Instance(chosen) | RowId::Other { instance: chosen, .. }) => *chosen == id,
            Some(RowId::App(_)) | None => false,
        }
    }

    pub(super) fn confirmed(&mut self, request: Request) -> Effect {
        self.running.push(request.to_string());
        Effect::Run(request)
    }

    fn fail(&mut self, text: impl Into<String>) {
        self.notify(text.into(), true);
    }

    /// Begins to type a line.
    pub(super) fn prompt(&mut self, purpose: Purpose) {
        let before = match purpose {
            Purpose::Filter => self.fleet.filter.clone(),
            Purpose::Search => self.book.wanted().to_owned(),
            Purpose::Command => String::new(),
        };
        // A filter is usually narrowed down; another search is usually for something else.
        let text = match purpose {
            Purpose::Filter => before.clone(),
            Purpose::Search | Purpose::Command => String::new(),
        };
        self.mode = Mode::Prompt(Prompt {
            purpose,
            text,
            before,
            choice: None,
        });
    }

    /// How the line that is typed may go on.
    pub(super) fn suggestions(&self, prompt: &Prompt) -> Vec<Suggestion> {
        if prompt.purpose != Purpose::Command {
            return Vec::new();
        }
        let names: Vec<String> = self.fleet.groups.iter().map(|group| group.name.clone()).collect();
        suggestions(&prompt.text, &names)
    }

    /// A line was changed: what it filters or marks is seen at once.
    pub(super) fn typed(&mut self, mut prompt: Prompt) {
        prompt.choice = None;
        if prompt.text.chars().count() > MAX_TYPED {
            prompt.text.pop();
        }
        match prompt.purpose {
            Purpose::Filter => self.filter(&prompt.text),
            Purpose::Search => self.book.search(&prompt.text),
            Purpose::Command => {}
        }
        self.mode = Mode::Prompt(prompt);
    }

    pub(super) fn filter(&mut self, text: &str) {
        text.clone_into(&mut self.fleet.filter);
        self.fleet.arrange();
    }

    /// A line is abandoned.
    pub(super) fn abandon(&mut self, prompt: &Prompt) {
        match prompt.purpose {
            Purpose::Filter => self.filter(""),
            Purpose::Search => self.book.search(&prompt.before),
            Purpose::Command => {}
        }
    }

    /// A line is complete.
    pub(super) fn enter(&mut self, prompt: Prompt) -> Effect {
        match prompt.purpose {
            Purpose::Filter => {}
            Purpose::Search => self.find(false),
            Purpose::Command => {
                let chosen = prompt
                    .choice
                    .and_then(|choice| self.suggestions(&prompt).into_iter().nth(choice));
                let line = chosen.map_or(prompt.text, |suggestion| suggestion.line);
                match parse(&line) {
                    Ok(Some(command)) => return self.execute(command),
                    Ok(None) => {}
                    Err(error) => self.fail(error),
                }
            }
        }
        Effect::Nothing
    }

    /// Goes to the next match, downwards or upwards.
    pub(super) fn find(&mut self, down: bool) {
        if !self.book.jump(down) {
            let wanted = render::visible(self.book.wanted());
            self.fail(match wanted.is_empty() {
                true => "nothing is searched for; / searches".to_owned(),
                false => format!("no line contains {wanted:?}"),
            });
        }
    }

    fn execute(&mut self, command: Command) -> Effect {
        match command {
            Command::Change(verb, target) => {
                if self.choose(target) {
                    self.ask(verb);
                }
            }
            Command::Details(target) => {
                if self.choose(target) {
                    self.view = View::Detail;
                }
            }
            Command::Logs(target) => {
                if self.choose(target) {
                    self.view = View::Logs;
                }
            }
            Command::Sort(sort) => {
                self.fleet.sort = sort;
                self.fleet.arrange();
            }
            Command::Filter(text) => self.filter(&text),
            Command::Expand => self.fleet.expand_all(),
            Command::Help => self.mode = Mode::Help,
            Command::Quit => return Effect::Quit,
        }
        Effect::Nothing
    }

    /// Chooses the app or instance of this name or id; whether it is there.
    fn choose(&mut self, target: Option<String>) -> bool {
        let Some(word) = target else { return true };
        if self.fleet.choose_named(&word) {
            return true;
        }
        // It may be below an app that does not show its instances, or hidden by the filter.
        let id = word.parse();
        let processes = &self.fleet.processes;
        let named = processes.iter().find(|process| process.name == word);
        let meant = named.or_else(|| processes.iter().find(|process| Ok(process.id) == id));
        let Some(name) = meant.map(|process| process.name.clone()) else {
            self.fail(format!("no app or id {:?} in the list", render::visible(&word)));
            return false;
        };
        self.filter("");
        self.fleet.choose_named(&name);
        self.fleet.expand(Some(true));
        self.fleet.choose_named(&word)
    }
}

#[cfg(test)]
#[path = "screen/tests.rs"]
pub(super) mod tests;
