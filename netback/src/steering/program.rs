//! The program by which a tap chooses the queue of a frame to the guest, as the kernel's eBPF machine has it: the same rules as
//! [`crate::hash::of_frame`], over the same words. Pure. Knows nothing of how it is loaded.

use crate::hash::{AT_MAPPING, AT_SIZE, AT_TABLE, AT_TYPES, IPV4, IPV4_TCP, IPV6, IPV6_TCP, MAPPING_LEN};

/// `BPF_FUNC_skb_load_bytes`
const LOAD_BYTES: i32 = 26;
/// `BPF_PSEUDO_MAP_VALUE`
const MAP_VALUE: u8 = 2;

const LD_IMM64: u8 = 0x18;
const LDX_BYTE: u8 = 0x71;
const LDX_HALF: u8 = 0x69;
const LDX_WORD: u8 = 0x61;
const MOV: u8 = 0xbf;
const MOV_IMM: u8 = 0xb7;
const ADD: u8 = 0x0f;
const ADD_IMM: u8 = 0x07;
const AND_IMM: u8 = 0x57;
const LSH_IMM: u8 = 0x67;
const XOR: u8 = 0xaf;
const MOD32: u8 = 0x9c;
const JA: u8 = 0x05;
const JEQ_IMM: u8 = 0x15;
const JSET_IMM: u8 = 0x45;
const JNE_IMM: u8 = 0x55;
const JSLT_IMM: u8 = 0xc5;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

/// Registers by their use.
const RESULT: u8 = 0;
const A1: u8 = 1;
const A2: u8 = 2;
const A3: u8 = 3;
const A4: u8 = 4;
const FRAME: u8 = 6;
const WORDS: u8 = 7;
const TYPES: u8 = 8;
const HASH: u8 = 9;
const STACK: u8 = 10;

/// Where on the stack the bytes from the Ethernet type on are, IPv6 addresses, ports.
const HEAD: i16 = -64;
const ADDRESSES6: i16 = -48;
const PORTS: i16 = -8;
/// An IP header's place behind the type.
const IP: i16 = HEAD + 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Label {
    V4,
    V4Ports,
    V4Bare,
    V4Addresses,
    V6,
    V6Ports,
    V6Bare,
    V6Addresses,
    Place,
    Plain,
}

/// Instructions that are being written.
#[derive(Default)]
struct Writer {
    code: Vec<[u8; 8]>,
    jumps: Vec<(usize, Label)>,
    labels: Vec<(Label, usize)>,
}

impl Writer {
    fn put(&mut self, code: u8, to: u8, from: u8, offset: i16, value: i32) {
        let [o0, o1] = offset.to_le_bytes();
        let [v0, v1, v2, v3] = value.to_le_bytes();
        self.code.push([code, from << 4 | to, o0, o1, v0, v1, v2, v3]);
    }

    fn jump(&mut self, code: u8, register: u8, value: i32, label: Label) {
        self.jumps.push((self.code.len(), label));
        self.put(code, register, 0, 0, value);
    }

    fn here(&mut self, label: Label) {
        self.labels.push((label, self.code.len()));
    }

    /// Copies bytes of the frame to the stack, from the offset in `A2` on; goes elsewhere if the frame is shorter.
    fn load(&mut self, to: i16, len: i32, otherwise: Label) {
        self.put(MOV, A1, FRAME, 0, 0);
        self.put(MOV, A3, STACK, 0, 0);
        self.put(ADD_IMM, A3, 0, 0, to.into());
        self.put(MOV_IMM, A4, 0, 0, len);
        self.put(CALL, 0, 0, 0, LOAD_BYTES);
        self.jump(JSLT_IMM, RESULT, 0, otherwise);
    }

    /// Adds bytes on the stack to the hash, of which the first is at `place` of the input.
    fn add(&mut self, from: i16, len: i16, place: i16) {
        for i in 0..len {
            let row = i32::try_from(AT_TABLE * 4).unwrap_or(0) + i32::from(place + i) * 1024;
            self.put(LDX_BYTE, A1, STACK, from + i, 0);
            self.put(LSH_IMM, A1, 0, 0, 2);
            self.put(ADD, A1, WORDS, 0, 0);
            self.put(ADD_IMM, A1, 0, 0, row);
            self.put(LDX_WORD, A1, A1, 0, 0);
            self.put(XOR, HASH, A1, 0, 0);
        }
    }

    fn word(&mut self, to: u8, number: usize) {
        self.put(LDX_WORD, to, WORDS, i16::try_from(number * 4).unwrap_or(0), 0);
    }

    fn only_types(&mut self, types: u32, then: Label, otherwise: Label) {
        self.jump(JSET_IMM, TYPES, types.cast_signed(), then);
        self.jump(JA, 0, 0, otherwise);
        self.here(then);
    }

    fn finish(mut self) -> Vec<[u8; 8]> {
        for (at, label) in self.jumps {
            let target = self.labels.iter().find(|(known, _)| *known == label).map_or(0, |(_, to)| *to);
            let distance = i16::try_from(target - at - 1).unwrap_or(0).to_le_bytes();
            if let Some(instruction) = self.code.get_mut(at) {
                (instruction[2], instruction[3]) = (distance[0], distance[1]);
            }
        }
        self.code
    }
}

/// A half word as it is read from the frame.
fn half(bytes: [u8; 2]) -> i32 {
    u16::from_ne_bytes(bytes).into()
}

/// The program over the words in the map that is open as `map`.
pub(super) fn write(map: i32) -> Vec<[u8; 8]> {
    let mut w = Writer::default();
    w.put(MOV, FRAME, A1, 0, 0);
    w.put(LD_IMM64, WORDS, MAP_VALUE, 0, map);
    w.put(0, 0, 0, 0, 0);
    w.word(TYPES, AT_TYPES);
    w.put(MOV_IMM, HASH, 0, 0, 0);
    w.put(MOV_IMM, A2, 0, 0, 12);
    w.load(HEAD, 22, Label::Place);
    w.put(LDX_HALF, A1, STACK, HEAD, 0);
    w.jump(JEQ_IMM, A1, half([0x08, 0x00]), Label::V4);
    w.jump(JEQ_IMM, A1, half([0x86, 0xdd]), Label::V6);
    w.jump(JA, 0, 0, Label::Place);
    v4(&mut w);
    v6(&mut w);
    w.here(Label::Place);
    w.word(A1, AT_SIZE);
    w.jump(JEQ_IMM, A1, 0, Label::Plain);
    w.put(MOD32, HASH, A1, 0, 0);
    // For the verifier, which does not follow a division.
    w.put(AND_IMM, HASH, 0, 0, i32::try_from(MAPPING_LEN - 1).unwrap_or(0));
    w.put(LSH_IMM, HASH, 0, 0, 2);
    w.put(ADD, HASH, WORDS, 0, 0);
    w.put(LDX_WORD, RESULT, HASH, i16::try_from(AT_MAPPING * 4).unwrap_or(0), 0);
    w.put(EXIT, 0, 0, 0, 0);
    w.here(Label::Plain);
    w.put(MOV, RESULT, HASH, 0, 0);
    w.put(EXIT, 0, 0, 0, 0);
    w.finish()
}

fn v4(w: &mut Writer) {
    w.here(Label::V4);
    w.only_types(IPV4_TCP, Label::V4Ports, Label::V4Bare);
    w.put(LDX_BYTE, A1, STACK, IP + 9, 0);
    w.jump(JNE_IMM, A1, 6, Label::V4Bare);
    w.put(LDX_HALF, A1, STACK, IP + 6, 0);
    w.jump(JSET_IMM, A1, half([0x3f, 0xff]), Label::V4Bare);
    w.put(LDX_BYTE, A2, STACK, IP, 0);
    w.put(AND_IMM, A2, 0, 0, 0xf);
    w.put(LSH_IMM, A2, 0, 0, 2);
    w.put(ADD_IMM, A2, 0, 0, 14);
    w.load(PORTS, 4, Label::V4Bare);
    w.add(IP + 12, 8, 0);
    w.add(PORTS, 4, 8);
    w.jump(JA, 0, 0, Label::Place);
    w.here(Label::V4Bare);
    w.only_types(IPV4, Label::V4Addresses, Label::Place);
    w.add(IP + 12, 8, 0);
    w.jump(JA, 0, 0, Label::Place);
}

fn v6(w: &mut Writer) {
    w.here(Label::V6);
    w.put(MOV_IMM, A2, 0, 0, 22);
    w.load(ADDRESSES6, 32, Label::Place);
    w.only_types(IPV6_TCP, Label::V6Ports, Label::V6Bare);
    w.put(LDX_BYTE, A1, STACK, IP + 6, 0);
    w.jump(JNE_IMM, A1, 6, Label::V6Bare);
    w.put(MOV_IMM, A2, 0, 0, 54);
    w.load(PORTS, 4, Label::V6Bare);
    w.add(ADDRESSES6, 32, 0);
    w.add(PORTS, 4, 32);
    w.jump(JA, 0, 0, Label::Place);
    w.here(Label::V6Bare);
    w.only_types(IPV6, Label::V6Addresses, Label::Place);
    w.add(ADDRESSES6, 32, 0);
}
