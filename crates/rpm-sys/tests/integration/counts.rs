//! Connections counted by the kernel, and given to the slot that has the fewest.

#![allow(unsafe_code, reason = "an option of sockets that no crate here knows")]

use std::io::Write as _;
use std::net::Shutdown;
use std::os::fd::{AsFd as _, OwnedFd};

use crate::support::{Slots, selector, so, wait_until};
use rpm_sys::ebpf::{COUNTS_DESCRIPTORS, Counts, Selector, Tag};
use rpm_sys::socket::{accept, cookie, listen, unlisten};

/// Slots that are counted.
struct Counted {
    slots: Slots,
    counts: Counts,
    selector: Selector,
    tags: Vec<Tag>,
}

impl Counted {
    /// `None`, loudly, where it is forbidden.
    fn new(count: usize) -> Option<Counted> {
        // Says whether eBPF is available at all.
        selector(&Slots::new(1))?;
        let slots = Slots::new(count);
        let counts = Counts::load().unwrap();
        let selector = Selector::load_least(16, &counts).unwrap();
        assert!(selector.can_migrate());
        selector.attach(slots.fds[0].as_fd()).unwrap();
        let mut tags = Vec::new();
        for (fd, index) in slots.fds.iter().zip(0..) {
            let tag = counts.begin(fd, cookie(fd).unwrap()).unwrap();
            selector.set_tag(index, tag);
            selector.insert(index, fd).unwrap();
            tags.push(tag);
        }
        let all: Vec<u32> = (0..).take(count).collect();
        selector.set_eligible(&all);
        selector.set_migration_targets(&all);
        Some(Counted {
            slots,
            counts,
            selector,
            tags,
        })
    }

    fn connections(&self) -> Vec<u64> {
        self.tags
            .iter()
            .map(|tag| self.counts.connections(*tag))
            .collect()
    }

    /// Waits until that is what is counted.
    fn counts(&self, expected: &[u64]) {
        wait_until(|| {
            let counted = self.connections();
            if counted == expected { Ok(()) } else { Err(counted) }
        });
    }

    /// The worker's ends of what waits at this slot.
    fn accept(&self, slot: usize) -> Vec<OwnedFd> {
        std::iter::from_fn(|| accept(&self.slots.fds[slot]).unwrap()).collect()
    }
}

#[test]
fn new_connections_go_where_the_fewest_are() {
    let Some(counted) = Counted::new(4) else { return };
    let clients = counted.slots.connect(40);
    assert_eq!(
        counted.slots.queues(40),
        [10; 4],
        "those that are as few have turns"
    );
    counted.counts(&[10; 4]);
    // The worker closes, its end is gone by a reset, and it dies with what it has.
    let mut first = counted.accept(0);
    first.truncate(4);
    drop(counted.accept(1));
    counted.counts(&[4, 0, 10, 10]);
    let more = counted.slots.connect(14);
    counted.counts(&[9, 9, 10, 10]);
    // The client alone has closed: the worker still has it.
    clients
        .iter()
        .for_each(|client| drop(client.shutdown(Shutdown::Write)));
    let held = counted.accept(2);
    counted.counts(&[9, 9, 10, 10]);
    drop(held);
    counted.counts(&[9, 9, 0, 10]);
    // Nobody is told who is given nothing.
    counted.selector.set_eligible(&[0, 3]);
    let others = counted.slots.connect(3);
    counted.counts(&[11, 9, 0, 11]);
    drop((clients, more, others));
}

#[test]
fn handshakes_count_while_they_last_and_not_for_ever() {
    let Some(counted) = Counted::new(4) else { return };
    // A handshake with such a listener is complete when the client has sent something.
    for fd in &counted.slots.fds {
        defer_accept(fd);
    }
    let steered = || -> Vec<u64> {
        let slots = 0..4;
        slots
            .map(|slot| counted.selector.counters(slot).steered)
            .collect()
    };
    let mut waiting = counted.slots.connect(40);
    assert_eq!(steered().iter().sum::<u64>(), 40);
    let spread = steered();
    assert!(
        spread.iter().all(|count| (5..=15).contains(count)),
        "a herd: {spread:?}"
    );
    counted.counts(&[0; 4]);
    // They complete, and count as what they are.
    for client in &mut waiting {
        client.write_all(b"x").unwrap();
    }
    counted.counts(&spread);
    // Those that do not complete are forgotten: slot 0, which has many of them, is chosen again.
    counted.selector.set_eligible(&[0]);
    let _never = counted.slots.connect(40);
    drop(waiting);
    for slot in 0..4 {
        drop(counted.accept(slot));
    }
    counted.counts(&[0; 4]);
    counted.selector.set_eligible(&[0, 1]);
    let before = steered()[0];
    wait_until(|| {
        drop(counted.slots.connect(2));
        so(steered()[0] > before)
    });
}

fn defer_accept(fd: &OwnedFd) {
    let seconds: libc::c_int = 30;
    // SAFETY: the kernel reads an integer of this size.
    let done = unsafe {
        libc::setsockopt(
            std::os::fd::AsRawFd::as_raw_fd(fd),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size_of_val(&seconds) as libc::socklen_t,
        )
    };
    assert_eq!(done, 0);
}

#[test]
fn a_connection_that_moves_counts_where_it_is() {
    let Some(counted) = Counted::new(3) else { return };
    counted.selector.set_eligible(&[0]);
    let _clients = counted.slots.connect(25);
    counted.counts(&[25, 0, 0]);
    counted.selector.set_eligible(&[1, 2]);
    counted.selector.set_migration_targets(&[1, 2]);
    counted.selector.remove(0).unwrap();
    unlisten(&counted.slots.fds[0]).unwrap();
    listen(&counted.slots.fds[0], 4096).unwrap();
    counted.selector.insert(0, &counted.slots.fds[0]).unwrap();
    let moved = counted.connections();
    assert_eq!((moved[0], moved[1].abs_diff(moved[2])), (0, 1), "{moved:?}");
    // Again, and then they end.
    counted.selector.set_migration_targets(&[0]);
    counted.selector.remove(1).unwrap();
    unlisten(&counted.slots.fds[1]).unwrap();
    counted.counts(&[moved[1], 0, moved[2]]);
    drop(counted.accept(0));
    drop(counted.accept(2));
    counted.counts(&[0, 0, 0]);
}

#[test]
fn a_number_that_is_used_again_starts_from_zero() {
    let Some(counted) = Counted::new(2) else { return };
    let _clients = counted.slots.connect(10);
    counted.counts(&[5, 5]);
    let held = counted.accept(0);
    let socket = cookie(&counted.slots.fds[0]).unwrap();
    counted.counts.end(counted.tags[0], socket);
    assert_eq!(counted.counts.tag_of(&counted.slots.fds[0]), None);
    let again = counted.counts.begin(&counted.slots.fds[0], socket).unwrap();
    assert_ne!(again, counted.tags[0]);
    assert_eq!(counted.counts.tag_of(&counted.slots.fds[0]), Some(again));
    drop(held);
    assert_eq!(counted.counts.connections(again), 0, "they were another slot's");
    assert_eq!(counted.counts.connections(counted.tags[0]), 0);
}

#[test]
fn the_counts_outlive_who_made_them() {
    let Some(counted) = Counted::new(2) else { return };
    let copies: Vec<OwnedFd> = counted
        .counts
        .descriptors()
        .iter()
        .map(|fd| fd.try_clone_to_owned().unwrap())
        .collect();
    assert_eq!(copies.len(), COUNTS_DESCRIPTORS);
    let wrong: Vec<OwnedFd> = copies.iter().rev().map(|fd| fd.try_clone().unwrap()).collect();
    let _before = counted.slots.connect(6);
    counted.counts(&[3, 3]);
    let Counted {
        slots,
        counts,
        selector,
        tags,
    } = counted;
    drop((counts, selector));
    let between = slots.connect(4);
    assert!(Counts::taken_back(wrong.try_into().unwrap()).unwrap().is_none());
    let counts = Counts::taken_back(copies.try_into().unwrap())
        .unwrap()
        .expect("they are kept");
    assert_eq!(counts.tag_of(&slots.fds[0]), Some(tags[0]));
    let both = |expected: u64| {
        let counted = || tags.iter().all(|tag| counts.connections(*tag) == expected);
        wait_until(|| so(counted()));
    };
    both(5);
    drop(between);
    while accept(&slots.fds[0]).unwrap().is_some() {}
    wait_until(|| so(counts.connections(tags[0]) == 0));
    counts.end_all_but(&tags[..1]);
    assert_eq!(counts.tag_of(&slots.fds[1]), None);
}
