//! The arbiter of one physical device: from what its disks used lately to what each may use from now on, customer over domain over
//! disk. A plan is made every few milliseconds and stands until the next; between them nobody is asked. Knows nothing of
//! processes, files or clocks.

use std::collections::BTreeMap;

use crate::depth::{Depth, Totals, to_f64};
use crate::share::{self, Grant, Work};

mod done;
mod tree;

use done::Done;
use tree::{Disk, customer_vessel, domain_vessel, domains, level_for, share_at};

/// As much more than the device has shown to do is given out at most.
const PACE_MOST: f64 = 1.3;
/// So much of what the device does can be given out for ever without a queue that grows, which would be nobody's share.
const LASTING: f64 = 0.95;
/// Over about so long it is taken, s: longer than a bucket's burst after a lull.
const LASTING_OVER_S: f64 = 2.0;
/// As much more than is promised is kept for it: or its worst tenth of a second would fall short.
const PROMISED: f64 = 1.03;
/// Between plans of a device that is shared, ns.
pub const PLAN_NS: u64 = 5_000_000;
/// Where nobody uses it, and where one does alone: until another comes there is nothing to divide.
const IDLE_NS: u64 = 100_000_000;
const LONE_NS: u64 = 20_000_000;
/// Where several do, of whom nobody was held back, nor was the device full, for so long: what each may use stands.
const CALM_LOOK_NS: u64 = 50_000_000;
const CALM_NS: u64 = 1_000_000_000;
/// For so many disks more a plan takes its time longer to come, at most so many times: a thousand disks that sleep must not cost a
/// thousand looks every time, nor one that wakes up wait for long.
const DISKS: usize = 100;
const SELDOM_MAX: u64 = 5;
const SHARED_SELDOM_MAX: u64 = 2;
/// How soon the device's fill is to be right again, ns.
const SETTLE_NS: f64 = 10e6;
/// Used within that time: active, ns.
const ACTIVE_NS: u64 = 1_000_000_000;
/// A tenant that used less than its share may use more at once, up to its share; what it used says only what others may have.
const HEADROOM: f64 = 1.1;
/// Fuller than that, somebody is not held back who should be.
const OVERFULL: f64 = 1.3;
/// Who has less under way than that of what its rate is of all is not what fills it.
const PART: f64 = 0.5;
/// Less full than that, a device waits for work.
const STARVED: f64 = 0.7;
/// Who asked for more than it got within that time has its part of what stands once nobody plans any more, ns.
const HUNGRY_LATELY_NS: u64 = 1_000_000_000;
/// Weight of the latest look in the mean cost of a request.
const COST_BLEND: f64 = 0.1;

/// A disk's figures; sums only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// What its worker took so far.
    pub spent: Work,
    /// Its part in the device's sums.
    pub totals: Totals,
    /// How often it was refused.
    pub refused: u64,
    /// It waits for its share now.
    pub is_waiting: bool,
}

/// Who a disk belongs to, and what each of those weighs.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// Domains of the same customer share a number; a domain without one is its own.
    pub customer: u64,
    /// Disks of the same domain share a number.
    pub domain: u64,
    /// Of the customer, the domain among the customer's, and the disk among the domain's.
    pub weights: [u32; 3],
    /// Promised to the domain, requests a second.
    pub reserve_iops: u64,
}

/// A disk, as long as it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemberId(u64);

/// Where a disk is among the others: those of a domain stand together, and those of a customer. So nothing is to be grouped anew when one
/// comes or goes, and that costs no more than the plan that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Seat {
    customer: u64,
    domain: u64,
    id: MemberId,
}

impl Seat {
    fn of(id: MemberId, standing: &Standing) -> Self {
        Self { customer: standing.customer, domain: standing.domain, id }
    }
}

#[derive(Clone, Debug)]
struct Member {
    standing: Standing,
    last: Sample,
    grant: Grant,
    used_ns: u64,
    refused_ns: u64,
    /// Work in the last look, ns a second.
    demand: f64,
    /// Work is asked for without an end: it waits, or was refused since the last look.
    hungry: bool,
    active: bool,
    /// What it is given, work a second.
    given: f64,
    /// What is to stand if nobody plans any more, work a second.
    lasting: f64,
    /// Mean cost of a request.
    cost_ns: f64,
}

/// What a plan found.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outlook {
    /// Disks that used the device lately.
    pub active: usize,
    /// How full the device is; 1 is right.
    pub level: f64,
    /// Work a second that it does.
    pub work_per_s: f64,
    /// Less than all that is reserved.
    pub short_of_reserves: bool,
}

/// The arbiter.
#[derive(Clone, Debug, Default)]
pub struct Planner {
    members: BTreeMap<Seat, Member>,
    seats: BTreeMap<MemberId, Seat>,
    next: u64,
    depth: Depth,
    planned_ns: u64,
    /// More than one wants the device.
    contended: bool,
    /// When somebody last wanted more than there was, or the device was full.
    pressed_ns: u64,
    max_reserved: f64,
    level: f64,
    /// Plans in a row in which the device had too little although more was asked for.
    starved: u32,
    sums: Totals,
    /// Work a second that is given out.
    pace: f64,
    done: Done,
    /// Time in which more was asked for than done, s, and the work done in it, both of late.
    sustained: [f64; 2],
    /// When it was last settled what is to last; 0: not for all of them.
    lasting_ns: u64,
    /// Reserves had to be cut.
    short: bool,
}

impl Planner {
    /// For a device of which at most that part is reserved.
    #[must_use]
    pub fn new(max_reserved_ppm: u32) -> Self {
        Self { max_reserved: f64::from(max_reserved_ppm) / 1e6, ..Self::default() }
    }

    /// A disk comes; `sample` is where its sums stand, `grant` what stands on its page.
    pub fn join(&mut self, standing: Standing, sample: Sample, grant: Grant) -> MemberId {
        let id = MemberId(self.next);
        self.next += 1;
        self.lasting_ns = 0;
        let now = sample.totals;
        self.sums.issued_ops = self.sums.issued_ops.wrapping_add(now.issued_ops.wrapping_sub(now.done_ops));
        self.sums.issued_ns = self.sums.issued_ns.wrapping_add(now.issued_ns.wrapping_sub(now.done_ns));
        let seat = Seat::of(id, &standing);
        let member = Member {
            standing,
            last: sample,
            grant,
            used_ns: 0,
            refused_ns: 0,
            demand: 0.0,
            hungry: false,
            active: false,
            given: 0.0,
            lasting: 0.0,
            cost_ns: 0.0,
        };
        self.members.insert(seat, member);
        self.seats.insert(id, seat);
        id
    }

    /// A disk goes; nothing of it is under way any more.
    pub fn leave(&mut self, id: MemberId) {
        if let Some(member) = self.seats.remove(&id).and_then(|seat| self.members.remove(&seat)) {
            let last = member.last.totals;
            self.sums.done_ops = self.sums.done_ops.wrapping_add(last.issued_ops.wrapping_sub(last.done_ops));
            self.sums.done_ns = self.sums.done_ns.wrapping_add(last.issued_ns.wrapping_sub(last.done_ns));
        }
    }

    /// Another policy.
    pub fn set_standing(&mut self, id: MemberId, standing: Standing) {
        let Some(seat) = self.seats.get_mut(&id) else { return };
        let before = std::mem::replace(seat, Seat::of(id, &standing));
        if let Some(member) = self.members.remove(&before) {
            self.members.insert(*seat, Member { standing, ..member });
        }
    }

    /// What the device is to have at a time.
    #[must_use]
    pub fn window(&self) -> crate::depth::Window {
        self.depth.window()
    }

    /// Nobody used the device lately.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.members.values().all(|member| !member.active)
    }

    /// Until the next plan, ns.
    #[must_use]
    pub fn until_next_ns(&self) -> u64 {
        let hundreds = self.members.len().div_ceil(DISKS).max(1) as u64;
        if self.is_idle() {
            IDLE_NS * hundreds.min(SELDOM_MAX)
        } else if self.contended && self.planned_ns.saturating_sub(self.pressed_ns) < CALM_NS {
            PLAN_NS * hundreds.min(SHARED_SELDOM_MAX)
        } else if self.contended {
            CALM_LOOK_NS * hundreds.min(SHARED_SELDOM_MAX)
        } else {
            LONE_NS * hundreds.min(SELDOM_MAX)
        }
    }

    /// A plan: `sample` is asked for each disk's figures, `grant` is told what changed.
    pub fn plan(
        &mut self,
        now_ns: u64,
        sample: &mut dyn FnMut(MemberId) -> Sample,
        tell: &mut dyn FnMut(MemberId, Grant),
    ) -> Outlook {
        let time_ns = now_ns.saturating_sub(std::mem::replace(&mut self.planned_ns, now_ns));
        if time_ns == 0 || time_ns == now_ns {
            // The first look only says where the sums stand.
            for (seat, member) in &mut self.members {
                self.sums.add(&member.look(sample(seat.id), now_ns, 1.0, Some(0.0)));
            }
            return Outlook::default();
        }
        let seconds = to_f64(time_ns) / 1e9;
        // Who is not held back although there is too much under way wants more than there is, too.
        let is_rationed = self.contended && self.level < OVERFULL;
        let is_paced = self.pace > 0.0;
        let ops_per_rate =
            if is_paced { self.depth.window().ops / to_f64(Grant::rate_of(self.pace)) } else { 0.0 };
        let crowd = (!is_rationed).then_some(ops_per_rate);
        let (mut done_ns, mut done_ops, mut active, mut hungry) = (0, 0, 0, false);
        for (seat, member) in &mut self.members {
            let grown = member.look(sample(seat.id), now_ns, seconds, crowd);
            done_ns += grown.done_ns;
            done_ops += grown.done_ops;
            self.sums.add(&grown);
            active += usize::from(member.active);
            hungry |= member.hungry;
        }
        let totals = self.sums;
        if done_ops > 0 || totals.in_flight_ops() > 0.0 {
            self.done.count([time_ns, done_ns, done_ops], self.depth.is_probing());
        }
        if hungry {
            let rest = (-seconds / LASTING_OVER_S).exp();
            let [time_s, work] = self.sustained;
            self.sustained = [time_s * rest + seconds, work * rest + to_f64(done_ns)];
        }
        self.depth.observe(now_ns, totals);
        let level = self.depth.level(totals.in_flight_ops());
        let mut outlook = Outlook { active, level, work_per_s: self.done.per_s, short_of_reserves: false };
        self.level = level;
        if hungry || level >= STARVED {
            self.pressed_ns = now_ns;
        }
        let was = std::mem::replace(&mut self.contended, active > 1);
        if self.contended && !was && level >= STARVED {
            self.depth.probe(totals);
        }
        if !self.contended {
            self.lift(now_ns, tell);
            return outlook;
        }
        outlook.short_of_reserves = self.divide(now_ns, &outlook, hungry, tell);
        outlook
    }

    /// With one alone there is nobody to protect.
    pub fn lift(&mut self, now_ns: u64, tell: &mut dyn FnMut(MemberId, Grant)) {
        self.pace = 0.0;
        self.lasting_ns = 0;
        for (seat, member) in &mut self.members {
            if !member.grant.is_open() {
                member.grant = Grant { since_ns: now_ns, base: member.last.spent, ..Grant::OPEN };
                tell(seat.id, member.grant);
            }
        }
    }

    /// Gives out what the device does, and as much more or less as its fill lacks or has too much.
    fn divide(
        &mut self,
        now_ns: u64,
        outlook: &Outlook,
        hungry: bool,
        tell: &mut dyn FnMut(MemberId, Grant),
    ) -> bool {
        let (window, level, done) = (self.depth.window(), outlook.level, outlook.work_per_s);
        let before = if self.pace > 0.0 { self.pace } else { done };
        self.starved = if level < STARVED && hungry { self.starved + 1 } else { 0 };
        // Half of nothing known would be nothing for ever.
        let pace = if self.depth.is_probing() && self.done.is_known() {
            done * 0.5
        } else if self.starved > 1 {
            // It could do more than it is given: what it does says nothing of what it can.
            before.max(done) * 1.25
        } else if level < STARVED && !hungry {
            before
        } else {
            done + (1.0 - level) * window.work_ns / (SETTLE_NS / 1e9)
        };
        // More than it ever did lately would be no limit, and stand for long where nobody plans any more.
        let shown = self.depth.most_per_s();
        let most = if shown > 0.0 { shown * PACE_MOST } else { f64::MAX };
        // Less than half of what it does would hardly empty it sooner, and stand for long just the same.
        let pace = pace.clamp(before * 0.5, before * 2.0).max(done * 0.5).min(most).max(1.0);
        self.pace = pace;
        // To settle what lasts takes as long as to divide anew, and of many disks a plan with both would be much longer than the others: what is
        // given out stays divided as it was. A newcomer has to have both at once.
        let has_newcomer = self.lasting_ns == 0;
        let settles = has_newcomer || now_ns.saturating_sub(self.lasting_ns) >= share::RENEW_NS;
        if settles {
            self.settle_what_lasts(now_ns, pace);
        }
        let rates: Vec<f64> = if settles && !has_newcomer && self.members.len() > DISKS {
            self.members.values().map(|member| member.given * pace / before).collect()
        } else {
            let (rates, short) = self.rates(pace, |member| member.hungry);
            self.short = short;
            rates
        };
        for ((seat, member), rate) in self.members.iter_mut().zip(rates) {
            member.given = rate;
            let (rate, lasting_rate) = (Grant::rate_of(rate), Grant::rate_of(member.lasting));
            let age_ns = now_ns.saturating_sub(member.grant.since_ns);
            if rate != member.grant.rate || age_ns >= share::RENEW_NS {
                member.grant = member.grant.at_rates(rate, lasting_rate, now_ns, member.last.spent);
                tell(seat.id, member.grant);
            }
        }
        self.short
    }

    /// What every disk is to have for as long as nobody plans, of what can be given out for ever.
    fn settle_what_lasts(&mut self, now_ns: u64, pace: f64) {
        self.lasting_ns = now_ns;
        let lately = |member: &Member| {
            now_ns.saturating_sub(member.refused_ns) < HUNGRY_LATELY_NS && member.refused_ns != 0
        };
        // Where nobody is held back nothing is known of what the device can do.
        let [time_s, work] = self.sustained;
        let is_known = self.members.values().any(lately);
        let amount = if is_known { (work / time_s.max(f64::MIN_POSITIVE) * LASTING).max(1.0) } else { pace };
        let (rates, _) = self.rates(amount, lately);
        for (member, rate) in self.members.values_mut().zip(rates) {
            member.lasting = rate;
        }
    }

    /// The rate of each disk, in the members' order; and whether reserves had to be cut.
    fn rates(&self, pace: f64, is_hungry: impl Fn(&Member) -> bool) -> (Vec<f64>, bool) {
        // Gone over several times, so it is to be small.
        let disks = self.members.iter().map(|(seat, member)| Disk {
            customer: seat.customer,
            domain: seat.domain,
            weights: member.standing.weights,
            reserve_iops: member.standing.reserve_iops,
            cost_ns: member.cost_ns,
            most: if is_hungry(member) { f64::MAX / 1e6 } else { member.demand * HEADROOM },
        });
        let disks: Vec<Disk> = disks.collect();
        let customers: Vec<&[Disk]> = disks.chunk_by(|a, b| a.customer == b.customer).collect();
        let reserved: f64 = domains(&disks).map(|disks| domain_vessel(disks, 1.0).least).sum();
        // A probe gives out half of what the device does, from what nobody was promised.
        let able = if self.depth.is_probing() { pace.max(self.done.per_s) } else { pace };
        let most_reserved = able * self.max_reserved;
        let short = reserved > most_reserved * PROMISED;
        let scale = if reserved > most_reserved { most_reserved / reserved } else { 1.0 };
        let outer: Vec<_> = customers.iter().map(|disks| customer_vessel(disks, scale)).collect();
        let top = level_for(pace, &outer);
        let mut rates = Vec::with_capacity(disks.len());
        for (customer, vessel) in customers.iter().zip(&outer) {
            let amount = share_at(top, vessel, pace);
            // Nearly all customers have one domain on a device, and nearly all domains one disk.
            if customer.len() == 1 {
                rates.push(amount);
                continue;
            }
            let vessels: Vec<_> = domains(customer).map(|disks| domain_vessel(disks, scale)).collect();
            let middle = level_for(amount, &vessels);
            for (disks, vessel) in domains(customer).zip(&vessels) {
                let amount = share_at(middle, vessel, amount);
                let vessels: Vec<_> = disks.iter().map(Disk::vessel).collect();
                let bottom = level_for(amount, &vessels);
                rates.extend(vessels.iter().map(|vessel| share_at(bottom, vessel, amount)));
            }
        }
        (rates, short)
    }
}

impl Member {
    /// About as much under way as its rate is of all, or no rate. Who has less wants no more, however full the device is.
    fn has_its_part(&self, ops_per_rate: f64) -> bool {
        self.grant.is_open()
            || self.last.totals.in_flight_ops() >= to_f64(self.grant.rate) * ops_per_rate * PART
    }

    /// Takes new figures; what was added since. Where there is too much under way, `crowd` is how much for each unit of rate is right.
    fn look(&mut self, now: Sample, now_ns: u64, seconds: f64, crowd: Option<f64>) -> Totals {
        let last = std::mem::replace(&mut self.last, now);
        let grown = now.totals.since(&last.totals);
        let (issued_ns, issued_ops) = (grown.issued_ns, grown.issued_ops);
        let in_flight = now.totals.issued_ops != now.totals.done_ops;
        if issued_ops > 0 || in_flight || now.is_waiting || now.refused != last.refused {
            self.used_ns = now_ns;
        }
        self.active = self.used_ns != 0 && now_ns.saturating_sub(self.used_ns) < ACTIVE_NS;
        if now.is_waiting
            || now.refused != last.refused
            || in_flight && crowd.is_some_and(|ops_per_rate| self.has_its_part(ops_per_rate))
        {
            self.refused_ns = now_ns;
        }
        self.hungry = self.refused_ns == now_ns;
        self.demand = to_f64(issued_ns) / seconds;
        if issued_ops > 0 {
            let cost_ns = to_f64(issued_ns) / to_f64(issued_ops);
            self.cost_ns = if self.cost_ns == 0.0 {
                cost_ns
            } else {
                self.cost_ns + (cost_ns - self.cost_ns) * COST_BLEND
            };
        }
        grown
    }
}

#[cfg(test)]
mod tests;
