//! Prints of what stands in a file, taken and compared: the files of a log are known by them when they were emptied or copied.

use std::io;

use super::disk::{Disk, Meta};
use super::position::{PRINT_BYTES, Position, Print};

/// False if the file was emptied and written again since: the bytes before the offset are others.
pub(super) fn is_as_it_was<D: Disk>(disk: &D, file: &D::File, position: &Position) -> io::Result<bool> {
    let start = position.offset.saturating_sub(position.tail.len);
    Ok(print(disk, file, 0, position.head.len)? == position.head
        && print(disk, file, start, position.tail.len)? == position.tail)
}

/// The position, with a print of the first bytes of its file if there was none.
pub(super) fn begun<D: Disk>(disk: &D, file: &D::File, position: Position) -> io::Result<Position> {
    if position.head.len > 0 {
        return Ok(position);
    }
    let head = print(disk, file, 0, PRINT_BYTES)?;
    Ok(Position { head, ..position })
}

/// The position after so many bytes more.
pub(super) fn moved<D: Disk>(
    disk: &D,
    file: &D::File,
    from: &Position,
    by: u64,
    meta: &Meta,
) -> io::Result<Position> {
    let offset = from.offset + by;
    let len = offset.min(PRINT_BYTES);
    let head = match from.head.len >= len {
        true => from.head,
        false => print(disk, file, 0, len)?,
    };
    Ok(Position {
        offset,
        head,
        tail: print(disk, file, offset - len, len)?,
        written_ns: meta.written_ns,
        ..*from
    })
}

fn print<D: Disk>(disk: &D, file: &D::File, offset: u64, len: u64) -> io::Result<Print> {
    let mut bytes = [0; PRINT_BYTES as usize];
    let wanted = usize::try_from(len).unwrap_or(0).min(bytes.len());
    let count = disk.read_at(file, &mut bytes[..wanted], offset)?;
    Ok(Print::of(&bytes[..count]))
}
