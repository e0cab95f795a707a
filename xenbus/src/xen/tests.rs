//! What can be said of the real host without one: layouts, validation before any call, and the order of calls. That the calls do
//! on Xen what they should is shown in the lab.

use std::io::{Read, Write};
use std::process::Command;

use tempfile::TempDir;

use super::abi::{CopyEnd, DEST_IS_FOREIGN, SOURCE_IS_FOREIGN, fill_map_call};
use super::gntdev::{run_len, segment};
use super::*;
use crate::hv::{Access, Direction, EventChannel, GrantCopy, GrantStatus, GrantTable, MapError, Pending};
use crate::memory::LocalMemory;
use crate::{GrantRef, Port};

const GUEST: DomId = DomId(0x0708);

fn op(offset: u16, len: u16, local: usize, direction: Direction) -> GrantCopy {
    GrantCopy { gref: GrantRef(0x0102_0304), offset, len, local, direction, status: GrantStatus::OKAY }
}

fn null() -> File {
    open(Path::new("/dev/null")).unwrap()
}

/// block.md B8: `{ref u32, offset u16, domid u16}` on the guest's side, a pointer on ours, the flag says which is which.
#[test]
fn copies_are_laid_out_as_published() {
    let local = LocalMemory::new(8192).unwrap();
    let there = CopyEnd::foreign(0x0102_0304, 0x0506, 0x0708);
    let out = segment(&local, &op(0x0506, 9, 100, Direction::FromGuest), GUEST).unwrap();
    assert_eq!((out.source, out.flags, out.len), (there, SOURCE_IS_FOREIGN, 9));
    assert_eq!(out.dest, CopyEnd::local(local.address(100, 9).unwrap().as_ptr()));
    let into = segment(&local, &op(0x0506, 9, 100, Direction::ToGuest), GUEST).unwrap();
    assert_eq!((into.dest, into.source, into.flags), (out.source, out.dest, DEST_IS_FOREIGN));
    let bytes = there.0.to_ne_bytes();
    assert_eq!(bytes, [4, 3, 2, 1, 6, 5, 8, 7], "on a little-endian machine");
}

/// reliability.md B6: a copy that crosses the guest's page fails the whole call, so it is refused before; so is one that leaves our
/// memory, which would be somebody else's.
#[test]
fn copies_outside_of_their_memory_are_refused() {
    let local = LocalMemory::new(8192).unwrap();
    let mut grants = Grants::new(null(), GUEST);
    let good = op(0, 4096, 4096, Direction::ToGuest);
    for bad in [
        op(1, 4096, 0, Direction::FromGuest),
        op(4095, 2, 0, Direction::ToGuest),
        op(u16::MAX, u16::MAX, 0, Direction::ToGuest),
        op(0, 1, 8192, Direction::FromGuest),
        op(0, 4096, 4097, Direction::ToGuest),
        op(0, 1, usize::MAX, Direction::ToGuest),
    ] {
        assert!(segment(&local, &bad, GUEST).is_none(), "{bad:?}");
        let error = grants.copy(&local, &mut [good, bad]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{bad:?}");
    }
    assert!(segment(&local, &good, GUEST).is_some());
    assert!(segment(&local, &op(4096, 0, 8192, Direction::ToGuest), GUEST).is_some());
}

/// control-plane.md §5: the kernel marks pages as written by the batch, so a call goes one way; it is bounded, too.
#[test]
fn a_call_goes_one_way() {
    let (out, into) = (op(0, 1, 0, Direction::FromGuest), op(0, 1, 0, Direction::ToGuest));
    assert_eq!(run_len(&[]), 0);
    assert_eq!(run_len(&[out]), 1);
    assert_eq!(run_len(&[out, out, into, out]), 2);
    assert_eq!(run_len(&[into; 1000]), 256);
}

/// A device that is not gntdev: an error, no copy that claims to be done, nothing mapped.
#[test]
fn a_failed_call_is_an_error() {
    let local = LocalMemory::new(4096).unwrap();
    let mut grants = Grants::new(null(), GUEST);
    let error = grants.copy(&local, &mut [op(0, 1, 0, Direction::ToGuest)]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
    grants.copy(&local, &mut []).unwrap();
    for refs in [vec![], vec![GrantRef(1)], vec![GrantRef(1); 65_537]] {
        assert!(matches!(grants.map(&refs, Access::ReadWrite), Err(MapError::Host(_))));
    }
    let xen = Xen { device_dir: "/nowhere".into() };
    assert!(xen.open_grants(GUEST).unwrap_err().to_string().contains("/nowhere/gntdev"));
    assert!(Events::new(null(), GUEST).is_err(), "an event channel that cannot be restricted is not used");
}

/// xen/gntdev.h: count, padding, index, then `{domid u32, ref u32}` each.
#[test]
fn a_map_call_is_laid_out_as_published() {
    let mut call = Vec::new();
    fill_map_call(&mut call, 7, [0x11, 0x22].into_iter());
    assert_eq!(call, [2, 0, 0x11_0000_0007, 0x22_0000_0007]);
}

/// evtchn: ports come by `read` and go back by `write`. A FIFO, opened for both, stands in for the device.
#[test]
fn events_are_read_and_written_back() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("evtchn");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let mut device = open(&path).unwrap();
    let mut events = Events::unrestricted(open(&path).unwrap(), GUEST);
    assert_eq!(events.ack().unwrap_err().kind(), io::ErrorKind::NotConnected);
    assert_eq!(events.notify().unwrap_err().kind(), io::ErrorKind::NotConnected);
    assert!(events.bind(Port(1)).is_err() && events.bound.is_none());

    events.bound = Some(9);
    assert_eq!(events.bind(Port(1)).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(events.pending().unwrap(), Pending::None);
    device.write_all(&8_u32.to_ne_bytes()).unwrap();
    assert_eq!(events.pending().unwrap(), Pending::None, "a port of an earlier binding");
    device.write_all(&[8_u32.to_ne_bytes(), 9_u32.to_ne_bytes()].concat()).unwrap();
    assert_eq!(events.pending().unwrap(), Pending::Event);
    events.ack().unwrap();
    let mut port = [0; 4];
    device.read_exact(&mut port).unwrap();
    assert_eq!(u32::from_ne_bytes(port), 9);
}
