//! Orders about static grants, carried out: the guest's list copied, looked at, and its pages mapped or unmapped. A list is added whole
//! or not at all, whoever is to blame. Knows nothing of how a queue uses the pages.

use worker::clock::monotonic_ns;
use xenbus::GrantRef;
use xenbus::hv::{Access, Direction, EventChannel, GrantTable, MapError};

use super::list::{self, ENTRY_LEN, Wanted};
use super::order::{StaticOrder, Status};
use super::{Control, copy_page};
use crate::static_grants::{MOST_PAGES, Page};

/// An order refused.
const BAD: (Status, u32) = (Status::InvalidParameter, 0);

impl<G: GrantTable, E: EventChannel> Control<G, E> {
    /// Carries an order out. `is_again` says that a predecessor may have done so, wholly or in part.
    pub(super) fn obey_static(&mut self, queue: u32, order: StaticOrder, is_again: bool) -> (Status, u32) {
        let Some(queue) = usize::try_from(queue).ok().filter(|_| queue < self.terms.nr_queues) else {
            return BAD;
        };
        let short = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        match order {
            StaticOrder::GetSize => (Status::Success, short(MOST_PAGES)),
            StaticOrder::Add { gref, count } => match self.add(queue, gref, count) {
                Some(()) => (Status::Success, 0),
                None => BAD,
            },
            StaticOrder::Remove { gref, count } => match self.remove(queue, gref, count, is_again) {
                Some(removed) => (Status::Success, short(removed)),
                None => BAD,
            },
        }
    }

    /// The list, copied once. `None` for one that is longer than a page, or is in a page that cannot be read.
    fn list(&mut self, gref: u32, count: u32) -> Option<Vec<u8>> {
        let count = usize::try_from(count).ok().filter(|count| *count <= MOST_PAGES)?;
        let mut list = vec![0; count * ENTRY_LEN];
        let is_read = list.is_empty() || {
            copy_page(&mut self.parts.grants, &self.page, gref, list.len(), Direction::FromGuest)
                && self.page.read(0, &mut list)
        };
        is_read.then_some(list)
    }

    fn add(&mut self, queue: usize, gref: u32, count: u32) -> Option<()> {
        let list = self.list(gref, count)?;
        let pages = self.parts.pages.get(queue)?;
        let wanted = list::wanted(&list, pages.len(), |gref| pages.is_read_only(GrantRef(gref)))?;
        let places = self.parts.kept.pages(queue).enumerate();
        let free: Vec<usize> =
            places.filter(|(_, page)| page.is_none()).map(|(i, _)| i).take(wanted.len()).collect();
        let mut mapped = Vec::with_capacity(wanted.len());
        for (&page, &place) in wanted.iter().zip(&free) {
            self.nr_touched += 1;
            let gref = GrantRef(page.gref);
            match map(&mut self.parts.grants, page) {
                Ok(mapping) => {
                    let page = Page { mapping: Some(mapping), is_read_only: page.is_read_only, place };
                    mapped.push((gref, page));
                }
                // What was mapped goes again.
                Err(MapError::BadGrant) => return None,
                Err(why) => {
                    if let Some(suppressed) = self.log.admit(monotonic_ns()) {
                        tracing::warn!(?why, suppressed, "static grants could not be mapped");
                    }
                    return None;
                }
            }
        }
        pages.add(mapped);
        for (&page, &place) in wanted.iter().zip(&free) {
            self.parts.kept.keep_page(queue, place, Some(page));
        }
        worker::crash_point!("net_after_static_grants");
        Some(())
    }

    /// How many entries are unmapped now. The guest is told of each before anything is done: where it cannot be, nothing is.
    fn remove(&mut self, queue: usize, gref: u32, count: u32, is_again: bool) -> Option<usize> {
        let mut list = self.list(gref, count)?;
        let pages = self.parts.pages.get(queue)?;
        // What a predecessor removed, and died over, is gone by this very order.
        let is_known = |gref| is_again || pages.is_read_only(GrantRef(gref)).is_some();
        let leaving: Vec<GrantRef> = list::leaving(&mut list, is_known).into_iter().map(GrantRef).collect();
        let is_told = list.is_empty() || {
            self.page.write(0, &list)
                && copy_page(&mut self.parts.grants, &self.page, gref, list.len(), Direction::ToGuest)
        };
        if !is_told {
            return None;
        }
        let removed = pages.remove(&leaving);
        self.nr_touched += removed.len();
        for page in removed {
            self.parts.kept.keep_page(queue, page.place, None);
            drop(page.mapping);
        }
        worker::crash_point!("net_after_static_grants");
        Some(leaving.len())
    }

    /// Maps again what a predecessor had mapped. Without a mapping a page is copied by grant, and stays the guest's to remove.
    pub(super) fn map_again(&mut self) {
        for (queue, pages) in self.parts.pages.iter().enumerate() {
            let kept = self.parts.kept.pages(queue).enumerate();
            let again = kept.filter_map(|(place, page)| Some((place, page?))).map(|(place, page)| {
                let mapping = map(&mut self.parts.grants, page).ok();
                (GrantRef(page.gref), Page { mapping, is_read_only: page.is_read_only, place })
            });
            pages.add(again.collect());
        }
    }
}

/// By itself: a page can go without the others of its list.
fn map<G: GrantTable>(grants: &mut G, page: Wanted) -> Result<G::Mapping, MapError> {
    let access = if page.is_read_only { Access::ReadOnly } else { Access::ReadWrite };
    grants.map(&[GrantRef(page.gref)], access)
}

#[cfg(test)]
mod tests;
