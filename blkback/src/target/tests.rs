//! What may be served and what is refused by name (hostile case X18).

use std::os::unix::fs::symlink;

use super::*;

/// A directory on a real disk: tmpfs need not do O_DIRECT.
fn dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap()
}

fn image(dir: &Path, name: &str, len: u64) -> PathBuf {
    let path = dir.join(name);
    File::create(&path).unwrap().set_len(len).unwrap();
    path
}

/// The plain case: a sparse raw file, measured, with holes punched on discard.
#[test]
fn sparse_file() {
    let dir = dir();
    let path = image(dir.path(), "disk.img", 1 << 20);

    let target = Target::open(&path, false, true).unwrap();

    let opened = target.opened();
    assert_eq!(opened.capacity_sectors, 2048);
    assert!(opened.logical_block_len_bytes <= opened.physical_block_len_bytes);
    assert!(opened.identity.starts_with("file:"), "{}", opened.identity);
    assert!(opened.discard.is_some());
    assert!(!target.is_block_device());
    assert_eq!(
        std::fs::metadata(&path).unwrap().len(),
        1 << 20,
        "asking for discard does not change the size"
    );
}

/// Two names of one file are one identity, which is what sharing rules go by.
#[test]
fn symlink_has_the_files_identity() {
    let dir = dir();
    let path = image(dir.path(), "disk.img", 4096);
    let link = dir.path().join("link.img");
    symlink(&path, &link).unwrap();

    let (a, b) = (Target::open(&path, true, false).unwrap(), Target::open(&link, true, false).unwrap());

    assert_eq!(a.opened().identity, b.opened().identity);
}

/// A disk that grew or shrank says so without being opened again.
#[test]
fn size_follows_the_file() {
    let dir = dir();
    let path = image(dir.path(), "disk.img", 4096);
    let target = Target::open(&path, false, false).unwrap();

    OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 21).unwrap();

    assert_eq!(target.capacity_sectors().unwrap(), 4096);
}

/// Read-only and `discard-enable=0` never offer discard.
#[test]
fn discard_only_if_wanted_and_writable() {
    let dir = dir();
    let path = image(dir.path(), "disk.img", 4096);

    assert!(Target::open(&path, true, true).unwrap().opened().discard.is_none());
    assert!(Target::open(&path, false, false).unwrap().opened().discard.is_none());
}

fn refusal(path: &Path) -> String {
    Target::open(path, false, true).unwrap_err().to_string()
}

/// X18: FIFO (which must not block), character device, directory, missing, relative: each refused by name.
#[test]
fn kinds_that_are_not_disks() {
    let dir = dir();
    let fifo = dir.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());

    assert!(refusal(&fifo).contains("FIFO"));
    assert!(refusal(Path::new("/dev/null")).contains("character device"));
    assert!(refusal(dir.path()).contains("directory"));
    assert!(refusal(&dir.path().join("missing")).contains("No such file"));
    assert!(refusal(Path::new("disk.img")).contains("absolute"));
}

/// Sizes that are no disk: empty, or not whole sectors.
#[test]
fn sizes_that_are_not_disks() {
    let dir = dir();
    for len in [0, 1, 511, 513, 4097] {
        let path = image(dir.path(), "odd.img", len);

        assert!(refusal(&path).contains(&format!("{len} bytes long")), "{len}");
    }
}

/// Formats go by name, with the command that converts; contents are never looked at (XSA-258): a raw disk whose guest wrote a
/// qcow2 header into its first sector is served as what it is.
#[test]
fn formats_by_name_never_by_content() {
    let dir = dir();
    let named = image(dir.path(), "a.QCOW2", 4096);
    let raw = image(dir.path(), "b.img", 4096);
    std::fs::write(&raw, [b"QFI\xfb".as_slice(), &[0; 4092]].concat()).unwrap();

    let message = refusal(&named);

    assert!(message.contains("qemu-img convert -O raw") && message.contains("a.raw"), "{message}");
    assert!(Target::open(&raw, false, false).is_ok());
}

/// A file system without O_DIRECT is refused with what would do instead, never served through the page cache.
#[test]
fn file_systems_without_direct_io() {
    let message = Target::open(Path::new("/proc/version"), true, false).unwrap_err().to_string();

    assert!(message.contains("O_DIRECT") && message.contains("ext4"), "{message}");
}
