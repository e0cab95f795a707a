//! The kernel's program beside our own hash, on the same frames.

use std::io;
use std::os::fd::AsRawFd;

use super::{bpf, halves, load};
use crate::hash::{self, ALL_TYPES, Hashing, IPV4, IPV4_TCP, IPV6, IPV6_TCP};
use crate::headers::tests::frame;

const PROG_TEST_RUN: libc::c_int = 10;

/// What the program says to a frame. The kernel takes an Ethernet header off before it runs a program of this type, a tap does not.
fn run(program: &super::OwnedFd, frame: &[u8]) -> io::Result<u32> {
    let mut bytes = vec![0; 14];
    bytes.extend(frame);
    let fd = u32::try_from(program.as_raw_fd()).map_err(io::Error::other)?;
    let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    let [low, high] = halves(bytes.as_ptr().addr());
    Ok(bpf(PROG_TEST_RUN, &[fd, 0, len, 0, low, high])?.1.0[1])
}

/// Frames of all shapes, fragments and stumps among them: the kernel's choice is our hash's place in the mapping, whatever the types,
/// and the hash itself without a mapping.
#[test]
fn the_kernel_chooses_as_we_hash() {
    let (program, words) = match load() {
        Ok(loaded) => loaded,
        Err(e) if matches!(e.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)) => {
            eprintln!("SKIPPED: loading a program needs CAP_BPF and CAP_PERFMON: {e}");
            return;
        }
        Err(e) => panic!("{e}"),
    };
    let mut hashing = Hashing { is_on: true, key: hash::tests::KEY, ..Hashing::default() };
    for (place, queue) in hashing.mapping.iter_mut().enumerate() {
        *queue = u32::try_from(place).unwrap() ^ 5;
    }
    let mut state = 7u32;
    let mut random = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    };
    let mut hashed = 0;
    for types in [ALL_TYPES, IPV4, IPV4_TCP, IPV6, IPV6_TCP, IPV4 | IPV6_TCP, 0] {
        for size in [0, 1, 3, 128] {
            (hashing.types, hashing.size) = (types, size);
            hashing.publish(&words);
            for round in 0..60u32 {
                let mut bytes = frame((round % 7 == 6).into(), round & 1 != 0, round & 2 != 0, b"payload");
                for _ in 0..12 {
                    let at = 26 + random() as usize % (bytes.len() - 26);
                    bytes[at] = u8::try_from(random() & 0xff).unwrap();
                }
                if round % 5 == 4 {
                    bytes[20] |= 0x20;
                }
                if round % 11 == 10 {
                    bytes.truncate(14 + random() as usize % 40);
                }
                let hash = hash::of_frame(&words, &bytes);
                hashed += u32::from(hash.is_some());
                let value = hash.map_or(0, |hash| hash.value);
                let expected =
                    if size == 0 { value } else { hashing.mapping[value as usize % size as usize] };
                assert_eq!(run(&program, &bytes).unwrap(), expected, "{types} {size} {round} {bytes:x?}");
            }
        }
    }
    assert!(hashed > 500, "{hashed}");
}
