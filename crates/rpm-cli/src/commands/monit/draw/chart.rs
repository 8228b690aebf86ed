//! Charts of what the chosen app or instance has used.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Chart, Dataset, GraphType};

use super::super::history::{Sample, Series};
use super::super::screen::Screen;
use super::framed;
use crate::render::units::{bytes, duration, percent};

/// The time axis is never shorter than this.
const SHORTEST: Duration = Duration::from_secs(60);
/// The least height of a chart with its frame.
const LEAST: u16 = 4;

/// A figure of which there is a chart.
struct Figure {
    name: &'static str,
    value: fn(&Sample) -> Option<f64>,
    text: fn(f64) -> String,
    style: Style,
    /// The axis ends here at least, and always at a round number of these.
    least: f64,
}

pub(super) fn draw(screen: &Screen, frame: &mut Frame<'_>) {
    let area = screen.areas.charts;
    if area.is_empty() {
        return;
    }
    let theme = screen.theme;
    // Small enough for a float.
    let exact = |sample: &Sample| Some(sample.memory as f64);
    let figures = [
        Figure {
            name: "cpu",
            value: |sample| Some(sample.cpu),
            text: percent,
            style: theme.good(),
            least: 1.0,
        },
        Figure {
            name: "memory",
            value: exact,
            // Not negative.
            text: |value| bytes(value as u64),
            style: theme.memory(),
            least: 1_048_576.0,
        },
        Figure {
            name: "connections",
            value: |sample| sample.connections.map(f64::from),
            text: |value| format!("{value:.0}"),
            style: theme.connections(),
            least: 2.0,
        },
    ];
    let count = usize::from(area.height / LEAST).clamp(1, figures.len());
    let areas = Layout::vertical(vec![Constraint::Fill(1); count]).split(area);
    let empty = Series::default();
    let series = screen.series().unwrap_or(&empty);
    for (figure, area) in figures.iter().zip(areas.iter()) {
        draw_one(screen, series, figure, *area, frame);
    }
}

fn draw_one(screen: &Screen, series: &Series, figure: &Figure, area: Rect, frame: &mut Frame<'_>) {
    let theme = screen.theme;
    let stretches = series.stretches(figure.value);
    let now = series.last().and_then(figure.value);
    let values = stretches.iter().flatten().map(|(_, value)| *value);
    let greatest = values.fold(0.0, f64::max);
    let most = rounded_up((greatest * 1.05 / figure.least).max(1.0)) * figure.least;
    let (first, last) = series.span().unwrap_or_default();
    // What is new comes in at the right edge.
    let span = last.saturating_sub(first).max(SHORTEST);
    let to = last.as_secs_f64();
    let from = to - span.as_secs_f64();
    let mut title = vec![Span::styled(format!(" {} ", figure.name), theme.accent())];
    if let Some(now) = now {
        title.push(Span::styled(format!("{} ", (figure.text)(now)), figure.style));
        title.push(Span::styled(
            format!("most {} ", (figure.text)(greatest)),
            theme.faint(),
        ));
    } else {
        title.push(Span::styled("not known ", theme.faint()));
    }
    let datasets = stretches.iter().map(|points| {
        Dataset::default()
            .marker(Marker::Braille)
            .graph_type(GraphType::Area)
            .fill_to_y(0.0)
            .style(figure.style)
            .data(points)
    });
    let label = |text: String| Span::styled(text, theme.faint());
    let ago = format!("-{}", duration(u64::try_from(span.as_millis()).unwrap_or(0)));
    let mut x = Axis::default().bounds([from, to]).style(theme.faint());
    // A low chart has no room for the time.
    if area.height > 6 {
        x = x.labels([label(ago), label("now".to_owned())]);
    }
    let y = Axis::default()
        .bounds([0.0, most])
        .labels([label("0".to_owned()), label((figure.text)(most))])
        .style(theme.faint());
    let chart = Chart::new(datasets.collect())
        .block(framed(Line::from(title), theme, false))
        .x_axis(x)
        .y_axis(y)
        .legend_position(None);
    frame.render_widget(chart, area);
}

/// 1, 2 or 5 times a power of ten, so that the axis does not change all the time.
fn rounded_up(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let step = [1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0]
        .into_iter()
        .find(|step| step * power >= value);
    step.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_ends_at_a_round_number() {
        let cases = [
            (5.0, 5.0),
            (6.0, 7.5),
            (11.0, 15.0),
            (99.0, 100.0),
            (101.0, 150.0),
        ];
        for (value, end) in cases {
            assert!((rounded_up(value) - end).abs() < 1e-6, "{value}");
        }
    }
}
