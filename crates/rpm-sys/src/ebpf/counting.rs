//! The program that counts connections ([`super::counts`]). It runs for all TCP sockets of the host, and returns at once for those without
//! a tag.

use super::asm::{Alu, Asm, BadLabel, If, Insn, Reg, Size, Src};
use super::counts::{CONNECTIONS, COUNTED, ENTRY_SHIFT, NUMBER_MASK, NUMBERS, PENDING};

/// In `struct bpf_sock_ops`: `op`, the second of `args`, `bpf_sock_ops_cb_flags`, `sk`.
const OP: i16 = 0;
const NEW_STATE: i16 = 8;
const CB_FLAGS: i16 = 84;
const SK: i16 = 184;
/// `BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB`, `BPF_SOCK_OPS_STATE_CB` and the flag that asks for the latter.
const ESTABLISHED: i32 = 5;
const STATE: i32 = 10;
const STATE_FLAG: i32 = 1 << 2;
/// TCP states in which this end has closed, or the connection is over.
const FIN_WAIT1: i32 = 4;
const CLOSE: i32 = 7;
const LAST_ACK: i32 = 9;

const MAP_LOOKUP: i32 = 1;
pub(super) const MAP_UPDATE: i32 = 2;
const MAP_DELETE: i32 = 3;
pub(super) const KTIME: i32 = 5;
pub(super) const SOCKET_COOKIE: i32 = 46;
const SET_CB_FLAGS: i32 = 59;
const SK_STORAGE_GET: i32 = 107;

/// Shift from nanoseconds to seconds (of 2^30 ns).
pub(super) const SECOND_SHIFT: i32 = 30;

/// Stack slots: a cookie, the second.
const COOKIE: i16 = -8;
const SECOND: i16 = -16;

pub(super) fn assemble(tags: i32, moved: i32, table: i32) -> Result<Vec<Insn>, BadLabel> {
    let mut asm = Asm::default();
    asm.mov(Reg::R6, Src::Reg(Reg::R1));
    asm.load(Size::Word, Reg::R1, Reg::R6, OP);
    asm.jump_if(If::Eq, Reg::R1, Src::Imm(ESTABLISHED), "established");
    asm.jump_if(If::Ne, Reg::R1, Src::Imm(STATE), "done");
    ended(&mut asm, tags, moved, table);
    asm.label("established");
    established(&mut asm, tags, table);
    asm.label("done");
    asm.mov(Reg::R0, Src::Imm(1));
    asm.exit();
    asm.assemble()
}

/// A connection of a listener is established: counts it, and its handshake no more.
fn established(asm: &mut Asm, tags: i32, table: i32) {
    asm.call(KTIME);
    second(asm);
    asm.store(Size::Double, Reg::Fp, SECOND, Reg::R0);
    own_tag(asm, tags);
    // R9: the entry of its slot.
    asm.load(Size::Double, Reg::R7, Reg::R8, 0);
    entry_of(asm, Reg::R9, Reg::R7, table);
    is_current(asm, Reg::R9, Reg::R7);
    add(asm, Reg::R9, CONNECTIONS as i16, 1);
    asm.alu(Alu::Or, Reg::R7, Src::Imm(COUNTED));
    asm.store(Size::Double, Reg::R8, 0, Reg::R7);
    asm.load(Size::Double, Reg::R1, Reg::R9, PENDING as i16);
    asm.mov(Reg::R2, Src::Reg(Reg::R1));
    asm.alu(Alu::Shr, Reg::R2, Src::Imm(32));
    asm.load(Size::Double, Reg::R3, Reg::Fp, SECOND);
    asm.jump_if(If::Ne, Reg::R2, Src::Reg(Reg::R3), "ask");
    asm.alu(Alu::Shl, Reg::R1, Src::Imm(32));
    asm.jump_if(If::Eq, Reg::R1, Src::Imm(0), "ask");
    add(asm, Reg::R9, PENDING as i16, -1);
    asm.label("ask");
    asm.mov(Reg::R1, Src::Reg(Reg::R6));
    asm.load(Size::Word, Reg::R2, Reg::R6, CB_FLAGS);
    asm.alu(Alu::Or, Reg::R2, Src::Imm(STATE_FLAG));
    asm.call(SET_CB_FLAGS);
    asm.jump("done");
}

/// A counted connection is closed: subtracts it from the slot that it counts for now.
fn ended(asm: &mut Asm, tags: i32, moved: i32, table: i32) {
    asm.load(Size::Word, Reg::R1, Reg::R6, NEW_STATE);
    asm.jump_if(If::Eq, Reg::R1, Src::Imm(FIN_WAIT1), "ended");
    asm.jump_if(If::Eq, Reg::R1, Src::Imm(LAST_ACK), "ended");
    asm.jump_if(If::Ne, Reg::R1, Src::Imm(CLOSE), "done");
    asm.label("ended");
    own_tag(asm, tags);
    asm.load(Size::Double, Reg::R7, Reg::R8, 0);
    asm.mov(Reg::R1, Src::Reg(Reg::R7));
    asm.alu(Alu::And, Reg::R1, Src::Imm(COUNTED));
    asm.jump_if(If::Eq, Reg::R1, Src::Imm(0), "done");
    asm.alu(Alu::Xor, Reg::R7, Src::Imm(COUNTED));
    asm.store(Size::Double, Reg::R8, 0, Reg::R7);
    asm.mov(Reg::R1, Src::Reg(Reg::R6));
    asm.call(SOCKET_COOKIE);
    asm.store(Size::Double, Reg::Fp, COOKIE, Reg::R0);
    by_cookie(asm, moved, MAP_LOOKUP);
    asm.jump_if(If::Eq, Reg::R0, Src::Imm(0), "down");
    asm.load(Size::Double, Reg::R7, Reg::R0, 0);
    by_cookie(asm, moved, MAP_DELETE);
    asm.label("down");
    entry_of(asm, Reg::R9, Reg::R7, table);
    is_current(asm, Reg::R9, Reg::R7);
    add(asm, Reg::R9, CONNECTIONS as i16, -1);
    asm.jump("done");
}

fn by_cookie(asm: &mut Asm, moved: i32, helper: i32) {
    asm.map(Reg::R1, moved);
    asm.mov(Reg::R2, Src::Reg(Reg::Fp));
    asm.alu(Alu::Add, Reg::R2, Src::Imm(i32::from(COOKIE)));
    asm.call(helper);
}

/// R8: the address of the socket's tag. Exits without one.
fn own_tag(asm: &mut Asm, tags: i32) {
    asm.load(Size::Double, Reg::R2, Reg::R6, SK);
    asm.jump_if(If::Eq, Reg::R2, Src::Imm(0), "done");
    asm.map(Reg::R1, tags);
    asm.mov(Reg::R3, Src::Imm(0));
    asm.mov(Reg::R4, Src::Imm(0));
    asm.call(SK_STORAGE_GET);
    asm.jump_if(If::Eq, Reg::R0, Src::Imm(0), "done");
    asm.mov(Reg::R8, Src::Reg(Reg::R0));
}

/// Converts R0 from nanoseconds to seconds, in 32 bits.
pub(super) fn second(asm: &mut Asm) {
    asm.alu(Alu::Shr, Reg::R0, Src::Imm(SECOND_SHIFT));
    asm.alu(Alu::Shl, Reg::R0, Src::Imm(32));
    asm.alu(Alu::Shr, Reg::R0, Src::Imm(32));
}

/// `into`: the address of the tag's entry. R1 is lost. Exits if the number is out of range.
pub(super) fn entry_of(asm: &mut Asm, into: Reg, tag: Reg, table: i32) {
    asm.mov(Reg::R1, Src::Reg(tag));
    asm.alu(Alu::And, Reg::R1, Src::Imm(NUMBER_MASK));
    asm.jump_if(If::Ge, Reg::R1, Src::Imm(NUMBERS as i32), "done");
    asm.alu(Alu::Shl, Reg::R1, Src::Imm(ENTRY_SHIFT));
    asm.map_value(into, table, 0);
    asm.alu(Alu::Add, into, Src::Reg(Reg::R1));
}

/// Exits if the entry has been reused for another slot since the tag was given out. R1 and R2 are lost.
pub(super) fn is_current(asm: &mut Asm, entry: Reg, tag: Reg) {
    asm.load(Size::Double, Reg::R1, entry, 0);
    asm.alu(Alu::Shl, Reg::R1, Src::Imm(32));
    asm.alu(Alu::Shr, Reg::R1, Src::Imm(32));
    asm.mov(Reg::R2, Src::Reg(tag));
    asm.alu(Alu::Shr, Reg::R2, Src::Imm(32));
    asm.jump_if(If::Ne, Reg::R1, Src::Reg(Reg::R2), "done");
}

/// Adds to a field of an entry. R1 is lost.
pub(super) fn add(asm: &mut Asm, entry: Reg, field: i16, change: i32) {
    asm.mov(Reg::R1, Src::Imm(change));
    asm.fetch_add(entry, field, Reg::R1);
}
