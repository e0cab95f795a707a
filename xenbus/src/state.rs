//! The states that both ends of a device walk through (xenbus.h, `enum xenbus_state`). Knows nothing of what a device does in which.

use std::fmt;

/// Where one end of a device stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum XenbusState {
    /// Not a state: the node is missing or holds anything else.
    #[default]
    Unknown = 0,
    /// Set up by the toolstack.
    Initialising = 1,
    /// The backend has said what it offers and waits for the frontend.
    InitWait = 2,
    /// The frontend has said what it chose and waits for the backend.
    Initialised = 3,
    /// In use.
    Connected = 4,
    /// Wants to end.
    Closing = 5,
    /// Has ended.
    Closed = 6,
    /// Changes its setup.
    Reconfiguring = 7,
    /// Has changed its setup.
    Reconfigured = 8,
}

impl XenbusState {
    /// Every state, by number.
    pub const ALL: [Self; 9] = [
        Self::Unknown,
        Self::Initialising,
        Self::InitWait,
        Self::Initialised,
        Self::Connected,
        Self::Closing,
        Self::Closed,
        Self::Reconfiguring,
        Self::Reconfigured,
    ];

    /// Reads a `state` node, which a guest may have written: any bytes are a state. As in Linux, spaces before the number and
    /// whatever stands behind it do not matter.
    #[must_use]
    pub fn parse(value: &[u8]) -> Self {
        let digits = value.trim_ascii_start();
        let len = digits.iter().take_while(|b| b.is_ascii_digit()).count();
        let number = digits.get(..len).and_then(|digits| str::from_utf8(digits).ok()?.parse::<usize>().ok());
        number.and_then(|number| Self::ALL.get(number).copied()).unwrap_or_default()
    }

    /// As in the node.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }

    /// As written into the node.
    #[must_use]
    pub fn to_value(self) -> String {
        self.number().to_string()
    }
}

/// `4 Connected`, as operators know it.
impl fmt::Display for XenbusState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{} {self:?}", self.number()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Scenario 32: a guest may write anything as its state.
    #[test]
    fn any_value_is_a_state() {
        for state in XenbusState::ALL {
            assert_eq!(XenbusState::parse(state.to_value().as_bytes()), state);
        }
        for (value, state) in [
            (&b"4\0"[..], XenbusState::Connected),
            (b" 5\n", XenbusState::Closing),
            (b"0004", XenbusState::Connected),
            (b"", XenbusState::Unknown),
            (b"9", XenbusState::Unknown),
            (b"-1", XenbusState::Unknown),
            (b"\xff4", XenbusState::Unknown),
            (b"99999999999999999999999", XenbusState::Unknown),
        ] {
            assert_eq!(XenbusState::parse(value), state, "{value:?}");
        }
        assert_eq!(XenbusState::Connected.to_string(), "4 Connected");
    }

    proptest! {
        /// No value of a guest makes the parser panic, and only a leading number counts.
        #[test]
        fn parsing_is_total(value in any::<Vec<u8>>()) {
            let state = XenbusState::parse(&value);
            let starts_with_number = value.trim_ascii_start().first().is_some_and(u8::is_ascii_digit);
            prop_assert!(starts_with_number || state == XenbusState::Unknown);
        }
    }
}
