//! Patterns of names: `*` stands for any run of characters, `?` for any one. Knows nothing of what the names are of.

/// Whether `text` is one of `pattern`'s.
#[must_use]
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t, mut retry) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, t));
                p += 1;
            }
            Some(byte) if *byte == b'?' || Some(byte) == text.get(t) => (p, t) = (p + 1, t + 1),
            _ => {
                let Some((after_star, from)) = retry else { return false };
                (p, t) = (after_star, from + 1);
                retry = Some((after_star, from + 1));
            }
        }
    }
    pattern.get(p..).is_some_and(|rest| rest.iter().all(|byte| *byte == b'*'))
}

/// How exact a pattern is: the characters in it that stand for themselves.
pub(super) fn exactness(pattern: &str) -> usize {
    pattern.bytes().filter(|byte| !matches!(byte, b'*' | b'?')).count()
}

/// Whether some text matches both.
pub(super) fn overlap(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    // reached[j]: the first i bytes of `a` and the first j of `b` can stand for the same text.
    let mut reached = vec![false; b.len() + 1];
    reached[0] = true;
    for j in 0..b.len() {
        reached[j + 1] = reached[j] && b[j] == b'*';
    }
    for &x in a {
        let before = std::mem::take(&mut reached);
        reached = vec![false; b.len() + 1];
        reached[0] = before[0] && x == b'*';
        for j in 0..b.len() {
            let y = b[j];
            reached[j + 1] = if x == b'*' || y == b'*' {
                // A star takes nothing, or one more of the other side.
                before[j + 1] || reached[j] || before[j]
            } else {
                before[j] && (x == y || x == b'?' || y == b'?')
            };
        }
    }
    reached.last() == Some(&true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Backtracking goes to the last star and no further.
    #[test]
    fn known_cases() {
        assert!(matches("a*b*c", "a-bb-b-c") && !matches("a*b*c", "a-bb-b-d"));
        assert!(matches("web-??", "web-01") && !matches("web-??", "web-1"));
        assert!(overlap("web-*", "*-01") && !overlap("web-*", "db-*") && overlap("a?c", "ab*"));
    }

    proptest! {
        /// Overlap is what a common name proves.
        #[test]
        fn a_common_name_is_an_overlap(a in "[ab*?]{0,6}", b in "[ab*?]{0,6}", text in "[ab]{0,7}") {
            if matches(&a, &text) && matches(&b, &text) {
                prop_assert!(overlap(&a, &b));
            }
            prop_assert_eq!(overlap(&a, &b), overlap(&b, &a));
        }
    }
}
