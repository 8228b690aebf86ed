//! Both select programs, in the kernel.

use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::process::Command;

use crate::support::{Slots, answered, selector};
use rpm_sys::cbpf;
use rpm_sys::ebpf::Counters;
use rpm_sys::socket::{accept_queue, listen, unlisten};

#[test]
fn sequential_connections_go_round_exactly() {
    let slots = Slots::new(3);
    let Some(selector) = selector(&slots) else { return };
    selector.set_eligible(&[0, 1, 2]);
    let clients = slots.connect(999);
    assert_eq!(slots.queues(999), [333, 333, 333]);
    for index in 0..3 {
        assert_eq!(
            selector.counters(index),
            Counters {
                steered: 333,
                migrated: 0
            }
        );
    }
    selector.clear_counters(1);
    assert_eq!(selector.counters(1), Counters::default());
    slots.serve();
    assert_eq!(answered(clients), 999);
}

#[test]
fn a_change_of_the_eligible_slots_holds_from_the_next_connection_on() {
    let slots = Slots::new(4);
    let Some(selector) = selector(&slots) else { return };
    let mut expected = [0; 4];
    let mut clients = Vec::new();
    for round in 0..200 {
        let only = round * 7 % 4;
        selector.set_eligible(&[only]);
        assert_eq!(selector.eligible(), [only]);
        clients.extend(slots.connect(1));
        expected[only as usize] += 1;
    }
    assert_eq!(slots.queues(200), expected);
}

#[test]
fn a_slot_that_left_the_table_is_passed_over() {
    let slots = Slots::new(3);
    let Some(selector) = selector(&slots) else { return };
    selector.set_eligible(&[0, 1, 2]);
    selector.remove(1).unwrap();
    selector.remove(1).unwrap();
    let _clients = slots.connect(90);
    let queues = slots.queues(90);
    assert_eq!(queues[1], 0, "{queues:?}");
}

#[test]
fn an_empty_list_leaves_it_to_the_hash_and_refuses_nobody() {
    let slots = Slots::new(2);
    let Some(selector) = selector(&slots) else { return };
    selector.set_eligible(&[]);
    let _clients = slots.connect(200);
    let queues = slots.queues(200);
    assert!(queues.iter().all(|len| *len > 0), "{queues:?}");
}

#[test]
fn a_socket_is_in_one_place_only_and_indexes_have_a_bound() {
    let slots = Slots::new(2);
    let Some(selector) = selector(&slots) else { return };
    assert_eq!(
        selector.insert(5, &slots.fds[0]).unwrap_err().raw_os_error(),
        Some(libc::EBUSY)
    );
    assert!(selector.insert(16, &slots.fds[0]).is_err());
    unlisten(&slots.fds[1]).unwrap();
    assert_eq!(
        selector.insert(7, &slots.fds[1]).unwrap_err().raw_os_error(),
        Some(libc::EINVAL)
    );
    assert_eq!(selector.counters(16), Counters::default());
}

#[test]
fn the_program_outlives_its_selector() {
    let slots = Slots::new(3);
    let Some(selector) = selector(&slots) else { return };
    selector.set_eligible(&[2]);
    drop(selector);
    let _clients = slots.connect(50);
    assert_eq!(slots.queues(50), [0, 0, 50]);
}

#[test]
fn the_queue_of_a_closed_slot_moves_to_the_targets() {
    let mut slots = Slots::new(3);
    let Some(selector) = selector(&slots) else { return };
    selector.set_eligible(&[0]);
    selector.set_migration_targets(&[1, 2]);
    let clients = slots.connect(200);
    assert_eq!(slots.queues(200), [200, 0, 0]);
    selector.set_eligible(&[1, 2]);
    selector.remove(0).unwrap();
    drop(slots.fds.remove(0));
    assert_eq!(slots.queues(200), [100, 100]);
    assert_eq!(
        selector.counters(1),
        Counters {
            steered: 0,
            migrated: 100
        }
    );
    slots.serve();
    assert_eq!(answered(clients), 200);
}

#[test]
fn a_bounce_moves_the_queue_although_somebody_holds_the_slot() {
    let slots = Slots::new(3);
    let Some(selector) = selector(&slots) else { return };
    let held_elsewhere = slots.fds[0].try_clone().unwrap();
    selector.set_eligible(&[0]);
    let clients = slots.connect(200);
    assert_eq!(slots.queues(200), [200, 0, 0]);

    selector.set_eligible(&[1, 2]);
    selector.set_migration_targets(&[2]);
    selector.remove(0).unwrap();
    unlisten(&slots.fds[0]).unwrap();
    assert!(!accept_queue(&held_elsewhere).unwrap().listening);
    listen(&slots.fds[0], 4096).unwrap();
    selector.insert(0, &slots.fds[0]).unwrap();

    assert_eq!(slots.queues(200), [0, 0, 200]);
    assert_eq!(selector.counters(2).migrated, 200);
    assert_eq!(slots.serve(), [0, 0, 200]);
    assert_eq!(answered(clients), 200);

    selector.set_eligible(&[0]);
    let clients = slots.connect(20);
    assert_eq!(slots.queues(20), [20, 0, 0]);
    slots.serve();
    assert_eq!(answered(clients), 20);
}

#[test]
fn syn_cookies_do_not_disturb_the_rotation() {
    if selector(&Slots::new(1)).is_none() {
        return;
    }
    // The setting belongs to a network namespace.
    let script = "ip link set lo up && echo 2 > /proc/sys/net/ipv4/tcp_syncookies && \
                  exec \"$0\" --exact --ignored steering::with_syn_cookies_only";
    let test = std::env::current_exe().unwrap();
    let inner = Command::new("unshare")
        .args(["-n", "sh", "-c", script])
        .arg(test)
        .output();
    let ran = inner.as_ref().is_ok_and(|inner| {
        inner.status.success() && String::from_utf8_lossy(&inner.stdout).contains("1 passed")
    });
    assert!(ran, "{inner:?}");
}

#[test]
#[ignore = "run by syn_cookies_do_not_disturb_the_rotation in a network namespace of its own"]
fn with_syn_cookies_only() {
    assert_eq!(
        std::fs::read_to_string("/proc/sys/net/ipv4/tcp_syncookies")
            .unwrap()
            .trim(),
        "2"
    );
    let slots = Slots::new(2);
    let selector = selector(&slots).expect("the outer test has tried");
    selector.set_eligible(&[0, 1]);
    let _clients = slots.connect(1000);
    assert_eq!(slots.queues(1000), [500, 500]);
    assert_eq!(selector.counters(0).steered, 500);
}

#[test]
fn classic_program_picks_among_the_indexes_given_and_no_other() {
    let slots = Slots::new(5);
    let mut clients: Vec<TcpStream> = Vec::new();
    for indexes in [&[0, 1, 2, 3, 4][..], &[0, 2, 4], &[3], &[1, 2]] {
        let before = slots.queues(clients.len());
        cbpf::attach_random(slots.fds[0].as_fd(), indexes).unwrap();
        clients.extend(slots.connect(200));
        let after = slots.queues(clients.len());
        let expected = 200.0 / indexes.len() as f64;
        // Seven standard deviations of a binomial share: five are exceeded once in some hundred thousand runs.
        let tolerance = 7.0 * (expected * (1.0 - 1.0 / indexes.len() as f64)).sqrt();
        for index in 0..5 {
            let got = f64::from(after[index as usize] - before[index as usize]);
            let expected = if indexes.contains(&index) { expected } else { 0.0 };
            let tolerance = if indexes.contains(&index) { tolerance } else { 0.0 };
            assert!(
                (got - expected).abs() <= tolerance,
                "{indexes:?}: slot {index} got {got}"
            );
        }
    }
    assert!(cbpf::attach_random(slots.fds[0].as_fd(), &[]).is_err());
}

/// Connections from this many addresses of 127.0.0.0/8, `each` of every one; which slot they came to, by address.
fn from_addresses(slots: &Slots, addresses: u8, each: usize) -> Vec<Vec<usize>> {
    let mut all = Vec::new();
    for last in 1..=addresses {
        let before: Vec<usize> = (0..slots.fds.len()).map(|_| 0).collect();
        let mut clients = Vec::new();
        for _ in 0..each {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            let from: std::net::SocketAddr = ([127, 0, 7, last], 0).into();
            socket.bind(&from.into()).unwrap();
            socket.connect(&slots.address.into()).unwrap();
            clients.push(socket);
        }
        slots.queues(each);
        let served = slots.serve();
        all.push(served.iter().zip(before).map(|(now, then)| now - then).collect());
    }
    all
}

fn each_has_its_own(spread: &[Vec<usize>], each: usize, slots: usize) {
    let whole = |row: &Vec<usize>| row.contains(&each) && row.iter().sum::<usize>() == each;
    assert!(spread.iter().all(whole), "{spread:?}");
    let used = (0..slots)
        .filter(|slot| spread.iter().any(|row| row[*slot] > 0))
        .count();
    assert_eq!(used, slots, "{spread:?}");
}

#[test]
fn the_same_client_comes_to_the_same_slot() {
    let slots = Slots::new(3);
    let Some(selector) = selector(&slots) else { return };
    selector.set_by_address(true);
    selector.set_eligible(&[0, 1, 2, 0, 1, 2, 0, 1]);
    each_has_its_own(&from_addresses(&slots, 40, 5), 5, 3);
    selector.set_by_address(false);
    let _clients = slots.connect(8);
    assert_eq!(slots.queues(8), [3, 3, 2]);
}

#[test]
fn so_it_does_by_classic_bpf() {
    let slots = Slots::new(3);
    let buckets: Vec<u32> = (0..64).map(|bucket| bucket % 3).collect();
    cbpf::attach_by_address(slots.fds[0].as_fd(), &buckets).unwrap();
    each_has_its_own(&from_addresses(&slots, 40, 5), 5, 3);
    assert!(
        cbpf::attach_by_address(slots.fds[0].as_fd(), &[0, 1, 2]).is_err(),
        "no power of two"
    );
}
