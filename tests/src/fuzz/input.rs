//! Bytes as a source of choices: what has run out is zero, so that any input is one. Knows nothing of what is chosen.

/// What is left of an input.
#[derive(Clone, Debug)]
pub(super) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let taken = self.bytes(N);
        out[..taken.len()].copy_from_slice(taken);
        out
    }

    /// At most that many.
    pub(super) fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub(super) fn byte(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    pub(super) fn flag(&mut self) -> bool {
        self.byte() & 1 != 0
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// A number below `limit`, which is 1 to 256.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        usize::from(self.byte()) % limit
    }

    pub(super) fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// Mostly small or near an end of the range, where rules change.
    pub(super) fn edgy(&mut self, around: u64) -> u64 {
        let small = u64::from(self.byte());
        match small >> 5 {
            0..=2 => small & 31,
            3 | 4 => around.wrapping_sub(small & 31),
            5 => around.wrapping_add(small & 31),
            6 => u64::MAX - (small & 31),
            _ => self.u64(),
        }
    }

    /// Likewise.
    pub(super) fn edgy_u32(&mut self, around: u32) -> u32 {
        let small = u32::from(self.byte());
        match small >> 5 {
            0..=2 => small & 31,
            3 | 4 => around.wrapping_sub(small & 31),
            5 => around.wrapping_add(small & 31),
            6 => u32::MAX - (small & 31),
            _ => self.u32(),
        }
    }
}
