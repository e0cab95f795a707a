//! Both ends against each other and against a hostile page.

use std::collections::VecDeque;
use std::ptr::NonNull;

use proptest::prelude::*;

use super::*;

/// A page or more that both ends of a test share.
#[derive(Clone, Debug)]
struct Page(std::rc::Rc<PageBytes>);

#[repr(align(4096))]
#[derive(Debug)]
struct PageBytes(std::cell::UnsafeCell<[u8; PAGE_LEN * MAX_PAGES]>, usize);

impl Page {
    fn new(pages: usize) -> Self {
        let bytes = std::cell::UnsafeCell::new([0xAA; PAGE_LEN * MAX_PAGES]);
        Self(std::rc::Rc::new(PageBytes(bytes, pages * PAGE_LEN)))
    }

    fn poke(&self, word: shared::Word, value: u32) {
        shared::word(self, word).store(value, std::sync::atomic::Ordering::SeqCst);
    }

    fn peek(&self, word: shared::Word) -> u32 {
        shared::word(self, word).load(std::sync::atomic::Ordering::SeqCst)
    }
}

#[allow(unsafe_code)]
// SAFETY: page-aligned, as long as it says, alive as long as the Rc; one thread.
unsafe impl SharedMemory for Page {
    fn base(&self) -> NonNull<u8> {
        NonNull::new(self.0.0.get().cast()).unwrap()
    }

    fn len(&self) -> usize {
        self.0.1
    }
}

use shared::Word;

fn ends(pages: usize, slot_len: usize, start: u32) -> (Page, FrontRing<Page>, BackRing<Page>) {
    let page = Page::new(pages);
    let front = FrontRing::starting_at(page.clone(), slot_len, start).unwrap();
    let at = Indices { req_cons: start, rsp_prod: start };
    let back = BackRing::attach(page.clone(), slot_len, at).unwrap();
    (page, front, back)
}

/// blkif.h and ring.h: the number of slots of every ring that blkif may have, in both ABIs.
#[test]
fn slots_of_blkif_rings() {
    for order in 0..=4 {
        for slot_len in [108, 112] {
            assert_eq!(nr_slots(1 << order, slot_len), 32 << order, "order {order}, {slot_len} bytes");
        }
    }
    for (pages, slot_len) in [(0, 112), (17, 112), (1, 0), (1, 5000)] {
        assert_eq!(nr_slots(pages, slot_len), 0);
    }
}

/// A ring that is no ring is refused when it is attached, not when it is used.
#[test]
fn impossible_rings_are_refused() {
    for (pages, slot_len) in [(1, 0), (1, 110), (1, MAX_SLOT_LEN + 4), (0, 112)] {
        let attached = BackRing::attach(Page::new(pages), slot_len, Indices::default());
        assert!(matches!(attached, Err(AttachError::Shape { .. })), "{pages} pages, {slot_len} bytes");
    }
    let at = Indices { req_cons: 33, rsp_prod: 0 };
    assert_eq!(
        BackRing::attach(Page::new(1), 112, at).unwrap_err(),
        AttachError::Indices(at),
        "a journal cannot hold more than a ring"
    );
}

/// Hostile R1, R2, R3: each req_prod is either a number of requests that fit, or an overrun; none is clamped.
#[test]
fn every_claim_beyond_the_ring_is_an_overrun() {
    for start in [0, 5, u32::MAX - 31, u32::MAX, 0x7fff_ffff, 0x8000_0000] {
        let (page, _front, mut back) = ends(1, 112, start);
        page.poke(Word::ReqProd, start.wrapping_add(4));
        for _ in 0..3 {
            back.consume(&mut [0; 112]);
        }
        back.push_response(&[1; 16]);

        for ahead in -40i32..=80 {
            page.poke(Word::ReqProd, start.wrapping_add_signed(ahead));
            // 3 taken, 1 answered: 1..=33 is the window, of which 3 are known.
            let expected = u32::try_from(ahead - 3).ok().filter(|_| ahead <= 33);
            assert_eq!(back.unconsumed().ok(), expected, "start {start}, req_prod {ahead}");
        }
    }
}

/// A hostile rsp_prod in the page is not ours, and changes nothing (hostile R6).
#[test]
fn the_page_is_never_asked_where_we_are() {
    let (page, mut front, mut back) = ends(1, 112, 0);
    front.push_request(&[7; 112]);
    let _ = front.publish();
    page.poke(Word::RspProd, 0xdead_beef);

    assert_eq!(back.unconsumed(), Ok(1));
    back.consume(&mut [0; 112]);
    back.push_response(&[1]);
    let _ = back.publish();
    assert_eq!(page.peek(Word::RspProd), 1);
    assert_eq!(back.indices(), Indices { req_cons: 1, rsp_prod: 1 });
}

/// A page that two threads share.
#[derive(Clone, Copy)]
struct Raced(NonNull<u8>);

#[allow(unsafe_code)]
// SAFETY: a leaked page, aligned, that is reached by atomics and volatile copies alone.
unsafe impl Send for Raced {}

#[allow(unsafe_code)]
// SAFETY: as above; never freed.
unsafe impl SharedMemory for Raced {
    fn base(&self) -> NonNull<u8> {
        self.0
    }

    fn len(&self) -> usize {
        PAGE_LEN
    }
}

/// R7, XSA-155: what the other side changes while it is copied is there as it was or as it is, never a bit of both: each word is read
/// once. Two reads of a word differ often enough to be seen in so many.
#[test]
fn a_word_that_changes_is_read_once() {
    let page = Box::leak(Box::new(PageBytes(std::cell::UnsafeCell::new([0; PAGE_LEN * MAX_PAGES]), 0)));
    let page = Raced(NonNull::new(page.0.get().cast()).unwrap());
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = std::sync::Arc::clone(&stop);
    let changer = std::thread::spawn(move || {
        let page = page;
        let mut value = 0u32;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            value = !value;
            shared::word(&page, Word::RspEvent).store(value, std::sync::atomic::Ordering::Relaxed);
        }
    });
    let mut torn = 0;
    let mut slot = [0; 4];
    for _ in 0..20_000_000 {
        shared::read_slot(&page, 12, &mut slot);
        torn += u32::from(slot != [0; 4] && slot != [0xff; 4]);
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    changer.join().unwrap();
    assert_eq!(torn, 0);
}

/// XSA-216: what is not part of the answer is zero, over whatever the request had left in the slot.
#[test]
fn the_rest_of_a_response_slot_is_zero() {
    let (page, mut front, mut back) = ends(1, 108, 0);
    front.push_request(&[0xFF; 108]);
    let _ = front.publish();
    back.consume(&mut [0; 108]);

    back.push_response(&[1, 2, 3]);

    let mut slot = [0xEE; 108];
    shared::read_slot(&page, HEADER_LEN, &mut slot);
    assert_eq!(slot[..3], [1, 2, 3]);
    assert!(slot[3..].iter().all(|b| *b == 0));
}

/// ring.h's rule: notify if and only if the index asked for was passed by this publication.
#[test]
fn the_event_rule_table() {
    // (published before, published now, event asked, notify)
    let table = [
        (0, 1, 1, true),
        (0, 1, 2, false),
        (0, 3, 2, true),
        (0, 3, 3, true),
        (0, 3, 4, false),
        (2, 3, 2, false),
        (2, 3, 1, false),
        (2, 3, 0x8000_0000, false),
    ];
    for start in [0, u32::MAX - 1, u32::MAX, 0x7fff_fffe] {
        for (before, now, event, expected) in table {
            let (page, mut front, mut back) = ends(1, 112, start);
            for n in 0..now {
                front.push_request(&[1]);
                if n + 1 == before {
                    let _ = front.publish();
                }
            }
            page.poke(Word::ReqEvent, start.wrapping_add(event));
            assert_eq!(front.publish(), expected, "request {before}..{now}, event {event}");

            for n in 0..now {
                back.consume(&mut [0; 112]);
                back.push_response(&[1]);
                if n + 1 == before {
                    let _ = back.publish();
                }
            }
            page.poke(Word::RspEvent, start.wrapping_add(event));
            assert_eq!(back.publish(), expected, "response {before}..{now}, event {event}");
            assert!(!back.publish(), "nothing new");
        }
    }
}

/// A backend that answers what was not asked is caught by the frontend that the tests rely on.
#[test]
fn the_front_end_believes_no_response_too_many() {
    let (page, mut front, _back) = ends(1, 112, u32::MAX);
    front.push_request(&[1]);
    let _ = front.publish();
    for (rsp_prod, expected) in [(u32::MAX, Some(0)), (0, Some(1)), (1, None), (u32::MAX - 1, None)] {
        page.poke(Word::RspProd, rsp_prod);
        assert_eq!(front.unconsumed().ok(), expected, "{rsp_prod}");
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Ask,
    PublishRequests,
    Take,
    /// Answer one of those taken: not always the oldest.
    Answer(usize),
    PublishResponses,
    Collect,
    SleepBack,
    SleepFront,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Ask),
        2 => Just(Step::PublishRequests),
        3 => Just(Step::Take),
        3 => any::<usize>().prop_map(Step::Answer),
        2 => Just(Step::PublishResponses),
        3 => Just(Step::Collect),
        1 => Just(Step::SleepBack),
        1 => Just(Step::SleepFront),
    ]
}

/// What a ring is: two queues, and two sleepers who are woken if something was published for them.
#[derive(Default)]
struct Model {
    next_id: u32,
    asked: VecDeque<u32>,
    visible_asked: usize,
    taken: Vec<u32>,
    answered: VecDeque<u32>,
    visible_answered: usize,
    back_sleeps: bool,
    front_sleeps: bool,
}

fn run(
    model: &mut Model,
    front: &mut FrontRing<Page>,
    back: &mut BackRing<Page>,
    slot_len: usize,
    step: Step,
) {
    let mut slot = vec![0; slot_len];
    match step {
        Step::Ask if front.free() > 0 => {
            slot.fill(model.next_id.to_le_bytes()[0]);
            slot[..4].copy_from_slice(&model.next_id.to_ne_bytes());
            front.push_request(&slot);
            model.asked.push_back(model.next_id);
            model.next_id += 1;
        }
        Step::PublishRequests => {
            let new = model.asked.len() > model.visible_asked;
            model.visible_asked = model.asked.len();
            let notify = front.publish();
            assert!(!(model.back_sleeps && new && !notify), "the sleeping backend was not woken");
            if notify {
                model.back_sleeps = false;
            }
        }
        Step::Take if model.visible_asked > 0 => {
            assert_eq!(back.unconsumed().unwrap() as usize, model.visible_asked);
            back.consume(&mut slot);
            let id = model.asked.pop_front().unwrap();
            model.visible_asked -= 1;
            assert_eq!(slot[..4], id.to_ne_bytes());
            assert!(slot[4..].iter().all(|b| *b == id.to_le_bytes()[0]), "a torn request");
            model.taken.push(id);
        }
        Step::Answer(which) if !model.taken.is_empty() => {
            let id = model.taken.remove(which % model.taken.len());
            back.push_response(&id.to_ne_bytes());
            model.answered.push_back(id);
        }
        Step::PublishResponses => {
            let new = model.answered.len() > model.visible_answered;
            model.visible_answered = model.answered.len();
            let notify = back.publish();
            assert!(!(model.front_sleeps && new && !notify), "the sleeping frontend was not woken");
            if notify {
                model.front_sleeps = false;
            }
        }
        Step::Collect if model.visible_answered > 0 => {
            assert_eq!(front.unconsumed().unwrap() as usize, model.visible_answered);
            front.consume(&mut slot);
            let id = model.answered.pop_front().unwrap();
            model.visible_answered -= 1;
            assert_eq!(slot[..4], id.to_ne_bytes());
        }
        Step::SleepBack => {
            let work = back.final_check().unwrap();
            assert_eq!(work, model.visible_asked > 0);
            model.back_sleeps = !work;
        }
        Step::SleepFront => {
            let work = front.final_check().unwrap();
            assert_eq!(work, model.visible_answered > 0);
            model.front_sleeps = !work;
        }
        Step::Ask | Step::Take | Step::Answer(_) | Step::Collect => {}
    }
}

proptest! {
    /// Both ends, from any index and so across the wrap, in any order of steps, with answers out of order: each request
    /// arrives once and whole, each answer once, and no sleeper is forgotten.
    #[test]
    fn both_ends_agree_with_two_queues(
        start in prop_oneof![any::<u32>(), u32::MAX - 64..=u32::MAX],
        order in 0usize..=4,
        slot_len in prop_oneof![Just(108usize), Just(112), Just(12), Just(8)],
        steps in prop::collection::vec(step(), 1..400),
    ) {
        let (_page, mut front, mut back) = ends(1 << order, slot_len, start);
        let mut model = Model::default();
        for step in steps {
            run(&mut model, &mut front, &mut back, slot_len, step);
        }
    }

    /// Any four words in the header: a count within the ring or an error, and never a read outside.
    #[test]
    fn any_header_is_survived(words in any::<[u32; 4]>(), req_cons in any::<u32>(), taken in 0u32..=32) {
        let page = Page::new(1);
        for (word, value) in [Word::ReqProd, Word::ReqEvent, Word::RspProd, Word::RspEvent].into_iter().zip(words) {
            page.poke(word, value);
        }
        let at = Indices { req_cons, rsp_prod: req_cons.wrapping_sub(taken) };
        let mut back = BackRing::attach(page, 112, at).unwrap();
        if let Ok(n) = back.unconsumed() {
            prop_assert!(n <= 32 - taken);
            for _ in 0..n {
                back.consume(&mut [0; 112]);
            }
            for _ in 0..n + taken {
                back.push_response(&[0; 16]);
            }
            let _ = back.publish();
            prop_assert_eq!(back.indices().rsp_prod, words[0]);
        }
    }
}
