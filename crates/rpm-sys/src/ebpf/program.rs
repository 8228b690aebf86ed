//! The select program: which slot of the group gets this connection.
//!
//! In words: a connection that migrates out of a closing slot takes the next of the migration list. A
//! packet with SYN takes the next of the eligible list; any other packet that reaches the group is the
//! ACK of a SYN cookie and counts apart, or every connection would count twice and a round robin over an
//! even number of slots would use half of them. A slot that cannot be selected (its map entry went with
//! its shutdown) is skipped; after [`TRIES`] of those, or with an empty list, the kernel's hash decides.
//! No packet is ever dropped.

use super::asm::{Alu, Asm, BadLabel, If, Insn, Reg, Size, Src};
use super::state::Layout;

/// How many slots in a row may refuse before the hash decides; also the verifier's bound of the loop.
const TRIES: i32 = 8;

/// `migrating_sk` in `struct sk_reuseport_md` (Linux 5.14).
const MIGRATING_SK: i16 = 48;
/// The byte of a TCP header with the flags, and SYN in it.
const TCP_FLAGS: i32 = 13;
const SYN: i32 = 2;

const SKB_LOAD_BYTES: i32 = 26;
const SK_SELECT_REUSEPORT: i32 = 82;
const SK_PASS: i32 = 1;

/// Stack: length of the list, its base, the index tried, the flags byte.
const LEN: i16 = -8;
const BASE: i16 = -16;
const INDEX: i16 = -20;
const FLAGS: i16 = -24;

/// Assembles the program for two maps. Without `migrating` it runs on kernels that never call it for a
/// connection that migrates.
pub(super) fn assemble(
    state: i32,
    slots: i32,
    layout: Layout,
    migrating: bool,
) -> Result<Vec<Insn>, BadLabel> {
    let mut asm = Asm::default();
    asm.mov(Reg::R6, Src::Reg(Reg::R1));
    if migrating {
        migration(&mut asm, state, layout);
    }
    fresh(&mut asm, state, layout);
    pick(&mut asm, state, slots, layout);
    count(&mut asm, state, layout);
    asm.label("pass");
    asm.mov(Reg::R0, Src::Imm(SK_PASS));
    asm.exit();
    asm.assemble()
}

/// Leaves the list's word in R3, the position in R7, and in R9 where to count the choice (0: nowhere).
fn migration(asm: &mut Asm, state: i32, layout: Layout) {
    asm.load(Size::Double, Reg::R1, Reg::R6, MIGRATING_SK);
    asm.jump_if(If::Eq, Reg::R1, Src::Imm(0), "fresh");
    asm.map_value(Reg::R2, state, 0);
    asm.load(Size::Double, Reg::R3, Reg::R2, Layout::MIGRATE_WORD as i16);
    asm.mov(Reg::R9, Src::Imm((layout.counters() + Layout::MIGRATED) as i32));
    next(asm, Layout::MIGRATE_COUNTER);
    asm.jump("pick");
    asm.label("fresh");
}

/// The same for a packet from outside.
fn fresh(asm: &mut Asm, state: i32, layout: Layout) {
    asm.mov(Reg::R1, Src::Reg(Reg::R6));
    asm.mov(Reg::R2, Src::Imm(TCP_FLAGS));
    stack_address(asm, Reg::R3, FLAGS);
    asm.mov(Reg::R4, Src::Imm(1));
    asm.call(SKB_LOAD_BYTES);
    asm.map_value(Reg::R2, state, 0);
    asm.load(Size::Double, Reg::R3, Reg::R2, Layout::SELECT_WORD as i16);
    asm.load(Size::Byte, Reg::R1, Reg::Fp, FLAGS);
    asm.jump_if(If::Set, Reg::R1, Src::Imm(SYN), "syn");
    asm.mov(Reg::R9, Src::Imm(0));
    next(asm, Layout::ACK_COUNTER);
    asm.jump("pick");
    asm.label("syn");
    asm.mov(Reg::R9, Src::Imm((layout.counters() + Layout::STEERED) as i32));
    next(asm, Layout::SYN_COUNTER);
}

fn next(asm: &mut Asm, counter: usize) {
    asm.mov(Reg::R7, Src::Imm(1));
    asm.fetch_add(Reg::R2, counter as i16, Reg::R7);
}

fn pick(asm: &mut Asm, state: i32, slots: i32, layout: Layout) {
    asm.label("pick");
    asm.mov(Reg::R4, Src::Reg(Reg::R3));
    asm.alu(Alu::And, Reg::R4, Src::Imm(0xffff));
    asm.alu(Alu::Shr, Reg::R3, Src::Imm(16));
    asm.jump_if(If::Eq, Reg::R4, Src::Imm(0), "pass");
    asm.alu(Alu::Mod, Reg::R7, Src::Reg(Reg::R4));
    asm.store(Size::Double, Reg::Fp, LEN, Reg::R4);
    asm.store(Size::Double, Reg::Fp, BASE, Reg::R3);
    asm.mov(Reg::R8, Src::Imm(TRIES));

    asm.label("try");
    asm.load(Size::Double, Reg::R1, Reg::Fp, BASE);
    asm.alu(Alu::Add, Reg::R1, Src::Reg(Reg::R7));
    asm.jump_if(If::Ge, Reg::R1, Src::Imm(layout.table_len() as i32), "pass");
    asm.alu(Alu::Shl, Reg::R1, Src::Imm(2));
    asm.map_value(Reg::R2, state, Layout::TABLES as i32);
    asm.alu(Alu::Add, Reg::R2, Src::Reg(Reg::R1));
    asm.load(Size::Word, Reg::R3, Reg::R2, 0);
    asm.store(Size::Word, Reg::Fp, INDEX, Reg::R3);
    asm.mov(Reg::R1, Src::Reg(Reg::R6));
    asm.map(Reg::R2, slots);
    stack_address(asm, Reg::R3, INDEX);
    asm.mov(Reg::R4, Src::Imm(0));
    asm.call(SK_SELECT_REUSEPORT);
    asm.jump_if(If::Eq, Reg::R0, Src::Imm(0), "chosen");

    asm.alu(Alu::Add, Reg::R7, Src::Imm(1));
    asm.load(Size::Double, Reg::R1, Reg::Fp, LEN);
    asm.jump_if(If::Lt, Reg::R7, Src::Reg(Reg::R1), "next");
    asm.mov(Reg::R7, Src::Imm(0));
    asm.label("next");
    asm.alu(Alu::Sub, Reg::R8, Src::Imm(1));
    asm.jump_if(If::Ne, Reg::R8, Src::Imm(0), "try");
    asm.jump("pass");
}

fn count(asm: &mut Asm, state: i32, layout: Layout) {
    asm.label("chosen");
    asm.jump_if(If::Eq, Reg::R9, Src::Imm(0), "pass");
    asm.load(Size::Word, Reg::R1, Reg::Fp, INDEX);
    asm.jump_if(If::Ge, Reg::R1, Src::Imm(layout.slots as i32), "pass");
    asm.alu(Alu::Shl, Reg::R1, Src::Imm(4));
    asm.map_value(Reg::R2, state, 0);
    asm.alu(Alu::Add, Reg::R2, Src::Reg(Reg::R9));
    asm.alu(Alu::Add, Reg::R2, Src::Reg(Reg::R1));
    asm.mov(Reg::R1, Src::Imm(1));
    asm.fetch_add(Reg::R2, 0, Reg::R1);
}

fn stack_address(asm: &mut Asm, dst: Reg, offset: i16) {
    asm.mov(dst, Src::Reg(Reg::Fp));
    asm.alu(Alu::Add, dst, Src::Imm(i32::from(offset)));
}
