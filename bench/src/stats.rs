//! The statistics of alternating pairs: a median ratio and an interval around it. Pure arithmetic; knows nothing of what
//! was measured.

use serde::Serialize;

/// Median of a set of ratios with a distribution-free interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ratio {
    /// The median ratio.
    pub median: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
    /// Pairs measured.
    pub pairs: usize,
}

/// Why no ratio can be stated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoRatio {
    /// Fewer pairs than an interval needs.
    TooFew {
        /// Pairs given.
        pairs: usize,
        /// Pairs needed.
        needed: usize,
    },
    /// A measurement is zero, negative, infinite or not a number.
    NotANumber,
}

/// The fewest pairs for which the smallest and largest ratio enclose the median with 90 % confidence: 1 - 2 / 2^5 = 0.94.
pub const FEWEST_PAIRS: usize = 5;

/// Ratio `a / b` of alternating measurements, with the order-statistics interval that covers the median with at least
/// 90 % confidence (the number of ratios below the true median is binomial with p = 1/2).
pub fn ratio_of_pairs(a: &[f64], b: &[f64]) -> Result<Ratio, NoRatio> {
    let pairs = a.len().min(b.len());
    if pairs < FEWEST_PAIRS {
        return Err(NoRatio::TooFew { pairs, needed: FEWEST_PAIRS });
    }
    let mut ratios: Vec<f64> = a.iter().zip(b).map(|(a, b)| a / b).collect();
    if ratios.iter().any(|r| !r.is_finite() || *r <= 0.0) {
        return Err(NoRatio::NotANumber);
    }
    ratios.sort_by(f64::total_cmp);
    let cut = interval_rank(pairs);
    Ok(Ratio { median: median_of_sorted(&ratios), low: ratios[cut], high: ratios[pairs - 1 - cut], pairs })
}

/// How many ratios may be cut from each end so that what is left still covers the median with 90 % confidence.
///
/// Cutting `c` misses it when at most `c` of the ratios lie on one side: 2 · P(X <= c), X binomial with p = 1/2.
fn interval_rank(pairs: usize) -> usize {
    let mut term = 0.5f64.powi(i32::try_from(pairs).unwrap_or(i32::MAX)); // P(X = 0)
    let mut at_most = term;
    let mut cut = 0;
    while cut + 1 < pairs / 2 {
        term *= (pairs - cut) as f64 / (cut as f64 + 1.0);
        at_most += term;
        if 2.0 * at_most > 0.10 {
            break;
        }
        cut += 1;
    }
    cut
}

/// Median of any numbers; `None` of nothing.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    (!sorted.is_empty()).then(|| median_of_sorted(&sorted))
}

fn median_of_sorted(sorted: &[f64]) -> f64 {
    let mid = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[mid] } else { f64::midpoint(sorted[mid - 1], sorted[mid]) }
}

/// Geometric mean of positive numbers; `None` of nothing.
#[must_use]
pub fn geometric_mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| (values.iter().map(|v| v.ln()).sum::<f64>() / values.len() as f64).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The textbook ranks of the sign-test interval: n = 5..7 keeps all, n = 8 cuts one from each end (93 %), n = 11 two.
    #[test]
    fn the_interval_cuts_what_the_binomial_allows() {
        let cuts: Vec<usize> = [5, 6, 7, 8, 10, 11, 13, 20].iter().map(|n| interval_rank(*n)).collect();
        assert_eq!(cuts, [0, 0, 0, 1, 1, 2, 3, 5]);
    }

    /// The median of the pairwise ratios, not the ratio of the medians: drift of the machine cancels.
    #[test]
    fn a_drifting_machine_does_not_move_the_ratio() {
        let b: Vec<f64> = (1..=8).map(|i| f64::from(i) * 100.0).collect();
        let a: Vec<f64> = b.iter().map(|v| v * 1.5).collect();
        let r = ratio_of_pairs(&a, &b).unwrap();
        assert!((r.median - 1.5).abs() < 1e-9 && (r.low - 1.5).abs() < 1e-9 && (r.high - 1.5).abs() < 1e-9);
    }

    /// A target is judged by an interval, so four pairs or a zero measurement must not yield one.
    #[test]
    fn too_few_pairs_or_a_zero_are_refused() {
        assert_eq!(ratio_of_pairs(&[1.0; 4], &[1.0; 4]), Err(NoRatio::TooFew { pairs: 4, needed: 5 }));
        assert_eq!(ratio_of_pairs(&[0.0; 8], &[1.0; 8]), Err(NoRatio::NotANumber));
        assert_eq!(ratio_of_pairs(&[1.0; 8], &[0.0; 8]), Err(NoRatio::NotANumber));
    }

    /// The headline figure of several cases.
    #[test]
    fn the_geometric_mean_of_two_and_eight_is_four() {
        assert!((geometric_mean(&[2.0, 8.0]).unwrap() - 4.0).abs() < 1e-9);
        assert_eq!(geometric_mean(&[]), None);
    }
}
