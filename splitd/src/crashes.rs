//! How soon a dead worker's successor starts, and when none does. Pure but for the times it is given. Knows nothing of why it
//! died.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::CrashLoop;

/// Waits before the successor of the first, second, … death in a row; later ones wait as long as the last.
const WAITS: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(50), Duration::from_millis(250), Duration::from_secs(1)];

/// A single quick death is bad luck; deaths this close together are a row.
const ROW: Duration = Duration::from_secs(5);

/// The recent deaths of one device's workers.
#[derive(Debug)]
pub struct Crashes {
    limit: CrashLoop,
    recent: VecDeque<Instant>,
}

/// What to do about a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Start again after so long.
    Again(Duration),
    /// Leave it until somebody has looked at it.
    GiveUp,
}

impl Crashes {
    /// None yet.
    #[must_use]
    pub fn new(limit: CrashLoop) -> Self {
        Self { limit, recent: VecDeque::new() }
    }

    /// Notes one. A worker that got something done was not ended by what its successor begins with: that is no loop, however
    /// often somebody kills it.
    pub fn note(&mut self, now: Instant, got_something_done: bool) -> Verdict {
        if got_something_done {
            self.recent.clear();
        }
        let window = Duration::from_secs(self.limit.within_s);
        while self.recent.front().is_some_and(|at| now.duration_since(*at) > window) {
            self.recent.pop_front();
        }
        self.recent.push_back(now);
        if self.recent.len() >= self.limit.deaths {
            return Verdict::GiveUp;
        }
        let in_a_row = self
            .recent
            .iter()
            .rev()
            .zip(self.recent.iter().rev().skip(1))
            .take_while(|(later, earlier)| later.duration_since(**earlier) < ROW)
            .count();
        Verdict::Again(WAITS.get(in_a_row).or(WAITS.last()).copied().unwrap_or_default())
    }

    /// Somebody has looked at it.
    pub fn clear(&mut self) {
        self.recent.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first death costs the guest milliseconds; a row of them costs the host little; a loop ends.
    #[test]
    fn rows_wait_and_loops_end() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut crashes = Crashes::new(CrashLoop { deaths: 5, within_s: 60 });
        let verdicts: Vec<_> =
            [0, 100, 200, 300, 400].into_iter().map(|ms| crashes.note(at(ms), false)).collect();
        let mut expected: Vec<_> = WAITS.into_iter().map(Verdict::Again).collect();
        expected.push(Verdict::GiveUp);
        assert_eq!(verdicts, expected);
        crashes.clear();
        assert_eq!(crashes.note(at(500), false), Verdict::Again(Duration::ZERO));
    }

    /// A worker that is killed while it serves comes back at once, each time.
    #[test]
    fn progress_is_no_loop() {
        let start = Instant::now();
        let mut crashes = Crashes::new(CrashLoop { deaths: 5, within_s: 60 });
        for n in 0..100 {
            let verdict = crashes.note(start + Duration::from_millis(10 * n), true);
            assert_eq!(verdict, Verdict::Again(Duration::ZERO));
        }
    }

    /// A worker killed now and then (an upgrade, the OOM killer) is always back at once.
    #[test]
    fn rare_deaths_are_forgotten() {
        let start = Instant::now();
        let mut crashes = Crashes::new(CrashLoop { deaths: 5, within_s: 60 });
        for n in 0..100 {
            assert_eq!(
                crashes.note(start + Duration::from_secs(16 * n), false),
                Verdict::Again(Duration::ZERO)
            );
        }
    }
}
