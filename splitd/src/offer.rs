//! What a backend publishes of a device; of a disk before it knows the target, and once it does. Pure. Knows nothing of transactions or states.

use worker::message::Opened;

use crate::config::Config;
use crate::observe::Toolstack;
use crate::sharing::Access;

/// `VDISK_CDROM`, `VDISK_REMOVABLE`, `VDISK_READONLY` of blkif.h.
const INFO_CDROM: u32 = 1;
const INFO_REMOVABLE: u32 = 2;
const INFO_READ_ONLY: u32 = 4;

/// Names relative to the backend directory, and values.
pub type Pairs = Vec<(&'static str, String)>;

fn bit(on: bool) -> String {
    u8::from(on).to_string()
}

/// At state 2. Windows reads its features here, before it connects.
#[must_use]
pub fn before_target(config: &Config, toolstack: &Toolstack) -> Pairs {
    vec![
        ("max-ring-page-order", config.max_ring_page_order.to_string()),
        ("max-ring-pages", (1_u32 << config.max_ring_page_order).to_string()),
        ("multi-queue-max-queues", config.max_queues.to_string()),
        ("feature-max-indirect-segments", config.max_indirect_segments.to_string()),
        ("feature-flush-cache", bit(true)),
        ("feature-discard", bit(toolstack.discard)),
        ("feature-persistent", bit(config.persistent)),
    ]
}

/// A network interface's, at state 2.
#[must_use]
pub fn vif(config: &Config, toolstack: Option<&Toolstack>) -> Pairs {
    let offloads = !config.plain_vifs.includes(toolstack.and_then(|t| t.domain_name.as_deref()));
    vec![
        ("feature-sg", bit(true)),
        ("feature-gso-tcpv4", bit(offloads)),
        ("feature-gso-tcpv6", bit(offloads)),
        ("feature-ipv6-csum-offload", bit(offloads)),
        ("feature-rx-copy", bit(true)),
        ("feature-rx-flip", bit(false)),
        ("feature-xdp-headroom", bit(true)),
        ("feature-multicast-control", bit(true)),
        ("feature-ctrl-ring", bit(true)),
        ("feature-split-event-channels", bit(true)),
        ("multi-queue-max-queues", config.max_queues.to_string()),
    ]
}

/// At state 4. `sector-size` is always 512: it is the one value that all frontends understand alike.
#[must_use]
pub fn with_target(config: &Config, toolstack: &Toolstack, opened: &Opened, barrier: bool) -> Pairs {
    let read_only = toolstack.access == Access::ReadOnly || opened.read_only;
    let info =
        [(toolstack.cdrom, INFO_CDROM), (toolstack.removable, INFO_REMOVABLE), (read_only, INFO_READ_ONLY)]
            .iter()
            .filter(|(on, _)| *on)
            .fold(0, |info, (_, bit)| info | bit);
    let mut pairs = vec![
        ("sectors", opened.capacity_sectors.to_string()),
        ("info", info.to_string()),
        ("sector-size", "512".to_owned()),
        ("physical-sector-size", opened.physical_block_len_bytes.max(512).to_string()),
        ("feature-flush-cache", bit(true)),
        // A barrier that spans queues would have to stop all of them; nobody who has queues needs one.
        ("feature-barrier", bit(barrier)),
        ("feature-persistent", bit(config.persistent)),
    ];
    match opened.discard.filter(|_| toolstack.discard && !read_only) {
        None => pairs.push(("feature-discard", bit(false))),
        Some(discard) => pairs.extend([
            ("feature-discard", bit(true)),
            ("discard-granularity", discard.granularity_bytes.to_string()),
            ("discard-alignment", discard.alignment_bytes.to_string()),
            ("discard-secure", bit(discard.secure)),
        ]),
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;
    use worker::message::Discard;

    fn toolstack() -> Toolstack {
        Toolstack {
            target: Ok("/srv/a.img".into()),
            access: Access::Exclusive,
            discard: true,
            cdrom: false,
            removable: false,
            script: None,
            vm_uuid: "u".to_owned(),
            domain_name: None,
            mac: None,
            ip: None,
        }
    }

    fn opened() -> Opened {
        Opened {
            capacity_sectors: 2048,
            logical_block_len_bytes: 4096,
            physical_block_len_bytes: 4096,
            discard: Some(Discard { granularity_bytes: 4096, alignment_bytes: 0, secure: false }),
            read_only: false,
            identity: "dev:8:1".to_owned(),
        }
    }

    fn get<'a>(pairs: &'a Pairs, name: &str) -> Option<&'a str> {
        pairs.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_str())
    }

    /// A 4Kn target is offered in units of 512 with its real size beside them (blkif.h since 2024).
    #[test]
    fn sector_size_is_512_whatever_the_target() {
        let pairs = with_target(&Config::default(), &toolstack(), &opened(), true);
        assert_eq!(get(&pairs, "sector-size"), Some("512"));
        assert_eq!(get(&pairs, "physical-sector-size"), Some("4096"));
        assert_eq!(get(&pairs, "sectors"), Some("2048"));
        assert_eq!(get(&pairs, "info"), Some("0"));
        assert_eq!(get(&pairs, "discard-granularity"), Some("4096"));
        assert_eq!(get(&pairs, "feature-barrier"), Some("1"));
    }

    /// Scenario 14: read-only, no-discard, cdrom.
    #[test]
    fn the_toolstacks_words_count() {
        let words = Toolstack { access: Access::ReadOnly, cdrom: true, removable: true, ..toolstack() };
        let pairs = with_target(&Config::default(), &words, &opened(), false);
        assert_eq!(get(&pairs, "info"), Some("7"));
        assert_eq!(get(&pairs, "feature-discard"), Some("0"));
        assert_eq!(get(&pairs, "discard-granularity"), None);
        let words = Toolstack { discard: false, ..toolstack() };
        assert_eq!(get(&before_target(&Config::default(), &words), "feature-discard"), Some("0"));
        assert_eq!(
            get(&with_target(&Config::default(), &words, &opened(), false), "feature-discard"),
            Some("0")
        );
        let target = Opened { read_only: true, ..opened() };
        assert_eq!(get(&with_target(&Config::default(), &toolstack(), &target, false), "info"), Some("4"));
    }

    /// What the target turns out not to do is taken back at state 4.
    #[test]
    fn discard_is_only_promised_as_long_as_the_target_is_unknown() {
        assert_eq!(get(&before_target(&Config::default(), &toolstack()), "feature-discard"), Some("1"));
        let target = Opened { discard: None, ..opened() };
        let pairs = with_target(&Config::default(), &toolstack(), &target, false);
        assert_eq!(get(&pairs, "feature-discard"), Some("0"));
    }
}
