//! Where what is on the screen, by its size.

use ratatui::layout::{Constraint, Layout, Rect};

use super::draw::{header_height, messages};
use super::screen::{Screen, View};

/// From this width on the list has charts beside it.
const WIDE: u16 = 150;
/// Width of those.
const SIDE: u16 = 62;
/// Height of charts beside the list, at least, where there is room.
const CHARTS: u16 = 24;
/// From this height on the details have output below them.
const TALL: u16 = 34;
/// Width of the facts beside charts.
const FACTS: u16 = 38;
/// What a frame takes of the height.
const FRAME: u16 = 2;

/// Places on the screen. One that is not shown is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Areas {
    pub(super) header: Rect,
    /// The list with its frame.
    pub(super) list: Rect,
    /// The names of its columns.
    pub(super) columns: Rect,
    /// Its rows.
    pub(super) rows: Rect,
    pub(super) facts: Rect,
    pub(super) charts: Rect,
    /// Output with its frame.
    pub(super) output: Rect,
    /// The lines in it.
    pub(super) lines: Rect,
    pub(super) messages: Rect,
    pub(super) foot: Rect,
}

impl Areas {
    pub(super) fn of(screen: &Screen, area: Rect) -> Areas {
        let count = u16::try_from(messages(screen, area.width).len()).unwrap_or(0);
        let [header, body, messages, foot] = Layout::vertical([
            Constraint::Length(header_height(screen.machine.as_ref(), area)),
            Constraint::Fill(1),
            Constraint::Length(count),
            Constraint::Length(1),
        ])
        .areas(area);
        let mut areas = Areas {
            header,
            messages,
            foot,
            ..Areas::default()
        };
        match screen.view {
            View::List => areas.lay_out_list(screen, body),
            View::Detail => areas.lay_out_details(body),
            View::Logs => areas.output = body,
        }
        areas.lines = inner(areas.output);
        areas
    }

    fn lay_out_list(&mut self, screen: &Screen, body: Rect) {
        let rows = u16::try_from(screen.fleet.rows.len()).unwrap_or(u16::MAX);
        // Frame and names of columns. The output keeps two fifths.
        let wanted = rows.saturating_add(FRAME + 1);
        let most = (body.height * 3 / 5).max(6);
        let least = if body.width >= WIDE { CHARTS } else { 6 };
        let height = wanted.clamp(least.min(most), most);
        let [above, output] = Layout::vertical([Constraint::Length(height), Constraint::Fill(1)]).areas(body);
        let side = if body.width >= WIDE { SIDE } else { 0 };
        [self.list, self.charts] =
            Layout::horizontal([Constraint::Fill(1), Constraint::Length(side)]).areas(above);
        self.output = output;
        let inside = inner(self.list);
        [self.columns, self.rows] =
            Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(inside);
    }

    fn lay_out_details(&mut self, body: Rect) {
        let below = if body.height >= TALL { body.height / 3 } else { 0 };
        let [above, output] = Layout::vertical([Constraint::Fill(1), Constraint::Length(below)]).areas(body);
        let facts = FACTS.max(body.width / 4).min(64);
        [self.facts, self.charts] =
            Layout::horizontal([Constraint::Length(facts), Constraint::Fill(1)]).areas(above);
        self.output = output;
    }
}

/// What is within a frame.
pub(super) fn inner(area: Rect) -> Rect {
    match area.width < FRAME || area.height < FRAME {
        true => Rect::default(),
        false => Rect::new(area.x + 1, area.y + 1, area.width - FRAME, area.height - FRAME),
    }
}
