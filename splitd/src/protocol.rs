//! What `splitctl` and splitd say to each other on `RUN/splitd.sock`: one JSON object a line, a request and its answer. Pure
//! data. Knows nothing of sockets.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::device::retarget::Destination;
use crate::limits::Change;

/// This build's version of the protocol.
pub const VERSION: u32 = 1;

/// Longest line, either way.
pub const LINE_LEN_MAX: u64 = 4 << 20;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Of the protocol.
    pub version: u32,
    /// What is wanted.
    #[serde(flatten)]
    pub verb: Verb,
}

/// What may be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Verb {
    /// All devices.
    List,
    /// One device.
    Show {
        /// `vbd/5/xvda`, `vbd/web1/51712`
        device: String,
    },
    /// Counters of one device or of all.
    Stats {
        /// Which.
        device: Option<String>,
    },
    /// Look at the target's size.
    Resize {
        /// Which.
        device: String,
    },
    /// Replace the worker of a device; answered when its successor serves.
    Restart {
        /// Which.
        device: String,
    },
    /// Have a disk's guest wait, and let go of its target.
    Pause {
        /// Which.
        device: String,
    },
    /// Go on with it.
    Resume {
        /// Which.
        device: String,
    },
    /// Have a disk's worker count where the guest writes, for a copy; with the copy's place once there is one.
    RetargetBegin {
        /// Which.
        device: String,
        /// Where to.
        to: Option<Destination>,
    },
    /// Have the guest wait for the last piece of a copy.
    RetargetHold {
        /// Which.
        device: String,
    },
    /// Serve from the copy.
    RetargetFinish {
        /// Which.
        device: String,
        /// Where to.
        to: Destination,
    },
    /// Take the policy file anew.
    PolicyReload,
    /// What holds for the disks of a domain or of all, and why.
    PolicyExplain {
        /// By name or number.
        domain: Option<String>,
    },
    /// Set something above the policy file.
    Qos {
        /// By name or number.
        domain: String,
        /// What.
        change: Change,
    },
    /// A hotplug script wants a worker.
    HotplugAdd {
        /// `XENBUS_PATH`
        path: String,
    },
    /// A hotplug script is done with a device.
    HotplugRemove {
        /// `XENBUS_PATH`
        path: String,
    },
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// Of the protocol.
    pub version: u32,
    /// What was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// Why there is no result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Response {
    /// From an outcome.
    #[must_use]
    pub fn of(outcome: Result<Value, String>) -> Self {
        match outcome {
            Ok(result) => Self { version: VERSION, result: Some(result), error: None },
            Err(error) => Self { version: VERSION, result: None, error: Some(error) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The wire's form is a promise to scripts and to the next version.
    #[test]
    fn requests_as_written() {
        for (text, verb) in [
            (r#"{"version":1,"verb":"list"}"#, Verb::List),
            (
                r#"{"version":1,"verb":"show","device":"vbd/5/xvda"}"#,
                Verb::Show { device: "vbd/5/xvda".to_owned() },
            ),
            (
                r#"{"version":1,"verb":"restart","device":"vif/5/0"}"#,
                Verb::Restart { device: "vif/5/0".to_owned() },
            ),
            (
                r#"{"version":1,"verb":"hotplug_add","path":"backend/vbd/5/51712"}"#,
                Verb::HotplugAdd { path: "backend/vbd/5/51712".to_owned() },
            ),
        ] {
            let request: Request = serde_json::from_str(text).unwrap();
            assert_eq!(request, Request { version: 1, verb });
            assert_eq!(serde_json::to_string(&request).unwrap(), text);
        }
        for bad in ["", "{}", r#"{"version":1}"#, r#"{"version":1,"verb":"format_disk"}"#, "[]"] {
            assert!(serde_json::from_str::<Request>(bad).is_err(), "{bad}");
        }
        let answer = serde_json::to_string(&Response::of(Err("no".to_owned()))).unwrap();
        assert_eq!(answer, r#"{"version":1,"error":"no"}"#);
    }
}
