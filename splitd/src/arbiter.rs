//! The thread that shares devices out: it reads what workers used, and writes what each may use from now on. It shares no lock with the
//! rest of splitd; what it is told comes through a channel. Stopped or gone, it leaves every page as it is. Knows nothing of
//! xenstore or of policies.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use qos::depth::Totals;
use qos::page::{NR_USAGE, USAGE_AT, Usage};
use qos::planner::{MemberId, Planner, Sample, Standing};
use qos::share::Grant;
use tracing::{info, warn};
use worker::clock;

use crate::id::DeviceId;
use crate::limits::pages::Page;

/// A disk on a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Which disk.
    pub id: DeviceId,
    /// The physical device.
    pub device: String,
    /// Most of the device that may be reserved, parts of a million.
    pub max_reserved_ppm: u32,
    /// What it weighs and is promised.
    pub standing: Standing,
    /// What is written to it.
    pub page: PathBuf,
    /// What its workers write.
    pub usage: PathBuf,
}

/// What the thread is told.
#[derive(Debug)]
enum Word {
    Join(Box<Member>),
    Standing(DeviceId, Standing),
    Leave(DeviceId),
}

/// The rest of splitd's end.
#[derive(Debug)]
pub struct Arbiter {
    words: Sender<Word>,
    shortages: Receiver<(String, bool)>,
}

impl Arbiter {
    /// Starts the thread; it ends with the last handle.
    pub fn start() -> io::Result<Self> {
        let (words, heard) = channel();
        let (tells, shortages) = channel();
        std::thread::Builder::new()
            .name("arbiter".to_owned())
            .spawn(move || Devices::new(tells).run(&heard))?;
        Ok(Self { words, shortages })
    }

    /// Devices that cannot keep all that is reserved of them any more, or can again, since this was asked last.
    pub fn shortages(&self) -> Vec<(String, bool)> {
        self.shortages.try_iter().collect()
    }

    /// A disk uses a device from now on.
    pub fn join(&self, member: Member) {
        // It only ends with us.
        let _ = self.words.send(Word::Join(Box::new(member)));
    }

    /// Another policy.
    pub fn set_standing(&self, id: DeviceId, standing: Standing) {
        let _ = self.words.send(Word::Standing(id, standing));
    }

    /// A disk is gone, and so is its worker.
    pub fn leave(&self, id: DeviceId) {
        let _ = self.words.send(Word::Leave(id));
    }
}

#[derive(Debug)]
struct Disk {
    id: DeviceId,
    page: Page,
    usage: PathBuf,
    /// Opened once its worker made it.
    usage_file: Option<File>,
    last: Sample,
}

#[derive(Debug)]
struct Device {
    planner: Planner,
    disks: BTreeMap<MemberId, Disk>,
    next: Instant,
    short: bool,
}

#[derive(Debug)]
struct Devices {
    tells: Sender<(String, bool)>,
    by_name: BTreeMap<String, Device>,
    /// Which device a disk is on.
    homes: BTreeMap<DeviceId, (String, MemberId)>,
}

impl Devices {
    fn new(tells: Sender<(String, bool)>) -> Self {
        Self { tells, by_name: BTreeMap::new(), homes: BTreeMap::new() }
    }

    fn run(mut self, heard: &Receiver<Word>) {
        loop {
            let now = Instant::now();
            let next = self.by_name.values().filter(|d| d.disks.len() > 1).map(|d| d.next).min();
            let word = match next {
                Some(next) => heard.recv_timeout(next.saturating_duration_since(now)),
                None => heard.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match word {
                Ok(word) => self.take(word),
                Err(RecvTimeoutError::Timeout) => self.plan(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn take(&mut self, word: Word) {
        match word {
            Word::Join(member) => {
                let id = member.id;
                // A successor's worker: everything else is as it was.
                if self.homes.get(&id).is_some_and(|(device, _)| *device == member.device) {
                    return self.take(Word::Standing(id, member.standing));
                }
                self.leave(id);
                if let Err(trouble) = self.join(*member) {
                    warn!(device = %id, "its share cannot be kept: {trouble}");
                }
            }
            Word::Standing(id, standing) => {
                if let Some((name, member)) = self.homes.get(&id)
                    && let Some(device) = self.by_name.get_mut(name)
                {
                    device.planner.set_standing(*member, standing);
                }
            }
            Word::Leave(id) => self.leave(id),
        }
    }

    fn join(&mut self, member: Member) -> io::Result<()> {
        let page = Page::open(&member.page)?;
        let grant = page.grant()?;
        let mut disk =
            Disk { id: member.id, page, usage: member.usage, usage_file: None, last: Sample::default() };
        let sample = disk.look();
        let device = self.by_name.entry(member.device.clone()).or_insert_with(|| Device {
            planner: Planner::new(member.max_reserved_ppm),
            disks: BTreeMap::new(),
            next: Instant::now(),
            short: false,
        });
        let number = device.planner.join(member.standing, sample, grant);
        device.disks.insert(number, disk);
        device.next = Instant::now();
        self.homes.insert(member.id, (member.device, number));
        Ok(())
    }

    fn leave(&mut self, id: DeviceId) {
        let Some((name, number)) = self.homes.remove(&id) else { return };
        let Some(device) = self.by_name.get_mut(&name) else { return };
        device.planner.leave(number);
        device.disks.remove(&number);
        // One that is left alone shares with nobody.
        if device.disks.len() == 1 {
            let disks = &mut device.disks;
            device.planner.lift(clock::monotonic_ns(), &mut |number, grant| tell(disks, number, grant));
        }
        if device.disks.is_empty() {
            self.by_name.remove(&name);
        }
    }

    fn plan(&mut self) {
        let now = Instant::now();
        for (name, device) in &mut self.by_name {
            if device.next <= now && device.disks.len() > 1 {
                if let Some(short) = device.plan(name) {
                    // It only ends with us.
                    let _ = self.tells.send((name.clone(), short));
                }
                device.next = now + Duration::from_nanos(device.planner.until_next_ns());
            }
        }
    }
}

fn tell(disks: &mut BTreeMap<MemberId, Disk>, number: MemberId, grant: Grant) {
    let Some(disk) = disks.get_mut(&number) else { return };
    if let Err(trouble) = disk.page.write_grant(grant) {
        warn!(device = %disk.id, "its share cannot be written: {trouble}");
    }
}

impl Device {
    /// Whether it cannot keep what is reserved of it, if that is news.
    fn plan(&mut self, name: &str) -> Option<bool> {
        let samples: BTreeMap<MemberId, Sample> =
            self.disks.iter_mut().map(|(number, disk)| (*number, disk.look())).collect();
        let disks = &mut self.disks;
        let outlook = self.planner.plan(
            clock::monotonic_ns(),
            &mut |number| samples.get(&number).copied().unwrap_or_default(),
            &mut |number, grant| tell(disks, number, grant),
        );
        if outlook.short_of_reserves == self.short {
            return None;
        }
        self.short = outlook.short_of_reserves;
        if self.short {
            warn!("{name}: less than is reserved; all reservations are cut alike");
        } else {
            info!("{name}: all reservations can be kept again");
        }
        Some(self.short)
    }
}

impl Disk {
    /// What its workers used so far; what was seen last where there is nothing to be read.
    fn look(&mut self) -> Sample {
        if self.usage_file.is_none() {
            self.usage_file = File::open(&self.usage).ok();
        }
        let mut bytes = [0; NR_USAGE * 8];
        let read = self.usage_file.as_ref().map(|file| file.read_exact_at(&mut bytes, USAGE_AT as u64));
        if let Some(Ok(())) = read {
            self.last = sample(&bytes);
        }
        self.last
    }
}

fn sample(bytes: &[u8; NR_USAGE * 8]) -> Sample {
    let words = bytes.as_chunks::<8>().0;
    let word = |usage: Usage| words.get(usage as usize).map_or(0, |bytes| u64::from_le_bytes(*bytes));
    Sample {
        spent: word(Usage::Spent),
        refused: word(Usage::Refused),
        is_waiting: word(Usage::Waiting) > 0,
        totals: Totals {
            issued_ops: word(Usage::IssuedOps),
            issued_ns: word(Usage::IssuedNs),
            done_ops: word(Usage::DoneOps),
            done_ns: word(Usage::DoneNs),
            latency_ns: word(Usage::LatencyNs),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use qos::page::USAGE_LEN;
    use xenbus::DomId;

    use super::*;
    use crate::id::Kind;

    fn member(dir: &Path, domid: u16, weight: u32) -> Member {
        let page = dir.join(format!("{domid}-limits"));
        drop(Page::open(&page).unwrap());
        let id = DeviceId { backend: DomId(0), frontend: DomId(domid), devid: 51712, kind: Kind::Vbd };
        Member {
            id,
            device: "sda".to_owned(),
            max_reserved_ppm: 800_000,
            standing: Standing {
                customer: domid.into(),
                domain: domid.into(),
                weights: [weight, 256, 256],
                reserve_iops: 0,
            },
            page,
            usage: dir.join(format!("{domid}-usage")),
        }
    }

    fn use_it(member: &Member, ops: u64, refused: u64) {
        let mut bytes = vec![0; USAGE_LEN];
        let numbers =
            [(ops * 100_000) << 8, ops, ops * 100_000, ops - 8, (ops - 8) * 100_000, ops * 800_000, refused];
        for (i, number) in numbers.iter().enumerate() {
            bytes[USAGE_AT + i * 8..][..8].copy_from_slice(&number.to_le_bytes());
        }
        std::fs::write(&member.usage, bytes).unwrap();
    }

    fn grant(member: &Member) -> Grant {
        let bytes = std::fs::read(&member.page).unwrap();
        let load = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        Grant::of_words(qos::page::read(qos::page::GRANT, load).unwrap().1)
    }

    /// Alone nobody is limited; two that want the device have it by their weights, on their pages; and when one goes the other is free
    /// again.
    #[test]
    fn pages_get_their_shares() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (member(dir.path(), 1, 512), member(dir.path(), 2, 256));
        let (tells, _told) = channel();
        let mut devices = Devices::new(tells);
        devices.take(Word::Join(Box::new(a.clone())));
        use_it(&a, 100, 0);
        devices.plan();
        assert!(grant(&a).is_open());
        devices.take(Word::Join(Box::new(b.clone())));
        for i in 1..60 {
            use_it(&a, 100 + i * 50, i);
            use_it(&b, 100 + i * 25, i);
            devices.by_name.get_mut("sda").unwrap().plan("sda");
            std::thread::sleep(Duration::from_millis(2));
        }
        let (rate_a, rate_b) = (grant(&a).rate, grant(&b).rate);
        assert!(!grant(&a).is_open() && rate_a.abs_diff(rate_b * 2) <= rate_a / 1000, "{rate_a} {rate_b}");
        devices.take(Word::Leave(b.id));
        assert!(grant(&a).is_open() && devices.by_name.len() == 1);
        devices.take(Word::Leave(a.id));
        assert!(devices.by_name.is_empty());
    }
}
