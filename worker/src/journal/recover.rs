//! What a dead worker's journal means: which requests to do again, which answers to give, where the ring stands. A pure
//! function of the journal's words and the ring's own `rsp_prod`; total, because a worker that a guest took over could have left
//! anything behind. Knows nothing of files.

/// What an entry of the journal says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryState {
    /// Nothing.
    Free,
    /// A request was consumed at this ring index and is not answered.
    Taken {
        /// The request's ring index.
        index: u32,
    },
    /// Its answer was about to be written at a response index.
    Staged {
        /// The request's ring index.
        index: u32,
        /// The answer's ring index.
        rsp_index: u32,
        /// What the answer says.
        status: i32,
    },
}

/// The journal's own words on where the ring stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Positions {
    /// Everything below was consumed.
    pub req_cons: u32,
    /// Everything below was published for certain.
    pub rsp_prod: u32,
    /// Everything below was published, if the last publish came to pass.
    pub rsp_intent: u32,
}

/// What a successor has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Where to attach to the ring.
    pub req_cons: u32,
    /// Where to attach to the ring.
    pub rsp_prod: u32,
    /// Entries to be done again, in ring order.
    pub replay: Vec<usize>,
    /// Entries whose stored status is still to be answered, in this order and before anything else is: they keep the response
    /// indices under which they were staged, and no two entries may ever hold the same one.
    pub answer: Vec<(usize, i32)>,
}

/// Why a journal cannot be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Somebody else wrote to the ring's index: the guest's fault.
    #[error("the ring's rsp_prod is {found}, the journal allows {rsp_prod} or {rsp_intent}")]
    Tampered {
        /// In the shared page.
        found: u32,
        /// Published for certain.
        rsp_prod: u32,
        /// Published at most.
        rsp_intent: u32,
    },
    /// The journal contradicts itself.
    #[error("journal entry {0} contradicts the header")]
    Entry(usize),
    /// The journal contradicts itself.
    #[error("the journal has {found} unanswered requests, its indices say {expected}")]
    Count {
        /// In the entries.
        found: u32,
        /// By the indices.
        expected: u32,
    },
}

/// `a` comes before `b` on a free-running index.
fn before(a: u32, b: u32) -> bool {
    a != b && b.wrapping_sub(a) < 1 << 31
}

/// Reads a journal. `shared_rsp_prod` is guest-writable and believed only where the journal agrees.
pub fn plan(at: Positions, entries: &[EntryState], shared_rsp_prod: u32) -> Result<Plan, Unusable> {
    let Positions { req_cons, rsp_prod, rsp_intent } = at;
    if shared_rsp_prod != rsp_prod && shared_rsp_prod != rsp_intent {
        return Err(Unusable::Tampered { found: shared_rsp_prod, rsp_prod, rsp_intent });
    }
    let published = shared_rsp_prod;
    let mut replay = Vec::new();
    let mut answer = Vec::new();
    for (i, entry) in entries.iter().enumerate() {
        match *entry {
            EntryState::Free => {}
            // Kept, but req_cons was not advanced: still whole in the ring, to be consumed anew.
            EntryState::Taken { index } if !before(index, req_cons) => {}
            EntryState::Taken { index } => replay.push((index, i)),
            // Published; the kill came before the entry was freed.
            EntryState::Staged { rsp_index, .. } if before(rsp_index, published) => {}
            EntryState::Staged { index, rsp_index, status } => {
                if !before(index, req_cons) {
                    return Err(Unusable::Entry(i));
                }
                answer.push((rsp_index, i, status));
            }
        }
    }
    let found = u32::try_from(replay.len() + answer.len()).unwrap_or(u32::MAX);
    let expected = req_cons.wrapping_sub(published);
    if found != expected {
        return Err(Unusable::Count { found, expected });
    }
    replay.sort_unstable_by_key(|&(index, _)| index.wrapping_sub(req_cons));
    answer.sort_unstable_by_key(|&(index, _, _)| index.wrapping_sub(published));
    for (expected, &(rsp_index, entry, _)) in (0u32..).zip(&answer) {
        if rsp_index != published.wrapping_add(expected) {
            return Err(Unusable::Entry(entry));
        }
    }
    Ok(Plan {
        req_cons,
        rsp_prod: published,
        replay: replay.into_iter().map(|(_, i)| i).collect(),
        answer: answer.into_iter().map(|(_, i, status)| (i, status)).collect(),
    })
}

#[cfg(test)]
mod tests;
