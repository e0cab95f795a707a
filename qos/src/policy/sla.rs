//! Reading what a class promises in a contract: how much of the time its reservations are kept, and what is given back where they
//! are not. Knows nothing of how it is judged.

use super::fault::Rule;
use super::read::{Item, Reader};
use super::{Credit, Set, Sla};

/// Judged so where nothing else is said, as clouds do of provisioned operations.
const DEFAULT_TOLERANCE_PPM: u32 = 900_000;
/// Most steps of credit.
const CREDITS_MAX: usize = 16;

impl<'a> Reader<'a> {
    pub(super) fn sla(&mut self, item: &Item<'a>) -> Option<Set<Sla>> {
        let table = self.table(item)?;
        let (mut target, mut tolerance_ppm, mut credits) = (None, DEFAULT_TOLERANCE_PPM, Vec::new());
        for (key, item) in self.items(&table) {
            match key.as_str() {
                "target" => target = self.percent(&item),
                "tolerance" => tolerance_ppm = self.percent(&item).unwrap_or(tolerance_ppm),
                "credit" => credits = self.credits(&item),
                _ => self.unknown(&item, &["target", "tolerance", "credit"]),
            }
        }
        // One that broke a rule of its own is there all the same.
        if !table.entries.keys().any(|key| key.get_ref() == "target") {
            self.fault(item, Rule::SlaWithoutTarget);
        }
        let target_ppm = target?;
        if credits.iter().any(|credit| credit.below_ppm > target_ppm) {
            self.fault(item, Rule::CreditAboveTarget);
        }
        Some(Set { value: Sla { target_ppm, tolerance_ppm, credits }, at: item.at })
    }

    /// Steps, the mildest first.
    fn credits(&mut self, item: &Item<'a>) -> Vec<Credit> {
        let Some(array) = item.value.get_ref().as_array() else {
            self.fault(item, Rule::WrongType("a list of { below = \"99.9%\", pct = 10 }"));
            return Vec::new();
        };
        let mut credits: Vec<Credit> = Vec::new();
        for value in array.iter() {
            let item = self.element(item, value);
            credits.extend(self.credit(&item));
        }
        credits.sort_by_key(|credit| std::cmp::Reverse(credit.below_ppm));
        let falls = |pair: &[Credit]| match pair {
            [milder, harsher] => milder.below_ppm == harsher.below_ppm || milder.percent >= harsher.percent,
            _ => false,
        };
        if credits.len() > CREDITS_MAX || credits.windows(2).any(falls) {
            self.fault(item, Rule::CreditSteps);
        }
        credits
    }

    fn credit(&mut self, item: &Item<'a>) -> Option<Credit> {
        let table = self.table(item)?;
        let (mut below, mut percent) = (None, None);
        for (key, item) in self.items(&table) {
            match key.as_str() {
                "below" => below = self.percent(&item),
                "pct" => {
                    percent = Self::integer(&item)
                        .and_then(|n| u32::try_from(n).ok())
                        .filter(|n| (1..=100).contains(n));
                    if percent.is_none() {
                        self.fault(&item, Rule::CreditPercent);
                    }
                }
                _ => self.unknown(&item, &["below", "pct"]),
            }
        }
        if table.entries.len() < 2 {
            self.fault(item, Rule::CreditIncomplete);
        }
        Some(Credit { below_ppm: below?, percent: percent? })
    }
}
