//! How many lines a guest can make us log: a few a second, the rest counted. Knows nothing of what is logged.

const PER_SECOND: u32 = 5;

/// One source's allowance.
#[derive(Debug, Default)]
pub struct LogLimit {
    second: u64,
    used: u32,
    suppressed: u64,
}

impl LogLimit {
    /// May a line be logged now? If so, how many were not since the last one.
    pub fn admit(&mut self, now_ns: u64) -> Option<u64> {
        let second = now_ns / 1_000_000_000;
        if second != self.second {
            (self.second, self.used) = (second, 0);
        }
        if self.used >= PER_SECOND {
            self.suppressed += 1;
            return None;
        }
        self.used += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// XSA-43, XSA-180: a flood of bad requests is a handful of lines.
    #[test]
    fn a_flood_is_a_few_lines() {
        let mut limit = LogLimit::default();

        let lines = (0..1_000_000u64).filter(|i| limit.admit(i * 1000).is_some()).count();

        assert_eq!(lines, 5);
        assert_eq!(limit.admit(2_000_000_000), Some(1_000_000 - 5));
    }
}
