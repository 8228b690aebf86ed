//! The rings and the file together.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::row::{COUNT, FIGURES, ROW, Row, Values};
use super::tiers::{ROWS, Series, Span, query};
use super::*;
use rpm_wire::api::Answered;

/// Divisible by 60.
const START: u32 = 1_764_411_600;

/// The rings of one app in memory.
struct Rings {
    bytes: Vec<u8>,
    open: Open,
}

impl Rings {
    fn new() -> Rings {
        Rings {
            bytes: vec![0; ROWS],
            open: Open::default(),
        }
    }

    fn push(&mut self, second: u32, value: f64) {
        for row in self.open.push(second, [Some(value); COUNT]) {
            self.bytes[row.place..row.place + ROW].copy_from_slice(&row.bytes);
        }
    }

    fn ask(&self, from: u32, to: u32, points: u32, now: u32) -> Series {
        let span = Span {
            from: from.into(),
            to: to.into(),
            points,
        };
        query(&self.bytes, span, now.into())
    }
}

/// Place of a figure.
fn at(name: &str) -> usize {
    FIGURES
        .iter()
        .position(|figure| figure.name == name)
        .expect("a figure")
}

#[test]
fn each_ring_has_averages_maxima_and_sums() {
    let mut rings = Rings::new();
    (0..=7200).for_each(|second| rings.push(START + second, f64::from(second % 10)));
    let now = START + 7200;
    let fine = rings.ask(now - 20, now, 300, now);
    assert_eq!((fine.step, fine.points), (1, 20));
    assert_eq!(fine.values[at("cpu")][3], Some(3.0));
    let middle = rings.ask(now - 3600, now, 3600, now);
    assert_eq!((middle.step, middle.points), (10, 360));
    assert_eq!(middle.values[at("cpu")][0], Some(4.5));
    assert_eq!(middle.maxima[at("cpu")][0], Some(9.0));
    assert_eq!(middle.values[at("restarts")][0], Some(45.0));
    assert_eq!(middle.values[at("requests")][0], Some(4.5), "per second");
    assert!(middle.maxima[at("online")].is_empty());
    let coarse = rings.ask(now - 86_400, now, 5000, now);
    assert_eq!((coarse.step, coarse.points), (60, 1440));
    assert_eq!(coarse.values[at("restarts")][1439], Some(270.0));
    assert_eq!(coarse.values[at("restarts")][0], None, "nothing ran then");
    let few = rings.ask(now - 3600, now, 7, now);
    assert!(few.points <= 8, "{}", few.points);
    assert!(few.values[at("cpu")].iter().all(|value| *value == Some(4.5)));
}

/// Whatever is written when, a step has the figures of its own seconds or none. The clock jumps in both directions, and the seed is fixed.
#[test]
fn no_step_has_the_figures_of_another() {
    for seed in 1..40_u64 {
        let (mut rings, mut state, mut second) = (Rings::new(), seed, START);
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32
        };
        for _ in 0..400 {
            second = match next() % 50 {
                0 => second + next() % 4000,
                1 => second - next() % 4000,
                _ => second + 1,
            };
            rings.push(second, f64::from(second / 60 % 1000));
        }
        for points in [1, 60, 5000] {
            for (age, unit) in [(500, 1), (20_000, 10), (100_000, 60)] {
                let series = rings.ask(second - age, second, points, second);
                assert_eq!(series.step % unit, 0);
                if series.step > 60 {
                    continue;
                }
                for (place, value) in series.values[at("cpu")].iter().enumerate() {
                    let minute = (series.from + place as u64 * series.step) / 60 % 1000;
                    let Some(value) = value else { continue };
                    assert!(
                        (value - minute as f64).abs() < 1.01,
                        "seed {seed}, {value} for {minute}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_step_goes_on_where_the_process_before_ended() {
    let mut rings = Rings::new();
    (0..35).for_each(|second| rings.push(START + second, 1.0));
    rings.open = Open::resume(START + 36, |place| {
        rings.bytes[place..place + ROW].try_into().ok()
    });
    (36..61).for_each(|second| rings.push(START + second, 1.0));
    let day = rings.ask(START, START + 60, 1, START + 50_000);
    assert_eq!(day.values[at("restarts")], [Some(59.0)], "one second is missing");
}

#[test]
fn a_step_that_lasts_is_there_in_every_ring() {
    let mut rings = Rings::new();
    (0..4).for_each(|second| rings.push(START + second, 2.0));
    let now = START + 3;
    for age in [100, 3600, 86_400] {
        let series = rings.ask(now - age, now, 5000, now);
        let known: Vec<f64> = series.values[at("cpu")].iter().flatten().copied().collect();
        assert!(
            !known.is_empty() && known.iter().all(|value| *value == 2.0),
            "{age}: {known:?}"
        );
    }
}

#[test]
fn half_a_row_is_a_gap() {
    let row = Row::of([Some(5.0); COUNT]);
    let bytes = row.bytes(START);
    assert_eq!(Row::read(&bytes, START), Some(row));
    assert_eq!(Row::read(&bytes, START + 1), None);
    for cut in 0..ROW {
        let mut torn = [0; ROW];
        torn[..cut].copy_from_slice(&bytes[..cut]);
        assert_eq!(Row::read(&torn, START), None, "{cut} bytes");
    }
}

fn place(name: &str) -> PathBuf {
    let place = std::env::temp_dir().join(format!("rpm-history-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&place);
    fs::create_dir(&place).expect("a directory");
    place
}

fn recorder(place: &Path) -> Recorder {
    Recorder {
        path: place.join(FILE),
        store: None,
        apps: BTreeMap::new(),
        trouble: None,
    }
}

fn figures(app: &str) -> Vec<AppFigures> {
    let figures = AppFigures {
        app: app.to_owned(),
        memory_bytes: 1 << 20,
        ..AppFigures::default()
    };
    vec![figures]
}

/// What is read of an app's memory in the ten seconds before `START + 10`.
fn memory(place: &Path, app: &str) -> Vec<Option<f64>> {
    let store = Store::read_only(&place.join(FILE)).expect("it is sound");
    let rows = store.rows(app).expect("it is read").expect("it is there");
    let span = Span {
        from: START.into(),
        to: u64::from(START) + 10,
        points: 10,
    };
    query(&rows, span, u64::from(START) + 10).values[at("memory")].clone()
}

#[test]
fn what_was_written_is_read_by_the_next_process() {
    let place = place("kept");
    let mut first = recorder(&place);
    first.record(START, figures("api")).expect("it is written");
    let mut second = recorder(&place);
    second
        .record(START + 1, figures("api"))
        .expect("the other one writes");
    assert!(second.store.is_none(), "one process writes");
    drop(first);
    second.record(START + 2, figures("api")).expect("it is written");
    let mib = Some(f64::from(1 << 20));
    assert_eq!(memory(&place, "api")[..4], [mib, None, mib, None]);
    let mode = fs::metadata(place.join(FILE))
        .expect("a file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    fs::remove_dir_all(place).expect("it is ours");
}

#[test]
fn durations_are_kept_with_their_bounds() {
    let place = place("durations");
    let mut recorder = recorder(&place);
    let counted = |total: u64, bounds_ms: &[f64]| {
        let answered = Answered {
            classes: [0, total, 0, 0, 0],
            times: vec![total, 0, 0],
        };
        let mut figures = figures("api");
        figures[0].bounds_ms = bounds_ms.to_vec();
        figures[0].workers = vec![1];
        figures[0].answered = BTreeMap::from([(1, answered)]);
        figures
    };
    for second in 0..21 {
        let figures = counted(u64::from(second), &[1.0, 2.5]);
        recorder.record(START + second, figures).expect("it is written");
    }
    let kept = || {
        let store = Store::read_only(&place.join(FILE)).expect("it is sound");
        let (bounds, rows) = store.heat("api").expect("it is read").expect("it is there");
        let span = Span {
            from: START.into(),
            to: u64::from(START) + 20,
            points: 10,
        };
        heat::query(&rows, bounds, span, u64::from(START) + 20)
    };
    let heat = kept();
    assert_eq!(heat.bounds_ms, [1.0, 2.5]);
    assert_eq!(heat.columns, [Some(vec![9, 0, 0]), Some(vec![10, 0, 0])]);
    // It is served by the proxy now.
    let figures = counted(30, &[1.0, 2.0]);
    recorder.record(START + 21, figures).expect("it is written");
    let heat = kept();
    assert_eq!((heat.bounds_ms, heat.columns), (vec![1.0, 2.0], vec![None, None]));
    fs::remove_dir_all(place).expect("it is ours");
}

#[test]
fn a_deleted_file_is_made_again() {
    let place = place("deleted");
    let mut recorder = recorder(&place);
    recorder.record(START - 1, figures("api")).expect("it is written");
    fs::remove_file(place.join(FILE)).expect("it is ours");
    recorder.record(START, figures("api")).expect("it is written");
    assert_eq!(memory(&place, "api")[0], Some(f64::from(1 << 20)));
    fs::remove_dir_all(place).expect("it is ours");
}

#[test]
fn a_damaged_file_is_set_aside() {
    let place = place("cut");
    let path = place.join(FILE);
    recorder(&place)
        .record(START, figures("api"))
        .expect("it is written");
    let whole = fs::read(&path).expect("it is there");
    for damaged in [
        &whole[..whole.len() - 1],
        &whole[..100],
        &[&b"x"[..], &whole[1..]].concat(),
    ] {
        fs::write(&path, damaged).expect("it is written");
        recorder(&place)
            .record(START + 1, figures("api"))
            .expect("it begins again");
        assert_eq!(
            fs::read(path.with_extension("before")).expect("it is kept"),
            damaged
        );
        assert_eq!(memory(&place, "api")[..2], [None, Some(f64::from(1 << 20))]);
    }
    fs::remove_dir_all(place).expect("it is ours");
}

#[test]
fn the_file_is_bounded_and_old_apps_make_room() {
    let place = place("full");
    let mut recorder = recorder(&place);
    for app in 0..file::MAX_APPS {
        recorder
            .record(START, figures(&format!("app{app}")))
            .expect("there is room");
    }
    let full = recorder
        .record(START + 60, figures("one-more"))
        .expect_err("there is none");
    assert!(full.to_string().contains("no history of one-more"), "{full}");
    let length = || fs::metadata(place.join(FILE)).expect("a file").len();
    assert!(length() <= 73_000_000);
    let before = length();
    recorder
        .record(START + 7 * 86_400 + 100, figures("one-more"))
        .expect("a week later");
    assert_eq!(length(), before);
    fs::remove_dir_all(place).expect("it is ours");
}

#[test]
fn values_have_a_place_each() {
    let values: Values = std::array::from_fn(|at| Some(at as f64));
    let read = Row::read(&Row::of(values).bytes(7), 7).expect("a row");
    assert_eq!(read.values, values);
    assert_eq!(read.maxima[at("p99")], values[at("p99")]);
}
