//! Dividing what there is by weights, with a least and a most for each: water poured into vessels. Knows nothing of disks or time.

/// One who shares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Vessel {
    /// Share.
    pub weight: f64,
    /// Gets that much first.
    pub least: f64,
    /// Wants no more than that.
    pub most: f64,
}

impl Vessel {
    fn at(&self, level: f64) -> f64 {
        (level * self.weight).min(self.most).max(self.least.min(self.most))
    }
}

/// The level at which the vessels hold `amount`: each gets its weight times that, within its least and most. `f64::MAX` where there is
/// enough for all. Where the leasts alone are more than there is, each is scaled alike.
#[must_use]
pub fn level(amount: f64, vessels: &mut [Vessel]) -> f64 {
    let (mut least, mut most, mut weights) = (0.0, 0.0, 0.0);
    for v in vessels.iter() {
        least += v.least.min(v.most);
        most += v.most;
        weights += v.weight;
    }
    if most <= amount {
        return f64::MAX;
    }
    if least >= amount {
        let scale = if least > 0.0 { amount / least } else { 0.0 };
        vessels.iter_mut().for_each(|v| v.least *= scale);
        return 0.0;
    }
    // Between nothing and all of it for the least weight; each step halves what is left.
    let lightest = vessels.iter().map(|v| v.weight).fold(f64::MAX, f64::min);
    let (mut low, mut high) = (0.0, amount / lightest);
    let mut level = amount / weights;
    for _ in 0..64 {
        let (mut sum, mut free) = (0.0, 0.0);
        for v in vessels.iter() {
            let got = v.at(level);
            sum += got;
            if got > v.least && got < v.most {
                free += v.weight;
            }
        }
        let missing = amount - sum;
        if missing.abs() <= amount * 1e-9 {
            break;
        }
        if missing > 0.0 {
            low = level
        } else {
            high = level
        }
        // Straight to the end of this piece of the curve, if that lies between.
        let next = if free > 0.0 { level + missing / free } else { f64::NAN };
        level = if next > low && next < high { next } else { f64::midpoint(low, high) };
    }
    level
}

/// What each gets of `amount`.
#[must_use]
pub fn divide(amount: f64, vessels: &mut [Vessel]) -> Vec<f64> {
    let level = level(amount, vessels);
    vessels.iter().map(|v| v.at(level)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vessel(weight: f64) -> Vessel {
        Vessel { weight, least: 0.0, most: f64::MAX }
    }

    /// VMware's third scenario for 8000 IOPS: shares 1000 and 2500, a limit of 10, a reservation of 2000 above its share.
    #[test]
    fn vspheres_scenario() {
        let mut vessels = [
            vessel(1000.0),
            vessel(2500.0),
            Vessel { most: 10.0, ..vessel(1000.0) },
            Vessel { least: 2000.0, ..vessel(500.0) },
        ];
        let got: Vec<_> = divide(8000.0, &mut vessels).iter().map(|x| x.round()).collect();
        assert_eq!(got, [1711.0, 4279.0, 10.0, 2000.0]);
    }

    /// When all that is promised is more than there is, all get the same part of it.
    #[test]
    fn a_shortage_is_shared() {
        let mut vessels = [3000.0, 1000.0].map(|least| Vessel { least, ..vessel(1.0) });
        assert_eq!(divide(2000.0, &mut vessels), [1500.0, 500.0]);
    }

    proptest! {
        /// Conservation: all of it is given out, and to nobody above the most or below the least.
        #[test]
        fn conserves(amount in 1.0f64..1e12, parts in prop::collection::vec((1u32..65_536, 0.0f64..1e9, 0.0f64..1e11), 1..50)) {
            let mut vessels: Vec<_> = parts.iter().map(|&(weight, least, more)| Vessel { weight: weight.into(), least, most: least + more }).collect();
            let given = divide(amount, &mut vessels);
            let sum: f64 = given.iter().sum();
            let wanted: f64 = vessels.iter().map(|v| v.most).sum();
            prop_assert!((sum - amount.min(wanted)).abs() <= amount * 1e-6, "{} of {}", sum, amount);
            for (got, v) in given.iter().zip(&vessels) {
                prop_assert!(*got <= v.most && *got >= v.least * 0.999_999);
            }
        }
    }
}
