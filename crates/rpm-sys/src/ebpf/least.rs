//! The parts of the select program that choose the slot with the fewest connections ([`super::counts`]).

use super::asm::{Alu, Asm, If, Reg, Size, Src};
use super::counting::{KTIME, MAP_UPDATE, SOCKET_COOKIE, add, entry_of, is_current, second};
use super::counts::{CONNECTIONS, Counts, ENTRY_SHIFT, NUMBERS, PENDING};
use super::program::{BASE, INDEX, LEN, MIGRATING_SK, stack_address};
use super::state::Layout;
use std::os::fd::AsRawFd as _;

/// The most entries of a list that are compared, because the verifier wants a bound. Of a longer list, a window of this size is compared,
/// which moves on with each connection.
const SCANNED: i32 = 1024;

/// Offset of the listener in `struct sk_reuseport_md`.
const SK: i16 = 40;
/// Offset in `struct bpf_sock`.
const STATE: i16 = 72;
const ESTABLISHED: i32 = 1;
const CLOSE_WAIT: i32 = 8;
const MAP_LOOKUP: i32 = 1;

/// Stack slots: the second, a cookie, a tag.
const SECOND: i16 = -48;
const COOKIE: i16 = -56;
const TAG: i16 = -64;

/// The maps, by descriptor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Maps {
    moved: i32,
    table: i32,
}

impl Maps {
    pub(super) fn of(counts: &Counts) -> Maps {
        Maps {
            moved: counts.moved.as_raw_fd(),
            table: counts.table.as_raw_fd(),
        }
    }
}

/// Replaces R7, a position in the list, by the position of the slot with the fewest connections, established and beginning. Of several, it
/// is the first from R7 on. R6 and R9 are preserved.
///
/// The loop compares without jumps, because the verifier follows both branches of each in every turn.
pub(super) fn scan(asm: &mut Asm, state: i32, layout: Layout, maps: Maps) {
    asm.call(KTIME);
    second(asm);
    asm.store(Size::Double, Reg::Fp, SECOND, Reg::R0);
    // R8: the fewest so far; R5: their position; R0: how many were compared.
    asm.mov(Reg::R8, Src::Imm(1));
    asm.alu(Alu::Shl, Reg::R8, Src::Imm(62));
    asm.mov(Reg::R5, Src::Reg(Reg::R7));
    asm.mov(Reg::R0, Src::Imm(0));
    asm.label("scan");
    asm.load(Size::Double, Reg::R4, Reg::Fp, LEN);
    // Hides from the verifier that this is the stored length, or it would check the rest once per length.
    asm.alu(Alu::Xor, Reg::R4, Src::Imm(0));
    asm.jump_if(If::Ge, Reg::R0, Src::Reg(Reg::R4), "scanned");
    asm.alu(Alu::Mod, Reg::R7, Src::Reg(Reg::R4));
    asm.load(Size::Double, Reg::R1, Reg::Fp, BASE);
    asm.alu(Alu::Add, Reg::R1, Src::Reg(Reg::R7));
    asm.jump_if(If::Ge, Reg::R1, Src::Imm(layout.table_len() as i32), "scanned");
    asm.alu(Alu::Shl, Reg::R1, Src::Imm(2));
    asm.map_value(Reg::R2, state, Layout::TABLES as i32);
    asm.alu(Alu::Add, Reg::R2, Src::Reg(Reg::R1));
    asm.load(Size::Word, Reg::R1, Reg::R2, 0);
    asm.jump_if(If::Ge, Reg::R1, Src::Imm(layout.slots as i32), "scanned");
    asm.alu(Alu::Shl, Reg::R1, Src::Imm(3));
    asm.map_value(Reg::R2, state, layout.tags() as i32);
    asm.alu(Alu::Add, Reg::R2, Src::Reg(Reg::R1));
    asm.load(Size::Double, Reg::R1, Reg::R2, 0);
    asm.alu(Alu::And, Reg::R1, Src::Imm(NUMBERS as i32 - 1));
    asm.alu(Alu::Shl, Reg::R1, Src::Imm(ENTRY_SHIFT));
    asm.map_value(Reg::R2, maps.table, 0);
    asm.alu(Alu::Add, Reg::R2, Src::Reg(Reg::R1));
    // R1: the connections, or 0 if the count is below zero because a subtraction overtook its addition.
    asm.load(Size::Double, Reg::R1, Reg::R2, CONNECTIONS as i16);
    asm.mov(Reg::R3, Src::Reg(Reg::R1));
    asm.alu(Alu::Arsh, Reg::R3, Src::Imm(63));
    asm.alu(Alu::Xor, Reg::R3, Src::Imm(-1));
    asm.alu(Alu::And, Reg::R1, Src::Reg(Reg::R3));
    // R2: the handshakes, if they began in this second.
    asm.load(Size::Double, Reg::R2, Reg::R2, PENDING as i16);
    asm.mov(Reg::R3, Src::Reg(Reg::R2));
    asm.alu(Alu::Shr, Reg::R3, Src::Imm(32));
    asm.load(Size::Double, Reg::R4, Reg::Fp, SECOND);
    asm.alu(Alu::Xor, Reg::R3, Src::Reg(Reg::R4));
    asm.alu(Alu::Sub, Reg::R3, Src::Imm(1));
    asm.alu(Alu::Arsh, Reg::R3, Src::Imm(63));
    asm.alu(Alu::Shl, Reg::R2, Src::Imm(32));
    asm.alu(Alu::Shr, Reg::R2, Src::Imm(32));
    asm.alu(Alu::And, Reg::R2, Src::Reg(Reg::R3));
    asm.alu(Alu::Add, Reg::R1, Src::Reg(Reg::R2));
    // R1: the difference; R3: all ones if it is negative.
    asm.alu(Alu::Sub, Reg::R1, Src::Reg(Reg::R8));
    asm.mov(Reg::R3, Src::Reg(Reg::R1));
    asm.alu(Alu::Arsh, Reg::R3, Src::Imm(63));
    asm.alu(Alu::And, Reg::R1, Src::Reg(Reg::R3));
    asm.alu(Alu::Add, Reg::R8, Src::Reg(Reg::R1));
    asm.mov(Reg::R2, Src::Reg(Reg::R7));
    asm.alu(Alu::Sub, Reg::R2, Src::Reg(Reg::R5));
    asm.alu(Alu::And, Reg::R2, Src::Reg(Reg::R3));
    asm.alu(Alu::Add, Reg::R5, Src::Reg(Reg::R2));
    asm.alu(Alu::Add, Reg::R7, Src::Imm(1));
    asm.alu(Alu::Add, Reg::R0, Src::Imm(1));
    asm.jump_if(If::Lt, Reg::R0, Src::Imm(SCANNED), "scan");
    asm.label("scanned");
    asm.mov(Reg::R7, Src::Reg(Reg::R5));
}

/// After a choice: counts a handshake that begins for the slot, and moves a migrating connection to it.
pub(super) fn note(asm: &mut Asm, state: i32, layout: Layout, maps: Maps) {
    asm.load(Size::Word, Reg::R1, Reg::Fp, INDEX);
    asm.jump_if(If::Ge, Reg::R1, Src::Imm(layout.slots as i32), "done");
    asm.alu(Alu::Shl, Reg::R1, Src::Imm(3));
    asm.map_value(Reg::R2, state, layout.tags() as i32);
    asm.alu(Alu::Add, Reg::R2, Src::Reg(Reg::R1));
    asm.load(Size::Double, Reg::R8, Reg::R2, 0);
    entry_of(asm, Reg::R9, Reg::R8, maps.table);
    asm.load(Size::Double, Reg::R1, Reg::R6, MIGRATING_SK);
    asm.jump_if(If::Ne, Reg::R1, Src::Imm(0), "moves");

    asm.load(Size::Double, Reg::R3, Reg::R9, PENDING as i16);
    asm.alu(Alu::Shr, Reg::R3, Src::Imm(32));
    asm.load(Size::Double, Reg::R4, Reg::Fp, SECOND);
    asm.jump_if(If::Ne, Reg::R3, Src::Reg(Reg::R4), "first");
    add(asm, Reg::R9, PENDING as i16, 1);
    asm.jump("done");
    asm.label("first");
    asm.alu(Alu::Shl, Reg::R4, Src::Imm(32));
    asm.alu(Alu::Add, Reg::R4, Src::Imm(1));
    asm.store(Size::Double, Reg::R9, PENDING as i16, Reg::R4);
    asm.jump("done");

    // A handshake that migrates is counted when it is complete.
    asm.label("moves");
    asm.load(Size::Word, Reg::R2, Reg::R1, STATE);
    asm.jump_if(If::Eq, Reg::R2, Src::Imm(ESTABLISHED), "counted");
    asm.jump_if(If::Ne, Reg::R2, Src::Imm(CLOSE_WAIT), "done");
    asm.label("counted");
    asm.call(SOCKET_COOKIE);
    asm.store(Size::Double, Reg::Fp, COOKIE, Reg::R0);
    asm.store(Size::Double, Reg::Fp, TAG, Reg::R8);
    asm.map(Reg::R1, maps.moved);
    stack_address(asm, Reg::R2, COOKIE);
    stack_address(asm, Reg::R3, TAG);
    asm.mov(Reg::R4, Src::Imm(0));
    asm.call(MAP_UPDATE);
    asm.jump_if(If::Ne, Reg::R0, Src::Imm(0), "done");
    add(asm, Reg::R9, CONNECTIONS as i16, 1);
    asm.load(Size::Double, Reg::R1, Reg::R6, SK);
    asm.call(SOCKET_COOKIE);
    asm.store(Size::Double, Reg::Fp, COOKIE, Reg::R0);
    asm.map(Reg::R1, maps.moved);
    stack_address(asm, Reg::R2, COOKIE);
    asm.call(MAP_LOOKUP);
    asm.jump_if(If::Eq, Reg::R0, Src::Imm(0), "done");
    asm.load(Size::Double, Reg::R8, Reg::R0, 0);
    entry_of(asm, Reg::R9, Reg::R8, maps.table);
    is_current(asm, Reg::R9, Reg::R8);
    add(asm, Reg::R9, CONNECTIONS as i16, -1);
}
