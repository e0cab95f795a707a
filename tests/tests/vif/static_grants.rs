//! Static grants: pages that the guest has mapped by its control ring (netif.h, "Static Grants"; types 8 to 10). Frames are right whether
//! a piece is copied through a mapping or by grant, and figures say which it was.

use splitd_tests::netfront::control::{READ_ONLY, kind, status};
use splitd_tests::netfront::{Options, Outgoing};
use splitd_tests::packet::{self, TCP4, TCP6, UDP4, UDP6, VnetHeader};
use xenbus::GrantRef;

use super::{Bed, assert_right};

const MOST: u32 = 512;
/// Pieces of the frames that are exchanged: those sent have 1, 1, 3 and 18, those received 1, 1, 3 and 10.
const PIECES: u64 = 38;

fn bed(queues: u32) -> Bed {
    Bed::new(Options { queues, control: true, ..Options::default() })
}

impl Bed {
    fn add_pages(&mut self, queue: u32, pages: &[(GrantRef, u16)]) -> u32 {
        self.front.control.as_mut().unwrap().add_pages(queue, pages).unwrap()
    }

    fn remove_pages(&mut self, queue: u32, pages: &[(GrantRef, u16)]) -> (u32, u32, Vec<u16>) {
        self.front.control.as_mut().unwrap().remove_pages(queue, pages).unwrap()
    }

    fn are_mapped(&self, pages: &[(GrantRef, u16)]) -> bool {
        pages.iter().all(|(gref, _)| self.guest.grant_in_use(*gref))
    }

    /// Pieces copied through mappings and by grant, of the worker that serves now.
    fn copied(&self) -> (u64, u64) {
        let stats: serde_json::Value =
            serde_json::from_str(&self.world.splitctl(&["stats", "--json", "vif/5/0"]).unwrap()).unwrap();
        let figure = |name: &str| stats["devices"][0][name].as_u64().unwrap();
        (figure("mapped_copies"), figure("grant_copies"))
    }

    /// Frames of one piece and of many, both ways; how many pieces were copied in each way.
    fn exchange(&mut self, queue: u16) -> (u64, u64) {
        let before = self.copied();
        for (number, shape, len) in [(1, UDP4, 100), (2, TCP6, 1400), (3, UDP6, 9000), (4, TCP4, 40_000)] {
            let frame = Outgoing::new(packet::whole(shape, number, len));
            let slots = if len > 20_000 { 18 } else { frame.slot_lens.len() };
            let sent = self.out(queue.into(), &frame.in_slots(slots).at(100));
            assert_right(&sent.bytes, shape, number, len);
            self.give(queue, VnetHeader::default(), packet::whole(shape, number, len));
            let received = self.next(queue.into());
            assert!(received.errors.is_empty(), "{received:?}");
            assert_right(&received.bytes, shape, number, len);
        }
        let after = self.copied();
        (after.0 - before.0, after.1 - before.1)
    }
}

/// Types 8 to 10: as many pages as both rings can name, and one list holds; every piece then goes through a mapping, none by grant. Pages
/// go when they are removed, one by one or all at the connection's end, and their frames go on by grant.
#[test]
fn frames_go_through_static_grants() {
    let mut b = bed(2);
    for queue in 0..2 {
        let answer = b.front.control.as_mut().unwrap().ask(kind::GET_PAGES, [queue, 0, 0]).unwrap();
        assert_eq!(answer, (status::SUCCESS, MOST));
    }
    assert_eq!(b.exchange(1), (0, PIECES), "nothing is mapped yet");
    let pages = b.front.queues[1].pages();
    assert_eq!(u32::try_from(pages.len()).unwrap(), MOST);

    assert_eq!(b.add_pages(1, &pages), status::SUCCESS, "{}", b.world.log());

    assert!(b.are_mapped(&pages));
    assert_eq!(b.exchange(1), (PIECES, 0));
    assert_eq!(b.exchange(0), (0, PIECES), "the other queue's are not mapped");

    let (all, done) = (pages.len(), vec![0; pages.len()]);
    assert_eq!(b.remove_pages(1, &pages[..all / 4]), (status::SUCCESS, MOST / 4, done[..all / 4].to_vec()));
    let (gone, left) = pages.split_at(all / 4);
    assert!(gone.iter().all(|(gref, _)| !b.guest.grant_in_use(*gref)) && b.are_mapped(left));
    let (mapped, by_grant) = b.exchange(1);
    assert!(mapped > 0 && by_grant > 0 && mapped + by_grant == PIECES, "{mapped} {by_grant}");
    assert_eq!(b.add_pages(1, gone), status::SUCCESS);
    assert!(b.are_mapped(&pages));
    // With pages still mapped: the guest finds all of its grants free.
    b.detach();
}

/// A page for reading alone is none to write to: frames for the guest go there by grant, which has its own answer.
#[test]
fn pages_for_reading_are_not_written_to() {
    let mut b = bed(1);
    let pages: Vec<_> = b.front.queues[0].pages().iter().map(|(gref, _)| (*gref, READ_ONLY)).collect();
    assert_eq!(b.add_pages(0, &pages), status::SUCCESS);
    assert_eq!(b.exchange(0), (23, PIECES - 23));
    b.detach();
}

/// What a guest has mapped outlives the worker: its successor maps it again, and obeys a removal of it. Another connection begins without.
#[test]
fn static_grants_outlive_a_worker() {
    let mut b = bed(2);
    let pages = b.front.queues[1].pages();
    assert_eq!(b.add_pages(1, &pages), status::SUCCESS);
    for restarts in 1..=2 {
        b.world.kill_worker("vif/5/0").unwrap();
        let served = |row: &splitd::report::Row| row.restarts == restarts && row.worker == "serving";
        b.world.until("a successor", |w| w.show("vif/5/0").is_ok_and(|row| served(&row))).unwrap();
        b.wire.wait_queues(2).unwrap();
        assert!(b.are_mapped(&pages));
        assert_eq!(b.exchange(1), (PIECES, 0));
    }
    assert_eq!(b.remove_pages(1, &pages), (status::SUCCESS, MOST, vec![0; pages.len()]));
    assert!(pages.iter().all(|(gref, _)| !b.guest.grant_in_use(*gref)));

    assert_eq!(b.add_pages(1, &pages), status::SUCCESS);
    b.front.reconnect(Options { control: true, ..Options::default() }).unwrap();
    b.wire.wait_queues(1).unwrap();
    assert_eq!(b.exchange(0), (0, PIECES));
    b.detach();
}

/// Pages come and go while frames are under way: each frame is right, and each piece of it is copied in one way or the other.
#[test]
fn pages_come_and_go_under_traffic() {
    let mut b = bed(1);
    let pages = b.front.queues[0].pages();
    let end = b.wire.clone();
    let traffic = splitd_tests::traffic::Traffic::start(&mut b.front, Some(&end), 11).unwrap();
    for turn in 0..8 {
        assert_eq!(b.add_pages(0, &pages), status::SUCCESS, "{turn}");
        let before = b.copied();
        wait_until(&b, "frames through mappings", |b| b.copied().0 > before.0);
        let (status, removed, _) = b.remove_pages(0, &pages);
        assert_eq!((status, removed), (status::SUCCESS, MOST), "{turn}");
        let before = b.copied();
        wait_until(&b, "frames by grant", |b| b.copied().1 > before.1);
    }
    let report = traffic.finish(&mut b.front).unwrap();
    assert_eq!((report.wrong.as_slice(), report.refused), (&[] as &[String], 0), "{}", b.world.log());
    assert!(report.arrived > 0 && report.received > 0, "{report:?}");
    b.detach();
}

fn wait_until(b: &Bed, what: &str, is_so: impl Fn(&Bed) -> bool) {
    let begun = std::time::Instant::now();
    while !is_so(b) {
        assert!(begun.elapsed() < super::SOON, "never: {what}\n{}", b.world.log());
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}
