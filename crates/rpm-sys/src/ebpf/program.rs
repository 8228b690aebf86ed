//! The select program: it chooses the slot of the group that gets a connection.
//!
//! A connection that migrates from a closing slot gets the next slot of the migration list. A packet with SYN gets the next of the eligible
//! list. Any other packet that reaches the group is the ACK of a SYN cookie and has a counter of its own: otherwise each such connection
//! would count twice, and a rotation over an even number of slots would use half of them. By client address, a hash takes the place of the
//! counter, for SYN and ACK alike. By fewest connections, the counter is the position at which the search begins.
//!
//! A slot that cannot be selected is skipped: its map entry went with its shutdown. After [`TRIES`] of those, or with an empty list, the
//! kernel's hash decides. No packet is ever dropped.

use super::asm::{Alu, Asm, BadLabel, If, Insn, Reg, Size, Src};
use super::least::{self, Maps};
use super::state::Layout;

/// The number of slots in a row that are tried before the kernel's hash decides; also the verifier's bound of the loop.
const TRIES: i32 = 8;

/// Offset of `eth_protocol`, in network byte order.
const ETH_PROTOCOL: i16 = 20;
const ETH_P_IP: i32 = 0x0800_u16.to_be() as i32;
/// Offsets of the source address in the IPv4 and IPv6 headers.
const SOURCE_OF_IPV4: i32 = 12;
const SOURCE_OF_IPV6: i32 = 8;
const FROM_NETWORK_HEADER: i32 = 1;
/// Multiplier of Knuth's multiplicative hash: 2^32 divided by the golden ratio.
const GOLDEN: i32 = 0x9e37_79b1_u32.cast_signed();

/// Offset of `migrating_sk` in `struct sk_reuseport_md` (Linux 5.14).
pub(super) const MIGRATING_SK: i16 = 48;
/// Offset of the flags in a TCP header, and the SYN flag.
const TCP_FLAGS: i32 = 13;
const SYN: i32 = 2;

const SKB_LOAD_BYTES: i32 = 26;
const SKB_LOAD_BYTES_RELATIVE: i32 = 68;
const SK_SELECT_REUSEPORT: i32 = 82;
const SK_PASS: i32 = 1;

/// Stack slots: length of the list, its base, the index tried, the flags byte, the client's address.
pub(super) const LEN: i16 = -8;
pub(super) const BASE: i16 = -16;
pub(super) const INDEX: i16 = -20;
const FLAGS: i16 = -24;
const ADDRESS: i16 = -40;

/// Assembles the program for two maps. Without `migrating` it loads on kernels that do not migrate. With counts it selects the slot with
/// the fewest connections.
pub(super) fn assemble(
    state: i32,
    slots: i32,
    layout: Layout,
    (migrating, counts): (bool, Option<Maps>),
) -> Result<Vec<Insn>, BadLabel> {
    let mut asm = Asm::default();
    asm.mov(Reg::R6, Src::Reg(Reg::R1));
    if migrating {
        migration(&mut asm, state, layout);
    }
    fresh(&mut asm, state, layout);
    by_address(&mut asm, state);
    pick(&mut asm, (state, slots), layout, counts);
    count(&mut asm, state, layout);
    if let Some(maps) = counts {
        least::note(&mut asm, state, layout, maps);
    }
    asm.label("done");
    asm.mov(Reg::R0, Src::Imm(SK_PASS));
    asm.exit();
    asm.assemble()
}

/// For a migration: sets R3 to the list's word, R7 to the position, and R9 to the counter of the choice (0: none).
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

/// The same for a packet from the network.
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

/// If the client's address decides, replaces the counter in R7 by its hash. R3 and R9 are preserved.
fn by_address(asm: &mut Asm, state: i32) {
    asm.map_value(Reg::R2, state, 0);
    asm.load(Size::Double, Reg::R1, Reg::R2, Layout::BY_ADDRESS as i16);
    asm.jump_if(If::Eq, Reg::R1, Src::Imm(0), "pick");
    asm.mov(Reg::R8, Src::Reg(Reg::R3));
    asm.mov(Reg::R1, Src::Imm(0));
    asm.store(Size::Double, Reg::Fp, ADDRESS, Reg::R1);
    asm.store(Size::Double, Reg::Fp, ADDRESS + 8, Reg::R1);
    asm.load(Size::Word, Reg::R1, Reg::R6, ETH_PROTOCOL);
    asm.mov(Reg::R2, Src::Imm(SOURCE_OF_IPV6));
    asm.mov(Reg::R4, Src::Imm(16));
    asm.jump_if(If::Ne, Reg::R1, Src::Imm(ETH_P_IP), "read");
    asm.mov(Reg::R2, Src::Imm(SOURCE_OF_IPV4));
    asm.mov(Reg::R4, Src::Imm(4));
    asm.label("read");
    asm.mov(Reg::R1, Src::Reg(Reg::R6));
    stack_address(asm, Reg::R3, ADDRESS);
    asm.mov(Reg::R5, Src::Imm(FROM_NETWORK_HEADER));
    asm.call(SKB_LOAD_BYTES_RELATIVE);
    asm.load(Size::Double, Reg::R7, Reg::Fp, ADDRESS);
    asm.load(Size::Double, Reg::R1, Reg::Fp, ADDRESS + 8);
    asm.mov(Reg::R2, Src::Imm(GOLDEN));
    asm.alu(Alu::Mul, Reg::R7, Src::Reg(Reg::R2));
    asm.alu(Alu::Xor, Reg::R7, Src::Reg(Reg::R1));
    asm.alu(Alu::Mul, Reg::R7, Src::Reg(Reg::R2));
    asm.alu(Alu::Shr, Reg::R7, Src::Imm(32));
    asm.mov(Reg::R3, Src::Reg(Reg::R8));
}

fn next(asm: &mut Asm, counter: usize) {
    asm.mov(Reg::R7, Src::Imm(1));
    asm.fetch_add(Reg::R2, counter as i16, Reg::R7);
}

fn pick(asm: &mut Asm, (state, slots): (i32, i32), layout: Layout, counts: Option<Maps>) {
    asm.label("pick");
    asm.mov(Reg::R4, Src::Reg(Reg::R3));
    asm.alu(Alu::And, Reg::R4, Src::Imm(0xffff));
    asm.alu(Alu::Shr, Reg::R3, Src::Imm(16));
    asm.jump_if(If::Eq, Reg::R4, Src::Imm(0), "done");
    asm.alu(Alu::Mod, Reg::R7, Src::Reg(Reg::R4));
    asm.store(Size::Double, Reg::Fp, LEN, Reg::R4);
    asm.store(Size::Double, Reg::Fp, BASE, Reg::R3);
    if let Some(maps) = counts {
        least::scan(asm, state, layout, maps);
    }
    asm.mov(Reg::R8, Src::Imm(TRIES));

    asm.label("try");
    asm.load(Size::Double, Reg::R1, Reg::Fp, BASE);
    asm.alu(Alu::Add, Reg::R1, Src::Reg(Reg::R7));
    asm.jump_if(If::Ge, Reg::R1, Src::Imm(layout.table_len() as i32), "done");
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

    // A remainder rather than a branch: the verifier follows both branches of each, so that eight in a row would be 256 paths and cost
    // milliseconds at every load.
    asm.alu(Alu::Add, Reg::R7, Src::Imm(1));
    asm.load(Size::Double, Reg::R1, Reg::Fp, LEN);
    asm.alu(Alu::Mod, Reg::R7, Src::Reg(Reg::R1));
    asm.alu(Alu::Sub, Reg::R8, Src::Imm(1));
    asm.jump_if(If::Ne, Reg::R8, Src::Imm(0), "try");
    asm.jump("done");
}

fn count(asm: &mut Asm, state: i32, layout: Layout) {
    asm.label("chosen");
    asm.jump_if(If::Eq, Reg::R9, Src::Imm(0), "done");
    asm.load(Size::Word, Reg::R1, Reg::Fp, INDEX);
    asm.jump_if(If::Ge, Reg::R1, Src::Imm(layout.slots as i32), "done");
    asm.alu(Alu::Shl, Reg::R1, Src::Imm(4));
    asm.map_value(Reg::R2, state, 0);
    asm.alu(Alu::Add, Reg::R2, Src::Reg(Reg::R9));
    asm.alu(Alu::Add, Reg::R2, Src::Reg(Reg::R1));
    asm.mov(Reg::R1, Src::Imm(1));
    asm.fetch_add(Reg::R2, 0, Reg::R1);
}

pub(super) fn stack_address(asm: &mut Asm, dst: Reg, offset: i16) {
    asm.mov(dst, Src::Reg(Reg::Fp));
    asm.alu(Alu::Add, dst, Src::Imm(i32::from(offset)));
}
