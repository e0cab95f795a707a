//! What a request costs a device, in nanoseconds of its whole time: linear in the pages, dearer after a seek, dearer to write. Only
//! the ratios matter. Nothing is free, not a flush and not a discard. Knows nothing of who pays.

use crate::policy::Model;

/// Farther than that from the last request is a seek, as io.cost has it.
const SEEK_BYTES: u64 = 16 << 20;
/// A discard of that many bytes costs a page's write.
const DISCARD_UNIT_BYTES: u64 = 8 << 20;

/// What is asked of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Data to the guest.
    Read,
    /// Data from the guest.
    Write,
    /// Forget sectors.
    Discard,
    /// Make durable.
    Flush,
}

/// Prices in ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prices {
    /// For every read, near the last one and far from it.
    pub read: [u64; 2],
    /// Beside that for each page.
    pub read_page: u64,
    /// For every write, likewise.
    pub write: [u64; 2],
    /// Beside that for each page.
    pub write_page: u64,
}

/// How many words prices are on a page.
pub const NR_PRICES: usize = 6;

impl Prices {
    /// From rates: bytes a second, near and far operations a second; the form of io.cost's tables.
    #[must_use]
    pub const fn of_rates(read: [u64; 3], write: [u64; 3]) -> Self {
        let (read, read_page) = one_way(read);
        let (write, write_page) = one_way(write);
        Self { read, read_page, write, write_page }
    }

    /// Of a kind of device; the kernel's own defaults.
    #[must_use]
    pub const fn of(model: Model, rotational: bool) -> Self {
        match model.of(rotational) {
            Model::Hdd => Self::of_rates([174_019_176, 41_708, 370], [178_075_866, 42_705, 378]),
            Model::Ssd | Model::Auto => {
                Self::of_rates([488_636_629, 8_932, 8_518], [427_891_549, 28_755, 21_940])
            }
            Model::FastSsd => {
                Self::of_rates([3_102_524_156, 724_816, 778_122], [1_742_780_862, 425_702, 443_193])
            }
        }
    }

    /// As words.
    #[must_use]
    pub const fn words(&self) -> [u64; NR_PRICES] {
        [self.read[0], self.read[1], self.read_page, self.write[0], self.write[1], self.write_page]
    }

    /// From words.
    #[must_use]
    pub const fn of_words(words: [u64; NR_PRICES]) -> Self {
        let [r0, r1, read_page, w0, w1, write_page] = words;
        Self { read: [r0, r1], read_page, write: [w0, w1], write_page }
    }
}

const fn one_way([bytes, near, far]: [u64; 3]) -> ([u64; 2], u64) {
    let page = 1_000_000_000 * 4096 / bytes;
    ([(1_000_000_000 / near).saturating_sub(page), (1_000_000_000 / far).saturating_sub(page)], page)
}

/// Where a disk's last request ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    end_bytes: u64,
}

impl Cursor {
    /// What a request costs; never 0. The cursor goes on to its end.
    pub fn cost_ns(&mut self, prices: &Prices, op: Op, offset_bytes: u64, len_bytes: u64) -> u64 {
        let pages = len_bytes.div_ceil(4096).max(1);
        let far = usize::from(offset_bytes.abs_diff(self.end_bytes) > SEEK_BYTES);
        let cost = match op {
            Op::Read => prices.read[far].saturating_add(prices.read_page.saturating_mul(pages)),
            Op::Write => prices.write[far].saturating_add(prices.write_page.saturating_mul(pages)),
            Op::Discard => {
                let units = len_bytes.div_ceil(DISCARD_UNIT_BYTES);
                prices.write[1].saturating_add(prices.write_page.saturating_mul(units))
            }
            Op::Flush => prices.write[1].saturating_add(prices.write_page),
        };
        if matches!(op, Op::Read | Op::Write) {
            self.end_bytes = offset_bytes.saturating_add(len_bytes);
        }
        cost.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// io.cost charges nothing for flush and discard; here a guest that does nothing else pays for it.
    #[test]
    fn nothing_is_free() {
        for prices in
            [Prices::of(Model::Hdd, false), Prices::of(Model::Ssd, false), Prices::of(Model::FastSsd, false)]
        {
            let mut cursor = Cursor::default();
            let write = cursor.cost_ns(&prices, Op::Write, 1 << 40, 4096);
            assert!(cursor.cost_ns(&prices, Op::Flush, 0, 0) >= write);
            assert!(cursor.cost_ns(&prices, Op::Discard, 0, 64 << 30) > 4000 * prices.write_page);
            assert_eq!(Prices::of_words(prices.words()), prices);
        }
    }

    /// A disk with heads is some hundred times slower far from where it was.
    #[test]
    fn seeks_cost() {
        let prices = Prices::of(Model::Auto, true);
        let mut cursor = Cursor::default();
        let far = cursor.cost_ns(&prices, Op::Read, 1 << 40, 4096);
        let near = cursor.cost_ns(&prices, Op::Read, (1 << 40) + 4096, 4096);
        assert!((2_700_000..2_710_000).contains(&far), "{far}");
        assert!(far > 90 * near);
    }
}
