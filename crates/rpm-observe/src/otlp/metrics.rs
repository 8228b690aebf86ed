//! The page of metrics as OTLP has it (`ExportMetricsServiceRequest`): counters are cumulative and monotonic sums, histograms have explicit bounds.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::{Value, json};

use super::encode::{Resource, scope, text};
use super::groups::{BOUND, Group, QUANTILE, grouped, histogram, summary};
use crate::own::{Family, Kind, Malformed, Sample, read_up_to};

/// Samples of a page that are read. Ours has some twenty for each worker.
const SAMPLES: usize = 500_000;
/// Data points in one request, which has 1 MB then.
const POINTS: usize = 2000;
/// `AGGREGATION_TEMPORALITY_CUMULATIVE`.
const CUMULATIVE: u8 = 2;
/// Names and values.
pub(super) type Labels = Vec<(String, String)>;
/// App and instance.
type About = (Option<String>, Option<String>);

/// Makes bodies of pages, one after the other.
#[derive(Debug, Default)]
pub(super) struct Converter {
    /// By metric and labels, of what counts: when it began, and what was seen last.
    counted: BTreeMap<(String, Labels), Counted>,
}

/// A sum of which the page does not say when it began.
#[derive(Clone, Copy, Debug)]
struct Counted {
    start_ns: u64,
    last_ns: u64,
    value: f64,
}

/// A point of a metric of somebody.
#[derive(Debug)]
struct Point {
    about: About,
    value: Value,
}

/// A metric with its points.
#[derive(Debug)]
struct Metric {
    name: String,
    help: String,
    kind: Kind,
    points: Vec<Point>,
}

impl Converter {
    /// The bodies that say what a page of this time says, each with the number of its data points.
    ///
    /// # Errors
    /// It is not in the format.
    pub(super) fn bodies(
        &mut self,
        page: &str,
        resource: &Resource,
        now_ns: u64,
    ) -> Result<Vec<(Vec<u8>, u64)>, Malformed> {
        let families = read_up_to(page, SAMPLES)?;
        let is_down = families
            .get("rpm_up")
            .is_some_and(|up| up.samples.iter().all(|sample| sample.value == 0.0));
        let mut metrics: Vec<Metric> = families
            .into_iter()
            .flat_map(|(name, family)| self.metrics(&name, &family, now_ns))
            .collect();
        // What is gone may come back, and counts from then on; but while the daemon does not answer, nothing is gone.
        self.counted
            .retain(|_, counted| is_down || counted.last_ns == now_ns);
        let mut bodies = Vec::new();
        let (mut part, mut count) = (Vec::new(), 0);
        for metric in &mut metrics {
            metric.points.sort_by(|a, b| a.about.cmp(&b.about));
            let mut from = 0;
            while from < metric.points.len() {
                let to = metric.points.len().min(from + POINTS - count);
                part.push((&*metric, from..to));
                count += to - from;
                from = to;
                if count == POINTS {
                    bodies.push((Self::body(resource, &std::mem::take(&mut part)), count as u64));
                    count = 0;
                }
            }
        }
        if count > 0 {
            bodies.push((Self::body(resource, &part), count as u64));
        }
        Ok(bodies)
    }

    /// The points of these ranges, by what they are about.
    fn body(resource: &Resource, part: &[(&Metric, Range<usize>)]) -> Vec<u8> {
        let mut abouts: BTreeMap<&About, Vec<Value>> = BTreeMap::new();
        for (metric, range) in part {
            for points in metric.points[range.clone()].chunk_by(|a, b| a.about == b.about) {
                let values: Vec<&Value> = points.iter().map(|point| &point.value).collect();
                abouts
                    .entry(&points[0].about)
                    .or_default()
                    .push(metric.shown(&values));
            }
        }
        let resources = abouts.into_iter().map(|((app, instance), metrics)| {
            json!({
                "resource": resource.of(app.as_deref(), instance.as_deref()),
                "scopeMetrics": [{"scope": scope(), "metrics": metrics}],
            })
        });
        let body = json!({"resourceMetrics": resources.collect::<Vec<_>>()});
        // A value is always JSON.
        serde_json::to_vec(&body).unwrap_or_default()
    }

    /// The metrics of a family: a summary without a count, as the instances of an app have it, becomes gauges.
    fn metrics(&mut self, name: &str, family: &Family, now_ns: u64) -> Vec<Metric> {
        let mut quantiles = Vec::new();
        let points = match family.kind {
            Kind::Counter => self.sums(name, family, now_ns),
            Kind::Gauge | Kind::Untyped => gauges(name, &family.samples, now_ns),
            Kind::Histogram => self.grouped(name, &grouped(name, family, BOUND), now_ns, histogram),
            Kind::Summary => {
                let (whole, parts): (BTreeMap<_, _>, BTreeMap<_, _>) = grouped(name, family, QUANTILE)
                    .into_iter()
                    .partition(|(_, group)| group.count.is_some());
                let of_parts = family.samples.iter().filter(|sample| sample.name == name);
                let of_parts = of_parts.filter(|sample| parts.contains_key(&labels_but(sample, QUANTILE)));
                quantiles = gauges(name, of_parts, now_ns);
                self.grouped(name, &whole, now_ns, summary)
            }
        };
        let help = unescaped(family.help.as_deref().unwrap_or_default());
        let made = |kind, points| Metric {
            name: name.to_owned(),
            help: help.clone(),
            kind,
            points,
        };
        vec![made(family.kind, points), made(Kind::Gauge, quantiles)]
    }

    /// When a sum began, at the earliest that is known: when it was seen first, or was seen last before it went back.
    fn start_ns(&mut self, name: &str, labels: &Labels, value: f64, now_ns: u64) -> u64 {
        let key = (name.to_owned(), labels.clone());
        let counted = self.counted.entry(key).or_insert(Counted {
            start_ns: now_ns,
            last_ns: now_ns,
            value,
        });
        if value < counted.value {
            counted.start_ns = counted.last_ns;
        }
        // The clock may have been set back.
        counted.start_ns = counted.start_ns.min(now_ns);
        (counted.last_ns, counted.value) = (now_ns, value);
        counted.start_ns
    }

    fn sums(&mut self, name: &str, family: &Family, now_ns: u64) -> Vec<Point> {
        let mut points = Vec::new();
        for sample in family.samples.iter().filter(|sample| sample.value.is_finite()) {
            let labels = labels(sample);
            let start = self.start_ns(name, &labels, sample.value, now_ns);
            let mut value = point(&labels, now_ns);
            value["startTimeUnixNano"] = json!(start.to_string());
            value["asDouble"] = json!(sample.value);
            points.push(made(name, &labels, value));
        }
        points
    }

    /// The points of a metric whose samples belong together.
    fn grouped(
        &mut self,
        name: &str,
        groups: &BTreeMap<Labels, Group>,
        now_ns: u64,
        fill: fn(&Group, &mut Value) -> Option<()>,
    ) -> Vec<Point> {
        let mut points = Vec::new();
        for (labels, group) in groups {
            let count = group.count.unwrap_or(0.0);
            let start = self.start_ns(name, labels, count, now_ns);
            let mut value = point(labels, now_ns);
            value["startTimeUnixNano"] = json!(start.to_string());
            if fill(group, &mut value).is_some() {
                points.push(made(name, labels, value));
            }
        }
        points
    }
}

impl Metric {
    fn shown(&self, points: &[&Value]) -> Value {
        let mut metric = json!({"name": self.name, "description": self.help, "unit": unit(&self.name)});
        let (kind, mut data) = match self.kind {
            Kind::Counter => (
                "sum",
                json!({"aggregationTemporality": CUMULATIVE, "isMonotonic": true}),
            ),
            Kind::Histogram => ("histogram", json!({"aggregationTemporality": CUMULATIVE})),
            Kind::Summary => ("summary", json!({})),
            Kind::Gauge | Kind::Untyped => ("gauge", json!({})),
        };
        data["dataPoints"] = json!(points);
        metric[kind] = data;
        metric
    }
}

fn gauges<'s>(name: &str, samples: impl IntoIterator<Item = &'s Sample>, now_ns: u64) -> Vec<Point> {
    let finite = samples.into_iter().filter(|sample| sample.value.is_finite());
    let of_sample = |sample: &Sample| {
        let labels = labels(sample);
        let mut value = point(&labels, now_ns);
        value["asDouble"] = json!(sample.value);
        made(name, &labels, value)
    };
    finite.map(of_sample).collect()
}

fn point(labels: &Labels, now_ns: u64) -> Value {
    let attributes: Vec<Value> = labels.iter().map(|(name, value)| text(name, value)).collect();
    json!({"attributes": attributes, "timeUnixNano": now_ns.to_string()})
}

fn made(name: &str, labels: &Labels, value: Value) -> Point {
    let of = |label: &str| {
        let found = labels.iter().find(|(name, _)| name == label);
        found
            .map(|(_, value)| value.clone())
            .filter(|value| !value.is_empty())
    };
    // The exporters for PM2 call the app so.
    let app = of(if name.starts_with("pm2_") { "name" } else { "app" });
    Point {
        about: (app, of("id")),
        value,
    }
}

/// The labels in the order of their names.
fn labels(sample: &Sample) -> Labels {
    labels_but(sample, "")
}

/// Those without the one that its histogram or summary is made of.
pub(super) fn labels_but(sample: &Sample, part: &str) -> Labels {
    let own = sample.labels.iter().filter(|(name, _)| name != part);
    let mut labels: Labels = own
        .map(|(name, value)| (name.clone(), unescaped(value)))
        .collect();
    labels.sort();
    labels
}

/// The unit (UCUM) that the end of a name says.
fn unit(name: &str) -> &'static str {
    let name = name.strip_suffix("_total").unwrap_or(name);
    let units = [
        ("_seconds", "s"),
        ("_bytes", "By"),
        ("_percent", "%"),
        ("_ratio", "1"),
    ];
    units
        .into_iter()
        .find(|(end, _)| name.ends_with(end))
        .map_or("", |(_, unit)| unit)
}

/// As it was before it was written on a page.
fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (letter, letter == '\\') {
            (_, true) => match letters.next() {
                Some('n') => plain.push('\n'),
                Some(other) => plain.push(other),
                None => plain.push('\\'),
            },
            (letter, false) => plain.push(letter),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use rpm_wire::api::{Scrape, ScrapedPage};

    use super::super::encode::text as attribute;
    use super::*;
    use crate::own::Sums;

    const PAGE: &str = "# HELP rpm_up 1 if\\\\the daemon answers\n# TYPE rpm_up gauge\nrpm_up 1\n\
        # TYPE rpm_restarts_total counter\nrpm_restarts_total{app=\"a \\\"b\\\"\",id=\"3\"} 4\nrpm_restarts_total{app=\"web\",id=\"\"} 0\n\
        # TYPE rpm_proxy_answer_seconds histogram\nrpm_proxy_answer_seconds_bucket{app=\"web\",le=\"0.5\"} 2\n\
        rpm_proxy_answer_seconds_bucket{app=\"web\",le=\"0.05\"} 1\nrpm_proxy_answer_seconds_bucket{app=\"web\",le=\"+Inf\"} 5\n\
        rpm_proxy_answer_seconds_sum{app=\"web\"} 7.5\nrpm_proxy_answer_seconds_count{app=\"web\"} 5\n\
        # TYPE gc summary\ngc{app=\"web\",quantile=\"0.5\"} 7\ngc_sum{app=\"web\"} 9\ngc_count{app=\"web\"} 2\n\
        # TYPE pm2_memory gauge\npm2_memory{id=\"3\",name=\"web\"} 1024\nodd{app=\"web\"} NaN\n";

    fn resource() -> Resource {
        Resource {
            host: "box".to_owned(),
            ..Resource::default()
        }
    }

    fn converted(converter: &mut Converter, page: &str, now_ns: u64) -> Value {
        let bodies = converter.bodies(page, &resource(), now_ns).expect("a page");
        assert_eq!(bodies.len(), 1);
        serde_json::from_slice(&bodies[0].0).expect("JSON")
    }

    /// The metrics of a resource, by its name and instance.
    fn of<'v>(body: &'v Value, service: &str, instance: Option<&str>) -> Vec<&'v Value> {
        let resources = body["resourceMetrics"].as_array().expect("a list");
        let wanted = |resource: &&Value| {
            let attribute = |key: &str| {
                let all = resource["resource"]["attributes"].as_array().expect("a list");
                let found = all.iter().find(|it| it["key"] == key);
                found.and_then(|it| it["value"]["stringValue"].as_str())
            };
            assert_eq!(attribute("host.name"), Some("box"));
            let id = instance.map_or_else(|| "box".to_owned(), |instance| format!("box/{instance}"));
            attribute("service.name") == Some(service) && attribute("service.instance.id") == Some(&id)
        };
        let found = resources.iter().find(wanted).expect("the resource");
        found["scopeMetrics"][0]["metrics"]
            .as_array()
            .expect("a list")
            .iter()
            .collect()
    }

    #[test]
    fn each_kind_is_what_the_specification_says() {
        let body = converted(&mut Converter::default(), PAGE, 5);
        let up = of(&body, "rpm", None);
        let expected = json!({"name": "rpm_up", "description": "1 if\\the daemon answers", "unit": "",
            "gauge": {"dataPoints": [{"attributes": [], "timeUnixNano": "5", "asDouble": 1.0}]}});
        assert_eq!(up, [&expected]);
        let restarts = of(&body, "a \"b\"", Some("3"))[0];
        let expected = json!({"name": "rpm_restarts_total", "description": "", "unit": "", "sum": {
            "aggregationTemporality": 2, "isMonotonic": true,
            "dataPoints": [{"attributes": [text("app", "a \"b\""), text("id", "3")],
                "timeUnixNano": "5", "startTimeUnixNano": "5", "asDouble": 4.0}],
        }});
        assert_eq!(restarts, &expected);
        let web = of(&body, "web", None);
        let named = |name: &str| {
            *web.iter()
                .find(|metric| metric["name"] == name)
                .expect("the metric")
        };
        let expected = json!({"aggregationTemporality": 2, "dataPoints": [{"attributes": [text("app", "web")],
            "timeUnixNano": "5", "startTimeUnixNano": "5", "count": "5", "sum": 7.5,
            "bucketCounts": ["1", "1", "3"], "explicitBounds": [0.05, 0.5]}]});
        assert_eq!(named("rpm_proxy_answer_seconds")["histogram"], expected);
        assert_eq!(named("rpm_proxy_answer_seconds")["unit"], "s");
        let expected = json!([{"attributes": [text("app", "web")], "timeUnixNano": "5", "startTimeUnixNano": "5",
            "count": "2", "sum": 9.0, "quantileValues": [{"quantile": 0.5, "value": 7.0}]}]);
        assert_eq!(named("gc")["summary"]["dataPoints"], expected);
        assert!(
            web.iter().all(|metric| metric["name"] != "odd"),
            "what is no number has no point"
        );
        assert_eq!(of(&body, "web", Some("3"))[0]["name"], "pm2_memory");
    }

    #[test]
    fn a_summary_of_an_app_keeps_the_quantiles_of_each_instance() {
        let text = "# TYPE size summary\nsize{quantile=\"0.5\"} 7\nsize{quantile=\"0.9\"} NaN\nsize_sum 10\nsize_count 2\n\
            # TYPE heat gauge\nheat{le=\"5\",quantile=\"x\"} 1.5\n";
        let pages = [0, 1].map(|id| ScrapedPage {
            app: "web".to_owned(),
            id,
            worker: format!("{id}-1"),
            page: Some(text.to_owned()),
            ..ScrapedPage::default()
        });
        let mut sums = Sums::default();
        let apps = vec!["web".to_owned()];
        let pages = pages.into();
        assert_eq!(sums.add(&Scrape { apps, pages }), [""; 0]);
        let mut page = String::new();
        sums.render(&mut page);
        let body = converted(&mut Converter::default(), &page, 5);
        let whole = of(&body, "web", None);
        let size = whole
            .iter()
            .find(|metric| metric["name"] == "size")
            .expect("the summary");
        let expected = json!([{"attributes": [attribute("app", "web")], "timeUnixNano": "5", "startTimeUnixNano": "5",
            "count": "4", "sum": 20.0, "quantileValues": []}]);
        assert_eq!(size["summary"]["dataPoints"], expected);
        for id in ["0", "1"] {
            let points = |name: &str| {
                let metrics = of(&body, "web", Some(id));
                let found = metrics.iter().find(|metric| metric["name"] == name);
                found.expect("the metric")["gauge"]["dataPoints"].clone()
            };
            let ids = [attribute("app", "web"), attribute("id", id)];
            let attributes = [&ids[..], &[attribute("quantile", "0.5")]].concat();
            let expected = json!([{"attributes": attributes, "timeUnixNano": "5", "asDouble": 7.0}]);
            assert_eq!(points("size"), expected);
            // They are labels like others where they mean nothing.
            let attributes = [&ids[..], &[attribute("le", "5"), attribute("quantile", "x")]].concat();
            let expected = json!([{"attributes": attributes, "timeUnixNano": "5", "asDouble": 1.5}]);
            assert_eq!(points("heat"), expected);
        }
    }

    #[test]
    fn a_sum_that_goes_back_has_begun_again() {
        let mut converter = Converter::default();
        let start = |value: u64, now_ns: u64, converter: &mut Converter| {
            let page = format!("# TYPE c counter\nc{{app=\"web\"}} {value}\n");
            let body = converted(converter, &page, now_ns);
            let point = &of(&body, "web", None)[0]["sum"]["dataPoints"][0];
            assert_eq!(point["asDouble"], json!(value as f64));
            point["startTimeUnixNano"].as_str().expect("a time").to_owned()
        };
        for (value, now_ns, expected) in [(5, 10, "10"), (9, 20, "10"), (1, 30, "20"), (2, 40, "20")] {
            assert_eq!(
                start(value, now_ns, &mut converter),
                expected,
                "{value} at {now_ns}"
            );
        }
        // A daemon that does not answer for a while, and a clock that is set back.
        let down = "# TYPE rpm_up gauge\nrpm_up 0\n";
        assert_eq!(converter.bodies(down, &resource(), 45).expect("a page").len(), 1);
        assert_eq!(start(3, 46, &mut converter), "20", "nothing has begun again");
        assert_eq!(
            start(3, 15, &mut converter),
            "15",
            "not after the time of the point"
        );
        assert_eq!(converter.bodies("", &resource(), 50).expect("a page").len(), 0);
        assert_eq!(
            start(2, 60, &mut converter),
            "60",
            "nothing is kept of what is gone"
        );
    }

    #[test]
    fn a_long_page_is_sent_in_parts() {
        let lines = |count: usize| -> String {
            (0..count)
                .map(|id| format!("g{{app=\"web\",id=\"{id}\"}} 1\n"))
                .collect()
        };
        for (points, expected) in [
            (POINTS, vec![POINTS]),
            (POINTS + 1, vec![POINTS, 1]),
            (2 * POINTS + 5, vec![POINTS, POINTS, 5]),
        ] {
            let bodies = Converter::default()
                .bodies(&lines(points), &resource(), 5)
                .expect("a page");
            let counts: Vec<usize> = bodies.iter().map(|(_, count)| *count as usize).collect();
            assert_eq!(counts, expected);
            for (body, count) in &bodies {
                let body: Value = serde_json::from_slice(body).expect("JSON");
                assert_eq!(body.to_string().matches("timeUnixNano").count() as u64, *count);
            }
        }
        assert!(Converter::default().bodies("<html>", &resource(), 5).is_err());
    }
}
