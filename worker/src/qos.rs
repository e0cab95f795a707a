//! A disk's limits where they are kept: in its worker, with nobody asked. splitd's page says what holds; what was used stands in files
//! that the workers of a domain, or of a customer, share. All of it stays as it is when splitd is stopped or gone, and when the
//! worker is. Knows nothing of requests beyond what they cost.

use std::io;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use qos::account::{self, Ask, NR_WORDS, Place};
use qos::cost::{Op, Prices};
use qos::page::{self, NR_ACCOUNTS, Rules, USAGE_AT, USAGE_LEN, Usage};
use qos::policy::Model;
use qos::share::{self, Grant};

use crate::mapped_file::{MappedFile, ReadOnlyFile};
use crate::message::QosFiles;

/// Length of a shared account's file.
const ACCOUNT_LEN: usize = NR_WORDS * 8;
/// How much of a late wake-up is made up for.
const LATE_NS_MAX: u64 = 100_000_000;

/// All queues of a disk go through it.
#[derive(Debug)]
pub struct Gate {
    page: ReadOnlyFile,
    usage: MappedFile,
    domain: MappedFile,
    customer: Option<MappedFile>,
}

/// What a queue saw last; it holds until there is something newer and whole.
#[derive(Debug)]
pub struct Seen {
    rules: Rules,
    number: Option<u64>,
    /// There are caps at all.
    capped: bool,
    grant: Grant,
}

impl Default for Seen {
    fn default() -> Self {
        let rules = Rules::unlimited(Prices::of(Model::Auto, false));
        Self { rules, number: None, capped: false, grant: Grant::OPEN }
    }
}

impl Seen {
    /// What requests cost.
    #[must_use]
    pub fn prices(&self) -> &Prices {
        &self.rules.prices
    }

    /// The device is shared out: large requests are to be cut smaller.
    #[must_use]
    pub fn is_rationed(&self) -> bool {
        !self.grant.is_open()
    }
}

impl Gate {
    /// Opens the files; to be done while there still are privileges.
    pub fn open(files: &QosFiles) -> io::Result<Self> {
        let account = |path: &Path| MappedFile::open(path, ACCOUNT_LEN);
        let page = MappedFile::open_read_only(&files.page, page::LEN)?;
        if page.load_u64(0) != page::MAGIC {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a page of rules"));
        }
        Ok(Self {
            page,
            usage: MappedFile::open(&files.usage, USAGE_LEN)?,
            domain: account(&files.domain)?,
            customer: files.customer.as_deref().map(account).transpose()?,
        })
    }

    fn figure(&self, usage: Usage) -> &AtomicU64 {
        self.usage.u64_at(USAGE_AT + usage as usize * 8)
    }

    /// The rules, if they are other ones; true if they are.
    pub fn look(&self, seen: &mut Seen) -> bool {
        let load = |at: usize| self.page.load_u64(at);
        let before = seen.number;
        if seen.number != Some(load(page::RULES.number_at))
            && let Some((number, words)) = page::read(page::RULES, load)
        {
            seen.rules = Rules::of_words(&words);
            seen.number = Some(number);
            seen.capped = seen.rules.accounts.iter().flatten().any(qos::gcra::Limit::is_set);
        }
        if let Some((_, words)) = page::read(page::GRANT, load) {
            seen.grant = Grant::of_words(words);
        }
        seen.number != before
    }

    fn clocks(&self, account: usize) -> Option<&MappedFile> {
        match account {
            0 => Some(&self.usage),
            1 => Some(&self.domain),
            _ => self.customer.as_ref(),
        }
    }

    /// Whether the caps let a request pass now; else when to ask again, ns. `place` is the asker's own, from one call to the next.
    pub fn cap(&self, seen: &Seen, ask: Ask, place: &mut Place, now_ns: u64) -> Result<(), u64> {
        if !seen.capped {
            return Ok(());
        }
        let rules = &seen.rules;
        let (mut at_ns, mut whose) = (0, 0);
        for (i, limits) in rules.accounts.iter().enumerate() {
            if let Some(clocks) = self.clocks(i) {
                let at = account::ready_at_ns(limits, ask.op, rules.counting, |c| clocks.u64_at(c * 8));
                (at_ns, whose) = if at > at_ns { (at, i) } else { (at_ns, whose) };
            }
        }
        if at_ns > now_ns {
            self.figure(Usage::CapWaits).fetch_add(1, Relaxed);
            let Some(clocks) = self.clocks(whose) else { return Err(at_ns) };
            let (limits, word) = (&rules.accounts[whose], |c: usize| clocks.u64_at(c * 8));
            return Err(place.ask_again_ns(limits, ask, rules.counting, (at_ns, now_ns), word));
        }
        // Who waited is not the poorer for a thread that wakes late; who came just now brings nothing from before.
        let earliest_ns = now_ns.saturating_sub(LATE_NS_MAX);
        let paid_ns = ask.taken_ns.clamp(earliest_ns, now_ns.max(earliest_ns));
        self.charge(seen, ask.op, ask.len_bytes, paid_ns);
        Ok(())
    }

    /// A request passes whatever the caps say; it is paid for all the same.
    pub fn charge(&self, seen: &Seen, op: Op, len_bytes: u64, now_ns: u64) {
        for i in 0..NR_ACCOUNTS {
            if let Some(clocks) = self.clocks(i).filter(|_| seen.capped) {
                let limits = &seen.rules.accounts[i];
                account::charge(limits, op, len_bytes, seen.rules.counting, now_ns, |c| clocks.u64_at(c * 8));
            }
        }
    }

    /// Whether the disk's share has room for a piece of a request that was taken at `taken_ns`; else when to ask again, ns.
    pub fn share(&self, seen: &Seen, cost_ns: u64, taken_ns: u64, now_ns: u64) -> Result<(), u64> {
        let outcome = share::admit(&seen.grant, self.figure(Usage::Spent), cost_ns, taken_ns, now_ns);
        if outcome.is_err() {
            self.figure(Usage::Refused).fetch_add(1, Relaxed);
        }
        outcome
    }

    /// A queue waits for the share from now on, or waits no more.
    pub fn set_waiting(&self, is_waiting: bool) {
        let queues = self.figure(Usage::Waiting);
        if is_waiting {
            queues.fetch_add(1, Relaxed)
        } else {
            queues.fetch_sub(1, Relaxed)
        };
    }

    /// Taken from the share without asking.
    pub fn spend(&self, cost_ns: u64) {
        self.figure(Usage::Spent).fetch_add(share::work(cost_ns), Relaxed);
    }

    /// A piece goes to the device.
    pub fn begun(&self, cost_ns: u64, len_bytes: u64) {
        self.figure(Usage::IssuedOps).fetch_add(1, Relaxed);
        self.figure(Usage::IssuedNs).fetch_add(cost_ns, Relaxed);
        self.figure(Usage::Bytes).fetch_add(len_bytes, Relaxed);
    }

    /// It is back.
    pub fn ended(&self, cost_ns: u64, took_ns: u64) {
        self.figure(Usage::LatencyNs).fetch_add(took_ns, Relaxed);
        self.figure(Usage::DoneNs).fetch_add(cost_ns, Relaxed);
        self.figure(Usage::DoneOps).fetch_add(1, Relaxed);
    }

    /// Nothing is under way and nothing waits: to be said once the fence has shown that a predecessor's last request has ended.
    pub fn nothing_in_flight(&self) {
        self.figure(Usage::Waiting).store(0, Relaxed);
        for (done, issued) in [(Usage::DoneOps, Usage::IssuedOps), (Usage::DoneNs, Usage::IssuedNs)] {
            self.figure(done).store(self.figure(issued).load(Relaxed), Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::path::PathBuf;

    use qos::account::Counting;
    use qos::gcra::Limit;
    use qos::policy::Cap;
    use qos::policy::effective::CapRule;

    use super::*;

    fn put<const N: usize>(path: &Path, of: page::Twice, number: u64, words: [u64; N]) {
        let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(path).unwrap();
        file.set_len(page::LEN as u64).unwrap();
        file.write_all_at(&page::MAGIC.to_le_bytes(), 0).unwrap();
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        file.write_all_at(&bytes, of.copies_at[usize::from(number & 1 == 1)] as u64).unwrap();
        file.write_all_at(&number.to_le_bytes(), of.number_at as u64).unwrap();
    }

    fn files(dir: &Path, disk: &str) -> QosFiles {
        let name = |part: &str| -> PathBuf { dir.join(format!("{disk}-{part}")) };
        QosFiles { page: name("page"), usage: name("usage"), domain: dir.join("domain"), customer: None }
    }

    fn capped(rate: u64) -> Rules {
        let mut rules = Rules::unlimited(Prices::of(Model::Auto, false));
        let rule = CapRule { rate, burst_rate: None, burst_len_ns: 0 };
        rules.accounts[1][Cap::TotalIops as usize] = Limit::of(&rule, true);
        rules.counting = Counting { iops_size_bytes: 256 << 10, flush_is_op: false };
        rules
    }

    fn write(taken_ns: u64) -> Ask {
        Ask { op: Op::Write, len_bytes: 4096, taken_ns }
    }

    /// Requests that pass in ten seconds from `from_s` through gates that share a domain, and how often they are refused: each asks
    /// until it is refused, and again when it was told to; its requests have waited ever since.
    fn asked(gates: &[&(Gate, Seen)], from_s: u64) -> (u64, u64) {
        let from_ns = from_s * 1_000_000_000;
        let (mut now_ns, mut passed, mut refused) = (from_ns, 0, 0);
        let mut places: Vec<(Place, u64)> = gates.iter().map(|_| (Place::default(), now_ns)).collect();
        while now_ns < from_ns + 10_000_000_000 {
            for ((gate, seen), (place, at_ns)) in gates.iter().zip(&mut places) {
                while *at_ns <= now_ns {
                    match gate.cap(seen, write(from_ns), place, now_ns) {
                        Ok(()) => passed += 1,
                        Err(at) => (*at_ns, refused) = (at, refused + 1),
                    }
                }
            }
            now_ns = places.iter().map(|(_, at_ns)| *at_ns).min().unwrap();
        }
        (passed, refused)
    }

    fn passed(gates: &[(Gate, Seen)], from_s: u64) -> u64 {
        asked(&gates.iter().collect::<Vec<_>>(), from_s).0
    }

    /// Two disks of one domain share its cap; a worker killed and started again has neither lost nor won anything; a new page
    /// counts from the next look on, and a half-written one not at all.
    #[test]
    fn a_domains_disks_share_one_account() {
        let dir = tempfile::tempdir().unwrap();
        let open = |disk: &str| {
            let gate = Gate::open(&files(dir.path(), disk)).unwrap();
            let mut seen = Seen::default();
            gate.look(&mut seen);
            (gate, seen)
        };
        for disk in ["a", "b"] {
            put(&files(dir.path(), disk).page, page::RULES, 1, capped(100).words());
            put(&files(dir.path(), disk).page, page::GRANT, 1, Grant::OPEN.words());
        }
        let gates = [open("a"), open("b")];
        assert!((1000..=1004).contains(&passed(&gates, 10)));
        drop(gates);
        let mut gates = [open("a"), open("b")];
        assert!((998..=1001).contains(&passed(&gates, 20)), "a fresh worker brings no burst");

        let path = files(dir.path(), "a").page;
        put(&path, page::RULES, 2, capped(50).words());
        gates[0].0.look(&mut gates[0].1);
        let half = passed(&gates[..1], 40);
        assert!((500..=502).contains(&half), "{half}");
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&[0xff; 64], page::RULES.copies_at[1] as u64).unwrap();
        gates[0].0.look(&mut gates[0].1);
        assert!((499..=502).contains(&passed(&gates[..1], 60)));
    }

    /// A worker that always wakes 40 ms late, on a machine whose processors are busy, passes as many of those that wait; but who comes
    /// after a pause brings no more than ever.
    #[test]
    fn late_wakes_cost_nothing() {
        let dir = tempfile::tempdir().unwrap();
        put(&files(dir.path(), "a").page, page::RULES, 1, capped(100).words());
        put(&files(dir.path(), "a").page, page::GRANT, 1, Grant::OPEN.words());
        let gate = Gate::open(&files(dir.path(), "a")).unwrap();
        let mut seen = Seen::default();
        gate.look(&mut seen);
        let second = 1_000_000_000;
        let (mut now_ns, mut n) = (10 * second, 0);
        while now_ns < 20 * second {
            match gate.cap(&seen, write(10 * second), &mut Place::default(), now_ns) {
                Ok(()) => n += 1,
                Err(at_ns) => now_ns = at_ns + 40_000_000,
            }
        }
        assert!((995..=1005).contains(&n), "{n}");

        let now_ns = 60 * second;
        let ask = || gate.cap(&seen, write(now_ns), &mut Place::default(), now_ns);
        let at_once = (0..50).take_while(|_| ask().is_ok()).count();
        assert!(at_once <= 2, "{at_once}");
    }

    /// Eight queues that wait for one cap wake once for each place, not all of them for every one; when seven of them die, the last
    /// has all of it again within a quarter of a second.
    #[test]
    fn one_wakes_for_each_place() {
        let dir = tempfile::tempdir().unwrap();
        put(&files(dir.path(), "a").page, page::RULES, 1, capped(100).words());
        put(&files(dir.path(), "a").page, page::GRANT, 1, Grant::OPEN.words());
        let gates: Vec<(Gate, Seen)> = (0..8)
            .map(|_| {
                let gate = Gate::open(&files(dir.path(), "a")).unwrap();
                let mut seen = Seen::default();
                gate.look(&mut seen);
                (gate, seen)
            })
            .collect();
        let (passed, refused) = asked(&gates.iter().collect::<Vec<_>>(), 10);
        assert!((995..=1005).contains(&passed) && refused <= passed * 11 / 10, "{passed} {refused}");
        let (passed, _) = asked(&[&gates[3]], 20);
        assert!((970..=1005).contains(&passed), "{passed}");
    }

    /// What a dead worker left in flight is taken off once, and only what it was.
    #[test]
    fn a_dead_workers_window_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        put(&files(dir.path(), "a").page, page::GRANT, 1, Grant::OPEN.words());
        let gate = Gate::open(&files(dir.path(), "a")).unwrap();
        gate.begun(700, 4096);
        gate.begun(300, 4096);
        gate.ended(300, 50);
        gate.set_waiting(true);
        drop(gate);
        let gate = Gate::open(&files(dir.path(), "a")).unwrap();
        assert_eq!(
            (gate.figure(Usage::IssuedOps).load(Relaxed), gate.figure(Usage::DoneOps).load(Relaxed)),
            (2, 1)
        );
        gate.nothing_in_flight();
        assert_eq!(gate.figure(Usage::Waiting).load(Relaxed), 0);
        assert_eq!(gate.figure(Usage::DoneNs).load(Relaxed), 1000);
    }
}
