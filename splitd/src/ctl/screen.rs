//! `splitctl top` on a terminal: draws, waits, hears keys as xentop does. Puts the terminal back however it ends, a signal apart.
//! Knows nothing of where a screen's text comes from.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr,
};

use super::top::View;

/// Longest delay between two looks.
pub const DELAY_MAX_S: u64 = 3600;

/// Clear and home; the other screen and back.
const CLEAR: &str = "\x1b[H\x1b[2J";
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// A terminal whose keys come one by one.
struct Raw {
    before: Termios,
}

impl Raw {
    fn enter() -> std::io::Result<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        raw.special_codes[SpecialCodeIndex::VMIN] = 0;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        // Ctrl-C is a key like Q, so that the terminal is put back.
        raw.local_modes.remove(LocalModes::ISIG);
        tcsetattr(&stdin, OptionalActions::Flush, &raw)?;
        print(ENTER)?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = print(LEAVE);
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, &self.before);
    }
}

fn print(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// What a key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// Q, Esc, Ctrl-C.
    Quit,
    /// D: the next two looks are closer together, or further apart; see [`key`].
    Delay(u64),
    /// The view has changed.
    Redraw,
    /// Nothing.
    Other,
}

/// Hears one key (or an arrow's three bytes).
pub fn key(bytes: &[u8], view: &mut View, delay_s: u64) -> Key {
    match bytes {
        [b'q' | b'Q' | 3] | [0x1b] => return Key::Quit,
        [b'n' | b'N'] => view.interfaces ^= true,
        [b'b' | b'B'] => view.disks ^= true,
        [b's' | b'S'] => view.sort = view.sort.next(),
        [b'd' | b'D'] => {
            return Key::Delay(match delay_s {
                1 => 3,
                3 => 10,
                _ => 1,
            });
        }
        [b'r' | b'R' | b' '] => {}
        [0x1b, b'[', b'A'] => view.skip = view.skip.saturating_sub(1),
        [0x1b, b'[', b'B'] => view.skip += 1,
        _ => return Key::Other,
    }
    Key::Redraw
}

/// Runs until Q. `draw` gives the text of a screen: anew, or of what it had.
pub fn run(
    mut view: View,
    mut delay_s: u64,
    iterations: Option<u64>,
    mut draw: impl FnMut(View, bool) -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    let _raw = Raw::enter()?;
    let mut left = iterations;
    loop {
        show(&draw(view, true)?, delay_s)?;
        left = left.map(|n| n.saturating_sub(1));
        if left == Some(0) {
            return Ok(());
        }
        let shown = Instant::now();
        loop {
            let next = shown + Duration::from_secs(delay_s);
            let wait = next.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                break;
            }
            match wait_key(wait)?.map(|bytes| key(&bytes, &mut view, delay_s)) {
                Some(Key::Quit) => return Ok(()),
                Some(Key::Delay(new)) => delay_s = new,
                Some(Key::Redraw) => {}
                Some(Key::Other) | None => continue,
            }
            show(&draw(view, false)?, delay_s)?;
        }
    }
}

fn wait_key(wait: Duration) -> std::io::Result<Option<Vec<u8>>> {
    let stdin = std::io::stdin();
    let mut fds = [PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN)];
    let timeout = rustix::event::Timespec {
        tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: wait.subsec_nanos().into(),
    };
    match poll(&mut fds, Some(&timeout)) {
        Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(None),
        Ok(_) => {}
        Err(error) => return Err(error.into()),
    }
    let mut bytes = [0; 8];
    match stdin.lock().read(&mut bytes)? {
        0 => Err(std::io::Error::other("the terminal is gone")),
        n => Ok(Some(bytes.get(..n).unwrap_or_default().to_vec())),
    }
}

fn show(text: &str, delay_s: u64) -> std::io::Result<()> {
    // One that does not know its size says 0.
    let size = tcgetwinsize(std::io::stdout()).ok().filter(|size| size.ws_row > 0 && size.ws_col > 0);
    let (lines, columns) = size.map_or((24, 80), |size| (usize::from(size.ws_row), usize::from(size.ws_col)));
    let keys = format!("Delay({delay_s}s)  Networks  Block devices  Sort  Repeat  arrows  Quit");
    let mut screen = CLEAR.to_owned();
    for line in text.lines().take(lines.saturating_sub(1)) {
        screen.extend(line.chars().take(columns));
        screen.push_str("\r\n");
    }
    screen.extend(keys.chars().take(columns));
    print(&screen)
}

#[cfg(test)]
mod tests {
    use super::super::top::Sort;
    use super::*;

    /// xentop's keys do what they do there.
    #[test]
    fn keys() {
        let mut view = View { disks: true, interfaces: true, sort: Sort::Device, skip: 0 };
        assert_eq!(key(b"N", &mut view, 1), Key::Redraw);
        assert_eq!(key(b"s", &mut view, 1), Key::Redraw);
        assert_eq!(key(b"\x1b[B", &mut view, 1), Key::Redraw);
        assert_eq!(view, View { disks: true, interfaces: false, sort: Sort::Rate, skip: 1 });
        assert_eq!(key(b"\x1b[A\x1b[A", &mut view, 1), Key::Other);
        assert_eq!(key(b"D", &mut view, 1), Key::Delay(3));
        for quit in [&b"q"[..], b"Q", b"\x03", b"\x1b"] {
            assert_eq!(key(quit, &mut view, 1), Key::Quit);
        }
    }
}
