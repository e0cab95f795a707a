//! Every state that can be reached, breadth first: the way to a broken promise is the shortest there is. Knows nothing of what a state
//! means.

use std::collections::HashSet;

use super::state::{State, Variant};

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// So many states, and every promise is kept in each.
    Sound(usize),
    /// A promise is broken, after these steps.
    Broken(String, Vec<&'static str>),
}

/// Walks through all states of a guest that makes so many requests, at most 8, over so many crashes.
#[must_use]
pub fn all_states(requests: u32, crashes: u8, variant: Variant) -> Found {
    let first = State::first(crashes);
    let mut known = HashSet::from([first]);
    // Each with the place of the state that it came from, and by which step.
    let mut states = vec![(first, 0, "")];
    let mut at = 0;
    while let Some(&(state, ..)) = states.get(at) {
        let next = match state.next(requests, variant) {
            Ok(next) => next,
            Err(why) => return Found::Broken(why, way_to(&states, at)),
        };
        for (step, state) in next {
            if known.insert(state) {
                states.push((state, at, step));
            }
        }
        at += 1;
    }
    Found::Sound(states.len())
}

fn way_to(states: &[(State, usize, &'static str)], mut at: usize) -> Vec<&'static str> {
    let mut way = Vec::new();
    while let Some((_, from, step)) = states.get(at).filter(|_| at > 0) {
        way.push(*step);
        at = *from;
    }
    way.reverse();
    way
}
