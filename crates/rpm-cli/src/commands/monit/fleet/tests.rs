//! Apps as a tree.

use serde_json::json;

use super::*;

pub(in super::super) fn process(id: u32, name: &str, (cpu, memory, restarts): (f64, u64, u32)) -> Process {
    serde_json::from_value(json!({
        "id": id, "name": name, "instance": id, "generation": 1, "exec_mode": "cluster", "plane": "direct",
        "status": "online", "pid": 100 + id, "uptime_ms": 65_000, "started_at_ms": 0, "created_at_ms": 0,
        "restarts": restarts, "unstable_restarts": 0, "cpu_percent": cpu, "memory_bytes": memory,
        "connections": null, "exit_code": null, "out_log": "", "err_log": ""
    }))
    .expect("a process")
}

/// One app of three instances, and two of one.
pub(in super::super) fn some() -> Vec<Process> {
    vec![
        process(0, "web", (1.0, 30 << 20, 0)),
        process(1, "web", (4.0, 10 << 20, 1)),
        process(2, "web", (2.0, 20 << 20, 0)),
        process(3, "Api", (5.0, 10 << 20, 0)),
        process(7, "api-jobs", (2.0, 20 << 20, 5)),
    ]
}

pub(in super::super) fn reloading() -> Vec<Process> {
    let mut processes = some();
    let others =
        json!([{"pid": 900, "generation": 2, "phase": "launching", "connections": null, "left_ms": 29_000}]);
    processes[0].others = serde_json::from_value(others).expect("others");
    processes[1].generation = 2;
    let others =
        json!([{"pid": 901, "generation": 1, "phase": "draining", "connections": 3, "left_ms": 12_000}]);
    processes[1].others = serde_json::from_value(others).expect("others");
    processes
}

fn fleet() -> Fleet {
    let mut fleet = Fleet::default();
    fleet.update(some());
    fleet
}

/// The rows, each as a word.
fn shown(fleet: &Fleet) -> String {
    let words = fleet.rows.iter().map(|row| match fleet.id(*row) {
        RowId::App(name) => name,
        RowId::Instance(id) => format!("#{id}"),
        RowId::Other { pid, .. } => format!("+{pid}"),
    });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn an_app_opens_to_its_instances_and_those_to_what_comes_and_goes() {
    let mut fleet = fleet();
    assert_eq!(shown(&fleet), "web Api api-jobs");
    fleet.expand(None);
    assert_eq!(shown(&fleet), "web #0 #1 #2 Api api-jobs");
    fleet.update(reloading());
    assert_eq!(shown(&fleet), "web #0 +900 #1 +901 #2 Api api-jobs");
    fleet.step(2);
    assert_eq!(
        fleet.chosen(),
        Some(&RowId::Other {
            instance: 0,
            pid: 900
        })
    );
    assert_eq!(fleet.instance().map(|process| process.id), Some(0));
    fleet.expand(Some(false));
    assert_eq!(
        (shown(&fleet).as_str(), fleet.place()),
        ("web Api api-jobs", Some(0))
    );
    fleet.expand_all();
    assert_eq!(shown(&fleet), "web #0 +900 #1 +901 #2 Api api-jobs");
    fleet.expand_all();
    assert_eq!(shown(&fleet), "web Api api-jobs");
}

#[test]
fn each_order_keeps_the_choice() {
    let mut fleet = fleet();
    fleet.expand_all();
    fleet.choose_named("7");
    let orders = [
        (Sort::Name, "Api api-jobs web #0 #1 #2"),
        (Sort::Cpu, "web #1 #2 #0 Api api-jobs"),
        (Sort::Memory, "web #0 #2 #1 api-jobs Api"),
        (Sort::Restarts, "api-jobs web #1 #0 #2 Api"),
        (Sort::Uptime, "web #0 #1 #2 Api api-jobs"),
        (Sort::Connections, "web #0 #1 #2 Api api-jobs"),
        (Sort::Id, "web #0 #1 #2 Api api-jobs"),
    ];
    for (sort, rows) in orders {
        fleet.sort = fleet.sort.next();
        fleet.arrange();
        assert_eq!((fleet.sort, shown(&fleet).as_str()), (sort, rows));
        assert_eq!(fleet.chosen(), Some(&RowId::App("api-jobs".to_owned())));
    }
}

#[test]
fn the_choice_stays_on_its_row() {
    let mut fleet = fleet();
    fleet.expand(None);
    fleet.choose(4);
    assert_eq!(fleet.chosen(), Some(&RowId::App("Api".to_owned())));
    fleet.update(some().split_off(1));
    assert_eq!(fleet.place(), Some(3));
    let mut others = some();
    others.remove(3);
    fleet.update(others);
    assert_eq!(
        fleet.chosen(),
        Some(&RowId::App("api-jobs".to_owned())),
        "the next one"
    );
    fleet.update(some()[..3].to_vec());
    assert_eq!(fleet.chosen(), Some(&RowId::Instance(2)), "the one before");
    fleet.update(Vec::new());
    assert_eq!((fleet.chosen(), fleet.place()), (None, None));
    fleet.step(1);
    fleet.expand(None);
    assert!(fleet.group().is_none());
}

#[test]
fn the_choice_stays_on_its_line_while_others_come_and_go() {
    let mut fleet = fleet();
    fleet.expand_all();
    fleet.choose_named("2");
    fleet.scroll(3);
    assert_eq!((fleet.place(), fleet.offset), (Some(3), 1));
    fleet.update(reloading());
    fleet.scroll(3);
    assert_eq!((fleet.place(), fleet.offset), (Some(5), 3), "two came above it");
    fleet.choose(4);
    assert_eq!(
        fleet.chosen(),
        Some(&RowId::Other {
            instance: 1,
            pid: 901
        })
    );
    fleet.update(some());
    assert_eq!(fleet.chosen(), Some(&RowId::Instance(2)), "the next that stays");
}

#[test]
fn a_name_that_is_a_number_comes_before_an_id() {
    let mut fleet = Fleet::default();
    let mut processes = some();
    processes.push(process(9, "1", (0.0, 0, 0)));
    fleet.update(processes);
    fleet.expand_all();
    assert!(fleet.choose_named("1"));
    assert_eq!(fleet.chosen(), Some(&RowId::App("1".to_owned())));
    fleet.filter = "web".to_owned();
    fleet.arrange();
    assert!(!fleet.choose_named("1"), "the filter hides the app that is meant");
    assert!(fleet.is_taken(1) && !fleet.is_taken(2));
}

#[test]
fn a_filter_ignores_case() {
    let mut fleet = fleet();
    fleet.filter = "API".to_owned();
    fleet.arrange();
    assert_eq!((shown(&fleet).as_str(), fleet.apps()), ("Api api-jobs", 3));
}

#[test]
fn the_chosen_row_is_on_the_screen() {
    let mut fleet = fleet();
    fleet.expand_all();
    for (place, offset) in [(5, 3), (4, 3), (2, 2), (0, 0), (9, 3)] {
        fleet.choose(place);
        fleet.scroll(3);
        assert_eq!(fleet.offset, offset, "{place}");
    }
    fleet.scroll(20);
    assert_eq!(fleet.offset, 0);
}
