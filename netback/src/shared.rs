//! What all queues of a vif look at: settings that may change, the guest's multicast addresses, the caps, who is stalled. Knows
//! nothing of rings.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicUsize, Ordering};

use parking_lot::RwLock;
use worker::message::{IpRange, VifSettings};

use crate::caps::Caps;
use crate::headers::{self, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use crate::steering::Words;

/// Most multicast addresses that a guest may ask for, as with the kernel's netback.
const MAX_MULTICAST: usize = 64;

/// Who may be named as a sender.
#[derive(Clone, Debug, Default)]
struct Senders {
    mac: Option<[u8; 6]>,
    ips: Vec<IpRange>,
}

/// The vif.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) caps: Caps,
    filter_multicast: AtomicBool,
    xdp_headroom: AtomicU16,
    multicast: RwLock<Vec<[u8; 6]>>,
    /// Nothing to look at without it.
    guarded: AtomicBool,
    senders: RwLock<Senders>,
    finish_checksums: AtomicBool,
    words: Words,
    /// Queues that have had no slots for long.
    pub(crate) stalled: AtomicUsize,
    /// Queues that serve.
    pub(crate) serving: AtomicU32,
}

impl Shared {
    pub(crate) fn new(settings: &VifSettings, words: Words, caps: Caps) -> Self {
        let shared = Self {
            caps,
            filter_multicast: AtomicBool::default(),
            xdp_headroom: AtomicU16::default(),
            multicast: RwLock::default(),
            guarded: AtomicBool::default(),
            senders: RwLock::default(),
            finish_checksums: AtomicBool::default(),
            words,
            stalled: AtomicUsize::default(),
            serving: AtomicU32::default(),
        };
        shared.set(settings);
        shared
    }

    pub(crate) fn set(&self, settings: &VifSettings) {
        self.caps.set(settings);
        self.filter_multicast.store(settings.multicast_control, Ordering::Relaxed);
        self.xdp_headroom.store(settings.xdp_headroom, Ordering::Relaxed);
        self.finish_checksums.store(settings.finish_checksums, Ordering::Relaxed);
        *self.senders.write() = Senders { mac: settings.only_mac, ips: settings.only_ips.clone() };
        let guarded = settings.only_mac.is_some() || !settings.only_ips.is_empty();
        self.guarded.store(guarded, Ordering::Relaxed);
    }

    pub(crate) fn xdp_headroom(&self) -> u16 {
        self.xdp_headroom.load(Ordering::Relaxed)
    }

    /// Whether what the guest left open is filled in before the tap.
    pub(crate) fn finishes_checksums(&self) -> bool {
        self.finish_checksums.load(Ordering::Relaxed)
    }

    /// What frames to the guest are hashed by.
    pub(crate) fn words(&self) -> &Words {
        &self.words
    }

    /// Passes on multicast for an address, or no more; false if the guest has too many.
    pub(crate) fn set_multicast(&self, add: bool, address: [u8; 6]) -> bool {
        let mut list = self.multicast.write();
        list.retain(|known| *known != address);
        if add && list.len() >= MAX_MULTICAST {
            return false;
        }
        if add {
            list.push(address);
        }
        true
    }

    /// Whether a frame to the guest is one that it wants.
    pub(crate) fn wants(&self, frame: &[u8]) -> bool {
        let Some(to) = frame.first_chunk::<6>() else { return false };
        let is_multicast = to[0] & 1 != 0 && *to != [0xff; 6];
        !is_multicast || !self.filter_multicast.load(Ordering::Relaxed) || self.multicast.read().contains(to)
    }

    /// Whether a frame of the guest's names a sender that it may name.
    pub(crate) fn may_send(&self, frame: &[u8]) -> bool {
        if !self.guarded.load(Ordering::Relaxed) {
            return true;
        }
        let senders = self.senders.read();
        let mac = frame.get(6..12);
        if senders.mac.is_some_and(|only| mac != Some(&only)) {
            return false;
        }
        senders.ips.is_empty()
            || source(frame)
                .is_none_or(|ip| is_asking(ip) || senders.ips.iter().any(|range| range.contains(ip)))
    }
}

/// The sender's address: of IP, or within ARP.
fn source(frame: &[u8]) -> Option<IpAddr> {
    let found = headers::parse(frame)?;
    let at = |offset: usize| frame.get(found.network_at + offset..);
    match found.ethertype {
        ETHERTYPE_IPV4 => at(12)?.first_chunk::<4>().map(|a| IpAddr::from(*a)),
        ETHERTYPE_ARP => at(14)?.first_chunk::<4>().map(|a| IpAddr::from(*a)),
        ETHERTYPE_IPV6 => at(8)?.first_chunk::<16>().map(|a| IpAddr::from(*a)),
        _ => None,
    }
}

/// Nobody has an address before DHCP or duplicate address detection gave it one.
fn is_asking(ip: IpAddr) -> bool {
    ip.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::tests::frame;

    fn new(settings: &VifSettings) -> Shared {
        Shared::new(settings, Words::private(), Caps::default())
    }

    /// B4's multicast control: 64 addresses, no more; broadcast and the guest's own pass.
    #[test]
    fn multicast_is_filtered_when_asked() {
        let shared = new(&VifSettings { multicast_control: true, ..VifSettings::default() });
        let mut to_group = frame(0, false, false, b"");
        to_group[..6].copy_from_slice(&[1, 0, 0x5e, 0, 0, 1]);
        assert!(
            !shared.wants(&to_group)
                && shared.wants(&frame(0, false, false, b""))
                && shared.wants(&[0xff; 60])
        );
        for i in 0..=64u8 {
            assert_eq!(shared.set_multicast(true, [1, 0, 0x5e, 0, 0, i]), i < 64);
        }
        assert!(shared.wants(&to_group));
        assert!(shared.set_multicast(false, [1, 0, 0x5e, 0, 0, 1]));
        assert!(!shared.wants(&to_group));
        shared.set(&VifSettings::default());
        assert!(shared.wants(&to_group));
    }

    /// A guest that may name one sender names another, in Ethernet, IPv4, IPv6, ARP; asking for an address stays possible.
    #[test]
    fn senders_are_guarded() {
        let only_mac = Some([2, 0, 0, 0, 0, 2]);
        let only_ips = vec!["10.0.0.1".parse().unwrap(), "fdfd:fdfd::/32".parse().unwrap()];
        let settings = VifSettings { only_mac, only_ips, ..VifSettings::default() };
        let shared = new(&settings);
        let with = |is_v6: bool, changes: &[(usize, u8)]| {
            let mut frame = frame(0, is_v6, false, b"x");
            changes.iter().for_each(|&(at, value)| frame[at] = value);
            shared.may_send(&frame)
        };
        assert!(with(false, &[]) && with(true, &[]));
        assert!(!with(false, &[(11, 3)]) && !with(false, &[(29, 9)]) && !with(true, &[(22, 9)]));
        assert!(with(false, &[(26, 0), (27, 0), (28, 0), (29, 0)]), "DHCP");
        let mut arp = [0u8; 60];
        arp[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
        arp[12..14].copy_from_slice(&[8, 6]);
        arp[28..32].copy_from_slice(&[10, 0, 0, 1]);
        assert!(shared.may_send(&arp));
        arp[31] = 7;
        assert!(!shared.may_send(&arp));
    }
}
