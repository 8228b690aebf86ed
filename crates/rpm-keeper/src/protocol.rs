//! Messages between daemon and keeper: one packet each (`SOCK_SEQPACKET`), with one descriptor per entry, or none.
//!
//! The keeper may be older than the daemon, or newer after a downgrade. So existing messages never change; new ones are added.

use rpm_sys::scm::PACKET_FDS;

/// The most entries of a packet.
pub(crate) const ENTRIES: usize = PACKET_FDS;
/// Size of an entry: token, owner, flags.
const ENTRY_BYTES: usize = 8 + 8 + 1;
/// The largest size of a packet.
pub(crate) const PACKET: usize = 1 + ENTRIES * ENTRY_BYTES;

const PROCESS: u8 = 1;

/// The kind of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// To the keeper: keep these; each comes with its descriptor.
    Keep = 1,
    /// To the keeper: release these.
    Release = 2,
    /// To the keeper: these have a new owner.
    Own = 3,
    /// To the keeper: return everything.
    Give = 4,
    /// To the keeper: exit.
    Quit = 5,
    /// To the daemon: these are held; each comes with its descriptor.
    Held = 6,
    /// To the daemon: that was everything.
    End = 7,
    /// To the daemon: there was no room for these; they are not held.
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

/// One descriptor in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) token: u64,
    /// The worker with whose process it is closed if there is no daemon.
    pub(crate) owner: u64,
    /// The descriptor is the pidfd of the owner's process.
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

/// Decodes a packet; `None` if its kind is unknown to this version.
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
