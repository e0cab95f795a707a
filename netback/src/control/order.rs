//! The control ring's messages (`struct xen_netif_ctrl_request` and its response) and what they do to a guest's hashing. What the
//! kernel's netback refuses of that is refused here, with its statuses. Pure, but for the pages that the caller fetches. Knows nothing
//! of rings, nor of what static grants are good for.

use crate::hash::{ALL_TYPES, Hashing, KEY_LEN, MAPPING_LEN};

/// Bytes of a slot.
pub const SLOT_LEN: usize = 16;
/// Bytes that any order has fetched, at most.
pub const FETCH_LEN: usize = 4096;

/// A slot as copied out of the ring.
pub type Slot = [u8; SLOT_LEN];

/// `XEN_NETIF_CTRL_STATUS_*`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Success,
    /// Not here.
    NotSupported,
    /// A value that is not allowed, or a page that cannot be read.
    InvalidParameter,
}

impl Status {
    fn code(self) -> u32 {
        self.entry_code().into()
    }

    /// As it stands in an entry of a list.
    #[must_use]
    pub fn entry_code(self) -> u16 {
        match self {
            Self::Success => 0,
            Self::NotSupported => 1,
            Self::InvalidParameter => 2,
        }
    }
}

/// What the guest wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Something about its hash of frames.
    Hash(HashOrder),
    /// Something about a queue's static grants.
    Static {
        /// The queue.
        queue: u32,
        /// What.
        order: StaticOrder,
    },
    /// Anything else.
    Unknown,
}

/// An order about a queue's static grants; a list is named by its page's grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StaticOrder {
    /// `GET_GREF_MAPPING_SIZE`
    GetSize,
    /// `ADD_GREF_MAPPING`
    Add {
        /// The page with the list.
        gref: u32,
        /// Entries in it.
        count: u32,
    },
    /// `DEL_GREF_MAPPING`
    Remove {
        /// The page with the list.
        gref: u32,
        /// Entries in it.
        count: u32,
    },
}

/// An order about the guest's hash; the page of one is named by its grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashOrder {
    /// `GET_HASH_FLAGS`
    GetTypes,
    /// `SET_HASH_FLAGS`
    SetTypes(u32),
    /// `SET_HASH_KEY`
    SetKey {
        /// The page.
        gref: u32,
        /// Bytes of it.
        len: u32,
    },
    /// `GET_HASH_MAPPING_SIZE`
    GetSize,
    /// `SET_HASH_MAPPING_SIZE`
    SetSize(u32),
    /// `SET_HASH_MAPPING`
    SetMapping {
        /// The page.
        gref: u32,
        /// Entries in it.
        count: u32,
        /// The first one's place in the mapping.
        first: u32,
    },
    /// `SET_HASH_ALGORITHM`
    SetAlgorithm(u32),
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    id: u16,
    kind: u16,
    /// What it asks for.
    pub order: Order,
}

impl Request {
    /// Reads a slot.
    #[must_use]
    pub fn read(slot: &Slot) -> Self {
        let [i0, i1, k0, k1, data @ ..] = *slot;
        let (words, _) = data.as_chunks::<4>();
        let word = |i: usize| words.get(i).map_or(0, |w| u32::from_le_bytes(*w));
        let kind = u16::from_le_bytes([k0, k1]);
        let of_queue = |order| Order::Static { queue: word(0), order };
        let order = match kind {
            1 => Order::Hash(HashOrder::GetTypes),
            2 => Order::Hash(HashOrder::SetTypes(word(0))),
            3 => Order::Hash(HashOrder::SetKey { gref: word(0), len: word(1) }),
            4 => Order::Hash(HashOrder::GetSize),
            5 => Order::Hash(HashOrder::SetSize(word(0))),
            6 => Order::Hash(HashOrder::SetMapping { gref: word(0), count: word(1), first: word(2) }),
            7 => Order::Hash(HashOrder::SetAlgorithm(word(0))),
            8 => of_queue(StaticOrder::GetSize),
            9 => of_queue(StaticOrder::Add { gref: word(1), count: word(2) }),
            10 => of_queue(StaticOrder::Remove { gref: word(1), count: word(2) }),
            _ => Order::Unknown,
        };
        Self { id: u16::from_le_bytes([i0, i1]), kind, order }
    }

    /// Its answer.
    #[must_use]
    pub fn response(self, status: Status, data: u32) -> [u8; 12] {
        let mut out = [0; 12];
        out[..2].copy_from_slice(&self.id.to_le_bytes());
        out[2..4].copy_from_slice(&self.kind.to_le_bytes());
        out[4..8].copy_from_slice(&status.code().to_le_bytes());
        out[8..].copy_from_slice(&data.to_le_bytes());
        out
    }
}

/// Where an order is carried out.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Queues that the frontend has.
    pub nr_queues: u32,
    /// Frames can be given to the queue that their hash says.
    pub can_steer: bool,
}

/// Carries an order about the hash out. `fetch` copies the first bytes of a page, which must fill its buffer; false if it cannot.
pub fn obey(
    hashing: &mut Hashing,
    order: HashOrder,
    terms: Terms,
    mut fetch: impl FnMut(u32, &mut [u8]) -> bool,
) -> (Status, u32) {
    let bad = (Status::InvalidParameter, 0);
    match order {
        HashOrder::SetAlgorithm(0) => hashing.is_on = false,
        HashOrder::SetAlgorithm(1) if terms.can_steer => hashing.is_on = true,
        HashOrder::SetAlgorithm(1) => return (Status::NotSupported, 0),
        HashOrder::SetAlgorithm(_) => return bad,
        HashOrder::GetTypes if !hashing.is_on => return (Status::NotSupported, 0),
        HashOrder::GetTypes => return (Status::Success, ALL_TYPES),
        HashOrder::SetTypes(types) if types & !ALL_TYPES != 0 || !hashing.is_on => return bad,
        HashOrder::SetTypes(types) => hashing.types = types,
        HashOrder::SetKey { gref, len } => {
            let mut key = [0; KEY_LEN];
            let Some(part) = usize::try_from(len).ok().and_then(|len| key.get_mut(..len)) else { return bad };
            if !part.is_empty() && !fetch(gref, part) {
                return bad;
            }
            hashing.key = key;
        }
        HashOrder::GetSize => return (Status::Success, u32::try_from(MAPPING_LEN).unwrap_or(0)),
        HashOrder::SetSize(size) if size as usize > MAPPING_LEN => return bad,
        HashOrder::SetSize(size) => (hashing.size, hashing.mapping) = (size, [0; MAPPING_LEN]),
        HashOrder::SetMapping { gref, count, first } => {
            let end = first.checked_add(count).filter(|end| *end <= hashing.size);
            let Some(end) = end else { return bad };
            let mut page = [0; MAPPING_LEN * 4];
            let Some(bytes) = page.get_mut(..count as usize * 4) else { return bad };
            if !bytes.is_empty() && !fetch(gref, bytes) {
                return bad;
            }
            let queues = || bytes.as_chunks::<4>().0.iter().map(|entry| u32::from_le_bytes(*entry));
            if queues().any(|queue| queue >= terms.nr_queues) {
                return bad;
            }
            let places = hashing.mapping.get_mut(first as usize..end as usize).unwrap_or_default();
            places.iter_mut().zip(queues()).for_each(|(place, queue)| *place = queue);
        }
    }
    (Status::Success, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TERMS: Terms = Terms { nr_queues: 4, can_steer: true };

    fn request(kind: u16, data: [u32; 3]) -> Slot {
        let mut slot = [0; SLOT_LEN];
        slot[..2].copy_from_slice(&0x0102u16.to_le_bytes());
        slot[2..4].copy_from_slice(&kind.to_le_bytes());
        for (place, word) in slot[4..].chunks_exact_mut(4).zip(data) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        slot
    }

    /// netif.h's offsets, byte by byte (net.md B7).
    #[test]
    fn messages_are_laid_out_as_netif_says() {
        let read = Request::read(&request(6, [7, 8, 9]));
        assert_eq!(read.order, Order::Hash(HashOrder::SetMapping { gref: 7, count: 8, first: 9 }));
        let response = read.response(Status::InvalidParameter, 0x0403_0201);
        assert_eq!(response, [2, 1, 6, 0, 2, 0, 0, 0, 1, 2, 3, 4]);
        for (kind, order) in [
            (8, StaticOrder::GetSize),
            (9, StaticOrder::Add { gref: 8, count: 9 }),
            (10, StaticOrder::Remove { gref: 8, count: 9 }),
        ] {
            let read = Request::read(&request(kind, [7, 8, 9]));
            assert_eq!(read.order, Order::Static { queue: 7, order });
        }
        for kind in [0, 11, u16::MAX] {
            assert_eq!(Request::read(&request(kind, [7, 8, 9])).order, Order::Unknown, "{kind}");
        }
    }

    /// An order about the hash, carried out; others change nothing of it.
    fn obey_any(
        hashing: &mut Hashing,
        slot: &Slot,
        terms: Terms,
        fetch: impl FnMut(u32, &mut [u8]) -> bool,
    ) -> (Status, u32) {
        match Request::read(slot).order {
            Order::Hash(order) => obey(hashing, order, terms, fetch),
            Order::Static { .. } | Order::Unknown => (Status::NotSupported, 0),
        }
    }

    /// B7 and N28, order by order: what Windows asks on every enable, and each value that is not allowed.
    #[test]
    fn orders_are_obeyed_or_refused() {
        let mut hashing = Hashing::default();
        let mut ask = |kind, data, page: &[u8]| {
            let before = hashing.clone();
            let answer = obey_any(&mut hashing, &request(kind, data), TERMS, |gref, out| {
                let found = page.get(..out.len()).filter(|_| gref == 9);
                found.inspect(|bytes| out.copy_from_slice(bytes)).is_some()
            });
            assert!(answer.0 == Status::Success || hashing == before, "a refused order changes nothing");
            (answer, hashing.clone())
        };
        let key: Vec<u8> = (1..=40).collect();
        let bad = (Status::InvalidParameter, 0);
        assert_eq!(ask(1, [0; 3], &[]).0, (Status::NotSupported, 0), "no algorithm yet");
        assert_eq!(ask(2, [1, 0, 0], &[]).0, bad, "no algorithm yet");
        assert_eq!(ask(7, [2, 0, 0], &[]).0, bad);
        assert!(ask(7, [1, 0, 0], &[]).1.is_on);
        assert_eq!(ask(1, [0; 3], &[]).0, (Status::Success, 0xf));
        assert_eq!(ask(2, [0x10, 0, 0], &[]).0, bad);
        assert_eq!(ask(2, [0xf, 0, 0], &[]).1.types, 0xf);
        assert_eq!(ask(3, [9, 41, 0], &key).0, bad);
        assert_eq!(ask(3, [8, 40, 0], &key).0, bad, "a grant that is none");
        assert_eq!(ask(3, [9, 40, 0], &key).1.key[39], 40);
        assert_eq!(ask(3, [9, 2, 0], &key).1.key[..4], [1, 2, 0, 0]);
        assert_eq!(ask(4, [0; 3], &[]).0, (Status::Success, 128));
        for size in [129, u32::MAX] {
            assert_eq!(ask(5, [size, 0, 0], &[]).0, bad);
        }
        assert_eq!(ask(5, [4, 0, 0], &[]).1.size, 4);
        let map: Vec<u8> = [3u32, 2, 1, 0].iter().flat_map(|q| q.to_le_bytes()).collect();
        assert_eq!(ask(6, [9, 4, 0], &map).1.mapping[..5], [3, 2, 1, 0, 0]);
        assert_eq!(ask(6, [9, 2, 2], &map).1.mapping[..5], [3, 2, 3, 2, 0]);
        for (count, first) in [(5, 0), (4, 1), (1, u32::MAX), (u32::MAX, 1), (0, 5)] {
            assert_eq!(ask(6, [9, count, first], &map).0, bad, "{count} at {first}");
        }
        assert_eq!(ask(6, [9, 1, 0], &4u32.to_le_bytes()).0, bad, "queue 4 of 4");
        assert_eq!(ask(5, [128, 0, 0], &[]).1.mapping, [0; MAPPING_LEN]);
        assert!(!ask(7, [0, 0, 0], &[]).1.is_on);
    }

    /// Without a way to steer frames there is nothing that a hash would be good for.
    #[test]
    fn without_steering_there_is_no_algorithm() {
        let terms = Terms { can_steer: false, ..TERMS };
        let answer = obey(&mut Hashing::default(), HashOrder::SetAlgorithm(1), terms, |_, _| false);
        assert_eq!(answer, (Status::NotSupported, 0));
    }

    proptest! {
        /// Any slots: nothing is fetched beyond a page, and the mapping names queues that there are.
        #[test]
        fn any_orders(slots in prop::collection::vec((0u16..12, prop::array::uniform3(prop_oneof![0u32..200, any::<u32>()])), 1..40), fill: u8) {
            let mut hashing = Hashing::default();
            for (kind, data) in slots {
                obey_any(&mut hashing, &request(kind, data), TERMS, |_, out| {
                    assert!(out.len() <= FETCH_LEN);
                    out.fill(fill);
                    true
                });
                prop_assert!(hashing.size as usize <= MAPPING_LEN);
                prop_assert!(hashing.mapping.iter().all(|queue| *queue < TERMS.nr_queues));
                prop_assert_eq!(hashing.types & !ALL_TYPES, 0);
            }
        }
    }
}
