//! Orders about static grants that no driver would give: lists that make no sense, pages that are none, pages in use.

use splitd_tests::netfront::control::{READ_ONLY, kind, list, status};
use splitd_tests::netfront::{Outgoing, Queue};
use splitd_tests::packet::{self, UDP4};
use splitd_tests::prng::Prng;
use xenbus::hv::Access;
use xenbus::sim::Held;
use xenbus::{DomId, GrantRef};

use super::{Bed, SOON};

const MOST: usize = 512;
const BAD: (u32, u32) = (status::INVALID_PARAMETER, 0);

/// N28: a queue that is none, a list that is longer than a page or in a page that cannot be read or written, a page that is none, another's,
/// or not for writing; more pages than there is room for. Each is refused whole, and nothing is mapped of it.
#[test]
fn lists_that_make_no_sense_are_refused() {
    let mut b = Bed::new();
    let (mut queues, mut control) = b.connect_control(2);
    let mine = queues[1].pages();
    let data = b.hostile.allocate(1).unwrap();
    let others = b.hostile.grant(data.frame(0), DomId(6), Access::ReadWrite).unwrap();
    let fixed = b.hostile.grant(data.frame(0), DomId::DOM0, Access::ReadOnly).unwrap();
    let good = control.with_page(&list(&mine[..4])).0;
    for (queue, gref, count) in [
        (2, good, 4),
        (u32::MAX, good, 4),
        (1, good, 513),
        (1, good, u32::MAX),
        (1, 0, 4),
        (1, 60_000, 4),
        (1, u32::MAX, 4),
        (1, others.0, 4),
    ] {
        for kind in [kind::ADD_PAGES, kind::REMOVE_PAGES] {
            let answer = control.ask(kind, [queue, gref, count]).unwrap();
            assert_eq!(answer, BAD, "N28 {kind} {queue} {gref} {count}");
        }
    }
    for queue in [2, 3, u32::MAX] {
        assert_eq!(control.ask(kind::GET_PAGES, [queue, 0, 0]).unwrap(), BAD, "N28 {queue}");
    }
    for bad in [
        (GrantRef(0), 0),
        (GrantRef(60_000), 0),
        (GrantRef(u32::MAX), READ_ONLY),
        (others, 0),
        (fixed, 0),
        (mine[0].0, 0),
        (mine[5].0, 2),
        (mine[5].0, 0xffff),
    ] {
        let answer = control.add_pages(1, &[mine[300], mine[0], bad]).unwrap();
        assert_eq!(answer, status::INVALID_PARAMETER, "N28 {bad:?}");
        assert!(!b.hostile.grant_in_use(mine[300].0), "N28 {bad:?}: nothing of it");
    }
    // Twice in a list, or in two, for the same use: once. One page more than there is room for, and all of them are refused.
    assert_eq!(control.add_pages(1, &[mine[0], mine[0]]).unwrap(), status::SUCCESS);
    assert_eq!(control.add_pages(1, &mine[..MOST]).unwrap(), status::SUCCESS);
    assert_eq!(control.add_pages(1, &[(fixed, READ_ONLY)]).unwrap(), status::INVALID_PARAMETER);
    assert_eq!(control.add_pages(0, &[(fixed, READ_ONLY)]).unwrap(), status::SUCCESS, "another queue's room");

    // Whoever was never added, or was removed already, is told so, one by one.
    let asked = [mine[0], (fixed, 0), mine[0], (GrantRef(u32::MAX), 7), (mine[1].0, 0xffff)];
    assert_eq!(control.remove_pages(1, &asked).unwrap(), (status::SUCCESS, 2, vec![0, 2, 2, 2, 0]));
    assert_eq!(control.ask(kind::REMOVE_PAGES, [1, good, 0]).unwrap(), (status::SUCCESS, 0));
    // A list that cannot be written to: nobody could be told.
    assert!(data.write(0, &list(&mine[2..6])));
    assert_eq!(control.ask(kind::REMOVE_PAGES, [1, fixed.0, 4]).unwrap(), BAD);
    assert!(b.hostile.grant_in_use(mine[2].0));
    // A list in a page that is itself mapped.
    assert_eq!(control.add_pages(0, &[(GrantRef(good), 0)]).unwrap(), status::SUCCESS);
    assert_eq!(control.remove_pages(0, &[(GrantRef(good), 0)]).unwrap(), (status::SUCCESS, 1, vec![0]));

    b.serves(&mut queues[0], "after N28");
    b.start_over("N28");
    let left: usize = queues.into_iter().map(|queue| queue.release().len()).sum();
    assert_eq!((left, control.release()), (0, 0));
    b.neighbour_is_well();
}

/// N28: slots that name pages as they are added and removed, a page that is granted anew while it is mapped, and a guest that ends while
/// all are: its own frames are all that can be wrong, and every page comes back.
#[test]
fn pages_in_use_come_and_go() {
    let mut b = Bed::new();
    let (mut queues, mut control) = b.connect_control(1);
    let mine = queues[0].pages();
    queues[0].post(256).unwrap();
    for turn in 0..10 {
        send_some(&mut queues[0]);
        assert_eq!(control.add_pages(0, &mine).unwrap(), status::SUCCESS, "{turn}");
        send_some(&mut queues[0]);
        // Another page under a reference that is mapped.
        let elsewhere = b.hostile.allocate(1).unwrap();
        b.hostile.overwrite_grant(mine[turn].0, elsewhere.frame(0), DomId::DOM0, Access::ReadOnly);
        let (status, removed, _) = control.remove_pages(0, &mine).unwrap();
        assert_eq!((status, removed), (status::SUCCESS, 512), "{turn}");
    }
    assert_eq!(control.add_pages(0, &mine[10..]).unwrap(), status::SUCCESS);
    answered(&b, &mut queues[0]);
    b.start_over("N28");
    let hostile = b.hostile.clone();
    b.world.until("let go", |_| hostile.held() == Held::default()).unwrap();
    b.neighbour_is_well();
}

fn send_some(queue: &mut Queue) {
    for number in 0..20 {
        queue.send(&Outgoing::new(packet::whole(UDP4, number, 3000)).in_slots(3));
    }
    queue.publish().unwrap();
    queue.reap().unwrap();
}

fn answered(b: &Bed, queue: &mut Queue) {
    while queue.unanswered() > 0 {
        assert!(queue.wait(SOON).unwrap(), "no answer\n{}", b.world.log());
        queue.reap().unwrap();
    }
}

/// N28, R4: orders and lists of random bytes, good ones among them: answered, each of them, and everything comes back at the end.
#[test]
fn random_lists_are_answered() {
    let mut b = Bed::new();
    let (mut queues, mut control) = b.connect_control(2);
    let mine = queues[0].pages();
    let mut prng = Prng::new(28);
    let below = |prng: &mut Prng, n: usize| usize::try_from(prng.below(n as u64)).unwrap();
    for _ in 0..300 {
        let count = below(&mut prng, 40);
        let pages: Vec<_> = (0..count)
            .map(|_| match below(&mut prng, 20) {
                0 => (GrantRef(u32::try_from(prng.below(1 << 32)).unwrap()), READ_ONLY),
                _ => mine[below(&mut prng, mine.len())],
            })
            .collect();
        let queue = u32::try_from(below(&mut prng, 3)).unwrap();
        let answer = match prng.chance(50) {
            true => control.add_pages(queue, &pages).unwrap(),
            false => {
                let (status, removed, each) = control.remove_pages(queue, &pages).unwrap();
                let told = each.iter().filter(|status| **status == 0).count();
                assert!(status != status::SUCCESS || removed as usize == told, "{removed} {each:?}");
                status
            }
        };
        assert!([status::SUCCESS, status::INVALID_PARAMETER].contains(&answer), "{answer}");
    }
    b.serves(&mut queues[0], "N28 R4");
    b.start_over("N28 R4");
    let hostile = b.hostile.clone();
    b.world.until("let go", |_| hostile.held() == Held::default()).unwrap();
    b.neighbour_is_well();
}
