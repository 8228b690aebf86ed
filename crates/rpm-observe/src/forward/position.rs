//! How far a log was read: a file, an offset in it, and prints of what stands there, by which it is seen that the file was emptied and written again.

use serde::{Deserialize, Serialize};

use super::disk::{Identity, Seen};

/// How many bytes are in a print: the first of a file, and the last before an offset.
pub(super) const PRINT_BYTES: u64 = 256;

/// A print of some bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Print {
    pub len: u64,
    pub hash: u64,
}

impl Print {
    pub(super) fn of(bytes: &[u8]) -> Print {
        if bytes.is_empty() {
            return Print::default();
        }
        Print {
            len: bytes.len() as u64,
            hash: hash(bytes),
        }
    }
}

/// FNV-1a, which is the same in every version of the program.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// A place in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    pub file: Identity,
    pub offset: u64,
    /// Of the first bytes of the file, beyond the offset too.
    pub head: Print,
    /// Of the last bytes before the offset.
    pub tail: Print,
    /// When the file was written to, as it was seen last.
    pub written_ns: u64,
    /// How often a file of the log was emptied. What stood at the same place before is something else.
    #[serde(default)]
    pub generation: u64,
    /// The file that was read before this one.
    #[serde(default)]
    pub passed: Option<Identity>,
}

impl Position {
    /// The beginning of a file.
    pub(super) fn start(file: Identity, written_ns: u64, generation: u64) -> Position {
        Position {
            file,
            offset: 0,
            head: Print::default(),
            tail: Print::default(),
            written_ns,
            generation,
            passed: None,
        }
    }
}

/// Where a file stands among those of its log.
pub(super) fn place(chain: &[Seen], file: &Identity) -> Option<usize> {
    chain.iter().position(|seen| seen.meta.identity.is(file))
}

/// The files that come after a position: those behind its file; if that is gone, those that were written to since it was seen. Oldest first.
pub(super) fn after<'c>(chain: &'c [Seen], position: &Position) -> &'c [Seen] {
    if let Some(place) = place(chain, &position.file) {
        return &chain[place + 1..];
    }
    match since(chain, position.written_ns) {
        // The clock was set back: at least what is written now.
        [] => &chain[chain.len().saturating_sub(1)..],
        newer => newer,
    }
}

/// The files from the first one on that was written to since this time.
pub(super) fn since(chain: &[Seen], written_ns: u64) -> &[Seen] {
    let newer = chain.iter().position(|seen| seen.meta.written_ns >= written_ns);
    &chain[newer.unwrap_or(chain.len())..]
}

/// The files behind the one that was read before: it may have been written to last in the same tick of the clock as the file of the position, and would be
/// read again and again. What was written to since is another file, which has got its number.
pub(super) fn behind_passed<'c>(chain: &'c [Seen], position: &Position) -> &'c [Seen] {
    let passed = position.passed.and_then(|passed| place(chain, &passed));
    let is_same = |passed: &usize| chain[*passed].meta.written_ns <= position.written_ns;
    let is_before = |passed: &usize| place(chain, &position.file).is_none_or(|here| *passed < here);
    let passed = passed.filter(|passed| is_same(passed) && is_before(passed));
    &chain[passed.map_or(0, |passed| passed + 1)..]
}

/// The next file that has something in it. Only then has the daemon left the one before.
pub(super) fn next<'c>(chain: &'c [Seen], position: &Position) -> Option<&'c Seen> {
    let was_read = |seen: &Seen| {
        let here = place(chain, &position.file).map(|place| &chain[place]);
        let passed = position
            .passed
            .is_some_and(|passed| passed.is(&seen.meta.identity));
        passed && here.is_some_and(|here| here.is_undecided(seen))
    };
    let mut behind = after(chain, position).iter();
    let next = behind.find(|seen| seen.meta.len > 0 && !was_read(seen));
    unread(chain, position).or(next)
}

/// A file that stands before that of the position, and may be the one behind it: nothing tells their order, and it was not there when the file of the
/// position was begun.
fn unread<'c>(chain: &'c [Seen], position: &Position) -> Option<&'c Seen> {
    let place = place(chain, &position.file).filter(|place| place + 1 < chain.len())?;
    let (before, here) = (&chain[..place], &chain[place]);
    let is_passed = |seen: &Seen| {
        position
            .passed
            .is_some_and(|passed| passed.is(&seen.meta.identity))
    };
    let read = before.iter().position(is_passed).map_or(0, |passed| passed + 1);
    let mut unread = before[read..].iter();
    unread.find(|seen| seen.meta.len > 0 && here.is_undecided(seen))
}

/// Where a log without a position begins: with the oldest file that was written to since `begun_ns`, or the present one.
pub(super) fn first(chain: &[Seen], begun_ns: u64) -> Option<&Seen> {
    let since = chain
        .iter()
        .find(|seen| seen.meta.written_ns >= begun_ns && seen.meta.len > 0);
    since.or(chain.last())
}

#[cfg(test)]
mod tests {
    use super::super::disk::Meta;
    use super::*;

    /// (inode, length, written); the last is the present file.
    fn chain(files: &[(u64, u64, u64)]) -> Vec<Seen> {
        let seen = |&(inode, len, written_ns): &(u64, u64, u64)| Seen {
            path: format!("/{inode}").into(),
            meta: Meta {
                identity: identity(inode),
                len,
                written_ns,
            },
            is_numbered: false,
        };
        files.iter().map(seen).collect()
    }

    fn identity(inode: u64) -> Identity {
        Identity {
            inode,
            born: inode * 10,
        }
    }

    #[test]
    fn what_comes_next() {
        let position = |inode: u64, written_ns: u64| Position::start(identity(inode), written_ns, 0);
        let rotated = [(1, 9, 10), (2, 9, 20), (3, 9, 30)];
        for (files, position, expected, what) in [
            (&rotated[..], position(1, 10), Some(2), "the next one in line"),
            (&rotated[..], position(2, 20), Some(3), "the present one"),
            (
                &rotated[..],
                position(3, 30),
                None,
                "nothing after the present one",
            ),
            (
                &rotated[..],
                position(9, 15),
                Some(2),
                "gone: the first that was written since",
            ),
            (
                &rotated[..],
                position(9, 20),
                Some(2),
                "gone: in the same moment rather twice than never",
            ),
            (
                &rotated[..],
                position(9, 99),
                Some(3),
                "gone, and the clock was set back",
            ),
            (
                &[(1, 9, 10), (2, 0, 20)],
                position(1, 10),
                None,
                "an empty file is not written to yet",
            ),
            (
                &[(1, 9, 10), (2, 0, 20), (3, 5, 30)],
                position(1, 10),
                Some(3),
                "an empty file is passed over",
            ),
            (&[], position(1, 10), None, "nothing at all"),
        ] {
            let found = next(&chain(files), &position).map(|seen| seen.meta.identity.inode);
            assert_eq!(found, expected, "{what}");
        }
        for (begun, expected) in [(0, 1), (15, 2), (20, 2), (25, 3), (99, 3)] {
            let chain = chain(&rotated);
            assert_eq!(
                first(&chain, begun).map(|seen| seen.meta.identity.inode),
                Some(expected),
                "{begun}"
            );
        }
    }

    #[test]
    fn files_whose_order_nothing_tells_are_all_read() {
        let mut files = chain(&[(1, 9, 10), (2, 9, 20), (3, 9, 20), (4, 9, 30)]);
        files[1].is_numbered = true;
        for seen in &mut files {
            seen.meta.identity.born = 0;
        }
        let file = |inode: u64| Identity { inode, born: 0 };
        for (at, passed, expected, what) in [
            (1, None, Some(2), "as they stand"),
            (2, Some(1), Some(3), "as they stand"),
            (3, Some(2), Some(4), "both were read"),
            (3, Some(1), Some(2), "the one with a number came later"),
            (3, None, Some(2), "rather twice than never"),
            (2, Some(3), Some(4), "both were read, the other way round"),
            (4, Some(1), None, "the present file is the last"),
        ] {
            let position = Position {
                passed: passed.map(file),
                ..Position::start(file(at), 20, 0)
            };
            let found = next(&files, &position).map(|seen| seen.meta.identity.inode);
            assert_eq!(found, expected, "{at} {passed:?}: {what}");
        }
    }

    #[test]
    fn an_inode_that_is_used_again_is_another_file() {
        let known = identity(5);
        let later = Identity { born: 77, ..known };
        let without = Identity { born: 0, ..known };
        let other = Identity { inode: 6, born: 0 };
        assert!(known.is(&known) && !known.is(&later) && known.is(&without) && without.is(&without));
        assert!(!without.is(&other) && !known.is(&other));
        assert_ne!(Print::of(b"one"), Print::of(b"two"));
        // The stored prints of an older version mean the same.
        assert_eq!(hash(b"rpm"), 0x89c3_cb19_60d4_08f6);
    }
}
