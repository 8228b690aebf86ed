//! The text format of Prometheus, read (<https://prometheus.io/docs/instrumenting/exposition_formats/>). What comes from an app is bounded, and
//! whatever is wrong with it is an error of that page alone.

use std::collections::BTreeMap;

/// Maximum number of samples on a page.
pub(super) const SAMPLES_LIMIT: usize = 20_000;
/// Maximum number of labels of a sample.
pub(super) const LABELS_LIMIT: usize = 64;

/// What a metric is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
    Summary,
    #[default]
    Untyped,
}

impl Kind {
    /// The word of the format.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Summary => "summary",
            Kind::Untyped => "untyped",
        }
    }

    pub(super) fn of(word: &str) -> Option<Kind> {
        let kinds = [
            Kind::Counter,
            Kind::Gauge,
            Kind::Histogram,
            Kind::Summary,
            Kind::Untyped,
        ];
        kinds.into_iter().find(|kind| kind.word() == word)
    }
}

/// A metric with its samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Family {
    pub(crate) kind: Kind,
    /// As it is written, escapes included.
    pub(crate) help: Option<String>,
    pub(crate) samples: Vec<Sample>,
}

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    /// The name of the metric, and for histograms and summaries what is added to it.
    pub(crate) name: String,
    /// Their values are as they are written, escapes included.
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) value: f64,
}

/// Why a page cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("line {0} is not in the text format of Prometheus")]
    Line(usize),
    #[error("its answer is not that of prom-client: {0}")]
    Json(String),
    #[error("it has more than {0} samples")]
    Long(usize),
}

/// The metrics of a page, by name.
///
/// # Errors
/// It is not in the format, or too long.
pub(crate) fn read(page: &str) -> Result<BTreeMap<String, Family>, Malformed> {
    read_up_to(page, SAMPLES_LIMIT)
}

/// The same, of a page that may have so many samples.
///
/// # Errors
/// It is not in the format, or too long.
pub(crate) fn read_up_to(page: &str, limit: usize) -> Result<BTreeMap<String, Family>, Malformed> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut count = 0;
    for (number, line) in page.lines().enumerate() {
        let malformed = || Malformed::Line(number + 1);
        let line = line.trim();
        if let Some(comment) = line.strip_prefix('#') {
            read_comment(comment, &mut families).ok_or_else(malformed)?;
        } else if !line.is_empty() {
            count += 1;
            if count > limit {
                return Err(Malformed::Long(limit));
            }
            let sample = read_sample(line).ok_or_else(malformed)?;
            let name = family_of(&sample.name, &families).to_owned();
            families.entry(name).or_default().samples.push(sample);
        }
    }
    families.retain(|_, family| !family.samples.is_empty());
    Ok(families)
}

/// `HELP` and `TYPE`; others mean nothing.
fn read_comment(comment: &str, families: &mut BTreeMap<String, Family>) -> Option<()> {
    let mut words = comment.trim_start().splitn(3, [' ', '\t']);
    match (words.next(), words.next(), words.next()) {
        (Some("HELP"), Some(name), text) if is_name(name) => {
            let family = families.entry(name.to_owned()).or_default();
            family
                .help
                .get_or_insert_with(|| text.unwrap_or_default().to_owned());
        }
        (Some("TYPE"), Some(name), Some(kind)) if is_name(name) => {
            let family = families.entry(name.to_owned()).or_default();
            family.kind = Kind::of(kind.trim())?;
        }
        (Some("HELP" | "TYPE"), ..) => return None,
        _ => {}
    }
    Some(())
}

/// The metric that a sample of this name belongs to.
fn family_of<'n>(name: &'n str, families: &BTreeMap<String, Family>) -> &'n str {
    let of = |ending: &str, kinds: &[Kind]| {
        let base = name.strip_suffix(ending)?;
        families
            .get(base)
            .filter(|family| kinds.contains(&family.kind))
            .map(|_| base)
    };
    of("_bucket", &[Kind::Histogram])
        .or_else(|| of("_sum", &[Kind::Histogram, Kind::Summary]))
        .or_else(|| of("_count", &[Kind::Histogram, Kind::Summary]))
        .unwrap_or(name)
}

fn read_sample(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' ', '\t'])?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.trim_start().strip_prefix('{') {
        Some(rest) => read_labels(rest)?,
        None => (Vec::new(), rest),
    };
    let mut words = rest.split_ascii_whitespace();
    let value = read_value(words.next()?)?;
    // What may follow is a time, which is that of this scrape.
    if let Some(time) = words.next() {
        time.parse::<i64>().ok()?;
    }
    let whole = is_name(name) && words.next().is_none();
    whole.then(|| Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

/// The labels, and what stands behind them.
fn read_labels(mut rest: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut labels: Vec<(String, String)> = Vec::new();
    loop {
        rest = rest.trim_start();
        if let Some(behind) = rest.strip_prefix('}') {
            return Some((labels, behind));
        }
        let (name, behind) = rest.split_once('=')?;
        let name = name.trim();
        let behind = behind.trim_start().strip_prefix('"')?;
        let end = end_of_value(behind)?;
        let known = labels.iter().any(|(label, _)| label == name);
        if known || !is_label(name) || labels.len() == LABELS_LIMIT {
            return None;
        }
        labels.push((name.to_owned(), behind[..end].to_owned()));
        rest = behind[end + 1..].trim_start();
        rest = match rest.strip_prefix(',') {
            Some(behind) => behind,
            None if rest.starts_with('}') => rest,
            None => return None,
        };
    }
}

/// Where the quote is that ends a value. Only `\\`, `\"` and `\n` are escapes.
fn end_of_value(text: &str) -> Option<usize> {
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some(at),
            '\\' => {
                letters
                    .next()
                    .filter(|(_, next)| matches!(next, '\\' | '"' | 'n'))?;
            }
            _ => {}
        }
    }
    None
}

fn read_value(text: &str) -> Option<f64> {
    // Rust reads `infinity` too, which the format does not know.
    let plain = text.trim_start_matches(['+', '-']);
    let special = ["Inf", "NaN"].contains(&plain);
    let number = plain.starts_with(|letter: char| letter.is_ascii_digit() || letter == '.');
    text.parse().ok().filter(|_| special || number)
}

pub(super) fn is_name(name: &str) -> bool {
    is_label(&name.replace(':', "_"))
}

pub(super) fn is_label(name: &str) -> bool {
    let mut letters = name.chars();
    let first = letters
        .next()
        .is_some_and(|letter| letter.is_ascii_alphabetic() || letter == '_');
    first && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_a_client_library() {
        let page = "# HELP http_requests_total Requests, by \\\\ status\n# TYPE http_requests_total counter\n\
                    http_requests_total{method=\"GET\",path=\"/a \\\"b\\\",c}\"} 1027 1395066363000\n\
                    http_requests_total{ method = \"POST\", } 3\n\n# a comment\n\
                    # TYPE took_seconds histogram\ntook_seconds_bucket{le=\"+Inf\"} 4\ntook_seconds_sum 0.5\ntook_seconds_count 4\n\
                    # TYPE nothing gauge\nplain -1.5e-3\n\ttemperature\tNaN\n";
        let families = read(page).expect("it is one");
        let names: Vec<&str> = families.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            ["http_requests_total", "plain", "temperature", "took_seconds"]
        );
        let requests = &families["http_requests_total"];
        assert_eq!(requests.kind, Kind::Counter);
        assert_eq!(requests.help.as_deref(), Some("Requests, by \\\\ status"));
        let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            requests.samples[0].labels,
            [label("method", "GET"), label("path", "/a \\\"b\\\",c}")]
        );
        assert_eq!(requests.samples[0].value, 1027.0);
        assert_eq!(requests.samples[1].labels, [label("method", "POST")]);
        assert_eq!(families["took_seconds"].samples.len(), 3);
        assert_eq!(families["plain"].samples[0].value, -0.0015);
        assert!(families["temperature"].samples[0].value.is_nan());
    }

    #[test]
    fn what_is_no_page() {
        for line in [
            "<!doctype html>",
            "{\"requests\": 3}",
            "requests",
            "requests x",
            "requests infinity",
            "requests 1 2 3",
            "requests 1 now",
            "2requests 1",
            "requests{a=\"1\" 1",
            "requests{a=1} 1",
            "requests{a=\"\\x\"} 1",
            "requests{a=\"1\",a=\"2\"} 1",
            "requests{a=\"1\"b=\"2\"} 1",
            "requests{a b=\"1\"} 1",
            "# TYPE requests number",
            "# TYPE requests",
        ] {
            let page = format!("good 1\n{line}\n");
            assert_eq!(read(&page), Err(Malformed::Line(2)), "{line}");
        }
        let long = "requests 1\n".repeat(SAMPLES_LIMIT + 1);
        assert_eq!(read(&long), Err(Malformed::Long(SAMPLES_LIMIT)));
        assert_eq!(read(""), Ok(BTreeMap::new()));
    }

    #[test]
    fn cut_pages_never_panic() {
        let page = "# TYPE ä histogram\na_total{b=\"ü\\\\\"} 1\n# HELP a_total é\na_total{b=\"\\n\"} +Inf\n";
        for cut in (0..page.len()).filter(|at| page.is_char_boundary(*at)) {
            let _ = read(&page[..cut]);
        }
    }
}
