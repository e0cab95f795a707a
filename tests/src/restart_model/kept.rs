//! What outlives a worker: journal and ring's response index, and the steps in which they may change. Knows nothing of workers.

use worker::journal::recover::{EntryState, Positions};

/// An entry of the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Entry {
    /// Nothing.
    #[default]
    Free,
    /// The request of that ring index is not answered.
    Taken(u32),
    /// The request of the first index is to be answered at the second.
    Staged(u32, u32),
}

impl From<EntryState> for Entry {
    fn from(entry: EntryState) -> Self {
        match entry {
            EntryState::Free => Self::Free,
            EntryState::Taken { index } => Self::Taken(index),
            EntryState::Staged { index, rsp_index, .. } => Self::Staged(index, rsp_index),
        }
    }
}

impl From<Entry> for EntryState {
    fn from(entry: Entry) -> Self {
        match entry {
            Entry::Free => Self::Free,
            Entry::Taken(index) => Self::Taken { index },
            Entry::Staged(index, rsp_index) => Self::Staged { index, rsp_index, status: 0 },
        }
    }
}

/// Journal and ring of `N` slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kept<const N: usize> {
    /// The journal's entries.
    pub entries: [Entry; N],
    /// The journal's words.
    pub req_cons: u32,
    /// Likewise.
    pub rsp_prod: u32,
    /// Likewise.
    pub rsp_intent: u32,
    /// The ring's word.
    pub published: u32,
}

/// One store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// An entry keeps the request of that index.
    Keep(usize, u32),
    /// `req_cons` moves on: the request is owed.
    Own,
    /// An entry is to be answered at that index.
    Stage(usize, u32),
    /// All answers below are staged.
    Intend(u32),
    /// The ring's index: the guest sees them.
    Publish(u32),
    /// The journal knows that it does.
    Note(u32),
    /// An entry is done.
    Free(usize),
}

/// `a` comes before `b` on a free-running index.
fn before(a: u32, b: u32) -> bool {
    a != b && b.wrapping_sub(a) < 1 << 31
}

impl<const N: usize> Default for Kept<N> {
    fn default() -> Self {
        Self { entries: [Entry::Free; N], req_cons: 0, rsp_prod: 0, rsp_intent: 0, published: 0 }
    }
}

impl<const N: usize> Kept<N> {
    /// As a successor reads it.
    #[must_use]
    pub fn positions(&self) -> Positions {
        Positions { req_cons: self.req_cons, rsp_prod: self.rsp_prod, rsp_intent: self.rsp_intent }
    }

    /// After a step; `None` if it must not be made here.
    #[must_use]
    pub fn after(mut self, step: Step) -> Option<Self> {
        let slots = u32::try_from(N).ok()?;
        let is_allowed = match step {
            Step::Keep(entry, index) => {
                let is_free = self.entries[entry] == Entry::Free;
                self.entries[entry] = Entry::Taken(index);
                is_free && index == self.req_cons && index.wrapping_sub(self.published) < slots
            }
            Step::Own => {
                let is_kept = self.entries.contains(&Entry::Taken(self.req_cons));
                self.req_cons = self.req_cons.wrapping_add(1);
                is_kept
            }
            Step::Stage(entry, at) => {
                let others = self.entries.iter().enumerate().filter(|(i, _)| *i != entry);
                let mut staged = others.filter_map(|(_, other)| match other {
                    Entry::Staged(_, at) => Some(*at),
                    _ => None,
                });
                let (index, is_same) = match self.entries[entry] {
                    Entry::Free => return None,
                    Entry::Taken(index) => (index, true),
                    Entry::Staged(index, before) => (index, before == at),
                };
                // No two answers at one place, none where one was published, none for what is not owed.
                let is_taken = staged.any(|other| other == at);
                let is_past = before(at, self.published);
                self.entries[entry] = Entry::Staged(index, at);
                is_same && !is_taken && !is_past && before(index, self.req_cons) && before(at, self.req_cons)
            }
            Step::Intend(to) => {
                let is_staged =
                    |at: u32| self.entries.iter().any(|e| matches!(e, Entry::Staged(_, a) if *a == at));
                let count = to.wrapping_sub(self.published);
                let all = count <= slots && (0..count).all(|i| is_staged(self.published.wrapping_add(i)));
                // What was intended and not published may only be taken back or said again.
                let is_noted = self.rsp_prod == self.published;
                self.rsp_intent = to;
                all && is_noted
            }
            Step::Publish(to) => {
                let is_intended = to == self.rsp_intent && self.rsp_prod == self.published;
                self.published = to;
                is_intended
            }
            Step::Note(to) => {
                self.rsp_prod = to;
                to == self.published
            }
            Step::Free(entry) => {
                let old = std::mem::take(&mut self.entries[entry]);
                match old {
                    Entry::Free => false,
                    // Kept and never owed: it is still whole in the ring.
                    Entry::Taken(index) => !before(index, self.req_cons),
                    Entry::Staged(_, at) => before(at, self.published),
                }
            }
        };
        is_allowed.then_some(self)
    }

    /// The stores that make `to` of it, in no order.
    fn steps_to(&self, to: &Self) -> Option<Vec<Step>> {
        let mut steps = Vec::new();
        for (i, (old, new)) in self.entries.iter().zip(&to.entries).enumerate() {
            match (*old, *new) {
                (old, new) if old == new => {}
                (_, Entry::Free) => steps.push(Step::Free(i)),
                (Entry::Free, Entry::Taken(index)) => steps.push(Step::Keep(i, index)),
                (Entry::Taken(a), Entry::Staged(b, at)) if a == b => steps.push(Step::Stage(i, at)),
                (Entry::Staged(a, _), Entry::Staged(b, at)) if a == b => steps.push(Step::Stage(i, at)),
                (Entry::Free, Entry::Staged(index, at)) => {
                    steps.extend([Step::Keep(i, index), Step::Stage(i, at)]);
                }
                (_, Entry::Taken(index)) => steps.extend([Step::Free(i), Step::Keep(i, index)]),
                (Entry::Taken(_) | Entry::Staged(..), Entry::Staged(..)) => return None,
            }
        }
        let owned = to.req_cons.wrapping_sub(self.req_cons);
        if owned as usize > N {
            return None;
        }
        steps.extend((0..owned).map(|_| Step::Own));
        let words = [
            (self.rsp_intent, to.rsp_intent, Step::Intend(to.rsp_intent)),
            (self.published, to.published, Step::Publish(to.published)),
            (self.rsp_prod, to.rsp_prod, Step::Note(to.rsp_prod)),
        ];
        steps.extend(words.into_iter().filter(|(old, new, _)| old != new).map(|(_, _, step)| step));
        Some(steps)
    }

    /// Whether there is an order of allowed steps that makes `to` of it; else the steps that were wanted.
    pub fn leads_to(self, to: &Self) -> Result<usize, Vec<Step>> {
        let Some(mut left) = self.steps_to(to) else { return Err(Vec::new()) };
        let (all, count) = (left.clone(), left.len());
        let mut now = self;
        while !left.is_empty() {
            let next = left.iter().enumerate().find_map(|(i, step)| Some((i, now.after(*step)?)));
            let Some((i, after)) = next else { return Err(all) };
            left.remove(i);
            now = after;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model that allows everything would make every trace right.
    #[test]
    fn steps_in_a_wrong_order_are_none() {
        let fresh = Kept::<2>::default();
        let kept = fresh.after(Step::Keep(0, 0)).unwrap();
        assert_eq!(fresh.after(Step::Own), None, "owed before it is kept");
        assert_eq!(kept.after(Step::Stage(0, 0)), None, "answered before it is owed");
        let owned = kept.after(Step::Own).unwrap();
        assert_eq!(owned.after(Step::Free(0)), None, "forgotten");
        assert_eq!(owned.after(Step::Intend(1)), None, "not staged");
        let staged = owned.after(Step::Stage(0, 0)).unwrap();
        assert_eq!(staged.after(Step::Publish(1)), None, "not intended");
        let intended = staged.after(Step::Intend(1)).unwrap();
        assert_eq!(intended.after(Step::Free(0)), None, "forgotten before it is published");
        let published = intended.after(Step::Publish(1)).unwrap();
        assert_eq!(published.after(Step::Stage(0, 0)), None, "twice");
        let noted = published.after(Step::Note(1)).unwrap();
        assert_eq!(fresh.leads_to(&noted.after(Step::Free(0)).unwrap()).map_err(|_| ()), Err(()));
        assert_eq!(owned.leads_to(&noted), Ok(4));
    }
}
