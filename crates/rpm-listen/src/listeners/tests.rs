//! Listeners of real sockets: opened, taken over, closed.

use super::*;

/// Opens a slot for a worker, as if the core had let it.
fn open(listeners: &mut Listeners, worker: u64) -> (SlotId, GroupId) {
    let wanted = Wanted::Tcp {
        addr: ([127, 0, 0, 1], 0).into(),
        v6only: false,
    };
    let request = Request {
        app: AppId(1),
        key: "key",
        worker: WorkerId(worker),
        beside: false,
        policy: SteeringPolicy::RoundRobin,
        weight: 1,
        handoff: false,
        proxy: 0,
        user: None,
    };
    let granted = listeners.open(Opening::Address(&wanted), &request).unwrap();
    let Grant::Slot { slot, group } = granted else {
        panic!("{granted:?} is not a slot")
    };
    assert_eq!(listeners.holder(slot), None, "the core has not heard of it");
    listeners.set_holder(slot, Some(WorkerId(worker)));
    (slot, group)
}

fn holders(listeners: &Listeners) -> Vec<(SlotId, Option<WorkerId>)> {
    listeners.book().map(|open| (open.slot, open.holder)).collect()
}

#[test]
fn a_slot_of_a_worker_that_has_ended_waits_for_the_next_one() {
    let mut listeners = Listeners::new(Keeper::none()).unwrap();
    let (first, _) = open(&mut listeners, 1);
    let (second, _) = open(&mut listeners, 2);
    assert!(listeners.worker_gone(WorkerId(1)).is_empty());
    assert_eq!(holders(&listeners), [(first, None), (second, Some(WorkerId(2)))]);
    listeners.set_holder(first, Some(WorkerId(3)));
    assert_eq!(listeners.slots_of(WorkerId(3)), [first]);
}

/// A program that binds another socket while it stops, for example, is found to have closed the one before.
#[test]
fn a_retiring_slot_is_closed_with_its_holder_even_if_that_has_closed_its_listener() {
    let mut listeners = Listeners::new(Keeper::none()).unwrap();
    let (first, group) = open(&mut listeners, 1);
    let (second, _) = open(&mut listeners, 2);
    listeners.steer(group, &[second]).unwrap();
    assert!(listeners.close(first, &[second]).unwrap().is_empty());
    assert_eq!(
        holders(&listeners),
        [(second, Some(WorkerId(2)))],
        "the core has closed it"
    );
    listeners.set_holder(first, None);
    assert_eq!(listeners.holder(first), Some(WorkerId(1)));
    listeners.worker_gone(WorkerId(1));
    assert!(listeners.socket(first).is_none(), "nobody has it any more");
    assert_eq!(listeners.eligible(group), [second]);
}
