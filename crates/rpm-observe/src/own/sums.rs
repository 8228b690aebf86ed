//! The figures of the workers of all apps, added up. What a worker has counted stays in the sum when the worker is gone, so that no sum goes
//! backwards.

use std::collections::{BTreeMap, BTreeSet};

use rpm_wire::api::{Scrape, ScrapedPage};

use super::parse::{self, Family, Kind, Malformed, Sample};
use super::prom_client;

/// Maximum number of sums of an app.
const SUMS_LIMIT: usize = 50_000;
/// Prefixes of metrics that are rpm's own.
const OWN: [&str; 2] = ["rpm_", "pm2_"];
/// Labels that are added: an app's own of these names get `exported_` before theirs, as Prometheus does it.
const ADDED: [&str; 2] = ["app", "id"];
/// The label that tells workers apart, which a sum cannot have.
const INSTANCE: &str = "instance";

/// Name and labels of a sample, as they are written.
type Series = (String, String);

/// What was read so far.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    apps: BTreeMap<String, App>,
}

#[derive(Debug, Default)]
struct App {
    /// Of workers that are gone.
    ended: BTreeMap<Series, f64>,
    /// By worker: what it has counted, as last read.
    workers: BTreeMap<String, Worker>,
    /// Kind and help of every metric that is summed.
    summed: BTreeMap<String, (Kind, Option<String>)>,
    /// Workers whose last pages were read.
    told: BTreeSet<String>,
    errors: u64,
}

#[derive(Debug, Default)]
struct Worker {
    /// The metric, and the values by series.
    counted: BTreeMap<String, BTreeMap<Series, f64>>,
    /// What does not add up, of the last page.
    present: BTreeMap<String, Family>,
    id: u32,
}

impl Sums {
    /// Adds what the daemon has read. Returns what is wrong, a line for each worker.
    pub(crate) fn add(&mut self, scrape: &Scrape) -> Vec<String> {
        self.apps.retain(|name, _| scrape.apps.contains(name));
        for name in &scrape.apps {
            self.apps.entry(name.clone()).or_default();
        }
        self.forget_present();
        let troubles: Vec<String> = scrape
            .pages
            .iter()
            .filter_map(|page| self.add_page(page))
            .collect();
        for (name, app) in &mut self.apps {
            let of_app = scrape
                .pages
                .iter()
                .filter(|page| page.app == *name && !page.ended);
            let alive: BTreeSet<&str> = of_app.map(|page| page.worker.as_str()).collect();
            app.retire(&alive);
            let told = scrape.pages.iter().filter(|page| page.ended && page.app == *name);
            let told: BTreeSet<&String> = told.map(|page| &page.worker).collect();
            app.told.retain(|worker| told.contains(worker));
        }
        troubles
    }

    /// What does not add up is of one moment.
    pub(crate) fn forget_present(&mut self) {
        for worker in self.apps.values_mut().flat_map(|app| app.workers.values_mut()) {
            worker.present.clear();
        }
    }

    fn add_page(&mut self, page: &ScrapedPage) -> Option<String> {
        let app = self.apps.get_mut(&page.app)?;
        if page.ended && !app.told.insert(page.worker.clone()) {
            return None;
        }
        let trouble = match (&page.page, &page.error) {
            (Some(text), _) => match families_of(page, text) {
                Ok(families) => app.read(page, families),
                Err(malformed) => Some(malformed.to_string()),
            },
            (None, error) => Some(error.clone().unwrap_or_else(|| "no page".to_owned())),
        }?;
        // One that leaves takes no connections any more, and gives its last page by itself.
        if page.leaving && page.page.is_none() {
            return None;
        }
        app.errors += 1;
        Some(format!("no metrics of {} {}: {trouble}", page.app, page.id))
    }

    /// Appends everything to a page.
    pub(crate) fn render(&self, page: &mut String) {
        let mut metrics: BTreeMap<&str, (Kind, Option<&str>, Vec<String>)> = BTreeMap::new();
        for (name, app) in &self.apps {
            app.lines(name, &mut metrics);
        }
        for (name, (kind, help, lines)) in metrics {
            if let Some(help) = help {
                page.push_str(&format!("# HELP {name} {help}\n"));
            }
            page.push_str(&format!("# TYPE {name} {}\n", kind.word()));
            page.push_str(&lines.concat());
            page.push('\n');
        }
        if self.apps.is_empty() {
            return;
        }
        page.push_str(
            "# HELP rpm_app_scrape_errors_total Pages of an app's own metrics that could not be read\n",
        );
        page.push_str("# TYPE rpm_app_scrape_errors_total counter\n");
        for (name, app) in &self.apps {
            let (name, errors) = (escaped(name), app.errors);
            page.push_str(&format!(
                "rpm_app_scrape_errors_total{{app=\"{name}\"}} {errors}\n"
            ));
        }
        page.push('\n');
    }
}

impl App {
    /// Takes what a worker has counted, and what else it says. Returns what of it cannot be taken.
    fn read(&mut self, page: &ScrapedPage, families: BTreeMap<String, Family>) -> Option<String> {
        let mut trouble = None;
        let worker = self.workers.entry(page.worker.clone()).or_default();
        worker.id = page.id;
        for (name, family) in families {
            if OWN.iter().any(|prefix| name.starts_with(prefix)) {
                continue;
            }
            let (adds_up, mut rest): (Vec<Sample>, Vec<Sample>) = family
                .samples
                .into_iter()
                .partition(|sample| adds_up(family.kind, sample));
            rest.retain(|_| !matches!(family.kind, Kind::Counter | Kind::Histogram));
            if !adds_up.is_empty() {
                let known = self
                    .summed
                    .entry(name.clone())
                    .or_insert((family.kind, family.help.clone()));
                if known.0 != family.kind {
                    trouble = Some(format!("{name} is a {} elsewhere", known.0.word()));
                    continue;
                }
                let counted = worker.counted.entry(name.clone()).or_default();
                if !count(counted, &mut self.ended, adds_up) {
                    trouble = Some(format!("more than {SUMS_LIMIT} sums"));
                }
            }
            // A worker that leaves has the number of its successor.
            if !rest.is_empty() && !page.ended && !page.leaving {
                let rest = Family {
                    samples: rest,
                    ..family
                };
                worker.present.insert(name, rest);
            }
        }
        trouble
    }

    /// Those that are gone leave behind what they have counted.
    fn retire(&mut self, alive: &BTreeSet<&str>) {
        let ended = &mut self.ended;
        self.workers.retain(|key, worker| {
            let stays = alive.contains(key.as_str());
            if !stays {
                for (series, value) in worker.counted.values().flatten() {
                    *ended.entry(series.clone()).or_default() += value;
                }
            }
            stays
        });
    }

    fn lines<'s>(&'s self, app: &str, metrics: &mut BTreeMap<&'s str, (Kind, Option<&'s str>, Vec<String>)>) {
        let app = escaped(app);
        let mut sums = self.ended.clone();
        let mut ordered: BTreeMap<&str, Vec<(&str, String, f64, String)>> = BTreeMap::new();
        for (series, value) in self
            .workers
            .values()
            .flat_map(|worker| worker.counted.values())
            .flatten()
        {
            *sums.entry(series.clone()).or_default() += value;
        }
        for ((sample, labels), value) in &sums {
            let metric = self.metric_of(sample);
            let Some((name, _)) = metric else { continue };
            let line = format!("{sample}{{app=\"{app}\"{labels}}} {}\n", written(*value));
            let (labels, bound) = without_bound(labels);
            ordered
                .entry(name)
                .or_default()
                .push((sample, labels, bound, line));
        }
        for (name, mut of_metric) in ordered {
            let Some((kind, help)) = self.summed.get(name) else {
                continue;
            };
            let (known, _, lines) = metrics
                .entry(name)
                .or_insert((*kind, help.as_deref(), Vec::new()));
            if known == kind {
                // The buckets of a histogram ascend.
                of_metric.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)).then(a.2.total_cmp(&b.2)));
                lines.extend(of_metric.into_iter().map(|(.., line)| line));
            }
        }
        for worker in self.workers.values() {
            for (name, family) in &worker.present {
                let help = family.help.as_deref();
                let (known, _, lines) = metrics.entry(name).or_insert((family.kind, help, Vec::new()));
                if *known != family.kind {
                    continue;
                }
                for sample in &family.samples {
                    let labels = labels_of(sample, false);
                    let (id, value) = (worker.id, written(sample.value));
                    lines.push(format!(
                        "{}{{app=\"{app}\",id=\"{id}\"{labels}}} {value}\n",
                        sample.name
                    ));
                }
            }
        }
    }

    fn metric_of(&self, sample: &str) -> Option<(&str, &(Kind, Option<String>))> {
        let bases = ["_bucket", "_sum", "_count"].map(|ending| sample.strip_suffix(ending));
        let known = |name: &str| self.summed.get_key_value(name);
        let of_parts = bases.into_iter().flatten().find_map(known);
        let found = of_parts.filter(|(_, (kind, _))| matches!(kind, Kind::Histogram | Kind::Summary));
        found
            .or_else(|| known(sample))
            .map(|(name, metric)| (name.as_str(), metric))
    }
}

fn families_of(page: &ScrapedPage, text: &str) -> Result<BTreeMap<String, Family>, Malformed> {
    match page.prom_client {
        true => prom_client::read(text),
        false => parse::read(text),
    }
}

/// True for what counts, and so adds up over the workers.
fn adds_up(kind: Kind, sample: &Sample) -> bool {
    let is_number = sample.value.is_finite();
    match kind {
        Kind::Counter | Kind::Histogram => is_number,
        Kind::Summary => is_number && sample.labels.iter().all(|(name, _)| name != "quantile"),
        Kind::Gauge | Kind::Untyped => false,
    }
}

/// Takes the values of a page; those that went backwards, because the worker has begun again, are kept. False if there are too many.
fn count(
    counted: &mut BTreeMap<Series, f64>,
    ended: &mut BTreeMap<Series, f64>,
    samples: Vec<Sample>,
) -> bool {
    let mut fresh: BTreeMap<Series, f64> = BTreeMap::new();
    for sample in samples {
        let series = (sample.name.clone(), labels_of(&sample, true));
        *fresh.entry(series).or_default() += sample.value;
    }
    let mut room = true;
    for (series, value) in fresh {
        if !counted.contains_key(&series) && counted.len() + ended.len() >= SUMS_LIMIT {
            room = false;
            continue;
        }
        let before = counted.insert(series.clone(), value);
        if let Some(before) = before.filter(|before| *before > value) {
            *ended.entry(series).or_default() += before;
        }
    }
    room
}

/// The labels of a sample as they are written behind those that are added; `summed`: without the one that tells workers apart.
fn labels_of(sample: &Sample, summed: bool) -> String {
    let labels = sample
        .labels
        .iter()
        .filter(|(name, _)| !(summed && name == INSTANCE));
    let mut labels: Vec<String> = labels
        .map(|(name, value)| match ADDED.contains(&name.as_str()) {
            true => format!(",exported_{name}=\"{value}\""),
            false => format!(",{name}=\"{value}\""),
        })
        .collect();
    labels.sort_unstable();
    labels.concat()
}

/// The labels of a bucket without its bound, and the bound.
fn without_bound(labels: &str) -> (String, f64) {
    const LABEL: &str = ",le=\"";
    let split = labels.split_once(LABEL).and_then(|(before, rest)| {
        let (bound, behind) = rest.split_once('"')?;
        Some((format!("{before}{behind}"), bound.parse().ok()?))
    });
    split.unwrap_or_else(|| (labels.to_owned(), f64::NAN))
}

/// A value as the format has it.
fn written(value: f64) -> String {
    match value {
        _ if value.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "+Inf".to_owned(),
        f64::NEG_INFINITY => "-Inf".to_owned(),
        _ => value.to_string(),
    }
}

/// The value of a label, as it stands between quotes.
fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests;
