//! Messages between daemon and keeper: one packet each (`SOCK_SEQPACKET`), with as many descriptors as it has entries, or none.
//!
//! The keeper may be older than the daemon, or newer after a step back: what is here stays as it is, and what comes is added.

use rpm_sys::scm::PACKET_FDS;

/// Entries in one packet at most.
pub(crate) const ENTRIES: usize = PACKET_FDS;
/// token, owner, flags
const ENTRY_BYTES: usize = 8 + 8 + 1;
/// A packet at most.
pub(crate) const PACKET: usize = 1 + ENTRIES * ENTRY_BYTES;

const PROCESS: u8 = 1;

/// What a packet is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// To the keeper: hold these; each comes with its descriptor.
    Keep = 1,
    /// To the keeper: let go of these.
    Release = 2,
    /// To the keeper: these have another owner.
    Own = 3,
    /// To the keeper: send all that is held.
    Give = 4,
    /// To the keeper: end.
    Quit = 5,
    /// To the daemon: these are held; each comes with its descriptor.
    Held = 6,
    /// To the daemon: those were all.
    End = 7,
    /// To the daemon: no room for these, they are not held.
    Lost = 8,
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        use Kind::{End, Give, Held, Keep, Lost, Own, Quit, Release};
        [Keep, Release, Own, Give, Quit, Held, End, Lost]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// What is said of one descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) token: u64,
    /// With this process it ends while there is no daemon.
    pub(crate) owner: u64,
    /// It is the process (a pidfd) that owns what has this owner.
    pub(crate) is_process: bool,
}

pub(crate) fn encode(kind: Kind, entries: &[Entry]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(1 + entries.len() * ENTRY_BYTES);
    packet.push(kind as u8);
    for entry in entries {
        packet.extend(entry.token.to_le_bytes());
        packet.extend(entry.owner.to_le_bytes());
        packet.push(if entry.is_process { PROCESS } else { 0 });
    }
    packet
}

/// `None`: a packet of a kind that this version does not know.
pub(crate) fn decode(packet: &[u8]) -> Option<(Kind, Vec<Entry>)> {
    let (kind, rest) = packet.split_first()?;
    let entry = |bytes: &[u8]| {
        let (token, rest) = bytes.split_first_chunk()?;
        let (owner, rest) = rest.split_first_chunk()?;
        Some(Entry {
            token: u64::from_le_bytes(*token),
            owner: u64::from_le_bytes(*owner),
            is_process: rest.first()? & PROCESS != 0,
        })
    };
    let entries = rest.chunks_exact(ENTRY_BYTES).filter_map(entry);
    Some((Kind::of(*kind)?, entries.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_read_as_they_were_written() {
        let entries: Vec<Entry> = (0..ENTRIES as u64)
            .map(|number| Entry {
                token: u64::MAX - number,
                owner: number,
                is_process: number % 2 == 0,
            })
            .collect();
        let packet = encode(Kind::Held, &entries);
        assert_eq!(packet.len(), PACKET);
        assert_eq!(decode(&packet), Some((Kind::Held, entries)));
        assert_eq!(decode(&encode(Kind::Quit, &[])), Some((Kind::Quit, Vec::new())));
        assert_eq!(decode(&[]), None);
        assert_eq!(decode(&[99]), None);
        assert_eq!(
            decode(&[1, 2, 3]),
            Some((Kind::Keep, Vec::new())),
            "half an entry is none"
        );
    }
}
