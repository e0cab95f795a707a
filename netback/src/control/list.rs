//! The lists of pages in the control ring's orders about static grants (`struct xen_netif_gref`), and which of their entries an order
//! is about. Pure and total over a copy of the guest's page. Knows nothing of what mapping a page takes.

use std::collections::{HashMap, HashSet};

use super::order::Status;
use crate::static_grants::MOST_PAGES;

/// Bytes of an entry: reference u32, flags u16, status u16.
pub const ENTRY_LEN: usize = 8;
/// `XEN_NETIF_CTRLF_GREF_readonly`
const READ_ONLY: u16 = 1;

const _: () = assert!(MOST_PAGES * ENTRY_LEN == super::order::FETCH_LEN);

/// A page that is to be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The page.
    pub gref: u32,
    /// For reading alone.
    pub is_read_only: bool,
}

fn entries(list: &[u8]) -> impl Iterator<Item = (u32, u16)> {
    list.as_chunks::<ENTRY_LEN>()
        .0
        .iter()
        .map(|&[a, b, c, d, e, f, ..]| (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f])))
}

/// The pages of a list that are to be mapped beside the `count` that are; `known` says of one whether it is for reading alone. `None`
/// if one makes no sense, and then all are refused: an unknown flag, a page that is there for another use, more than there is
/// room for. One that is there already stays as it is, so that an order may be carried out again.
pub fn wanted(list: &[u8], count: usize, known: impl Fn(u32) -> Option<bool>) -> Option<Vec<Wanted>> {
    let mut uses: HashMap<u32, bool> = HashMap::new();
    let mut wanted = Vec::new();
    for (gref, flags) in entries(list) {
        if flags & !READ_ONLY != 0 {
            return None;
        }
        let is_read_only = flags & READ_ONLY != 0;
        match known(gref).or_else(|| uses.insert(gref, is_read_only)) {
            Some(before) if before != is_read_only => return None,
            Some(_) => {}
            None => wanted.push(Wanted { gref, is_read_only }),
        }
    }
    (count + wanted.len() <= MOST_PAGES).then_some(wanted)
}

/// Writes into each entry of a list whether it is one that can go, and says which those are. Each goes once.
pub fn leaving(list: &mut [u8], is_known: impl Fn(u32) -> bool) -> Vec<u32> {
    let mut seen = HashSet::new();
    let mut leaving = Vec::new();
    for entry in list.as_chunks_mut::<ENTRY_LEN>().0 {
        let &mut [a, b, c, d, _, _, ref mut low, ref mut high] = entry;
        let gref = u32::from_le_bytes([a, b, c, d]);
        let goes = is_known(gref) && seen.insert(gref);
        if goes {
            leaving.push(gref);
        }
        let status = if goes { Status::Success } else { Status::InvalidParameter };
        [*low, *high] = status.entry_code().to_le_bytes();
    }
    leaving
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn list(entries: &[(u32, u16)]) -> Vec<u8> {
        let bytes = |&(gref, flags): &(u32, u16)| {
            let ([a, b, c, d], [e, f]) = (gref.to_le_bytes(), flags.to_le_bytes());
            [a, b, c, d, e, f, 0xaa, 0xbb]
        };
        entries.iter().flat_map(bytes).collect()
    }

    fn page(gref: u32, is_read_only: bool) -> Wanted {
        Wanted { gref, is_read_only }
    }

    /// netif.h's offsets, and its rule that an addition is all or nothing; the entry's status is not looked at.
    #[test]
    fn additions_are_all_or_nothing() {
        let known = |gref| (gref == 7).then_some(true);
        let ask = |entries: &[(u32, u16)], count| wanted(&list(entries), count, known);
        assert_eq!(ask(&[(0x0403_0201, 0), (8, 1)], 1), Some(vec![page(0x0403_0201, false), page(8, true)]));
        assert_eq!(ask(&[(7, 1), (8, 0), (8, 0)], 1), Some(vec![page(8, false)]), "there already");
        assert_eq!(ask(&[(8, 0), (7, 0)], 1), None, "there, for another use");
        assert_eq!(ask(&[(8, 0), (8, 1)], 1), None, "twice, for two uses");
        for flags in [2, 3, 0x8000, 0xffff] {
            assert_eq!(ask(&[(8, 0), (9, flags)], 1), None, "{flags:#x}");
        }
        assert_eq!(ask(&[(8, 0)], 511).map(|pages| pages.len()), Some(1));
        assert_eq!(ask(&[(8, 0)], 512), None, "no room");
        assert_eq!(ask(&[(7, 1)], 512), Some(vec![]), "no room wanted");
    }

    /// Each entry is told what became of it, at its place; nothing else of the list changes.
    #[test]
    fn removals_are_told_one_by_one() {
        let mut bytes = list(&[(7, 0), (0x0403_0201, 3), (7, 1), (8, 0xffff)]);
        assert_eq!(leaving(&mut bytes, |gref| gref == 7 || gref == 8), [7, 8]);
        assert_eq!(bytes[..16], [7, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 3, 0, 2, 0]);
        assert_eq!(bytes[16..], [7, 0, 0, 0, 1, 0, 2, 0, 8, 0, 0, 0, 0xff, 0xff, 0, 0]);
    }

    proptest! {
        /// Any list, whole entries or not: what is wanted is new, named in the list, named once, and fits; what leaves was known, and as
        /// many statuses say so.
        #[test]
        fn any_list(mut bytes in prop::collection::vec(prop_oneof![0u8..3, any::<u8>()], 0..4096), count in 0usize..=512) {
            let known = |gref: u32| gref.is_multiple_of(3).then_some(gref.is_multiple_of(2));
            let named: BTreeSet<u32> = entries(&bytes).map(|(gref, _)| gref).collect();
            if let Some(pages) = wanted(&bytes, count, known) {
                let new: BTreeSet<u32> = pages.iter().map(|page| page.gref).collect();
                prop_assert_eq!(new.len(), pages.len());
                prop_assert!(new.is_subset(&named) && new.iter().all(|gref| known(*gref).is_none()));
                prop_assert!(count + new.len() <= MOST_PAGES);
            }
            let (len, before) = (bytes.len(), bytes.clone());
            let gone = leaving(&mut bytes, |gref| known(gref).is_some());
            let told = bytes.as_chunks::<ENTRY_LEN>().0.iter().filter(|entry| entry[6..] == [0, 0]).count();
            prop_assert_eq!((told, bytes.len()), (gone.len(), len));
            prop_assert!(gone.iter().all(|gref| named.contains(gref) && known(*gref).is_some()));
            let whole = |bytes: &[u8]| entries(bytes).collect::<Vec<_>>();
            prop_assert_eq!(whole(&bytes), whole(&before));
        }
    }
}
