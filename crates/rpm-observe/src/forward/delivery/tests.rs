//! Receivers of every kind, and what becomes of the records of a batch.

use super::*;

fn delivery(records: usize, is_proven: bool) -> Delivery {
    Delivery::new(vec![100; records], Pace::new(1_000), is_proven)
}

fn later(after: Option<u64>) -> Outcome {
    Outcome::Later {
        why: "down".to_owned(),
        after: after.map(Duration::from_secs),
    }
}

/// What became of a delivery to a receiver: taken, refused, requests with records, lines of our own, and long pauses.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ended {
    taken: Vec<usize>,
    refused: Vec<usize>,
    requests: usize,
    own: usize,
    failures: usize,
}

fn run(delivery: &mut Delivery, most: usize, mut receiver: impl FnMut(Part<'_>) -> Outcome) -> Ended {
    let mut ended = Ended::default();
    while let Some(part) = delivery.part().filter(|_| ended.requests < most) {
        ended.requests += 1;
        ended.own += usize::from(part == Part::Own);
        let outcome = receiver(part);
        let settled = delivery.answered(outcome);
        ended.failures += usize::from(matches!(settled.pause, Some(Pause::Failed(_))));
        ended.taken.extend(settled.taken);
        ended.refused.extend(settled.refused);
    }
    ended
}

/// A receiver that refuses these, in the whole request or as Elasticsearch does, each record by itself.
fn picky(is_bad: impl Fn(usize) -> bool, each: bool) -> impl Fn(Part<'_>) -> Outcome {
    move |part| {
        let Part::Records(part) = part else {
            return Outcome::Taken;
        };
        let bad: Vec<usize> = (0..part.len()).filter(|number| is_bad(part[*number])).collect();
        let why = "bad".to_owned();
        match bad.len() {
            0 => Outcome::Taken,
            count if each && count == part.len() => Outcome::Doubtful(why),
            _ if each => Outcome::Partly {
                again: Vec::new(),
                refused: bad,
                why,
            },
            _ => Outcome::Refused(why),
        }
    }
}

#[test]
fn bad_records_are_found_and_the_others_are_taken() {
    for (each, is_proven) in [(false, false), (false, true), (true, false), (true, true)] {
        for bad in [0..1, 4..5, 9..10, 0..3, 2..10, 0..10] {
            let mut delivery = delivery(10, is_proven);
            let ended = run(&mut delivery, 1_000, picky(|record| bad.contains(&record), each));
            assert_eq!(ended.refused, bad.clone().collect::<Vec<_>>(), "{ended:?}");
            assert_eq!(ended.taken.len(), 10 - bad.len(), "{ended:?}");
            assert!(ended.taken.is_sorted() && ended.failures == 0, "{ended:?}");
            assert!(ended.own <= 1, "once is enough: {ended:?}");
            assert!(ended.requests <= 11 + 3 * bad.len(), "{ended:?}");
        }
    }
}

#[test]
fn nothing_is_given_up_before_anything_was_taken() {
    let refused = || Outcome::Refused("plain HTTP to a port of TLS".to_owned());
    let none_of = |part: Part<'_>| match part {
        Part::Records(part) => Outcome::Partly {
            again: Vec::new(),
            refused: (0..part.len()).collect(),
            why: "no such pipeline".to_owned(),
        },
        Part::Own => Outcome::Doubtful("no such pipeline".to_owned()),
    };
    for count in [1, 2, 5, 1_000] {
        for each in [false, true] {
            let mut delivery = delivery(count, false);
            let receiver = |part: Part<'_>| if each { none_of(part) } else { refused() };
            let ended = run(&mut delivery, 300, receiver);
            assert!(ended.refused.is_empty() && ended.taken.is_empty(), "{ended:?}");
            assert!(ended.failures >= 90, "a pause in each round: {ended:?}");
            let rest = run(&mut delivery, 1_000, |_| Outcome::Taken);
            let mut taken = rest.taken;
            taken.sort_unstable();
            assert_eq!(taken, (0..count).collect::<Vec<_>>(), "the address is put right");
        }
    }
    let mut proven = delivery(1, true);
    assert_eq!(proven.answered(refused()).refused, [0]);
}

#[test]
fn where_our_own_line_is_refused_every_other_record_is_tried() {
    for good in [1, 500, 999] {
        let mut delivery = delivery(1_000, false);
        let receiver = |part: Part<'_>| match part {
            Part::Records(part) if part == [good] => Outcome::Taken,
            Part::Records(_) | Part::Own => Outcome::Refused("not of my kind".to_owned()),
        };
        let ended = run(&mut delivery, 20_000, receiver);
        assert_eq!(
            (ended.taken.as_slice(), ended.refused.len()),
            (&[good][..], 999),
            "{good}"
        );
    }
}

#[test]
fn what_is_not_done_in_time_is_sent_in_smaller_parts() {
    let mut delivery = delivery(1_000, true);
    let receiver = |part: Part<'_>| match part {
        Part::Records(part) if part.len() > 10 => Outcome::Slow {
            taken: 0,
            why: "late".to_owned(),
        },
        _ => Outcome::Taken,
    };
    let ended = run(&mut delivery, 1_000, receiver);
    assert_eq!(ended.taken, (0..1_000).collect::<Vec<_>>());
    assert!(ended.failures * 4 < ended.requests, "few are too long: {ended:?}");
    let mut delivery = self::delivery(5, true);
    let slow = |taken: usize| Outcome::Slow {
        taken,
        why: "late".to_owned(),
    };
    let settled = delivery.answered(slow(2));
    assert_eq!(
        (settled.taken, settled.pause, delivery.pace().limit()),
        (vec![0, 1], Some(Pause::Split), 2)
    );
    assert_eq!(delivery.part(), Some(Part::Records(&[2, 3])));
    assert_eq!(delivery.answered(slow(9)).taken, [2, 3]);
    assert_eq!(delivery.answered(Outcome::Taken).taken, [4]);
    assert_eq!(delivery.part(), None);
    let mut one = self::delivery(1, true);
    assert_eq!(one.answered(slow(0)).pause, Some(Pause::Failed(None)));
    assert_eq!(one.part(), Some(Part::Records(&[0])));
}

#[test]
fn after_an_outage_the_same_batch_grows_again() {
    let mut delivery = delivery(1_000, true);
    let slow = |_: Part<'_>| Outcome::Slow {
        taken: 0,
        why: "it hangs".to_owned(),
    };
    run(&mut delivery, 20, slow);
    assert_eq!(delivery.part(), Some(Part::Records(&[0])));
    let ended = run(&mut delivery, 2_000, |_| Outcome::Taken);
    assert_eq!(ended.taken, (0..1_000).collect::<Vec<_>>());
    assert!(ended.requests < 70, "{} requests", ended.requests);
}

#[test]
fn what_is_tried_again_stays_first() {
    let mut delivery = delivery(4, false);
    let settled = delivery.answered(later(Some(7)));
    assert_eq!(settled.pause, Some(Pause::Failed(Some(Duration::from_secs(7)))));
    let settled = delivery.answered(Outcome::Partly {
        again: vec![1, 3],
        refused: vec![2, 9],
        why: "busy".to_owned(),
    });
    assert_eq!(
        (settled.taken, settled.refused, settled.pause),
        (vec![0], vec![2], Some(Pause::Failed(None)))
    );
    assert_eq!(delivery.part(), Some(Part::Records(&[1, 3])));
    let settled = delivery.answered(Outcome::Partly {
        again: vec![],
        refused: vec![1],
        why: "wrong".to_owned(),
    });
    assert_eq!(
        (settled.taken, settled.refused, settled.pause),
        (vec![1], vec![3], None)
    );
    assert_eq!(delivery.part(), None);
    assert_eq!(delivery.answered(Outcome::Taken), Settled::default());
}
