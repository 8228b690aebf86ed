//! A small assembler for eBPF: the operations that the programs here need, and labels.
//!
//! Encoding: Documentation/bpf/standardization/instruction-set.rst of the Linux kernel.

use std::collections::HashMap;

/// A register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Reg {
    /// Return value of calls and of the program.
    R0,
    /// First argument; the context at the start.
    R1,
    R2,
    R3,
    R4,
    R5,
    /// This and the following are preserved by calls.
    R6 = 6,
    R7,
    R8,
    R9,
    /// The frame pointer: the stack grows down from here.
    Fp,
}

/// Width of a memory access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Size {
    Word = 0x00,
    Byte = 0x10,
    Double = 0x18,
}

/// An operation on 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Alu {
    Add = 0x00,
    Sub = 0x10,
    Mul = 0x20,
    Or = 0x40,
    And = 0x50,
    Shl = 0x60,
    Shr = 0x70,
    Mod = 0x90,
    Xor = 0xa0,
    Mov = 0xb0,
    /// Arithmetic shift to the right.
    Arsh = 0xc0,
}

/// The condition of a jump, on unsigned 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum If {
    Eq = 0x10,
    Ge = 0x30,
    /// The operands have a bit in common.
    Set = 0x40,
    Ne = 0x50,
    Lt = 0xa0,
}

/// A second operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Src {
    Reg(Reg),
    Imm(i32),
}

/// One instruction as the kernel takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Insn {
    opcode: u8,
    /// Destination in the low half, source in the high half.
    regs: u8,
    offset: i16,
    imm: i32,
}

/// A label that is not placed or too far away: a mistake in the program's source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadLabel(pub(super) &'static str);

/// A program under construction.
#[derive(Debug, Default)]
pub(super) struct Asm {
    insns: Vec<Insn>,
    labels: HashMap<&'static str, usize>,
    jumps: Vec<(usize, &'static str)>,
}

const CLASS_LDX: u8 = 0x01;
const CLASS_STX: u8 = 0x03;
const CLASS_JMP: u8 = 0x05;
const CLASS_ALU64: u8 = 0x07;
const SOURCE_REG: u8 = 0x08;
const MODE_MEM: u8 = 0x60;
const MODE_ATOMIC: u8 = 0xc0;
const LOAD_IMM64: u8 = 0x18;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const ATOMIC_ADD: i32 = 0x00;
const ATOMIC_FETCH: i32 = 0x01;
/// `BPF_PSEUDO_MAP_FD`: the immediate is a map's descriptor.
const PSEUDO_MAP_FD: u8 = 1;
/// `BPF_PSEUDO_MAP_VALUE`: the address of a single-entry map's value, plus the second immediate.
const PSEUDO_MAP_VALUE: u8 = 2;

impl Asm {
    /// `dst = dst op src`.
    pub(super) fn alu(&mut self, op: Alu, dst: Reg, src: Src) {
        let (flag, reg, imm) = source(src);
        self.push(CLASS_ALU64 | flag | op as u8, dst as u8, reg, 0, imm);
    }

    /// `dst = src`.
    pub(super) fn mov(&mut self, dst: Reg, src: Src) {
        self.alu(Alu::Mov, dst, src);
    }

    /// `dst = *(base + offset)`.
    pub(super) fn load(&mut self, size: Size, dst: Reg, base: Reg, offset: i16) {
        self.push(
            CLASS_LDX | MODE_MEM | size as u8,
            dst as u8,
            base as u8,
            offset,
            0,
        );
    }

    /// `*(base + offset) = src`.
    pub(super) fn store(&mut self, size: Size, base: Reg, offset: i16, src: Reg) {
        self.push(
            CLASS_STX | MODE_MEM | size as u8,
            base as u8,
            src as u8,
            offset,
            0,
        );
    }

    /// Atomic `*(base + offset) += reg` on 64 bits; `reg` becomes the previous value.
    pub(super) fn fetch_add(&mut self, base: Reg, offset: i16, reg: Reg) {
        let opcode = CLASS_STX | MODE_ATOMIC | Size::Double as u8;
        self.push(opcode, base as u8, reg as u8, offset, ATOMIC_ADD | ATOMIC_FETCH);
    }

    /// `dst` = the map's address.
    pub(super) fn map(&mut self, dst: Reg, map_fd: i32) {
        self.push(LOAD_IMM64, dst as u8, PSEUDO_MAP_FD, 0, map_fd);
        self.push(0, 0, 0, 0, 0);
    }

    /// `dst` = address of byte `offset` of a single-entry map's value.
    pub(super) fn map_value(&mut self, dst: Reg, map_fd: i32, offset: i32) {
        self.push(LOAD_IMM64, dst as u8, PSEUDO_MAP_VALUE, 0, map_fd);
        self.push(0, 0, 0, 0, offset);
    }

    /// Calls the helper with this number. R0 has the result; R1 to R5 are lost.
    pub(super) fn call(&mut self, helper: i32) {
        self.push(CALL, 0, 0, 0, helper);
    }

    /// Jumps to `label` if the comparison of `dst` with `src` holds.
    pub(super) fn jump_if(&mut self, condition: If, dst: Reg, src: Src, label: &'static str) {
        let (flag, reg, imm) = source(src);
        self.jumps.push((self.insns.len(), label));
        self.push(CLASS_JMP | flag | condition as u8, dst as u8, reg, 0, imm);
    }

    /// Jumps to `label`.
    pub(super) fn jump(&mut self, label: &'static str) {
        self.jumps.push((self.insns.len(), label));
        self.push(CLASS_JMP, 0, 0, 0, 0);
    }

    /// Places `label` at the next instruction.
    pub(super) fn label(&mut self, label: &'static str) {
        let fresh = self.labels.insert(label, self.insns.len()).is_none();
        debug_assert!(fresh, "{label} is placed twice");
    }

    /// Ends the program with R0.
    pub(super) fn exit(&mut self) {
        self.push(EXIT, 0, 0, 0, 0);
    }

    /// The finished program.
    pub(super) fn assemble(mut self) -> Result<Vec<Insn>, BadLabel> {
        for (at, label) in &self.jumps {
            let target = self.labels.get(label).ok_or(BadLabel(label))?;
            let distance = *target as i64 - *at as i64 - 1;
            self.insns[*at].offset = i16::try_from(distance).map_err(|_| BadLabel(label))?;
        }
        Ok(self.insns)
    }

    fn push(&mut self, opcode: u8, dst: u8, src: u8, offset: i16, imm: i32) {
        self.insns.push(Insn {
            opcode,
            regs: dst | src << 4,
            offset,
            imm,
        });
    }
}

fn source(src: Src) -> (u8, u8, i32) {
    match src {
        Src::Reg(reg) => (SOURCE_REG, reg as u8, 0),
        Src::Imm(imm) => (0, 0, imm),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insn(opcode: u8, regs: u8, offset: i16, imm: i32) -> Insn {
        Insn {
            opcode,
            regs,
            offset,
            imm,
        }
    }

    #[test]
    fn encodings_are_those_of_the_specification() {
        let mut asm = Asm::default();
        asm.mov(Reg::R6, Src::Reg(Reg::R1));
        asm.mov(Reg::R0, Src::Imm(-1));
        asm.load(Size::Double, Reg::R1, Reg::R6, 48);
        asm.load(Size::Byte, Reg::R1, Reg::Fp, -24);
        asm.store(Size::Word, Reg::Fp, -20, Reg::R3);
        asm.fetch_add(Reg::R2, 8, Reg::R7);
        asm.map(Reg::R2, 5);
        asm.map_value(Reg::R2, 6, 40);
        asm.call(82);
        asm.exit();
        let expected = [
            insn(0xbf, 0x16, 0, 0),
            insn(0xb7, 0x00, 0, -1),
            insn(0x79, 0x61, 48, 0),
            insn(0x71, 0xa1, -24, 0),
            insn(0x63, 0x3a, -20, 0),
            insn(0xdb, 0x72, 8, 1),
            insn(0x18, 0x12, 0, 5),
            insn(0, 0, 0, 0),
            insn(0x18, 0x22, 0, 6),
            insn(0, 0, 0, 40),
            insn(0x85, 0, 0, 82),
            insn(0x95, 0, 0, 0),
        ];
        assert_eq!(asm.assemble().unwrap(), expected);
    }

    #[test]
    fn jumps_count_from_the_next_instruction_both_ways() {
        let mut asm = Asm::default();
        asm.label("top");
        asm.jump_if(If::Eq, Reg::R1, Src::Imm(0), "end");
        asm.jump_if(If::Lt, Reg::R7, Src::Reg(Reg::R1), "top");
        asm.jump("end");
        asm.mov(Reg::R0, Src::Imm(1));
        asm.label("end");
        asm.exit();
        let insns = asm.assemble().unwrap();
        assert_eq!(insns[0], insn(0x15, 0x01, 3, 0));
        assert_eq!(insns[1], insn(0xad, 0x17, -2, 0));
        assert_eq!(insns[2], insn(0x05, 0, 1, 0));
    }

    #[test]
    fn a_jump_to_nowhere_is_an_error() {
        let mut asm = Asm::default();
        asm.jump("nowhere");
        assert_eq!(asm.assemble(), Err(BadLabel("nowhere")));
    }
}
