//! `GET /api/v1/history`: series of an app as JSON.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::file::{HistoryError, Store};
use super::heat;
use super::row::{COUNT, FIGURES};
use super::tiers::{Series, Span, query};
use super::{described, now};

/// Points unless the question says how many.
const POINTS: u32 = 300;
const MOST_POINTS: u32 = 5000;

/// Why there is no answer.
type Refused = (StatusCode, String);

/// Answers a question, with these parameters, from the file. Reading takes a thread of its own: the one that serves also records.
pub(crate) async fn answer(path: PathBuf, asked: HashMap<String, String>) -> Result<Value, Refused> {
    let answer = tokio::task::spawn_blocking(move || answer_now(&path, &asked));
    let ended = |error| (StatusCode::INTERNAL_SERVER_ERROR, format!("no answer: {error}\n"));
    answer.await.map_err(ended)?
}

fn answer_now(path: &Path, asked: &HashMap<String, String>) -> Result<Value, Refused> {
    let bad = |why: String| (StatusCode::BAD_REQUEST, why);
    if let Some(other) = asked
        .keys()
        .find(|key| !["app", "from", "to", "points", "figure", "durations"].contains(&key.as_str()))
    {
        return Err(bad(format!(
            "unknown parameter {other}: there are app, from, to, points, figure and durations\n"
        )));
    }
    let now = now();
    let store = match Store::read_only(path) {
        Ok(store) => Some(store),
        Err(HistoryError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err((StatusCode::SERVICE_UNAVAILABLE, described(&error) + "\n")),
    };
    let apps = store.as_ref().map(Store::apps).unwrap_or_default();
    let Some(app) = asked.get("app") else {
        return Ok(json!({ "apps": apps }));
    };
    let time = |name: &str, usual: &str| {
        let text = asked.get(name).map_or(usual, String::as_str);
        moment(text, now).ok_or_else(|| {
            bad(format!(
                "{name} must be now, -10m, -1h, -7d, or seconds since the Unix epoch\n"
            ))
        })
    };
    let points = asked.get("points").map_or(Ok(POINTS), |text| text.parse());
    let points = points.ok().filter(|points| (1..=MOST_POINTS).contains(points));
    let span = Span {
        from: time("from", "-1h")?,
        to: time("to", "now")?,
        points: points.ok_or_else(|| bad(format!("points must be 1 to {MOST_POINTS}\n")))?,
    };
    if span.from >= span.to {
        return Err(bad("from must be before to\n".to_owned()));
    }
    let durations = match asked.get("durations").map(String::as_str) {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(bad("durations must be true or false\n".to_owned())),
    };
    let figures = chosen(asked.get("figure").map(String::as_str)).map_err(bad)?;
    let failed = |error| (StatusCode::SERVICE_UNAVAILABLE, described(&error) + "\n");
    let rows = store.as_ref().map(|store| store.rows(app)).transpose();
    let rows = rows.map_err(failed)?.flatten();
    let Some(rows) = rows else {
        let known = match apps.is_empty() {
            true => "nothing is recorded yet".to_owned(),
            false => format!("there are {}", apps.join(", ")),
        };
        return Err((StatusCode::NOT_FOUND, format!("no history of {app}: {known}\n")));
    };
    let mut answer = told(app, &query(&rows, span, now), &figures);
    if durations {
        let heat = store.as_ref().map(|store| store.heat(app)).transpose();
        let heat = heat.map_err(failed)?.flatten();
        let heat = heat.map(|(bounds_ms, rows)| heat::query(&rows, bounds_ms, span, now));
        answer["durations"] = heat.map_or(Value::Null, |heat| {
            json!({ "bounds_ms": heat.bounds_ms, "from": heat.from, "step": heat.step, "counts": heat.columns })
        });
    }
    Ok(answer)
}

/// The series as they are answered.
fn told(app: &str, series: &Series, figures: &[usize]) -> Value {
    let mut told = Map::new();
    for &at in figures {
        let mut one = json!({ "unit": FIGURES[at].unit, "values": series.values[at] });
        if FIGURES[at].has_maximum() {
            one["max"] = json!(series.maxima[at]);
        }
        told.insert(FIGURES[at].name.to_owned(), one);
    }
    json!({ "app": app, "from": series.from, "step": series.step, "points": series.points, "figures": told })
}

/// The figures that are asked for; all of them if none is named.
fn chosen(text: Option<&str>) -> Result<Vec<usize>, String> {
    let Some(text) = text else {
        return Ok((0..COUNT).collect());
    };
    let find = |name: &str| {
        let at = FIGURES.iter().position(|figure| figure.name == name);
        let names = || FIGURES.map(|figure| figure.name).join(", ");
        at.ok_or_else(|| format!("unknown figure {name:?}: there are {}\n", names()))
    };
    text.split(',').map(find).collect()
}

/// Seconds since the Unix epoch: `now`, how long ago (`-90s`, `-1h`, `-7d`), or a number.
fn moment(text: &str, now: u64) -> Option<u64> {
    let Some(ago) = text.strip_prefix('-') else {
        return match text {
            "now" => Some(now + 1),
            _ => text.parse().ok(),
        };
    };
    let unit = ago.chars().last()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return None,
    };
    let count: u64 = ago[..ago.len() - 1].parse().ok()?;
    now.checked_sub(count.checked_mul(seconds)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_as_they_are_typed() {
        for (text, expected) in [
            ("now", Some(1_000_001)),
            ("-90s", Some(999_910)),
            ("-1h", Some(996_400)),
            ("-2d", Some(827_200)),
            ("12", Some(12)),
            ("-1", None),
            ("-", None),
            ("-1é", None),
            ("-99999999999999999d", None),
            ("-999d", None),
            ("soon", None),
        ] {
            assert_eq!(moment(text, 1_000_000), expected, "{text}");
        }
    }

    #[test]
    fn a_question_that_cannot_be_answered_says_why() {
        let ask = |asked: &[(&str, &str)]| {
            let asked = asked
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            answer_now(Path::new("/nowhere/history.bin"), &asked.collect())
        };
        assert_eq!(ask(&[]), Ok(json!({ "apps": [] })));
        for (asked, status, why) in [
            (&[("application", "a")][..], 400, "unknown parameter application"),
            (&[("app", "a"), ("from", "soon")], 400, "from must be"),
            (&[("app", "a"), ("from", "now"), ("to", "-1h")], 400, "before"),
            (&[("app", "a"), ("points", "0")], 400, "1 to 5000"),
            (&[("app", "a"), ("durations", "yes")], 400, "true or false"),
            (
                &[("app", "a"), ("figure", "cpu,heat")],
                400,
                "there are online, cpu",
            ),
            (&[("app", "a")], 404, "nothing is recorded yet"),
        ] {
            let (code, text) = ask(asked).expect_err("it has no answer");
            assert_eq!(code.as_u16(), status, "{text}");
            assert!(text.contains(why), "{text}");
        }
    }
}
