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
    /// Of the first bytes of the file.
    pub head: Print,
    /// Of the last bytes before the offset.
    pub tail: Print,
    /// When the file was written to, as it was seen last.
    pub written_ns: u64,
    /// How often a file of the log was emptied. What stood at the same place before is something else.
    #[serde(default)]
    pub generation: u64,
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
    let newer = chain
        .iter()
        .position(|seen| seen.meta.written_ns >= position.written_ns);
    match newer {
        Some(newer) => &chain[newer..],
        // The clock was set back: at least what is written now.
        None => &chain[chain.len().saturating_sub(1)..],
    }
}

/// The next file that has something in it. Only then has the daemon left the one before.
pub(super) fn next<'c>(chain: &'c [Seen], position: &Position) -> Option<&'c Seen> {
    after(chain, position).iter().find(|seen| seen.meta.len > 0)
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
        };
        files.iter().map(seen).collect()
    }

    fn identity(inode: u64) -> Identity {
        Identity {
            device: 1,
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
    fn an_inode_that_is_used_again_is_another_file() {
        let known = identity(5);
        let later = Identity { born: 77, ..known };
        let without = Identity { born: 0, ..known };
        let restarted = Identity { device: 2, ..known };
        assert!(known.is(&known) && !known.is(&later) && known.is(&without) && known.is(&restarted));
        assert!(!without.is(&Identity { device: 2, ..without }));
        assert_ne!(Print::of(b"one"), Print::of(b"two"));
        // The stored prints of an older version mean the same.
        assert_eq!(hash(b"rpm"), 0x89c3_cb19_60d4_08f6);
    }
}
